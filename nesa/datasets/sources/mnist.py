"""Load mnist: 60,000 + 10,000 handwritten digits, 28 x 28 grey (LeCun, Bottou, Bengio and Haffner 1998)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from nesa.datasets import download
from nesa.datasets.paths import DataDirs
from nesa.datasets.source import Arrays, ProgressCallback, Source, no_progress
from nesa.datasets.torchvision_data import Parts, Published
from nesa.errors import DataError

LAYOUT = "MNIST/raw"
FILES = tuple(f"{part}-{what}-ubyte" for part in ("train", "t10k") for what in ("images-idx3", "labels-idx1"))


def read(root: Path) -> Parts:
    """Read torchvision's IDX files. Raises DataError when one is cut short or is something else."""
    from torchvision.datasets import MNIST

    try:
        train, test = MNIST(str(root), train=True), MNIST(str(root), train=False)
    except (RuntimeError, ValueError, OSError, AssertionError, KeyError, IndexError) as error:
        raise DataError(
            f"{root / LAYOUT}: the files are damaged ({error or type(error).__name__}); replace {', '.join(FILES)}"
        ) from error
    x, y = ([np.asarray(getattr(part, what)) for part in (train, test)] for what in ("data", "targets"))
    return x[0], y[0].astype(np.int64), x[1], y[1].astype(np.int64), tuple("0123456789")


def fetch(root: Path, progress: ProgressCallback) -> None:
    """Download and unpack under ``root`` what torchvision would. Raises DataError."""
    from torchvision.datasets import MNIST

    for name, md5 in MNIST.resources:
        urls = tuple(f"{mirror}{name}" for mirror in MNIST.mirrors)
        packed = download.fetch(urls, root / LAYOUT / name, md5, progress)
        download.unpack_gzip(packed)
        packed.unlink()


DATA = Published("mnist", LAYOUT, FILES, ("mnist", "MNIST"), read, fetch)


def load(
    params: Mapping[str, Any],
    *,
    size: tuple[int, ...],
    channels: int,
    seed: int,
    data: DataDirs,
    progress: ProgressCallback = no_progress,
) -> Arrays:
    """Load uint8 (60000, H, W[, 3]) for training and (10000, H, W[, 3]) for testing."""
    return DATA.load(size, channels, data, progress)


SOURCE = Source(
    name="mnist",
    summary="handwritten digits; found in the data folder or downloaded (12 MB)",
    difficulty="easy: linear model 92 %, one hidden layer of 128 reaches 98 %",
    load=load,
    classes=lambda params: 10,
    available=lambda params, data: DATA.available(data),
)
