"""Image folders: DIR/{train,test}/CLASS/*, decoded in parallel into one array of one size and mode."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from nesa.datasets.source import Arrays, Progress
from nesa.errors import DataError

PARTS = ("train", "test")
SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".ppm", ".pgm", ".tif", ".tiff"})
CORRUPT_SHARE = 0.01  # of the images of a folder; above it the folder is refused
NAMED = 5  # files that a message names
CHUNK = 256  # images that one job decodes


def looks_right(folder: Path) -> bool:
    """Whether ``folder`` has train and test folders with at least one class folder each. Reads no image."""
    return all(next(iter(_subfolders(folder / part)), None) is not None for part in PARTS)


def class_names(folder: Path) -> tuple[str, ...]:
    """The class folders under train, sorted; empty when there is no such folder."""
    return tuple(sorted(path.name for path in _subfolders(folder / "train")))


def _subfolders(folder: Path) -> list[Path]:
    try:
        return [path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")]
    except OSError:
        return []


def load(folder: Path, size: tuple[int, ...], channels: int, progress: Progress, *, mixed: bool = False) -> Arrays:
    """All images under ``folder`` as uint8 (n, H, W[, 3]), classes in the order of their folders' names.

    ``mixed`` allows images of different sizes; each is then resized to ``size`` without regard to its aspect ratio.
    Files whose names start with a dot or have no suffix of an image are passed over, and counted.

    Raises DataError: no train or test folder, classes that one of them lacks, an empty class, images of mixed size,
    16-bit images, more than 1 % of images that cannot be decoded.
    """
    names = class_names(folder)
    if not looks_right(folder):
        raise DataError(f"{folder}: expected train/CLASS/* and test/CLASS/* with at least one class folder in each")
    test_names = tuple(sorted(path.name for path in _subfolders(folder / "test")))
    if names != test_names:
        raise DataError(
            f"{folder}: train and test must have the same class folders; only in train: "
            f"{_few(set(names) - set(test_names))}; only in test: {_few(set(test_names) - set(names))}"
        )
    notes: list[str] = []
    arrays = {}
    for part in PARTS:
        files, y, passed = _list(folder / part, names)
        if passed:
            notes.append(f"{folder / part}: {len(passed)} files are not images and were passed over: {_few(passed)}")
        x, good = _decode(folder / part, files, size, channels, progress, mixed, notes)
        arrays |= {f"{part}_x": x[good], f"{part}_y": y[good]}
        for k, name in enumerate(names):
            if not np.any(arrays[f"{part}_y"] == k):
                raise DataError(f"{folder / part / name}: this class has no image; add some or remove its folders")
    return Arrays(**arrays, class_names=names, origin=f"image folder {folder}", notes=tuple(notes))


def _list(folder: Path, names: Sequence[str]) -> tuple[list[Path], np.ndarray, list[str]]:
    files, labels, passed = [], [], []
    for k, name in enumerate(names):
        for path in sorted((folder / name).iterdir()):
            if path.name.startswith(".") or path.suffix.lower() not in SUFFIXES or path.is_dir():
                passed.append(f"{name}/{path.name}")
            else:
                files.append(path)
                labels.append(k)
    return files, np.array(labels, np.int64), passed


def _decode(
    folder: Path,
    files: list[Path],
    size: tuple[int, ...],
    channels: int,
    progress: Progress,
    mixed: bool,
    notes: list[str],
) -> tuple[np.ndarray, np.ndarray]:
    """uint8 (n, H, W[, 3]) of ``files`` and which of them could be decoded, bool (n,)."""
    x = np.empty((len(files), *size, *((3,) if channels == 3 else ())), np.uint8)
    sizes: list[tuple[int, int] | None] = [None] * len(files)
    failures: dict[int, str] = {}

    def job(start: int) -> int:
        stop = min(start + CHUNK, len(files))
        for i in range(start, stop):
            try:
                x[i], sizes[i] = _image(files[i], size, channels)
            except DataError:
                raise
            except Exception as error:  # PIL raises nearly anything on damaged files
                failures[i] = f"{files[i].relative_to(folder)} ({error or type(error).__name__})"
        return stop - start

    done = 0
    with ThreadPoolExecutor(min(32, os.cpu_count() or 1)) as pool:
        for count in pool.map(job, range(0, len(files), CHUNK)):
            done += count
            progress(f"decoding {folder}", done, len(files))
    if failures:
        message = (
            f"{len(failures)} of {len(files)} images cannot be decoded: {_few(failures[i] for i in sorted(failures))}"
        )
        if len(failures) > CORRUPT_SHARE * len(files):
            raise DataError(f"{folder}: {message}; repair or remove them (up to 1 % are left out with a warning)")
        notes.append(f"{folder}: {message}; they were left out")
    found = Counter(s for s in sizes if s is not None)
    if len(found) > 1 and not mixed:
        usual = found.most_common(1)[0][0]
        odd = next(i for i, s in enumerate(sizes) if s not in (None, usual))
        raise DataError(
            f"{folder}: images have {len(found)} different sizes: most are {_by(usual)}, but "
            f"{files[odd].relative_to(folder)} is {_by(sizes[odd])}; make them equal, or set mixed: true in the params "
            "of a folder task to have each resized"
        )
    return x, np.array([i not in failures for i in range(len(files))], bool)


def _image(path: Path, size: tuple[int, ...], channels: int) -> tuple[np.ndarray, tuple[int, int]]:
    """One file as uint8 (H, W[, 3]), and the (height, width) that it had."""
    from PIL import Image

    with Image.open(path) as image:
        if image.mode in ("I", "F") or image.mode.startswith("I;16"):
            raise DataError(f"{path}: the image has more than 8 bits a pixel (mode {image.mode}); convert it to 8 bits")
        height, width = image.height, image.width
        if "transparency" in image.info:
            image = image.convert("RGBA")
        plain = image if image.mode in ("L", "RGB") else image.convert("L" if image.mode == "1" else "RGB")
        plain = plain.convert("L" if channels == 1 else "RGB")
        if (height, width) != tuple(size):
            plain = plain.resize((size[1], size[0]), Image.Resampling.BILINEAR)
        return np.asarray(plain, np.uint8), (height, width)


def _by(size: tuple[int, int] | None) -> str:
    return f"{size[1]} x {size[0]}" if size else "unknown"


def _few(names) -> str:
    names = list(names)
    return (", ".join(names[:NAMED]) + (f" and {len(names) - NAMED} more" if len(names) > NAMED else "")) or "none"
