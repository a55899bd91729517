"""Load the data of a task as tensors, split into training, validation and test, with their normalisation.

Images stay uint8 in memory and are normalised batch by batch (nesa.training.batches).
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from nesa.config.curriculum import Curriculum
from nesa.config.sizes import input_size
from nesa.datasets import registry
from nesa.datasets.registry import Arrays, DataDirs, MissingDataError, ProgressCallback, no_progress
from nesa.errors import DataError
from nesa.run_folder.digest import digest
from nesa.seeds import derive

VALIDATION_SHARE = 0.1


@dataclass(frozen=True)
class Samples:
    """x: (n, D_in) uint8 or float32, planes one after the other; y: (n,) int64."""

    x: Tensor
    y: Tensor

    def __len__(self) -> int:
        return len(self.y)

    def to(self, device: torch.device) -> Samples:
        return Samples(self.x.to(device), self.y.to(device))


@dataclass(frozen=True)
class TaskData:
    """One task's samples and how a raw sample becomes an input.

    shape: (channels, H, W) of an image, None for vectors. mean, std: of the training samples, all pixels together;
    they belong to the task and are stored with it. source_used: the source that delivered; fallback: whether that is
    not the one the curriculum asked for.
    """

    name: str
    index: int
    class_names: tuple[str, ...]
    train: Samples
    val: Samples
    test: Samples
    mean: float
    std: float
    shape: tuple[int, int, int] | None
    source_used: str
    fallback: bool
    origin: str = ""
    notes: tuple[str, ...] = ()

    @property
    def classes(self) -> int:
        return len(self.class_names)

    def prepare(self, x: Tensor) -> Tensor:
        """Normalise raw samples (B, D_in): float32, zero mean, unit variance over the task."""
        return normalise(x, self.mean, self.std)

    def to(self, device: torch.device) -> TaskData:
        return replace(self, train=self.train.to(device), val=self.val.to(device), test=self.test.to(device))


def normalise(x: Tensor, mean: float, std: float) -> Tensor:
    """Subtract the mean and divide by the standard deviation of a task, in float32."""
    return (x.float() - mean) / std


def load_task(
    curriculum: Curriculum, index: int, data: DataDirs | Path | None = None, progress: ProgressCallback = no_progress
) -> TaskData:
    """Load task `index` of a curriculum, or its fallback, with a warning, where the curriculum allows one.

    Raises DataError with what to put where when neither can be had."""
    task = curriculum.tasks[index]
    options = {
        "size": input_size(curriculum),
        "channels": curriculum.input.channels,
        "seed": derive(curriculum.seed, "data", task.name),
        "data": data if isinstance(data, DataDirs) else DataDirs(data),
        "progress": progress,
    }
    used, fallback = task.source, False
    try:
        arrays = registry.load(task.source, task.params, **options)
    except MissingDataError:
        if task.fallback is None:
            raise
        warnings.warn(
            f"task {task.name!r}: the data of source {task.source!r} cannot be had, so this run uses the fallback "
            f"{task.fallback!r} instead. Its figures are not comparable with runs on {task.source!r}.",
            stacklevel=2,
        )
        used, fallback = task.fallback, True
        arrays = registry.load(task.fallback, task.fallback_params, **options)
    return from_arrays(task.name, index, arrays, derive(curriculum.seed, "split", task.name), used, fallback)


def data_digest(data: TaskData) -> str:
    """Return the digest of a task's samples, labels and class names, as they were split."""
    return digest([*((part.x, part.y) for part in (data.train, data.val, data.test)), data.class_names])


def from_arrays(
    name: str, index: int, arrays: Arrays, seed: int, source_used: str = "arrays", fallback: bool = False
) -> TaskData:
    """Split the training samples 90 / 10 with a seed of their own and measure their mean and deviation."""
    shape = None
    if arrays.kind == "image":
        H, W = arrays.train_x.shape[1:3]
        shape = (arrays.train_x.shape[3] if arrays.train_x.ndim == 4 else 1, H, W)
    train, test = (
        Samples(_planes(x), torch.as_tensor(y.copy(), dtype=torch.int64))
        for x, y in ((arrays.train_x, arrays.train_y), (arrays.test_x, arrays.test_y))
    )
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(seed))
    held = max(1, round(VALIDATION_SHARE * len(train)))
    train, val = (Samples(train.x[part], train.y[part]) for part in (order[held:], order[:held]))
    std, mean = torch.std_mean(train.x.float())
    if not float(std) > 0:
        raise DataError(f"task {name!r}: all training samples are one constant value, so there is nothing to learn")
    return TaskData(
        name, index, arrays.class_names, train, val, test, float(mean), float(std), shape, source_used, fallback,
        arrays.origin, arrays.notes,
    )  # fmt: skip


def _planes(x) -> Tensor:
    """(n, D_in): vectors as they are, images plane by plane, each plane row by row."""
    tensor = torch.from_numpy(x.copy() if not x.flags.writeable else x)
    if tensor.dim() == 4:
        tensor = tensor.permute(0, 3, 1, 2)
    return tensor.reshape(len(tensor), -1).contiguous()
