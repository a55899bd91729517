"""Plan which neurons are computed at which iteration, and which blocks of W are multiplied for it.

Letters: S neurons, I iterations, l the iteration; F frozen senders (their incoming weights do not train), T trainable
ones. A plan is made once for a network and a port, and used by every training pass (`urn.kernel`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from urn.row_partition import RowIndex, RowPartition

Index = slice | Tensor
GradientSupport = tuple[tuple[int, int, int, int], ...]  # rectangles of W, disjoint: first and last row and column


def as_index(indices: Tensor, device: torch.device) -> Index:
    """Return a slice where `indices` rises by one from entry to entry, so that a block of W is a view, not a copy."""
    n = len(indices)
    if n == 0:
        return slice(0, 0)
    first = int(indices[0])
    if bool((indices == torch.arange(first, first + n)).all()):
        return slice(first, first + n)
    return indices.to(device)


@dataclass(frozen=True)
class LevelPlan:
    """The senders of one iteration l = 1..I-1.

    Columns of W: `senders` (n_senders of them) are `frozen` (n_frozen of them) followed by `free`. Rows of W, those of
    this process alone: `own_frozen` (own_n_frozen of them) and `own_free`, own_n in all; in one process they are all.
    row_index, row_index_free: which rank has which of the senders, and of the free ones. counted: 1.0 for each own_free
    that the activity term counts. shown: where active input neurons are in `senders`, and which
    components of x the residual input rule adds to them; None where there are none."""

    senders: Index
    frozen: Index
    free: Index
    n_frozen: int
    n_senders: int
    own_frozen: Index
    own_free: Index
    own_n_frozen: int
    own_n: int
    row_index: RowIndex
    row_index_free: RowIndex
    counted: Tensor
    shown: tuple[Tensor, Tensor] | None


@dataclass(frozen=True)
class Plan:
    """The products of a training pass. levels: by l = 0..I-1; entry 0 has no senders.

    inputs: columns of W. port: rows of W in this process; row_index_port says which rank has which. driven: whether the
    input port is added at every l. uniform: the same senders at every l, so that the gradient of W is one product.
    disjoint: the gradient's blocks are views, any two of them the same or disjoint. gradient_support: where all sets
    are views, input neurons are never active and the senders of l are among those of l - 1, the rectangles of W that
    its gradient can fill; else None."""

    levels: tuple[LevelPlan, ...]
    inputs: Index
    port: Index
    partition: RowPartition
    row_index_port: RowIndex
    driven: bool
    uniform: bool
    disjoint: bool
    gradient_support: GradientSupport | None
    residual_output: bool
    linear_output: bool

    @property
    def iterations(self) -> int:
        return len(self.levels)


def make_plan(
    *,
    inputs: Tensor,
    port: Tensor,
    frozen: Tensor,
    computed: Sequence[Tensor],
    residual_input: bool,
    residual_output: bool,
    linear_output: bool,
    like: Tensor,
    partition: RowPartition,
) -> Plan:
    """Build the plan of a network in which `computed[l]` (S,) bool are the senders at l = 1..I-1.

    Entry 0 of `computed` is unused. Under a residual input rule all input neurons are computed at all of these l, or
    none ever. frozen: (S,) bool. like: a tensor of W's dtype and device."""
    none = torch.zeros(0, dtype=torch.long)
    sets = [(none, none)]
    for now in computed[1:]:
        sets.append(((now & frozen).nonzero().flatten(), (now & ~frozen).nonzero().flatten()))
    is_input = torch.zeros_like(frozen)
    is_input[inputs] = True
    component = torch.zeros(len(frozen), dtype=torch.long)
    component[inputs] = torch.arange(len(inputs))
    levels = tuple(_level(F, T, is_input, component if residual_input else None, like, partition) for F, T in sets)
    senders = [torch.cat(pair) for pair in sets]
    uniform = all(torch.equal(now, senders[1]) for now in senders[2:])
    fed = any(bool(is_input[now].any()) for now in senders)
    apart = uniform or len(torch.cat(senders).unique()) == sum(map(len, senders))
    views = _are_views(inputs, port, *senders, *(T for _, T in sets))
    own_port, own_free = partition.rows(port), [partition.rows(T) for _, T in sets]
    return Plan(
        levels=levels,
        inputs=as_index(inputs, like.device),
        port=as_index(own_port, like.device),
        partition=partition,
        row_index_port=partition.row_index(port, like.device),
        driven=residual_input and not any(level.shown is not None for level in levels),
        uniform=uniform,
        disjoint=apart and not fed and views,
        gradient_support=None if fed else _gradient_support(inputs, own_port, senders, own_free),
        residual_output=residual_output,
        linear_output=linear_output,
    )


def _level(
    F: Tensor, T: Tensor, is_input: Tensor, component: Tensor | None, like: Tensor, partition: RowPartition
) -> LevelPlan:
    """F, T: frozen and free senders. component: (S,) of x that each input neuron has, None without residual input."""
    device, senders = like.device, torch.cat([F, T])
    own_F, own_T = partition.rows(F), partition.rows(T)
    place = is_input[senders].nonzero().flatten()
    shown = None
    if component is not None and len(place):
        shown = (place.to(device), component[senders[place]].to(device))
    return LevelPlan(
        senders=as_index(senders, device),
        frozen=as_index(F, device),
        free=as_index(T, device),
        n_frozen=len(F),
        n_senders=len(senders),
        own_frozen=as_index(own_F, device),
        own_free=as_index(own_T, device),
        own_n_frozen=len(own_F),
        own_n=len(own_F) + len(own_T),
        row_index=partition.row_index(senders, device),
        row_index_free=partition.row_index(T, device),
        counted=(~is_input[T[partition.owner[T] == partition.rank]]).to(like),
        shown=shown,
    )


def _gradient_support(
    inputs: Tensor, port: Tensor, senders: Sequence[Tensor], own_free: Sequence[Tensor]
) -> GradientSupport | None:
    """See `Plan`. port and own_free[l] are rows of W, inputs and senders[l] are columns; entry 0 is empty."""
    sets = list(senders[1:])
    nested = all(bool(torch.isin(after, before).all()) for before, after in pairwise(sets))
    if not nested or not _are_views(inputs, port, *sets, *own_free):
        return None
    first, second = (own_free[l] if l < len(own_free) else own_free[0] for l in (1, 2))
    columns = sets[0] if sets else inputs[:0]
    rectangles = ((first, inputs), (second, columns), (port, inputs), (port, columns))
    return tuple((*_ends(rows), *_ends(cols)) for rows, cols in rectangles if len(rows) and len(cols))


def _ends(run: Tensor) -> tuple[int, int]:
    return int(run[0]), int(run[-1]) + 1


def _are_views(*sets: Tensor) -> bool:
    return all(isinstance(as_index(indices, indices.device), slice) for indices in sets)
