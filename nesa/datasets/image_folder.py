"""Load image folders, DIR/{train,test}/CLASS/*, as one array of one size and mode, decoded in parallel.

A file is read as a viewer shows it: turned by its EXIF orientation, transparency on white, the first frame of several.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nesa.datasets.source import Arrays, ProgressCallback
from nesa.errors import DataError

PARTS = ("train", "test")
SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".ppm", ".pgm", ".tif", ".tiff"})
CORRUPT_SHARE = 0.01  # of the images of a part; above it the folder is refused
NAMED = 5  # files that a message names
CHUNK = 256  # images that one job decodes
MAX_PIXELS = 89_478_485  # of one file, where Pillow begins to warn
DECODER = 2  # part of the cache key: a change that gives other pixels makes old entries unused
FORMATS = {"JPG": "JPEG", "TIF": "TIFF", "PGM": "PPM"}  # suffixes that are not the name of Pillow's format
REMARKS = {
    "16 bits": "images have 16 bits a channel and were reduced to 8",
    "transparent": "images are partly transparent and were put on white",
    "frames": "files have several pictures, of which the first was taken",
    "suffix": "files are of another format than their suffix says",
    "tiny": "images are one pixel high or wide",
}


@dataclass(frozen=True)
class _Image:
    """A decoded file: its own (height, width), whether it is in colour, and which of REMARKS hold for it."""

    size: tuple[int, int]
    colour: bool
    remarks: tuple[str, ...]


@dataclass
class _Part:
    """The files of one part. x: (n, H, W[, 3]); images: None for those that cannot be decoded, which are failures."""

    folder: Path
    files: list[Path]
    x: np.ndarray
    images: list[_Image | None]
    failures: dict[int, str]


def has_layout(folder: Path) -> bool:
    """Check that ``folder`` has train and test folders with at least one class folder each. Reads no image."""
    return all(next(iter(_subfolders(folder / part)), None) is not None for part in PARTS)


def class_names(folder: Path) -> tuple[str, ...]:
    """Return the class folders under train, sorted; empty when there is no such folder."""
    return tuple(sorted(path.name for path in _subfolders(folder / "train")))


def _subfolders(folder: Path) -> list[Path]:
    try:
        return [path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")]
    except OSError:
        return []


def load(
    folder: Path, size: tuple[int, ...], channels: int, progress: ProgressCallback, *, mixed: bool = False
) -> Arrays:
    """Load all images under ``folder`` as uint8 (n, H, W[, 3]), classes in the order of their folders' names.

    ``mixed`` allows images of different sizes; each is then resized to ``size`` without regard to its aspect ratio.
    Files whose names start with a dot or have no suffix of an image are passed over. What was passed over or changed
    is counted in notes.

    Raises DataError: no train or test folder, classes that one of them lacks, an empty class, images of mixed size (in
    both parts together), pixels of 32 bits, more than 1 % of images that cannot be decoded.
    """
    names = class_names(folder)
    if not has_layout(folder):
        raise DataError(f"{folder}: expected train/CLASS/* and test/CLASS/* with at least one class folder in each")
    test_names = tuple(sorted(path.name for path in _subfolders(folder / "test")))
    if names != test_names:
        raise DataError(
            f"{folder}: train and test must have the same class folders; only in train: "
            f"{_first_few(set(names) - set(test_names))}; only in test: {_first_few(set(test_names) - set(names))}"
        )
    notes: list[str] = []
    arrays, parts = {}, []
    for name in PARTS:
        files, y, skipped = _list_files(folder / name, names)
        if skipped:
            count = len(skipped)
            notes.append(f"{folder / name}: {count} files are not images and were passed over: {_first_few(skipped)}")
        part = _decode(folder / name, files, size, channels, progress)
        notes += _part_notes(part)
        good = np.array([image is not None for image in part.images], bool)
        arrays |= {f"{name}_x": part.x[good], f"{name}_y": y[good]}
        for k, class_name in enumerate(names):
            if not np.any(arrays[f"{name}_y"] == k):
                where = folder / name / class_name
                raise DataError(f"{where}: this class has no image; add some or remove its folders")
        parts.append(part)
    if not mixed:
        _check_sizes(folder, parts)
    if channels == 3:
        notes += _colour_notes(folder, parts)
    return Arrays(**arrays, class_names=names, origin=f"image folder {folder}", notes=tuple(notes))


def _list_files(folder: Path, names: Sequence[str]) -> tuple[list[Path], np.ndarray, list[str]]:
    files, labels, skipped = [], [], []
    for k, name in enumerate(names):
        for path in sorted((folder / name).iterdir()):
            if path.name.startswith(".") or path.suffix.lower() not in SUFFIXES or path.is_dir():
                skipped.append(f"{name}/{path.name}")
            else:
                files.append(path)
                labels.append(k)
    return files, np.array(labels, np.int64), skipped


def _decode(folder: Path, files: list[Path], size: tuple[int, ...], channels: int, progress: ProgressCallback) -> _Part:
    x = np.empty((len(files), *size, *((3,) if channels == 3 else ())), np.uint8)
    part = _Part(folder, files, x, [None] * len(files), {})

    def job(start: int) -> int:
        stop = min(start + CHUNK, len(files))
        for i in range(start, stop):
            try:
                x[i], part.images[i] = _read_image(files[i], size, channels)
            except DataError:
                raise
            except Exception as error:  # PIL raises nearly anything on damaged files
                part.failures[i] = f"{files[i].relative_to(folder)} ({error or type(error).__name__})"
        return stop - start

    done = 0
    with ThreadPoolExecutor(min(32, os.cpu_count() or 1)) as pool:
        for count in pool.map(job, range(0, len(files), CHUNK)):
            done += count
            progress(f"decoding {folder}", done, len(files))
    return part


def _part_notes(part: _Part) -> list[str]:
    """Return notes about the files of one part; raises DataError when too many cannot be decoded."""
    notes = []
    if part.failures:
        named = _first_few(part.failures[i] for i in sorted(part.failures))
        message = f"{len(part.failures)} of {len(part.files)} images cannot be decoded: {named}"
        if len(part.failures) > CORRUPT_SHARE * len(part.files):
            raise DataError(f"{part.folder}: {message}; repair or remove them (up to 1 % are left out with a warning)")
        notes.append(f"{part.folder}: {message}; they were left out")
    for remark, sentence in REMARKS.items():
        pairs = zip(part.files, part.images, strict=True)
        found = [str(path.relative_to(part.folder)) for path, image in pairs if image and remark in image.remarks]
        if found:
            notes.append(f"{part.folder}: {len(found)} {sentence}: {_first_few(found)}")
    return notes


def _check_sizes(folder: Path, parts: Sequence[_Part]) -> None:
    """Raise DataError when the images of both parts together have more than one size."""
    sizes = {path: image.size for part in parts for path, image in zip(part.files, part.images, strict=True) if image}
    found = Counter(sizes.values())
    if len(found) > 1:
        usual = found.most_common(1)[0][0]
        odd = next(path for path, size in sizes.items() if size != usual)
        raise DataError(
            f"{folder}: images have {len(found)} different sizes: most are {_format_size(usual)}, but "
            f"{odd.relative_to(folder)} is {_format_size(sizes[odd])}; make them equal, or set mixed: true in the "
            "params of a folder task to have each resized"
        )


def _colour_notes(folder: Path, parts: Sequence[_Part]) -> list[str]:
    """Return a note when one part is wholly in colour and the other wholly grey: a classifier would not generalise."""
    train, test = ({image.colour for image in part.images if image} for part in parts)
    if {len(train), len(test)} != {1} or train == test:
        return []
    words = ("in colour", "grey") if train == {True} else ("grey", "in colour")
    return [f"{folder}: train images are {words[0]} and test images are {words[1]}"]


def _read_image(path: Path, size: tuple[int, ...], channels: int) -> tuple[np.ndarray, _Image]:
    """Read one file as uint8 (H, W[, 3]). Raises whatever Pillow raises on a damaged one, DataError for 32 bits."""
    from PIL import Image, ImageOps

    with Image.open(path) as image:
        if image.width * image.height > MAX_PIXELS:
            raise ValueError(f"{_format_size((image.height, image.width))} pixels are too many")
        if image.mode == "F" or (image.mode == "I" and image.format not in ("PNG", "PPM")):
            raise DataError(f"{path}: the image has more than 8 bits a pixel (mode {image.mode}); convert it to 8 bits")
        remarks = ["tiny"] if 1 in image.size else []
        suffix = path.suffix[1:].upper()
        if image.format not in (FORMATS.get(suffix, suffix), "MPO"):  # MPO: a JPEG with previews, as phones write them
            remarks.append("suffix")
        if getattr(image, "is_animated", False) and image.format != "MPO":
            remarks.append("frames")
            image.seek(0)
        if _has_16_bits(image):
            remarks.append("16 bits")
        colour = image.mode not in ("1", "L", "LA", "La") and not image.mode.startswith("I")
        turned = ImageOps.exif_transpose(image)
        own = (turned.height, turned.width)
        plain, transparent = _to_8_bits(turned)
        if transparent:
            remarks.append("transparent")
        plain = plain.convert("L" if channels == 1 else "RGB")
        if own != tuple(size):
            plain = plain.resize((size[1], size[0]), Image.Resampling.BILINEAR)
        return np.asarray(plain, np.uint8), _Image(own, colour, tuple(remarks))


def _has_16_bits(image: Any) -> bool:
    """Check whether a channel has 16 bits; Pillow opens such colour images in 8 bits, and keeps the high byte."""
    raw = image.tile[0][3] if image.tile else ""
    raw = raw if isinstance(raw, str) else " ".join(part for part in raw or () if isinstance(part, str))
    return image.mode.startswith("I") or ";16" in raw


def _to_8_bits(image: Any) -> tuple[Any, bool]:
    """Return an image of mode L or RGB, and whether parts of it were transparent and are white now."""
    from PIL import Image

    if image.mode.startswith("I"):  # grey of 16 bits: 65,535 becomes 255
        return Image.fromarray(np.round(np.asarray(image, np.float64) / 257).astype(np.uint8)), False
    if "transparency" in image.info or image.mode in ("LA", "La", "PA", "RGBA", "RGBa"):
        image = image.convert("RGBA")
        if image.getextrema()[3][0] < 255:
            white = Image.new("RGBA", image.size, "white")
            return Image.alpha_composite(white, image).convert("RGB"), True
    if image.mode in ("L", "RGB"):
        return image, False
    return image.convert("L" if image.mode == "1" else "RGB"), False


def _format_size(size: tuple[int, int]) -> str:
    return f"{size[1]} x {size[0]}"


def _first_few(names: Iterable[str]) -> str:
    names = list(names)
    return (", ".join(names[:NAMED]) + (f" and {len(names) - NAMED} more" if len(names) > NAMED else "")) or "none"
