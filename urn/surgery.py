"""Keep, reorder, shard or join the neurons of a URN while it trains.

Each function gives the network new Parameters; an optimiser keeps its state through `rebind_parameters`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from urn.network import URN
from urn.optim import Proximal
from urn.row_partition import RowPartition


@torch.no_grad()
def keep_only(network: URN, keep: Tensor, optimizer: torch.optim.Optimizer | None = None) -> None:
    """Shrink `network` in place to the neurons `keep` (n,), local indices in the new order.

    The optimiser's state (every state tensor with the shape of its parameter) and the activity tracker's are gathered
    in the same way."""
    apply_deferred(optimizer)
    old_W, old_b = network.W, network.b
    where, rows = keep.to(old_W.device), network.partition.rows(keep).to(old_W.device)

    def carry(value: Tensor) -> Tensor:
        value = value.index_select(0, rows)
        return value.index_select(1, where) if value.dim() == 2 else value

    network.mask = None if network.mask is None else carry(network.mask)
    inactive, partition, tracker = network.inactive, network.partition.take(keep), network.tracker
    W, b = carry(old_W.data), carry(old_b.data)
    network.set_parameters(network.layout.take(keep), W, b, network.frozen[keep], partition)
    if optimizer is not None:
        rebind_parameters(optimizer, {old_W: network.W, old_b: network.b}, carry)
    if inactive is not None:
        network.set_inactive(inactive[:, keep])
    if tracker is not None:
        tracker.fired, network.tracker = tracker.fired[:, where], tracker


def rebind_parameters(
    optimizer: torch.optim.Optimizer,
    replaced: Mapping[nn.Parameter, nn.Parameter],
    carry: Callable[[Tensor], Tensor] | None = None,
) -> None:
    """Point any torch optimiser at new Parameters.

    `carry` turns each state tensor that has its parameter's shape into the new one's; without it the state of the old
    parameters is dropped."""
    for group in optimizer.param_groups:
        group["params"] = [replaced.get(p, p) for p in group["params"]]
    for old, new in replaced.items():
        state = optimizer.state.pop(old, None)
        if state is not None and carry is not None:
            same = {k: isinstance(v, Tensor) and v.shape == old.shape for k, v in state.items()}
            optimizer.state[new] = {k: carry(v) if same[k] else v for k, v in state.items()}


def apply_deferred(optimizer: torch.optim.Optimizer | None) -> None:
    """Apply the steps that a Proximal optimiser has deferred; other optimisers defer none."""
    if isinstance(optimizer, Proximal):
        optimizer.apply_deferred()


def shard(network: URN, group: Any = None) -> None:
    """Leave this rank its rows of a whole `network`, which must be the same on every rank.

    Parameters are new, so create the optimiser after it, or call `rebind_parameters`."""
    partition = RowPartition.sharded(network.S, group)
    rows = partition.neurons.to(network.W.device)
    network.mask = None if network.mask is None else network.mask[rows]
    network.set_parameters(network.layout, network.W.data[rows], network.b.data[rows], network.frozen, partition)


def unshard(network: URN) -> None:
    """Make `network` whole again on every rank, with new Parameters. Collective; a whole one stays as it is."""
    partition = network.partition
    if partition.world == 1:
        return
    network.mask = None if network.mask is None else partition.collect(network.mask)
    W, b = partition.collect(network.W.data), partition.collect(network.b.data)
    network.set_parameters(network.layout, W, b, network.frozen)
