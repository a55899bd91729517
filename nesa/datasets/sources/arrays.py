"""Load arrays: the user's own file of ``np.savez(FILE, train_x=..., train_y=..., test_x=..., test_y=...)``.

Files with pickled objects are refused: a data file never runs code.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from nesa.datasets import user_arrays
from nesa.datasets.paths import DataDirs
from nesa.datasets.source import Arrays, Param, ProgressCallback, Source, no_progress
from nesa.errors import DataError

BROKEN = (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error, NotImplementedError, MemoryError)


def _read(path: Path, names: tuple[str, ...]) -> dict[str, np.ndarray]:
    if not zipfile.is_zipfile(path):
        raise DataError(f"{path}: expected an .npz file with {', '.join(user_arrays.NAMES)}, and this is none")
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in names if name in file.files}
    except BROKEN as error:
        if "allow_pickle" in str(error):
            raise DataError(
                f"{path}: refused, because it holds pickled objects; save plain arrays of numbers"
            ) from error
        raise DataError(f"{path}: cannot be read as an .npz file: {error or type(error).__name__}") from error


def load(
    params: Mapping[str, Any],
    *,
    size: tuple[int, ...],
    channels: int,
    seed: int,
    data: DataDirs,
    progress: ProgressCallback = no_progress,
) -> Arrays:
    """Load the arrays of params["path"]; see ``user_arrays.convert_arrays``."""
    path = data.find(params["path"], "the file of an arrays task")
    return user_arrays.convert_arrays(
        _read(path, (*user_arrays.NAMES, "class_names")),
        str(path),
        size=size,
        channels=channels,
        classes=params["classes"] or None,
    )


def _classes(params: Mapping[str, Any]) -> int | None:
    if params.get("classes"):
        return params["classes"]
    path = DataDirs().lookup(str(params.get("path") or ""))
    if path is None or not path.is_file():
        return None
    try:
        found = _read(path, ("train_y", "class_names"))
        return len(found["class_names"]) if "class_names" in found else 1 + int(found["train_y"].max())
    except (DataError, KeyError, ValueError, TypeError):  # load raises the same, with its reason
        return None


SOURCE = Source(
    name="arrays",
    summary="your own .npz file with train_x, train_y, test_x, test_y",
    difficulty="yours",
    load=load,
    classes=_classes,
    kind=lambda params: None,
    available=lambda params, data: (found := data.lookup(params["path"])) is not None and found.is_file(),
    params=(
        Param("path", str, None, "the file, from here or from the data folder", required=True),
        Param("classes", int, 0, "number of classes; 0: read it from the labels", 0, 10_000),
    ),
)
