"""Load cifar10: 50,000 + 10,000 colour photographs of ten kinds of things.

Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009.
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from nesa.datasets import download
from nesa.datasets.paths import DataDirs
from nesa.datasets.source import Arrays, ProgressCallback, Source, no_progress
from nesa.datasets.torchvision_data import Parts, Published
from nesa.errors import DataError

LAYOUT = "cifar-10-batches-py"
BATCHES = (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch")


def read(root: Path) -> Parts:
    """Read torchvision's files, which are pickles: none is opened unless its MD5 is the published one."""
    from torchvision.datasets import CIFAR10

    try:
        train, test = CIFAR10(str(root), train=True), CIFAR10(str(root), train=False)
    except (RuntimeError, OSError, pickle.UnpicklingError, EOFError) as error:
        raise DataError(
            f"{root / LAYOUT}: the files are damaged or are not the published ones ({error}); remove the folder, or "
            f"replace it by the contents of {CIFAR10.filename}"
        ) from error
    labels = (np.asarray(part.targets, np.int64) for part in (train, test))
    return train.data, next(labels), test.data, next(labels), tuple(train.classes)


def fetch(root: Path, progress: ProgressCallback) -> None:
    """Download and unpack under ``root`` what torchvision would. Raises DataError."""
    from torchvision.datasets import CIFAR10

    archive = download.fetch((CIFAR10.url,), root / CIFAR10.filename, CIFAR10.tgz_md5, progress)
    download.unpack_tar(archive, root, LAYOUT)
    archive.unlink()


DATA = Published("cifar10", LAYOUT, (*BATCHES, "batches.meta"), ("cifar10", "CIFAR10"), read, fetch)


def load(
    params: Mapping[str, Any],
    *,
    size: tuple[int, ...],
    channels: int,
    seed: int,
    data: DataDirs,
    progress: ProgressCallback = no_progress,
) -> Arrays:
    """Load uint8 (50000, H, W[, 3]) for training and (10000, H, W[, 3]) for testing."""
    return DATA.load(size, channels, data, progress)


SOURCE = Source(
    name="cifar10",
    summary="natural photographs of ten kinds of things; found in the data folder or downloaded (170 MB)",
    difficulty="hard: dense networks of this size reach 45 to 50 % on grey images",
    load=load,
    classes=lambda params: 10,
    available=lambda params, data: DATA.available(data),
)
