"""Generate spheres: points of concentric shells in any dimension (the paper's section 2: two shells, 10 dimensions).

Shell s = 0, 1, ... holds the points with inner + s * spacing <= |x| <= inner + s * spacing + thickness, uniformly in
volume. Its class is s, or s modulo ``classes``, so that more shells than classes fold the same answer several times
around the origin: dimension, shells, spacing and thickness set the difficulty. The paper gives no radii.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from nesa.datasets.paths import DataDirs
from nesa.datasets.source import Arrays, Param, ProgressCallback, Source, no_progress
from nesa.datasets.synthetic import balanced_labels


def points(rng: np.random.Generator, low: np.ndarray, thickness: float, dimension: int) -> np.ndarray:
    """Draw points float64 (n, D), uniform in shells low <= |x| <= low + thickness; ``low`` (n,): inner radii."""
    direction = rng.standard_normal((len(low), dimension))
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    # uniform in volume: |x|^D is uniform between the powers of the radii; in parts of the outer radius, where no
    # power overflows
    high = low + thickness
    share = np.exp(dimension * (np.log(np.maximum(low, 1e-300)) - np.log(high))) if thickness else np.ones(len(low))
    u = rng.random(len(low))
    return direction * (high * (share + u * (1 - share)) ** (1 / dimension))[:, None]


def _classes(params: Mapping[str, Any]) -> int:
    return params["classes"] or params["shells"]


def load(
    params: Mapping[str, Any],
    *,
    size: tuple[int, ...],
    channels: int,
    seed: int,
    data: DataDirs,
    progress: ProgressCallback = no_progress,
) -> Arrays:
    """Generate vectors float32 (n, D), deterministic in ``seed`` and ``params``. Classes are balanced."""
    K = _classes(params)

    def part(which: int, count: int) -> tuple[np.ndarray, np.ndarray]:
        rng = np.random.default_rng([seed, which])
        y = rng.permutation(balanced_labels(count, K))
        # the shells of class k are k, k + K, k + 2 K, ... below shells
        shell = y + K * rng.integers(0, (params["shells"] - y - 1) // K + 1)
        x = points(rng, params["inner"] + params["spacing"] * shell, params["thickness"], params["dimension"])
        return x.astype(np.float32), y

    train, test = part(0, params["train"]), part(1, params["test"])
    names = tuple(f"shell {k}" if params["shells"] == K else f"shells {k}, {k + K}, ..." for k in range(K))
    return Arrays(*train, *test, class_names=names, kind="vector", origin="generated")


def _relations(params: Mapping[str, Any]) -> list[tuple[str, str]]:
    problems = []
    if params["classes"] == 1 or params["classes"] > params["shells"]:
        problems.append(("classes", f"must be 0 or from 2 to shells ({params['shells']}), got {params['classes']}"))
    if params["thickness"] > params["spacing"]:
        problems.append(("thickness", f"must not exceed spacing ({params['spacing']:g}), or the shells overlap"))
    return problems


SOURCE = Source(
    name="spheres",
    summary="points of concentric spherical shells in any dimension; nothing to download",
    difficulty="a dial: two shells are easy for one hidden layer and impossible for a linear model",
    load=load,
    classes=_classes,
    size=lambda params: (params["dimension"],),
    kind=lambda params: "vector",
    relations=_relations,
    params=(
        Param("dimension", int, 10, "dimension D of the points: input.size is [D]", 1, 10_000),
        Param("shells", int, 2, "number of shells", 2, 1000),
        Param("classes", int, 0, "number of classes, shell numbers modulo it; 0: every shell its own", 0, 1000),
        Param("inner", float, 1.0, "inner radius of the innermost shell", 0.0, 1000.0),
        Param("spacing", float, 1.0, "from one shell's inner radius to the next one's", 0.001, 1000.0),
        Param("thickness", float, 0.5, "outer minus inner radius of a shell", 0.0, 1000.0),
        Param("train", int, 4_000, "training points", 20, 10_000_000),
        Param("test", int, 1_000, "test points", 20, 10_000_000),
    ),
)
