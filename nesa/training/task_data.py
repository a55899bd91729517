"""The stream of tasks as tensors: split into training, validation and test, normalised, augmented, batched.

Images stay uint8 in memory and are normalised batch by batch; a batch is gathered from tensors, without a loader.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from nesa.config.curriculum import Augment, Curriculum
from nesa.datasets import registry
from nesa.datasets.registry import Arrays, DataDirs, MissingDataError, Progress, silent
from nesa.errors import DataError
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
        """Raw samples (B, D_in) as the network sees them: float32, zero mean, unit variance over the task."""
        return normalise(x, self.mean, self.std)

    def to(self, device: torch.device) -> TaskData:
        return replace(self, train=self.train.to(device), val=self.val.to(device), test=self.test.to(device))


def normalise(x: Tensor, mean: float, std: float) -> Tensor:
    return (x.float() - mean) / std


def load_task(
    curriculum: Curriculum, index: int, data: DataDirs | Path | None = None, progress: Progress = silent
) -> TaskData:
    """Task `index` of a curriculum. Falls back, with a warning, where the curriculum allows it; raises DataError
    with what to put where otherwise."""
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


def input_size(curriculum: Curriculum) -> tuple[int, ...]:
    """The size at which sources deliver: the grid's plane, or the input's own size where there is no grid."""
    if curriculum.network.grid is None:
        return curriculum.input.size
    X, Y, _ = curriculum.network.grid
    return (Y, X)


def from_arrays(
    name: str, index: int, arrays: Arrays, seed: int, source_used: str = "arrays", fallback: bool = False
) -> TaskData:
    """Splits the training samples 90 / 10 with a seed of their own and measures their mean and deviation."""
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


class Batches:
    """An iterable of [x (B, D_in) float32, y (B,), t (B,)] for Avalanche's loop, gathered from tensors in memory.

    Each pass is one epoch with an order of its own, drawn from (seed, epoch) alone; the last incomplete batch is
    left out in training, so that every step has the same shape. `epoch` counts the passes; `skip` batches of the next
    pass are left out, and those that follow are what they would have been."""

    def __init__(
        self, data: TaskData, samples: Samples, batch_size: int, seed: int | None = None, augment: Augment | None = None
    ):
        self.data, self.samples = data, samples
        self.batch_size = min(batch_size, len(samples))
        self.seed = seed
        self.augment = augment if augment is not None and (augment.flip or augment.shift) else None
        self.epoch = self.skip = 0

    def __len__(self) -> int:
        n = len(self.samples)
        return n // self.batch_size if self.seed is not None else -(-n // self.batch_size)

    def __iter__(self) -> Iterator[list[Tensor]]:
        x, y, B = self.samples.x, self.samples.y, self.batch_size
        t = torch.full((B,), self.data.index, dtype=torch.long)  # not on the device: only the host decides by it
        if self.seed is None:
            for first in range(0, len(y), B):
                part = y[first : first + B]
                yield [self.data.prepare(x[first : first + B]), part, t[: len(part)]]
            return
        generator = torch.Generator().manual_seed(derive(self.seed, "epoch", self.epoch))
        self.epoch += 1
        order = torch.randperm(len(y), generator=generator).to(y.device)
        skip, self.skip = self.skip, 0
        changes = None
        if self.augment is not None:  # of all batches at once: moving them to a device one by one would wait for it
            drawn = [draw_changes(B, self.augment, generator) for _ in range(len(self))]
            changes = [torch.stack(parts).to(x.device) for parts in zip(*drawn, strict=True)]
        for number, first in enumerate(range(0, len(self) * B, B)):
            if number < skip:
                continue
            pick = order[first : first + B]
            raw = x[pick]
            if changes is not None:
                raw = augmented(raw, self.data.shape, *(part[number] for part in changes))
            yield [self.data.prepare(raw), y[pick], t]


def draw_changes(B: int, augment: Augment, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """For B images: (B, 1) bool, mirrored with probability 1/2 (flip); (2, B, 1) pixels of up to `shift` to move by,
    rows and columns."""
    mirrored, moves = torch.zeros(B, 1, dtype=torch.bool), torch.zeros(2, B, 1, dtype=torch.long)
    if augment.flip:
        mirrored = torch.rand(B, 1, generator=generator) < 0.5
    if augment.shift:
        moves = torch.randint(-augment.shift, augment.shift + 1, (2, B, 1), generator=generator)
    return mirrored, moves


def augmented(x: Tensor, shape: tuple[int, int, int] | None, mirrored: Tensor, moves: Tensor) -> Tensor:
    """Images x (B, C H W), mirrored and moved as `draw_changes` says; what enters at the border repeats the image's
    edge."""
    if shape is None:
        raise DataError("augment: vectors cannot be flipped or shifted; leave `augment` out for this task")
    B, (C, H, W), device = len(x), shape, x.device
    columns, rows = torch.arange(W, device=device), torch.arange(H, device=device)
    columns = (torch.where(mirrored, W - 1 - columns, columns) + moves[1]).clamp(0, W - 1)
    rows = (rows + moves[0]).clamp(0, H - 1)
    sample = torch.arange(B, device=device)[:, None, None, None]
    plane = torch.arange(C, device=device)[None, :, None, None]
    images = x.reshape(B, C, H, W)
    return images[sample, plane, rows[:, None, :, None], columns[:, None, None, :]].reshape(B, C * H * W)


__all__ = ["Batches", "Samples", "TaskData", "augmented", "draw_changes", "from_arrays", "input_size", "load_task"]
