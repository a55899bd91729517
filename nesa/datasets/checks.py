"""What no data set may be, whoever made it: the last check before anything is trained."""

from __future__ import annotations

from dataclasses import replace
from hashlib import blake2b

import numpy as np

from nesa.datasets.source import Arrays
from nesa.errors import DataError

BLOCK = 4096  # samples looked at together


def inspect(arrays: Arrays, where: str, size: tuple[int, ...], channels: int) -> Arrays:
    """``arrays`` with notes about constant samples and samples in both parts; ``where`` begins every message.

    Raises DataError: no samples, shapes or types that were not asked for, NaN or infinite values, labels out of range,
    an empty class, fewer than two classes, all samples alike, all images of one even grey.
    """
    K = len(arrays.class_names)
    if K < 2:
        raise DataError(f"{where}: a task needs at least two classes, found {K}")
    shape = (*size, channels) if len(size) == 2 and channels > 1 else tuple(size)
    kind, dtype = ("image", np.uint8) if len(size) == 2 else ("vector", np.float32)
    notes = list(arrays.notes)
    for part in ("train", "test"):
        x, y, name = getattr(arrays, f"{part}_x"), getattr(arrays, f"{part}_y"), f"{where}: {part} data"
        if not len(x):
            raise DataError(f"{name}: there are no samples")
        if arrays.kind != kind or x.dtype != dtype or x.shape[1:] != shape:
            raise DataError(f"{name}: expected {kind}s {shape} of {np.dtype(dtype)}, got {x.shape[1:]} of {x.dtype}")
        if y.shape != (len(x),):
            raise DataError(f"{name}: {len(x)} samples but labels of shape {y.shape}")
        _check_labels(y, arrays.class_names, name)
        notes += _check_values(x, name, kind)
    if shared := _shared(arrays.train_x, arrays.test_x):
        notes.append(f"{where}: {shared} of {len(arrays.test_x)} test samples are also training samples")
    return replace(arrays, notes=tuple(notes))


def _check_labels(y: np.ndarray, names: tuple[str, ...], where: str) -> None:
    wrong = (y < 0) | (y >= len(names))
    if wrong.any():
        raise DataError(
            f"{where}: labels must lie from 0 to {len(names) - 1}, got {y[wrong][0]} at sample {np.argmax(wrong)} "
            f"({np.count_nonzero(wrong)} such labels)"
        )
    empty = [names[k] for k in np.flatnonzero(np.bincount(y, minlength=len(names)) == 0)]
    if empty:
        raise DataError(f"{where}: no sample of class {', '.join(empty[:5])}; every class needs some")


def _check_values(x: np.ndarray, where: str, kind: str) -> list[str]:
    """Notes about one part's samples (n, ...); raises DataError for what cannot be learned from."""
    flat = x.reshape(len(x), -1)
    first, varied, constant, broken = flat[0], False, 0, 0
    for start in range(0, len(flat), BLOCK):
        block = flat[start : start + BLOCK]
        broken += np.count_nonzero(~np.isfinite(block).all(axis=1)) if kind == "vector" else 0
        varied = varied or bool((block != first).any())
        constant += np.count_nonzero((block == block[:, :1]).all(axis=1))
    if broken:
        raise DataError(f"{where}: {broken} samples have NaN or infinite values")
    if not varied and len(flat) > 1:
        raise DataError(f"{where}: all {len(flat)} samples are the same")
    if kind == "image" and constant == len(flat):
        raise DataError(f"{where}: every image is one even grey; there is nothing to see in them")
    return [f"{where}: {constant} images are one even grey"] if kind == "image" and constant else []


def _shared(train: np.ndarray, test: np.ndarray) -> int:
    """How many test samples are, value for value, among the training samples."""
    seen = {_mark(sample) for sample in train}
    return sum(_mark(sample) in seen for sample in test)


def _mark(sample: np.ndarray) -> bytes:
    return blake2b(np.ascontiguousarray(sample).tobytes(), digest_size=12).digest()
