"""Generate edges: the dominant orientation of a patch of a real photograph, or none. Five classes.

The rule. A patch is 32 x 32 pixels of a photograph at one of several scales. Its structure tensor is the sum over the
patch of the products of scikit-image's Sobel derivatives after a Gaussian of ``sigma`` pixels. With eigenvalues
l1 >= l2, coherence is (l1 - l2) / (l1 + l2), and the dominant edge runs at right angles to the first eigenvector.
An oriented patch has coherence >= 0.8 and an edge within 10 degrees of 0, 45, 90 or 135 degrees; a patch without
orientation has coherence <= 0.08; all others, and patches without contrast, belong to no class and are not used. (The
derivatives at a patch's rim include a few pixels beyond it; from the patch alone, 99 % of the labels are the same.)
Angles are counted from horizontal, counter-clockwise.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from nesa.datasets import pixels, skimage_photos, synthetic
from nesa.datasets.source import Param, ProgressCallback, Source

CLASSES = ("horizontal", "diagonal up", "vertical", "diagonal down", "none")
NONE = 4
SIDE = 32
WINDOWS = (12, 16, 24, 32)  # photograph pixels that become the 32 pixels of a patch
TOLERANCE = 10.0  # degrees
ENERGY = 2e-4  # mean squared derivative of a patch, grey values from 0 to 1
RULE = 1  # part of the cache key: a new rule makes new data


def labels(grey: np.ndarray, *, coherent: float, incoherent: float, sigma: float) -> np.ndarray:
    """Label every 32 x 32 patch of ``grey`` (H, W; 0 to 1) by its upper left corner: (H-31, W-31), -1 for no class.

    Raises nothing; a picture under 32 pixels has no patches.
    """
    from skimage import filters

    smooth = filters.gaussian(grey, sigma)
    dx, dy = filters.sobel_v(smooth), filters.sobel_h(smooth)
    xx, yy, xy = (_patch_sums(a) for a in (dx * dx, dy * dy, dx * dy))
    energy = xx + yy
    coherence = np.hypot(xx - yy, 2 * xy) / np.maximum(energy, 1e-12)
    # the gradient's angle with y downwards; the edge is at right angles to it, and counting upwards flips the sign
    edge = (90 - np.rad2deg(0.5 * np.arctan2(2 * xy, xx - yy))) % 180
    nearest = np.round(edge / 45)
    clear = energy / SIDE**2 > ENERGY
    oriented = clear & (coherence >= coherent) & (np.abs(edge - 45 * nearest) <= TOLERANCE)
    out = np.where(oriented, nearest.astype(np.int64) % 4, -1)
    return np.where(clear & (coherence <= incoherent), NONE, out)


def _patch_sums(a: np.ndarray) -> np.ndarray:
    total = np.pad(a.astype(np.float64).cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    n = SIDE
    return total[n:, n:] - total[:-n, n:] - total[n:, :-n] + total[:-n, :-n]


def _pools(part: str, params: Mapping[str, Any], progress: ProgressCallback) -> tuple[list[np.ndarray], list[list]]:
    """Return the photographs of ``part`` at every scale, and the places of each class: [(picture, (m, 2)), ...]."""
    from skimage import transform

    pictures: list[np.ndarray] = []
    pools: list[list] = [[] for _ in CLASSES]
    for done, name in enumerate(skimage_photos.NAMES):
        photo = skimage_photos.photograph(name)
        photo = pixels.grey(photo) if photo.ndim == 3 else photo
        photo = skimage_photos.region(photo, part).astype(np.float32) / 255
        for window in WINDOWS:
            scale = SIDE / window
            scaled = transform.rescale(photo, scale, order=1, anti_aliasing=scale < 1).astype(np.float32)
            rule = labels(scaled, coherent=params["coherent"], incoherent=params["incoherent"], sigma=params["sigma"])
            for k, pool in enumerate(pools):
                if len(places := np.argwhere(rule == k)):
                    pool.append((len(pictures), places))
            pictures.append(scaled)
        progress(f"edges: {part} photographs", done + 1, len(skimage_photos.NAMES))
    return pictures, pools


def _draw(
    part: str, count: int, params: Mapping[str, Any], rng: np.random.Generator, progress: ProgressCallback
) -> tuple[np.ndarray, np.ndarray]:
    pictures, pools = _pools(part, params, progress)
    x, y = np.empty((count, SIDE, SIDE), np.uint8), synthetic.balanced_labels(count, len(CLASSES))
    for i, k in enumerate(y):
        # half of the patches are transposed, which exchanges horizontal and vertical, and half are mirrored, which
        # exchanges the diagonals: horizons, tree trunks and light from above are no clue to the class
        mirror, transpose = rng.integers(2), rng.integers(2)
        wanted = int(k)
        if k != NONE:
            wanted = (-wanted) % 4 if mirror else wanted
            wanted = (2 + wanted) % 4 if transpose and wanted % 2 == 0 else wanted
        picture, places = pools[wanted][rng.integers(len(pools[wanted]))]
        top, left = places[rng.integers(len(places))]
        patch = pictures[picture][top : top + SIDE, left : left + SIDE]
        patch = patch.T if transpose else patch
        patch = patch[:, ::-1] if mirror else patch
        # contrast is no clue to the orientation: every patch gets a random mean and spread
        patch = (patch - patch.mean()) / patch.std() * rng.uniform(0.12, 0.25) + rng.uniform(0.4, 0.6)
        x[i] = np.clip(patch * 255, 0, 255).astype(np.uint8)
    return x, y


SOURCE = Source(
    name="edges",
    summary="dominant orientation, or none, of patches of real photographs; nothing to download",
    difficulty="easy: linear model 28 %, one hidden layer of 128 reaches 96 %",
    load=synthetic.make_loader("edges", RULE, _draw, CLASSES, "patches of scikit-image's photographs"),
    classes=lambda params: len(CLASSES),
    params=(
        Param("train", int, 20_000, "training patches", 50, 1_000_000),
        Param("test", int, 4_000, "test patches", 50, 1_000_000),
        Param("coherent", float, 0.8, "least coherence of an oriented patch", 0.3, 0.95),
        Param("incoherent", float, 0.08, "greatest coherence of a patch without orientation", 0.02, 0.25),
        Param("sigma", float, 3.0, "Gaussian before the Sobel operators, in pixels", 0.5, 4.0),
    ),
)
