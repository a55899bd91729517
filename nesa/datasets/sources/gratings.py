"""Generate gratings: the orientation of a sine grating of random phase, frequency and contrast, in noise.

Class k of K turns by k * 180 / K degrees, counted counter-clockwise from horizontal stripes; each image is turned by up
to a quarter of the step between two classes on top. The easiest of gratings, positions,
junctions, shapes and overlaps: with a random phase no linear model can tell, and one layer of oriented filters can.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from nesa.datasets import synthetic
from nesa.datasets.paths import DataDirs
from nesa.datasets.source import Arrays, Param, ProgressCallback, Source, no_progress

SIDE = 32
RULE = 1  # part of the cache key: a new rule makes new data
CYCLES = (2.0, 5.0)  # of a grating in an image


def grating(degrees: float, cycles: float, phase: float) -> np.ndarray:
    """Draw stripes that rise to the right by ``degrees``, 0 to 1, (32, 32); ``phase`` in radians."""
    y, x = np.mgrid[0:SIDE, 0:SIDE] / SIDE
    t = np.deg2rad(degrees)
    return 0.5 + 0.5 * np.sin(2 * np.pi * cycles * (x * np.sin(t) + y * np.cos(t)) + phase)


def _draw(
    part: str, count: int, params: Mapping[str, Any], rng: np.random.Generator, progress: ProgressCallback
) -> tuple[np.ndarray, np.ndarray]:
    K = params["orientations"]
    x, y = np.empty((count, SIDE, SIDE), np.uint8), synthetic.balanced_labels(count, K)
    for i, k in enumerate(y):
        degrees = (k + rng.uniform(-0.25, 0.25)) * 180 / K
        mask = grating(degrees, rng.uniform(*CYCLES), rng.uniform(0, 2 * np.pi))
        x[i] = synthetic.render_on_grey(mask - 0.5, rng, params["contrast"], params["noise"])
    progress(f"gratings: {part}", count, count)
    return x, y


def _names(K: int) -> tuple[str, ...]:
    return tuple(f"{k * 180 / K:g} degrees" for k in range(K))


def load(
    params: Mapping[str, Any],
    *,
    size: tuple[int, ...],
    channels: int,
    seed: int,
    data: DataDirs,
    progress: ProgressCallback = no_progress,
) -> Arrays:
    """Load drawn images (n, H, W[, C]); deterministic in ``seed`` and ``params``."""
    make = synthetic.make_loader("gratings", RULE, _draw, _names(params["orientations"]), "drawn gratings")
    return make(params, size=size, channels=channels, seed=seed, data=data, progress=progress)


SOURCE = Source(
    name="gratings",
    summary="orientation of a sine grating in noise; nothing to download",
    difficulty="easy: linear model 17 % (chance), one hidden layer of 128 reaches 100 %",
    load=load,
    classes=lambda params: params["orientations"],
    params=(
        Param("orientations", int, 6, "number of classes: orientations between 0 and 180 degrees", 2, 36),
        Param("train", int, 20_000, "training images", 72, 1_000_000),
        Param("test", int, 4_000, "test images", 72, 1_000_000),
        Param("contrast", float, 0.2, "mean difference of bright and dark stripes, of the full range", 0.05, 0.6),
        Param("noise", float, 0.08, "standard deviation of the noise, of the full range", 0.0, 0.5),
    ),
)
