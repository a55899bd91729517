"""Leave inactive neurons out of the products: drop them for good (compaction), or at some iterations (active sets).

A neuron that is inactive on all data sends nothing and gets no task gradient. Leaving it out changes the result only
where a later change of its inputs would have activated it; that is why compaction is a switch.

Most neurons become inactive at late iterations long before they do at all of them. Active sets leave out those that
have not been active from some l on, there alone. Neurons are sorted by their last active l, so that the sets are slices
of one another and the products between them are blocks of W. Every FULL_PASS_INTERVAL steps all neurons are computed at
all l, so that one that would be active again is noticed, and gets its gradient.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor

from urn.network import URN
from urn.surgery import apply_deferred, keep_only

FULL_PASS_INTERVAL = 20  # steps
WORTH = 0.9  # of the products must not be exceeded by those of active sets: one product is faster than several


class ActivityTracker:
    """Remembers which senders have been active at which iteration since it was made.

    A URN with a tracker (`network.tracker = ActivityTracker(network)`) updates it in each training pass; `fired` is
    (I, S) bool."""

    def __init__(self, network: URN):
        self.fired = torch.zeros(network.iterations, network.S, dtype=torch.bool, device=network.W.device)

    def update(self, level: int, neurons: slice | Tensor, N: Tensor) -> None:
        """Mark those of `neurons` that are positive for some sample of N (B, n) at iteration `level`."""
        self.fired[level, neurons] |= N.amax(0) > 0

    def active(self) -> Tensor:
        """Return (S,) bool: neurons that were active at some iteration l >= 1."""
        return self.fired[1:].any(0).cpu()


def compact(network: URN, optimizer: torch.optim.Optimizer | None = None) -> Tensor:
    """Drop the free hidden neurons that the network's tracker has not found active.

    Returns the local indices (n,) of those that are left."""
    kept = _active_or_frozen(network)
    if len(kept) < network.S:
        keep_only(network, kept, optimizer)
    return kept


def _active_or_frozen(network: URN) -> Tensor:
    """Local indices of the neurons that must stay: active ones, frozen ones, inputs and ports."""
    keep = network.tracker.active() | network.frozen
    keep[network.layout.inputs] = True
    for port in network.layout.ports.values():
        keep[port] = True
    return keep.nonzero().flatten()


def update_full_pass(network: URN, optimizer: torch.optim.Optimizer, step: int) -> None:
    """Compute all neurons in every FULL_PASS_INTERVAL-th step; call it before step number `step`.

    After the step set `network.compute_all_now = False`."""
    network.compute_all_now = step % FULL_PASS_INTERVAL == 0
    if network.compute_all_now:
        apply_deferred(optimizer)


@torch.no_grad()
def set_active_sets(network: URN, optimizer: torch.optim.Optimizer) -> Tensor:
    """Drop inactive neurons as `compact` does, and leave the others out after the last l at which they were active.

    Neurons are sorted by that l. Returns their local indices (n,) in the new order: inputs, frozen, free, ports. Where
    input neurons send, frozen neurons are computed at all l, so that all sets stay slices."""
    I, layout, frozen = network.iterations, network.layout, network.frozen
    level = torch.arange(I)[:, None]
    last = (network.tracker.fired.cpu() * level).amax(0)
    kind = 2 - frozen.long()
    kind[layout.inputs] = 0
    for port in layout.ports.values():
        kind[port] = 3
    last[(kind == 0) | (kind == 3)] = I - 1
    if bool((~network.still())[layout.inputs].any()):
        last[frozen] = I - 1
    staying = _active_or_frozen(network)
    order = staying[(kind * 2 * I + torch.where(kind == 2, I - last, last))[staying].argsort(stable=True)]
    if len(order) < network.S or bool((order.diff() != 1).any()):
        keep_only(network, order, optimizer)
    last, kind = last[order], kind[order]
    counts = [int(((last >= now) & (kind % 3 > 0)).sum()) for now in range(1, I)]
    sparse = sum(a * b for a, b in pairwise(counts)) < WORTH * len(counts[1:]) * int((kind % 3 > 0).sum()) ** 2
    network.set_inactive(last < level if sparse else None)
    return order
