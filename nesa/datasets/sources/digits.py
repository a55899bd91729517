"""Load digits: scikit-learn's 1,797 handwritten digits of 8 x 8 pixels (UCI, Alpaydin and Kaynak 1998)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from nesa.datasets.paths import DataDirs
from nesa.datasets.pixels import to_input_shape
from nesa.datasets.source import Arrays, Param, ProgressCallback, Source, no_progress


def load(
    params: Mapping[str, Any],
    *,
    size: tuple[int, ...],
    channels: int,
    seed: int,
    data: DataDirs,
    progress: ProgressCallback = no_progress,
) -> Arrays:
    """Load uint8 (n, H, W[, 3]), enlarged from 8 x 8. The split is stratified and the same for every seed."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    x, y = (np.asarray(part) for part in load_digits(return_X_y=True))
    x, y = np.round(x.reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8), y.astype(np.int64)
    train, test = train_test_split(np.arange(len(y)), test_size=params["test"], stratify=y, random_state=0)
    train_x, test_x = to_input_shape(x[train], size, channels), to_input_shape(x[test], size, channels)
    return Arrays(train_x, y[train], test_x, y[test], tuple("0123456789"), origin="scikit-learn's digits")


SOURCE = Source(
    name="digits",
    summary="scikit-learn's 1,797 handwritten digits, enlarged from 8 x 8; nothing to download",
    difficulty="easy: linear model 96 %, one hidden layer of 128 reaches 97 %",
    load=load,
    classes=lambda params: 10,
    params=(Param("test", int, 360, "test images; the other ones are for training", 100, 1600),),
)
