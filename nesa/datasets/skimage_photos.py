"""Load the photographs inside scikit-image, and divide each into a training and a test region.

Only files that come with scikit-image's wheel are used: nothing is downloaded. The right part of each photograph is
for the test set, the rest for training, so that no test pixel is a training pixel.
"""

from __future__ import annotations

import numpy as np

NAMES = (
    "astronaut",
    "brick",
    "camera",
    "chelsea",
    "coffee",
    "coins",
    "grass",
    "gravel",
    "moon",
    "motorcycle",
    "rocket",
)
TRAIN_SHARE = 0.7  # of a photograph's width


def photograph(name: str) -> np.ndarray:
    """Load a photograph as scikit-image stores it: uint8 (H, W) or (H, W, 3)."""
    from skimage import data

    return data.stereo_motorcycle()[0] if name == "motorcycle" else getattr(data, name)()


def region(photo: np.ndarray, part: str) -> np.ndarray:
    """Return the columns of ``photo`` that belong to ``part`` ("train" or "test")."""
    cut = round(photo.shape[1] * TRAIN_SHARE)
    return photo[:, :cut] if part == "train" else photo[:, cut:]
