"""Validate arrays before training: what no data set may be, whichever source made it."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from hashlib import blake2b

import numpy as np

from nesa.datasets.source import Arrays
from nesa.errors import DataError

BLOCK = 4096  # samples compared at once
IMBALANCE = 10  # most samples of a class for one of another, above which there is a note


def check_arrays(arrays: Arrays, where: str, size: tuple[int, ...], channels: int) -> Arrays:
    """Validate ``arrays``, and add notes about constant samples, samples in both parts and classes of unequal size.

    ``where`` begins every message. Raises DataError: no samples, wrong shapes or types, NaN or infinite values, labels
    out of range, an empty class, fewer than two classes, two of one name, all samples alike, all images one even grey.
    """
    K = len(arrays.class_names)
    if twice := [name for name, count in Counter(arrays.class_names).items() if count > 1]:
        raise DataError(
            f"{where}: class names must differ, but {twice[0]!r} is the name of {_numbers(arrays, twice[0])}"
        )
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
        _check_labels(y, arrays.class_names, name, _label_hint(arrays))
        notes += _check_values(x, name, kind)
    if shared := _shared(arrays.train_x, arrays.test_x):
        notes.append(f"{where}: {shared} of {len(arrays.test_x)} test samples are also training samples")
    notes += _imbalance_notes(arrays, where)
    return replace(arrays, notes=tuple(notes))


def _numbers(arrays: Arrays, name: str) -> str:
    return "classes " + " and ".join(str(k) for k, other in enumerate(arrays.class_names) if other == name)


def _label_hint(arrays: Arrays) -> str:
    """Return a hint where labels seem to count from 1, in both parts or in one of them."""
    if not (len(arrays.train_y) and len(arrays.test_y)):
        return ""
    (low, high), (test_low, test_high) = ((int(y.min()), int(y.max())) for y in (arrays.train_y, arrays.test_y))
    if low == test_low == 1:
        return f"; labels run from 1 to {max(high, test_high)}, but classes count from 0: subtract 1 from each"
    if {low, test_low} == {0, 1} and high != test_high:
        return (
            f"; train labels run from {low} to {high} and test labels from {test_low} to {test_high}: one counts from 1"
        )
    return ""


def _imbalance_notes(arrays: Arrays, where: str) -> list[str]:
    """Return a note where the largest class has more than IMBALANCE times the samples of the smallest."""
    train, test = (np.bincount(y, minlength=len(arrays.class_names)) for y in (arrays.train_y, arrays.test_y))
    notes = []
    for part, counts in (("train", train), ("test", test)):
        most, least = int(counts.argmax()), int(counts.argmin())
        if counts[most] > IMBALANCE * counts[least]:
            names = arrays.class_names
            notes.append(
                f"{where}: {part} data: classes are unequal, from {counts[least]:,} samples ({names[least]}) to "
                f"{counts[most]:,} ({names[most]})"
            )
    if notes:
        constant = int(train.argmax())
        share = test[constant] / test.sum()
        notes[-1] += f"; always answering {arrays.class_names[constant]} has a test accuracy of {100 * share:.1f} %"
    return notes


def _check_labels(y: np.ndarray, names: tuple[str, ...], where: str, hint: str) -> None:
    wrong = (y < 0) | (y >= len(names))
    if wrong.any():
        raise DataError(
            f"{where}: labels must lie from 0 to {len(names) - 1}, got {y[wrong][0]} at sample {np.argmax(wrong)} "
            f"({np.count_nonzero(wrong)} such labels){hint}"
        )
    empty = [names[k] for k in np.flatnonzero(np.bincount(y, minlength=len(names)) == 0)]
    if empty:
        raise DataError(f"{where}: no sample of class {', '.join(empty[:5])}; every class needs some{hint}")


def _check_values(x: np.ndarray, where: str, kind: str) -> list[str]:
    """Return notes about one part's samples (n, ...); raises DataError for what cannot be learned from."""
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
    """Count the test samples that are, value for value, among the training samples."""
    known = {_digest(sample) for sample in train}
    return sum(_digest(sample) in known for sample in test)


def _digest(sample: np.ndarray) -> bytes:
    return blake2b(np.ascontiguousarray(sample).tobytes(), digest_size=12).digest()
