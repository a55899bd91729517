"""Partition the rows of W over several processes, with their gradient and moments; only states are communicated.

A rank computes its own neurons from the states of all and sends the new ones to the others (`RowPartition.gather`); in
the backward pass each has a part of the gradient of all states, and the parts are added up (`RowPartition.reduce`).
Everything else, the gradient of W, the optimiser's moments, the prox, the frozen rows, stays where the row is. Loss and
output are the same on every rank.

Rows are assigned round-robin, not in blocks as DTensor's Shard(0) would: in a block layout the first rank has the
inputs and the claimed neurons, which do not train, and the last one the work. A row stays with its rank, compaction
moves nothing. World size 1 is the ordinary case and costs nothing.

All ranks must take the same steps on the same batches: every call that is said to be collective waits for the others.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


@dataclass(frozen=True, eq=False)
class RowIndex:
    """Where n neurons are: each rank has its own of them in their order, in a row that is padded to `width`.

    place: (n,) the position of each in all ranks' padded rows, one after the other. mine: (m,) which of the n are
    this rank's."""

    width: int
    place: Tensor
    mine: Tensor


@dataclass(frozen=True, eq=False)
class RowPartition:
    """This rank's part of the neurons. owner: (S,) int64, the rank that has each row. group: None is torch's default.
    Neurons are counted in all ranks alike; a *row* is a position in this rank's part of W."""

    owner: Tensor
    rank: int = 0
    world: int = 1
    group: Any = None

    @staticmethod
    def whole(S: int) -> RowPartition:
        """Put all rows in one process."""
        return RowPartition(torch.zeros(S, dtype=torch.long))

    @staticmethod
    def sharded(S: int, group: Any = None) -> RowPartition:
        """Assign neuron i to rank i modulo the world size, so that each kind of neuron is spread evenly."""
        rank, world = dist.get_rank(group), dist.get_world_size(group)
        return RowPartition(torch.arange(S) % world, rank, world, group)

    @cached_property
    def neurons(self) -> Tensor:
        """(n,) ascending: the neuron of each row."""
        return (self.owner == self.rank).nonzero().flatten()

    def take(self, index: Tensor) -> RowPartition:
        """Return the partition of the neurons `index` (n,) alone, renumbered in that order; no row moves."""
        return RowPartition(self.owner[index], self.rank, self.world, self.group)

    def rows(self, index: Tensor) -> Tensor:
        """Return this rank's rows of those of the neurons `index` that it has."""
        here = self.owner == self.rank
        return (here.cumsum(0) - 1)[index[here[index]]]

    def row_index(self, index: Tensor, device: torch.device) -> RowIndex:
        owner = self.owner[index]
        each = [(owner == rank).nonzero().flatten() for rank in range(self.world)]
        width = max(map(len, each))
        place = torch.empty(len(index), dtype=torch.long)
        for rank, positions in enumerate(each):
            place[positions] = rank * width + torch.arange(len(positions))
        return RowIndex(width, place.to(device), each[self.rank].to(device))

    # --- collective ----------------------------------------------------------------------------------------------

    def gather(self, mine: Tensor, row_index: RowIndex, out: Tensor | None = None) -> Tensor:
        """Gather (B, n) of all neurons from each rank's (B, m). Collective."""
        if self.world == 1:
            return mine
        padded = mine.new_zeros(len(mine), row_index.width)
        padded[:, : mine.shape[1]] = mine
        every = [torch.empty_like(padded) for _ in range(self.world)]
        dist.all_gather(every, padded, self.group)
        return torch.index_select(torch.cat(every, 1), 1, row_index.place, out=out)

    def reduce(self, parts: Tensor, row_index: RowIndex) -> Tensor:
        """Sum the ranks' (B, n) and return this rank's neurons of it, (B, m). Collective; overwrites `parts`."""
        return parts if self.world == 1 else self.total(parts).index_select(1, row_index.mine)

    def total(self, value: Tensor) -> Tensor:
        """Sum over ranks, in place. Collective."""
        if self.world > 1:
            dist.all_reduce(value, group=self.group)
        return value

    def collect(self, rows: Tensor) -> Tensor:
        """Collect (S, ...) on every rank from each rank's (n, ...) rows. Collective."""
        if self.world == 1:
            return rows
        whole = rows.new_empty(len(self.owner), *rows.shape[1:])
        for rank in range(self.world):
            positions = (self.owner == rank).nonzero().flatten().to(rows.device)
            part = rows.contiguous() if rank == self.rank else rows.new_empty(len(positions), *rows.shape[1:])
            dist.broadcast(part, group=self.group, group_src=rank)
            whole[positions] = part
        return whole

    def drive(self, sent: Tensor, W: Tensor, b: Tensor) -> Tensor:
        """Compute sent (B, S) W^T + b of all neurons, (B, S), for autograd. Collective, its gradient too."""
        if self.world == 1:
            return sent @ W.T + b
        row_index = self.row_index(torch.arange(len(self.owner)), W.device)
        return _Gather.apply(_Spread.apply(sent, self) @ W.T + b, self, row_index)  # type: ignore[return-value]


class _Spread(torch.autograd.Function):
    """The states that all ranks read: forward the same, backward the sum of their gradients."""

    @staticmethod
    def forward(ctx, N: Tensor, partition: RowPartition) -> Tensor:
        ctx.partition = partition
        return N.view_as(N)

    @staticmethod
    def backward(ctx, dN: Tensor):  # type: ignore[override]
        return ctx.partition.total(dN.clone(memory_format=torch.contiguous_format)), None


class _Gather(torch.autograd.Function):
    """The states that the ranks have computed: forward those of all, backward each one's own."""

    @staticmethod
    def forward(ctx, mine: Tensor, partition: RowPartition, row_index: RowIndex) -> Tensor:
        ctx.row_index = row_index
        return partition.gather(mine, row_index)

    @staticmethod
    def backward(ctx, dN: Tensor):  # type: ignore[override]
        return dN.index_select(1, ctx.row_index.mine), None, None
