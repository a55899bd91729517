"""Arrays that a user gives, in a file or from a function, brought into the form that every source returns.

Wanted are train_x, train_y, test_x, test_y and, if there is one, class_names. Images are (n, H, W) or (n, H, W, C)
with values from 0 to 255, or numbers with a point from 0 to 1; vectors are (n, D).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from nesa.datasets.pixels import fit
from nesa.datasets.source import Arrays
from nesa.errors import DataError

MOST_CLASSES = 10_000
NAMES = ("train_x", "train_y", "test_x", "test_y")


def arrays(
    given: Mapping[str, Any], where: str, *, size: tuple[int, ...], channels: int, classes: int | None = None
) -> Arrays:
    """``given`` as Arrays of the wanted size and channels; ``where`` begins every message.

    ``classes`` is the number of classes that the user stated; None: the greatest label plus one.

    Raises DataError for missing arrays, wrong shapes or types, values out of range, and labels out of range.
    """
    if missing := [name for name in NAMES if name not in given]:
        raise DataError(f"{where}: {', '.join(missing)} missing; wanted are {', '.join(NAMES)}")
    parts = {name: np.asarray(given[name]) for name in NAMES}
    train_y, test_y = (labels(parts[f"{part}_y"], f"{where}: {part}_y") for part in ("train", "test"))
    names = _names(given["class_names"], where) if "class_names" in given else None
    K = len(names) if names else classes or 1 + int(max((y.max() for y in (train_y, test_y) if len(y)), default=0))
    if K > MOST_CLASSES:
        raise DataError(f"{where}: the greatest label is {K - 1:,}; at most {MOST_CLASSES:,} classes are possible")
    if classes and classes != K:
        raise DataError(f"{where}: there are {K} class_names, but the task's params say classes: {classes}")
    if parts["train_x"].shape[1:] != parts["test_x"].shape[1:]:
        shapes = f"{parts['train_x'].shape[1:]} and {parts['test_x'].shape[1:]}"
        raise DataError(f"{where}: samples of train_x and test_x must have the same shape, got {shapes}")
    made = {}
    for part in ("train", "test"):
        name = f"{part}_x"
        made[name] = samples(parts[name], f"{where}: {name}", size, channels)
    kind = "image" if len(size) == 2 else "vector"
    return Arrays(
        made["train_x"], train_y, made["test_x"], test_y, names or tuple(map(str, range(K))), kind=kind, origin=where
    )


def _names(given: Any, where: str) -> tuple[str, ...]:
    names = np.asarray(given)
    if names.ndim != 1 or names.dtype.kind not in "US":
        raise DataError(f"{where}: class_names must be a list of texts, got {names.dtype} of shape {names.shape}")
    return tuple(map(str, names.astype(str)))


def labels(y: np.ndarray, where: str) -> np.ndarray:
    """``y`` as int64 (n,). Raises DataError unless it is one-dimensional and of whole numbers."""
    if y.ndim != 1 or y.dtype.kind not in "iu":
        raise DataError(f"{where}: labels must be whole numbers, shape (n,), got {y.dtype} of shape {y.shape}")
    return y.astype(np.int64)


def samples(x: np.ndarray, where: str, size: tuple[int, ...], channels: int) -> np.ndarray:
    """``x`` as float32 (n, D), or as uint8 (n, H, W[, 3]) of the wanted size and channels. Raises DataError."""
    if x.dtype.kind not in "iufb":
        raise DataError(f"{where}: expected numbers, got an array of {x.dtype}")
    if x.dtype.kind == "f" and not np.isfinite(x).all():
        raise DataError(f"{where}: {np.size(x) - np.count_nonzero(np.isfinite(x))} values are NaN or infinite")
    if len(size) == 1:
        if x.shape[1:] != tuple(size):
            raise DataError(f"{where}: expected vectors (n, {size[0]}) for input.size [{size[0]}], got shape {x.shape}")
        with np.errstate(over="ignore"):
            vectors = x.astype(np.float32)
        if not np.isfinite(vectors).all():
            raise DataError(f"{where}: some values are too great for 32-bit numbers")
        return vectors
    if x.ndim not in (3, 4) or (x.ndim == 4 and x.shape[3] not in (1, 3)) or 0 in x.shape[1:]:
        raise DataError(f"{where}: expected images (n, H, W), (n, H, W, 1) or (n, H, W, 3), got shape {x.shape}")
    return fit(_bytes(x[..., 0] if x.ndim == 4 and x.shape[3] == 1 else x, where), size, channels)


def _bytes(x: np.ndarray, where: str) -> np.ndarray:
    if x.dtype == np.uint8 or not len(x):
        return x.astype(np.uint8)
    low, high = x.min(), x.max()
    if x.dtype.kind == "f" and low >= 0 and high <= 1:
        return np.round(x * 255).astype(np.uint8)
    if x.dtype.kind == "b":
        return x.astype(np.uint8) * np.uint8(255)
    if low < 0 or high > 255:
        raise DataError(f"{where}: image values must lie from 0 to 255 (or 0 to 1), got {low:g} to {high:g}")
    return np.round(x).astype(np.uint8)
