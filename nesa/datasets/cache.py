"""Cache decoded or generated data as .npy files and read them back as memory maps.

An entry is a folder NAME-KEY, where KEY is a digest of everything that decides the content. It is written beside its
final place and renamed, so that an interrupted write leaves no half entry behind.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from nesa.datasets.paths import DataDirs
from nesa.datasets.source import Arrays

FORMAT = 1
FIELDS = ("train_x", "train_y", "test_x", "test_y")


def digest(identity: Mapping[str, Any]) -> str:
    """Digest ``identity`` to a short name, the same in every process."""
    return hashlib.sha256(json.dumps(identity, sort_keys=True, default=str).encode()).hexdigest()[:20]


def folder_identity(folders: Iterable[Path]) -> dict[str, Any]:
    """Return what identifies a state of ``folders``: paths, file count, and a digest of names, sizes and times."""
    folders, lines, count = list(folders), hashlib.sha256(), 0
    for folder in folders:
        for name, size, time in sorted(_walk(folder)):
            lines.update(f"{name}\0{size}\0{time}\n".encode(errors="surrogateescape"))
            count += 1
    return {"paths": [str(f.resolve()) for f in folders], "count": count, "digest": lines.hexdigest()}


def _walk(folder: Path) -> Iterable[tuple[str, int, int]]:
    pending = [str(folder)]
    while pending:
        with os.scandir(pending.pop()) as entries:
            for entry in entries:
                if entry.is_dir():
                    pending.append(entry.path)
                else:
                    stat = entry.stat()
                    yield entry.path, stat.st_size, stat.st_mtime_ns


def load_or_make(name: str, identity: Mapping[str, Any], data: DataDirs, make: Callable[[], Arrays]) -> Arrays:
    """Load the arrays of ``identity`` from the cache directory, or from ``make()``, and then cache them.

    A damaged entry is made again; where the cache cannot be written, there is a warning.
    """
    place = data.store / "decoded" / f"{name}-{digest({'format': FORMAT, **identity})}"
    if (found := _read(place)) is not None:
        return found
    arrays = make()
    try:
        _write(place, arrays)
    except OSError as error:
        warnings.warn(f"cannot keep a decoded copy of {name} in {place.parent}: {error}", stacklevel=2)
        return arrays
    return _read(place) or arrays


def _read(place: Path) -> Arrays | None:
    try:
        about = json.loads((place / "about.json").read_text())
        parts = {}
        for part in FIELDS:
            parts[part] = np.load(place / f"{part}.npy", mmap_mode="r", allow_pickle=False)  # refuses a file cut short
        names, notes = tuple(about["class_names"]), tuple(about["notes"])
        return Arrays(**parts, class_names=names, kind=about["kind"], origin=about["origin"], notes=notes)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _write(place: Path, arrays: Arrays) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(prefix=f"{place.name}.", dir=place.parent))
    try:
        for part in FIELDS:
            np.save(fresh / f"{part}.npy", np.ascontiguousarray(getattr(arrays, part)), allow_pickle=False)
        about = {"class_names": list(arrays.class_names), "kind": arrays.kind}
        about |= {"origin": arrays.origin, "notes": list(arrays.notes)}
        (fresh / "about.json").write_text(json.dumps(about))
        shutil.rmtree(place, ignore_errors=True)  # a damaged entry; a good one would have been read
        try:
            fresh.rename(place)
        except OSError:
            if _read(place) is None:  # else another process made the same entry meanwhile
                raise
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
