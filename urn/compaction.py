"""Compaction: neurons that stay silent leave the working set, with their optimiser state.

A neuron that never fires on the data sends nothing and gets no task gradient. Leaving it out changes the result only
where a later change of its inputs would have woken it; that is why compaction is a switch.

Most neurons fall silent at late iterations long before they do at all of them. Active sets (`narrow`) leave out those
that have not fired from some l on, there alone. Neurons are sorted by their last l, so that the sets are slices of one
another and the products between them are blocks of W; every `LOOK`-th step (`update_full_pass`) computes all neurons at all l, so
that one that would fire again is seen, and gets its gradient.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import pairwise

import torch
from torch import Tensor, nn

from urn.network import URN
from urn.optim import Proximal


@torch.no_grad()
def keep_only(urn: URN, keep: Tensor, optimizer: torch.optim.Optimizer | None = None) -> None:
    """Shrinks `urn` in place to the neurons `keep` (n,), local indices in the new order, and gathers the optimiser's
    state (every state tensor with the shape of its parameter) and what its watch has seen in the same way."""
    _catch_up(optimizer)
    old_W, old_b = urn.W, urn.b
    where, rows = keep.to(old_W.device), urn.partition.rows(keep).to(old_W.device)

    def carry(value: Tensor) -> Tensor:
        value = value.index_select(0, rows)
        return value.index_select(1, where) if value.dim() == 2 else value

    urn.mask = None if urn.mask is None else carry(urn.mask)
    inactive, partition, tracker = urn.inactive, urn.partition.take(keep), urn.tracker
    urn.set_parameters(urn.layout.take(keep), carry(old_W.data), carry(old_b.data), urn.frozen[keep], partition)
    if optimizer is not None:
        rebind_parameters(optimizer, {old_W: urn.W, old_b: urn.b}, carry)
    if inactive is not None:
        urn.set_inactive(inactive[:, keep])
    if tracker is not None:
        tracker.fired, urn.tracker = tracker.fired[:, where], tracker


def rebind_parameters(
    optimizer: torch.optim.Optimizer,
    replaced: Mapping[nn.Parameter, nn.Parameter],
    carry: Callable[[Tensor], Tensor] | None = None,
) -> None:
    """Points any torch optimiser at new Parameters. `carry` turns each state tensor that has its parameter's shape
    into the new one's; without it the state of the old parameters is dropped."""
    for group in optimizer.param_groups:
        group["params"] = [replaced.get(p, p) for p in group["params"]]
    for old, new in replaced.items():
        state = optimizer.state.pop(old, None)
        if state is not None and carry is not None:
            same = {k: isinstance(v, Tensor) and v.shape == old.shape for k, v in state.items()}
            optimizer.state[new] = {k: carry(v) if same[k] else v for k, v in state.items()}


def compact(urn: URN, optimizer: torch.optim.Optimizer | None = None) -> Tensor:
    """Drops the free hidden neurons that the watch of `urn` has not seen fire; returns the local indices (n,) of those
    that are left."""
    kept = _wanted(urn)
    if len(kept) < urn.S:
        keep_only(urn, kept, optimizer)
    return kept


def _wanted(urn: URN) -> Tensor:
    keep = urn.tracker.awake() | urn.frozen
    keep[urn.layout.inputs] = True
    for port in urn.layout.ports.values():
        keep[port] = True
    return keep.nonzero().flatten()


LOOK = 20
WORTH = 0.9  # of the products must not be exceeded by those of active sets: one product is faster than several


def update_full_pass(urn: URN, optimizer: torch.optim.Optimizer, step: int) -> None:
    """Before step number `step`, and `urn.compute_all_now = False` after it: is it one that leaves nothing out?"""
    urn.compute_all_now = step % LOOK == 0
    if urn.compute_all_now:
        _catch_up(optimizer)


@torch.no_grad()
def set_active_sets(urn: URN, optimizer: torch.optim.Optimizer) -> Tensor:
    """Does what `compact` does, sorts the neurons that are left by the last l at which the watch has seen them fire,
    and declares them silent after it. Returns their local indices (n,) in the new order: inputs, fixed, free, ports.

    Where input neurons send, fixed neurons are computed at all l, so that all sets stay slices."""
    I, layout, frozen = urn.iterations, urn.layout, urn.frozen
    level = torch.arange(I)[:, None]
    last = (urn.tracker.fired.cpu() * level).amax(0)
    kind = 2 - frozen.long()
    kind[layout.inputs] = 0
    for port in layout.ports.values():
        kind[port] = 3
    last[(kind == 0) | (kind == 3)] = I - 1
    if bool((~urn.still())[layout.inputs].any()):
        last[frozen] = I - 1
    wanted = _wanted(urn)
    order = wanted[(kind * 2 * I + torch.where(kind == 2, I - last, last))[wanted].argsort(stable=True)]
    if len(order) < urn.S or bool((order.diff() != 1).any()):
        keep_only(urn, order, optimizer)
    last, kind = last[order], kind[order]
    counts = [int(((last >= now) & (kind % 3 > 0)).sum()) for now in range(1, I)]
    sparse = sum(a * b for a, b in pairwise(counts)) < WORTH * len(counts[1:]) * int((kind % 3 > 0).sum()) ** 2
    urn.set_inactive(last < level if sparse else None)
    return order


def _catch_up(optimizer: torch.optim.Optimizer | None) -> None:
    if isinstance(optimizer, Proximal):
        optimizer.apply_deferred()


class ActivityTracker:
    """Remembers which senders have fired at which iteration since the last `reset`.

    A URN with a watch (`urn.watch = Watch(urn)`) reports its states to it as it computes them; `fired` is (I, S)."""

    def __init__(self, urn: URN):
        self.urn = urn
        self.reset()

    def reset(self) -> None:
        self.fired = torch.zeros(self.urn.iterations, self.urn.S, dtype=torch.bool, device=self.urn.W.device)

    def update(self, level: int, neurons: slice | Tensor, N: Tensor) -> None:
        self.fired[level, neurons] |= N.amax(0) > 0

    def awake(self) -> Tensor:
        """(S,) neurons that fired at some iteration l >= 1."""
        return self.fired[1:].any(0).cpu()
