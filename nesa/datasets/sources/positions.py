"""Generate positions: in which of K columns does a nearly upright edge lie? Either side may be the brighter one.

The edge crosses the middle row in the inner half of column k of the image's middle 24 pixels; places between two
columns are not drawn. It leans by up to 15 degrees. With a random sign of the step no linear model can tell.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from nesa.datasets import synthetic
from nesa.datasets.paths import DataDirs
from nesa.datasets.source import Arrays, Param, ProgressCallback, Source, no_progress

SIDE = 32
RIM = 4  # pixels on the left and on the right where no edge lies
LEAN = 15.0  # degrees, either way
RULE = 1  # part of the cache key: a new rule makes new data


def edge(place: float, degrees: float) -> np.ndarray:
    """Draw 0 left and 1 right of a line through (middle row, ``place``), ``degrees`` off upright; (32, 32) pixels."""
    y, x = np.mgrid[0:SIDE, 0:SIDE] + 0.5
    t = np.deg2rad(degrees)
    return np.clip(0.5 + (x - place) * np.cos(t) + (y - SIDE / 2) * np.sin(t), 0, 1)


def _draw(
    part: str, count: int, params: Mapping[str, Any], rng: np.random.Generator, progress: ProgressCallback
) -> tuple[np.ndarray, np.ndarray]:
    K = params["columns"]
    width = (SIDE - 2 * RIM) / K
    x, y = np.empty((count, SIDE, SIDE), np.uint8), synthetic.balanced_labels(count, K)
    for i, k in enumerate(y):
        mask = edge(RIM + (k + rng.uniform(0.25, 0.75)) * width, rng.uniform(-LEAN, LEAN))
        x[i] = synthetic.render_on_grey(mask - 0.5, rng, params["contrast"], params["noise"])
    progress(f"positions: {part}", count, count)
    return x, y


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
    names = tuple(f"column {k}" for k in range(params["columns"]))
    make = synthetic.make_loader("positions", RULE, _draw, names, "drawn edges")
    return make(params, size=size, channels=channels, seed=seed, data=data, progress=progress)


SOURCE = Source(
    name="positions",
    summary="place of a nearly upright edge of either sign, in noise; nothing to download",
    difficulty="easy: linear model 17 % (chance), one hidden layer of 128 reaches 100 %",
    load=load,
    classes=lambda params: params["columns"],
    params=(
        Param("columns", int, 6, "number of classes: columns of the middle 24 pixels", 2, 12),
        Param("train", int, 20_000, "training images", 24, 1_000_000),
        Param("test", int, 4_000, "test images", 24, 1_000_000),
        Param("contrast", float, 0.2, "mean step, either way, of the full range", 0.05, 0.6),
        Param("noise", float, 0.08, "standard deviation of the noise, of the full range", 0.0, 0.5),
    ),
)
