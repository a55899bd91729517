"""Compaction: neurons that stay silent leave the working set, with their optimiser state.

A neuron that never fires on the data sends nothing and gets no task gradient. Leaving it out changes the result only
where a later change of its inputs would have woken it; that is why compaction is a switch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from urn.network import URN


@torch.no_grad()
def keep_only(urn: URN, keep: Tensor, optimizer: torch.optim.Optimizer | None = None) -> None:
    """Shrinks `urn` in place to the neurons `keep` (n,), ascending local indices, and gathers the optimiser's state
    (every state tensor with the shape of its parameter) in the same way."""
    old_W, old_b = urn.W, urn.b
    where, rows = keep.to(old_W.device), urn.share.rows(keep).to(old_W.device)

    def carry(value: Tensor) -> Tensor:
        value = value.index_select(0, rows)
        return value.index_select(1, where) if value.dim() == 2 else value

    urn.support = None if urn.support is None else carry(urn.support)
    silent, share = urn.silent, urn.share.take(keep)
    urn.become(urn.layout.take(keep), carry(old_W.data), carry(old_b.data), urn.fixed[keep], share)
    if optimizer is not None:
        follow(optimizer, {old_W: urn.W, old_b: urn.b}, carry)
    if silent is not None:
        urn.declare_silent(silent[:, keep])


def follow(
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


class Watch:
    """Remembers which senders have fired at which iteration since the last `reset`.

    A URN with a watch (`urn.watch = Watch(urn)`) reports its states to it as it computes them; `fired` is (I, S)."""

    def __init__(self, urn: URN):
        self.urn = urn
        self.reset()

    def reset(self) -> None:
        self.fired = torch.zeros(self.urn.iterations, self.urn.S, dtype=torch.bool, device=self.urn.W.device)
        self.batches = 0

    def see(self, level: int, neurons: slice | Tensor, N: Tensor) -> None:
        self.fired[level, neurons] |= N.amax(0) > 0

    def awake(self) -> Tensor:
        """(S,) neurons that fired at some iteration l >= 1."""
        return self.fired[1:].any(0).cpu()
