"""Generate shapes: one of six figures, anywhere in the image, in any rotation, size and contrast.

A figure is drawn with scikit-image at twice the resolution, averaged down, and added to an even grey with random sign
and contrast; Gaussian noise is added last. Lengths are in pixels of a 32 x 32 image, contrast and noise in parts of the
full range.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from nesa.datasets import synthetic
from nesa.datasets.source import Param, ProgressCallback, Source

CLASSES = ("disc", "ring", "triangle", "square", "cross", "star")
SIDE = 32
FINE = 2  # drawn pixels for one image pixel, each way
RULE = 1  # part of the cache key: a new rule makes new data


def _spokes(radii: list[float]) -> np.ndarray:
    """Return corners (n, 2) at even angles round the origin, at the given distances."""
    angle = np.arange(len(radii)) * 2 * np.pi / len(radii)
    return np.array(radii)[:, None] * np.stack([np.sin(angle), np.cos(angle)], axis=1)


def _cross(arm: float = 0.3) -> np.ndarray:
    a, b = arm, 1.0
    corners = [
        (-a, -b),
        (a, -b),
        (a, -a),
        (b, -a),
        (b, a),
        (a, a),
        (a, b),
        (-a, b),
        (-a, a),
        (-b, a),
        (-b, -a),
        (-a, -a),
    ]
    return np.array(corners) / np.hypot(1, arm)


POLYGONS = {
    "triangle": _spokes([1.0] * 3),
    "square": _spokes([1.0] * 4),
    "cross": _cross(),
    "star": _spokes([1.0, 0.4] * 5),
}


def figure(name: str, centre: np.ndarray, radius: float, turn: float) -> np.ndarray:
    """Draw a figure: its coverage of each pixel, float32 (32, 32) from 0 to 1.

    ``centre`` (row, column) and ``radius`` of the circle round the corners are in pixels, ``turn`` in radians. Discs
    and rings are drawn 5 % smaller.
    """
    from skimage import draw

    shape = (SIDE * FINE, SIDE * FINE)
    mask = np.zeros(shape, np.float32)
    middle = (centre + 0.5) * FINE - 0.5
    r = radius * FINE
    if name in POLYGONS:
        c, s = np.cos(turn), np.sin(turn)
        corners = middle + r * POLYGONS[name] @ np.array([[c, s], [-s, c]])
        mask[draw.polygon(corners[:, 0], corners[:, 1], shape=shape)] = 1
    else:
        mask[draw.disk(tuple(middle), 0.95 * r, shape=shape)] = 1
        if name == "ring":
            mask[draw.disk(tuple(middle), 0.55 * r, shape=shape)] = 0
    return mask.reshape(SIDE, FINE, SIDE, FINE).mean((1, 3))


def _draw(
    part: str, count: int, params: Mapping[str, Any], rng: np.random.Generator, progress: ProgressCallback
) -> tuple[np.ndarray, np.ndarray]:
    x, y = np.empty((count, SIDE, SIDE), np.uint8), synthetic.balanced_labels(count, len(CLASSES))
    for i, k in enumerate(y):
        centre = (SIDE - 1) / 2 + rng.uniform(-params["shift"], params["shift"], 2)
        mask = figure(CLASSES[k], centre, rng.uniform(params["smallest"], params["largest"]), rng.uniform(0, 2 * np.pi))
        x[i] = synthetic.render_on_grey(mask, rng, params["contrast"], params["noise"])
        if (i + 1) % 1000 == 0 or i + 1 == count:
            progress(f"shapes: {part}", i + 1, count)
    return x, y


def radii(params: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Check that the least radius of a source that draws figures does not exceed the greatest."""
    if params["smallest"] > params["largest"]:
        return [("smallest", f"must not exceed largest ({params['largest']:g}), got {params['smallest']:g}")]
    return []


SOURCE = Source(
    name="shapes",
    summary="discs, rings, triangles, squares, crosses and stars, anywhere, turned and noisy; nothing to download",
    difficulty="medium: linear model 18 %, one hidden layer of 128 reaches 96 %, two of 512 and 256 reach 98 %",
    load=synthetic.make_loader("shapes", RULE, _draw, CLASSES, "drawn with scikit-image"),
    classes=lambda params: len(CLASSES),
    relations=radii,
    params=(
        Param("train", int, 30_000, "training images", 60, 1_000_000),
        Param("test", int, 5_000, "test images", 60, 1_000_000),
        Param("smallest", float, 7.0, "least radius, in pixels of 32", 2.0, 16.0),
        Param("largest", float, 11.0, "greatest radius, in pixels of 32", 2.0, 16.0),
        Param("shift", float, 4.0, "greatest distance of the centre from the middle, each way, in pixels", 0.0, 12.0),
        Param("contrast", float, 0.3, "mean difference from the ground, either way, of the full range", 0.05, 0.6),
        Param("noise", float, 0.05, "standard deviation of the noise, of the full range", 0.0, 0.5),
    ),
)
