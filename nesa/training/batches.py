"""Gather shuffled, augmented and normalised batches from tensors in memory, without worker processes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from nesa.config.curriculum import Augment
from nesa.errors import DataError
from nesa.seeds import derive
from nesa.training.task_data import Samples, TaskData


class Batches:
    """An iterable of [x (B, D_in) float32, y (B,), t (B,)] for Avalanche's loop.

    Each pass is one epoch with an order of its own, drawn from (seed, epoch) alone; the last incomplete batch is left
    out, so that every step has the same shape. `epoch` counts the passes that have begun, `position` the batches of the
    last one that have been taken. A pass that begins from a restored state leaves those out, and the batches that
    follow are what they would have been."""

    def __init__(self, data: TaskData, samples: Samples, batch_size: int, seed: int, augment: Augment | None = None):
        self.data, self.samples, self.seed = data, samples, seed
        self.batch_size = min(batch_size, len(samples))
        self.augment = augment if augment is not None and (augment.flip or augment.shift) else None
        self.epoch = self.position = 0
        self._skip = 0  # batches of the next pass that are left out

    def __len__(self) -> int:
        return len(self.samples) // self.batch_size

    def __iter__(self) -> Iterator[list[Tensor]]:
        x, y, B = self.samples.x, self.samples.y, self.batch_size
        t = torch.full((B,), self.data.index, dtype=torch.long)  # not on the device: only the host decides by it
        generator = torch.Generator().manual_seed(derive(self.seed, "epoch", self.epoch))
        self.epoch += 1
        order = torch.randperm(len(y), generator=generator).to(y.device)
        self.position, self._skip = self._skip, 0
        changes = None
        if self.augment is not None:  # of all batches at once: moving them to a device one by one would wait for it
            drawn = [draw_changes(B, self.augment, generator) for _ in range(len(self))]
            changes = [torch.stack(parts).to(x.device) for parts in zip(*drawn, strict=True)]
        for number in range(self.position, len(self)):
            self.position = number + 1
            pick = order[number * B : (number + 1) * B]
            raw = x[pick]
            if changes is not None:
                raw = augmented(raw, self.data.shape, *(part[number] for part in changes))
            yield [self.data.prepare(raw), y[pick], t]

    def state_dict(self) -> dict[str, Any]:
        return {"epoch": self.epoch - 1, "position": self.position}  # passes that are done, batches of the next one

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.epoch, self._skip = state["epoch"], state["position"]


class InterleavedBatches:
    """`steps` batches, each one batch of every part, one under the other; a part that ends before begins again."""

    def __init__(self, parts: Sequence[Batches], steps: int):
        self.parts, self.steps = parts, steps

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[list[Tensor]]:
        running = [iter(part) for part in self.parts]
        for _ in range(self.steps):
            batches = []
            for i, part in enumerate(self.parts):
                batch = next(running[i], None)
                if batch is None:
                    running[i] = iter(part)
                    batch = next(running[i])
                batches.append(batch)
            yield [torch.cat(column) for column in zip(*batches, strict=True)]


def split_evenly(B: int, parts: int) -> list[int]:
    """Split B samples over the parts as evenly as possible, at least one each."""
    return [max(1, B // parts + (i < B % parts)) for i in range(parts)]


def draw_changes(B: int, augment: Augment, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Draw random flips and shifts for B images.

    Returns (B, 1) bool, mirrored with probability 1/2 (flip), and (2, B, 1) pixels of up to `shift` to move by, rows
    and columns."""
    mirrored, moves = torch.zeros(B, 1, dtype=torch.bool), torch.zeros(2, B, 1, dtype=torch.long)
    if augment.flip:
        mirrored = torch.rand(B, 1, generator=generator) < 0.5
    if augment.shift:
        moves = torch.randint(-augment.shift, augment.shift + 1, (2, B, 1), generator=generator)
    return mirrored, moves


def augmented(x: Tensor, shape: tuple[int, int, int] | None, mirrored: Tensor, moves: Tensor) -> Tensor:
    """Mirror and shift images x (B, C H W) as `draw_changes` says; the image's edge is repeated at the border.

    Raises DataError for vectors (shape None)."""
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
