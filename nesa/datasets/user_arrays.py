"""Convert arrays that a user gives, in a file or from a function, to the form that every source returns.

Required are train_x, train_y, test_x, test_y; class_names may be given. Vectors are (n, D). Images are (n, H, W) or
(n, H, W, C), of whole numbers from 0 to 255, of floats from 0 to 255, 0 to 1 or -1 to 1, or of booleans. Their scale is
decided once, on train_x and test_x together: decided apart, a test image with one value of 1.0000001 was taken for one
of 0 to 255 and became black.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from nesa.datasets.pixels import to_input_shape
from nesa.datasets.source import Arrays
from nesa.errors import DataError

MOST_CLASSES = 10_000
NAMES = ("train_x", "train_y", "test_x", "test_y")
TOLERANCE = 0.01  # of a scale's range: values so far outside are rounding, are clipped and are counted in a note
BRIGHT = 128  # floats from 0 to 255 that are no whole numbers reach this, or their scale is unknown


@dataclass(frozen=True)
class Scale:
    """The values of black and white in the images of a data set."""

    low: float
    high: float

    def contains(self, low: float, high: float) -> bool:
        """Check that values from ``low`` to ``high`` lie within the scale, with its tolerance."""
        margin = TOLERANCE * (self.high - self.low)
        return self.low - margin <= low and high <= self.high + margin

    def __str__(self) -> str:
        return f"{self.low:g} to {self.high:g}"


BYTES, UNIT, SIGNED = Scale(0, 255), Scale(0, 1), Scale(-1, 1)


def convert_arrays(
    given: Mapping[str, Any], where: str, *, size: tuple[int, ...], channels: int, classes: int | None = None
) -> Arrays:
    """Convert ``given`` to Arrays of the wanted size and channels; ``where`` begins every message.

    ``classes`` is the number of classes that the user stated; None: the greatest label plus one.

    Raises DataError for missing arrays, wrong shapes or types, values that fit no scale, and labels out of range.
    """
    if missing := [name for name in NAMES if name not in given]:
        raise DataError(f"{where}: {', '.join(missing)} missing; wanted are {', '.join(NAMES)}")
    parts = {name: np.asarray(given[name]) for name in NAMES}
    train_y, test_y = (convert_labels(parts[f"{part}_y"], f"{where}: {part}_y") for part in ("train", "test"))
    names = _convert_names(given["class_names"], where) if "class_names" in given else None
    K = len(names) if names else classes or 1 + int(max((y.max() for y in (train_y, test_y) if len(y)), default=0))
    if K > MOST_CLASSES:
        raise DataError(f"{where}: the greatest label is {K - 1:,}; at most {MOST_CLASSES:,} classes are possible")
    if classes and classes != K:
        raise DataError(f"{where}: there are {K} class_names, but the task's params say classes: {classes}")
    if parts["train_x"].shape[1:] != parts["test_x"].shape[1:]:
        shapes = f"{parts['train_x'].shape[1:]} and {parts['test_x'].shape[1:]}"
        raise DataError(f"{where}: samples of train_x and test_x must have the same shape, got {shapes}")
    samples = {name: parts[name] for name in ("train_x", "test_x")}
    for name, x in samples.items():
        _check_numbers(x, f"{where}: {name}")
    origin, notes = where, []
    if len(size) == 1:
        made = {name: _to_vectors(x, f"{where}: {name}", size[0]) for name, x in samples.items()}
    else:
        for name, x in samples.items():
            _check_image_shape(x, f"{where}: {name}")
        scale = decide_scale(samples, where)
        made = {}
        for name, x in samples.items():
            values, clipped = to_bytes(x[..., 0] if x.ndim == 4 and x.shape[3] == 1 else x, scale)
            made[name] = to_input_shape(values, size, channels)
            if clipped:
                notes.append(f"{where}: {name}: {clipped} values just outside {scale} were clipped")
        if scale != BYTES:
            origin = f"{where}, values from {scale}"
        if scale == SIGNED:
            notes.append(f"{where}: images have negative values and were read as -1 (black) to 1 (white)")
    return Arrays(
        made["train_x"],
        train_y,
        made["test_x"],
        test_y,
        names or tuple(map(str, range(K))),
        kind="image" if len(size) == 2 else "vector",
        origin=origin,
        notes=tuple(notes),
    )


def _convert_names(given: Any, where: str) -> tuple[str, ...]:
    names = np.asarray(given)
    if names.ndim != 1 or names.dtype.kind not in "US":
        raise DataError(f"{where}: class_names must be a list of texts, got {names.dtype} of shape {names.shape}")
    return tuple(map(str, names.astype(str)))


def convert_labels(y: np.ndarray, where: str) -> np.ndarray:
    """Convert labels to int64 (n,). Raises DataError unless they are one-dimensional and whole numbers."""
    if y.ndim != 1 or y.dtype.kind not in "iu":
        raise DataError(f"{where}: labels must be whole numbers, shape (n,), got {y.dtype} of shape {y.shape}")
    return y.astype(np.int64)


def _check_numbers(x: np.ndarray, where: str) -> None:
    if x.dtype.kind not in "iufb":
        raise DataError(f"{where}: expected numbers, got an array of {x.dtype}")
    if x.dtype.kind == "f" and not np.isfinite(x).all():
        raise DataError(f"{where}: {np.size(x) - np.count_nonzero(np.isfinite(x))} values are NaN or infinite")


def _to_vectors(x: np.ndarray, where: str, length: int) -> np.ndarray:
    if x.shape[1:] != (length,):
        raise DataError(f"{where}: expected vectors (n, {length}) for input.size [{length}], got shape {x.shape}")
    with np.errstate(over="ignore"):
        vectors = x.astype(np.float32)
    if not np.isfinite(vectors).all():
        raise DataError(f"{where}: some values are too great for 32-bit numbers")
    return vectors


def _check_image_shape(x: np.ndarray, where: str) -> None:
    if x.ndim not in (3, 4) or (x.ndim == 4 and x.shape[3] not in (1, 3)) or 0 in x.shape[1:]:
        hint = "; channels come last: x.transpose(0, 2, 3, 1)" if x.ndim == 4 and x.shape[1] in (1, 3) else ""
        raise DataError(f"{where}: expected images (n, H, W), (n, H, W, 1) or (n, H, W, 3), got shape {x.shape}{hint}")


def decide_scale(samples: Mapping[str, np.ndarray], where: str) -> Scale:
    """Decide one scale for all images. Raises DataError where they fit none, and where the parts have two."""
    ranges = {name: (float(x.min()), float(x.max())) for name, x in samples.items() if len(x)}
    if not ranges:
        return BYTES
    low, high = min(part[0] for part in ranges.values()), max(part[1] for part in ranges.values())
    kinds, inside = {samples[name].dtype.kind for name in ranges}, 0 <= low <= high <= 255
    if kinds <= {"f", "b"} and UNIT.contains(low, high):
        scale = UNIT
    elif kinds == {"f"} and low < -TOLERANCE and SIGNED.contains(low, high):
        scale = SIGNED
    elif (inside or (kinds == {"f"} and BYTES.contains(low, high))) and (
        high >= BRIGHT or (inside and _are_whole(samples))
    ):
        scale = BYTES
    else:
        raise DataError(
            f"{where}: image values must lie from 0 to 255 (or 0 to 1, or -1 to 1), got {low:g} to {high:g}"
        )
    odd = {
        BYTES: [name for name, part in ranges.items() if high >= BRIGHT and SIGNED.contains(*part)],
        SIGNED: [name for name, part in ranges.items() if UNIT.contains(*part)],
    }.get(scale, [])
    if odd or (scale == BYTES and "b" in kinds):
        lie = " and ".join(f"{name} from {part[0]:g} to {part[1]:g}" for name, part in ranges.items())
        raise DataError(f"{where}: image values must have one scale, but those of {lie}: bring both to one")
    return scale


def _are_whole(samples: Mapping[str, np.ndarray]) -> bool:
    return all(x.dtype.kind != "f" or np.array_equal(x, np.round(x)) for x in samples.values())


def to_bytes(x: np.ndarray, scale: Scale) -> tuple[np.ndarray, int]:
    """Scale images to uint8, 0 to 255; returns how many values were outside the scale, too, and were clipped."""
    if x.dtype == np.uint8 and scale == BYTES:
        return x, 0
    if x.dtype.kind == "b":
        return x.astype(np.uint8) * np.uint8(255), 0
    outside = int(np.count_nonzero((x < scale.low) | (x > scale.high)))
    clipped = np.clip(x, scale.low, scale.high) if outside else x
    if scale == BYTES:
        return np.round(clipped).astype(np.uint8), outside
    return np.round((clipped - scale.low) * (255 / (scale.high - scale.low))).astype(np.uint8), outside
