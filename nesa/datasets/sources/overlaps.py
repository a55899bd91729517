"""Generate overlaps: which of two striped figures of ``shapes`` lies in front of the other?

They are of different classes, and the front one covers a part of the other. Each has stripes of its own direction and
period on a grey of its own. The centre of the back figure is 0.6 to 1.1 radii from that of the front one, so that both
are visible and one is whole.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from nesa.datasets import synthetic
from nesa.datasets.source import Param, ProgressCallback, Source
from nesa.datasets.sources import gratings, shapes

CLASSES = shapes.CLASSES
SIDE = shapes.SIDE
APART = (0.6, 1.1)  # radii between the centres
STRIPES = (4.0, 8.0)  # cycles of the texture in 32 pixels
RULE = 1  # part of the cache key: a new rule makes new data


def _texture(rng: np.random.Generator, grey: float, depth: float) -> np.ndarray:
    return grey + depth * (
        gratings.grating(rng.uniform(0, 180), rng.uniform(*STRIPES), rng.uniform(0, 2 * np.pi)) - 0.5
    )


def _draw(
    part: str, count: int, params: Mapping[str, Any], rng: np.random.Generator, progress: ProgressCallback
) -> tuple[np.ndarray, np.ndarray]:
    x, y = np.empty((count, SIDE, SIDE), np.uint8), synthetic.balanced_labels(count, len(CLASSES))
    for i, k in enumerate(y):
        other = (k + rng.integers(1, len(CLASSES))) % len(CLASSES)
        radius = rng.uniform(params["smallest"], params["largest"], 2)
        front = (SIDE - 1) / 2 + rng.uniform(-params["shift"], params["shift"], 2)
        way = rng.uniform(0, 2 * np.pi)
        back = front + rng.uniform(*APART) * radius.mean() * np.array([np.sin(way), np.cos(way)])
        # ground, back and front: three greys at least 0.2 apart, in any order
        greys = rng.permutation([0.2, 0.5, 0.8]) + rng.uniform(-0.05, 0.05, 3)
        image = np.full((SIDE, SIDE), greys[0])
        for name, centre, r, grey in ((other, back, radius[1], greys[1]), (k, front, radius[0], greys[2])):
            mask = shapes.figure(CLASSES[name], centre, r, rng.uniform(0, 2 * np.pi))
            image = image + mask * (_texture(rng, grey, params["stripes"]) - image)
        image += params["noise"] * rng.standard_normal((SIDE, SIDE), np.float32)
        x[i] = np.clip(image * 255, 0, 255).astype(np.uint8)
        if (i + 1) % 1000 == 0 or i + 1 == count:
            progress(f"overlaps: {part}", i + 1, count)
    return x, y


SOURCE = Source(
    name="overlaps",
    summary="the front one of two striped, overlapping figures; nothing to download",
    difficulty="hard: linear model 18 %, one hidden layer of 128 reaches 75 %, two of 256 and 128 reach 78 %",
    load=synthetic.make_loader("overlaps", RULE, _draw, CLASSES, "drawn with scikit-image"),
    classes=lambda params: len(CLASSES),
    relations=shapes.radii,
    params=(
        Param("train", int, 40_000, "training images", 60, 1_000_000),
        Param("test", int, 5_000, "test images", 60, 1_000_000),
        Param("smallest", float, 7.0, "least radius, in pixels of 32", 2.0, 16.0),
        Param("largest", float, 11.0, "greatest radius, in pixels of 32", 2.0, 16.0),
        Param("shift", float, 3.5, "greatest distance of the front figure from the middle, in pixels", 0.0, 12.0),
        Param("stripes", float, 0.15, "difference of bright and dark stripes, of the full range", 0.0, 0.5),
        Param("noise", float, 0.03, "standard deviation of the noise, of the full range", 0.0, 0.5),
    ),
)
