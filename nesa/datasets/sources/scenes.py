"""Generate scenes: from which of ten photographs is this crop? Natural images with nothing to download.

Crops of random size are reduced to 32 x 32 and may be mirrored; plain ones (sky, shadow) are drawn again. Brightness
and contrast are jittered, so that a mean grey is no clue to the photograph. Training and test crops come from
disjoint regions of each photograph.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from nesa.datasets import skimage_photos, synthetic
from nesa.datasets.source import Param, ProgressCallback, Source

CLASSES = tuple(name for name in skimage_photos.NAMES if name != "moon")
SIDE = 32
PLAIN = 6.0  # standard deviation of a crop's 8-bit values below which it is plain
TRIES = 100  # draws before a plain crop is taken after all
RULE = 2  # part of the cache key: a new rule makes new data


def _draw(
    part: str, count: int, params: Mapping[str, Any], rng: np.random.Generator, progress: ProgressCallback
) -> tuple[np.ndarray, np.ndarray]:
    from PIL import Image

    regions = []
    for name in CLASSES:
        photo = skimage_photos.photograph(name)
        photo = np.repeat(photo[..., None], 3, axis=2) if photo.ndim == 2 else photo
        regions.append(skimage_photos.region(photo, part))
    x, y = np.empty((count, SIDE, SIDE, 3), np.uint8), synthetic.balanced_labels(count, len(CLASSES))
    for i, k in enumerate(y):
        photo = regions[k]
        largest = min(params["largest"], *photo.shape[:2])
        crop = np.zeros(x.shape[1:], np.float32)
        for _ in range(TRIES):
            window = int(rng.integers(min(params["smallest"], largest), largest + 1))
            top, left = (int(rng.integers(n - window + 1)) for n in photo.shape[:2])
            cut = Image.fromarray(np.ascontiguousarray(photo[top : top + window, left : left + window]))
            crop = np.asarray(cut.resize((SIDE, SIDE), Image.Resampling.BILINEAR), np.float32)
            crop = crop[:, ::-1] if rng.integers(2) else crop
            mean = crop.mean()
            crop = np.clip((crop - mean) * rng.uniform(0.7, 1.3) + mean + rng.uniform(-40, 40), 0, 255)
            if crop.std() >= PLAIN:
                break
        x[i] = crop.astype(np.uint8)
        if (i + 1) % 1000 == 0 or i + 1 == count:
            progress(f"scenes: {part}", i + 1, count)
    return x, y


def _relations(params: Mapping[str, Any]) -> list[tuple[str, str]]:
    if params["smallest"] > params["largest"]:
        return [("smallest", f"must not exceed largest ({params['largest']}), got {params['smallest']}")]
    return []


SOURCE = Source(
    name="scenes",
    summary="crops of ten photographs inside scikit-image, named by photograph; nothing to download",
    difficulty="hard: linear model 20 %, dense networks 45 to 50 % on grey crops, about as on cifar10",
    load=synthetic.make_loader("scenes", RULE, _draw, CLASSES, "crops of scikit-image's photographs"),
    classes=lambda params: len(CLASSES),
    relations=_relations,
    params=(
        Param("train", int, 20_000, "training crops", 100, 1_000_000),
        Param("test", int, 4_000, "test crops", 100, 1_000_000),
        Param("smallest", int, 48, "least side of a crop, in pixels of the photograph", 32, 128),
        Param("largest", int, 96, "greatest side of a crop, in pixels of the photograph", 32, 128),
    ),
)
