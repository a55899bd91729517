"""Prune a trained task network down to what its task needs (graceful forgetting, arXiv 1903.04476).

The weight threshold is found first, then theta, the activity at or below which a neuron is dropped; each by bisection
and each alone, because the pair is not monotone. Bisection finds an allowed threshold, not always the largest one. Only
validation data decide. Last, neurons that cannot reach the task's port within I iterations, or that nothing activates,
are dropped.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from nesa.training.evaluation import accuracy
from urn.network import URN
from urn.penalties import Penalty
from urn.surgery import keep_only

BISECTIONS = 12
CROWDED = 0.9  # a task that claims at least this share of the free neurons has not been pruned
DENSE = 0.5  # where at least this share of the synapses is left, the weight penalty has not acted


@dataclass(frozen=True)
class PruningResult:
    """score_before, score_after: validation accuracies (0..1). weight_threshold: |W| below it was cut. theta: neurons
    with a mean activation at or below it were dropped. kept: (m,) local indices, in the
    network before pruning."""

    score_before: float
    score_after: float
    weight_threshold: float
    theta: float
    kept: Tensor


@torch.no_grad()
def mean_activity(network: URN, x: Tensor, port: str | None = None, batch: int = 1024) -> Tensor:
    """Return the (S,) mean activation over the samples, the maximum over l = 1..I-1.

    In a feedforward network it is that at the l of a neuron's own layer, the only one at which it is computed."""
    total = network.W.new_zeros(network.iterations, network.S)
    for first in range(0, len(x), batch):
        states = network.states(x[first : first + batch], port)
        for level in range(1, network.iterations):
            total[level] += states[level].abs().sum(0)
    if network.iterations == 1:
        return total[0]
    if network.layout.layers is not None:
        total[torch.arange(network.iterations)[:, None] != network.layout.layer] = 0
    mean = total[1:].amax(0) / len(x)
    mean[network.layout.inputs] = 0  # the residual input rule adds x to them, which is no activity of their own
    return mean


def prune(network: URN, x: Tensor, y: Tensor, port: str, margin: float) -> PruningResult:
    """Prune `network` in place on validation data x (n, D_in), y (n,), losing at most `margin` of the accuracy.

    The weight threshold may cost half of the margin, theta what is left of all of it."""
    before = accuracy(network, x, y, port)
    free = (~network.frozen).to(network.W.device)
    W = network.W.data.clone()
    magnitude = (W * free[:, None]).abs()
    sorted_weights = magnitude[magnitude > 0].sort().values
    if not len(sorted_weights):
        sorted_weights = magnitude.new_zeros(1)

    def cut_weights(share: float) -> float:
        threshold = float(sorted_weights[min(int(share * len(sorted_weights)), len(sorted_weights) - 1)])
        network.W.data.copy_(torch.where(free[:, None] & (magnitude < threshold), 0, W))
        return threshold

    def score_of_share(share: float) -> float:
        cut_weights(share)
        return accuracy(network, x, y, port)

    weight_threshold = cut_weights(_bisect(score_of_share, before - margin / 2, 0.0, 1.0))

    activity = mean_activity(network, x, port)
    hidden = torch.zeros(network.S, dtype=torch.bool)
    hidden[network.layout.hidden] = True
    candidates = (hidden & ~network.frozen).to(activity.device)
    W, b = network.W.data.clone(), network.b.data.clone()
    ranked = activity[candidates].sort().values

    def drop_neurons(theta: float) -> Tensor:
        dropped = candidates & (activity <= theta)
        network.W.data.copy_(W).masked_fill_(dropped[None, :] | dropped[:, None], 0)
        network.b.data.copy_(b).masked_fill_(dropped, 0)
        return dropped

    def score_of_rank(share: float) -> float:
        drop_neurons(float(ranked[min(int(share * len(ranked)), len(ranked) - 1)]) if share else 0.0)
        return accuracy(network, x, y, port)

    theta = 0.0
    if len(ranked):
        share = _bisect(score_of_rank, before - margin, 0.0, 1.0)
        theta = float(ranked[min(int(share * len(ranked)), len(ranked) - 1)]) if share else 0.0
    dropped = drop_neurons(theta)
    dropped = dropped | (candidates & (mean_activity(network, x, port) <= 0))  # active because of dropped ones alone
    kept = drop_unconnected(network, port, ~dropped.cpu())
    return PruningResult(before, accuracy(network, x, y, port), weight_threshold, theta, kept)


def advice(task: str, network: URN, available: int, penalty: Penalty) -> str | None:
    """Return a warning, with the penalty to change, where pruning left nothing or nearly everything; else None.

    available: hidden neurons that were free before the task."""
    if not bool(network.W.data[network.layout.ports[task].to(network.W.device)].any()):
        return (
            f"task {task!r} has learned nothing: its outputs read no neuron at all, so it answers every sample alike. "
            f"Lower penalties.activity (now {penalty.activity:g}) or penalties.weight (now {penalty.weight:g})."
        )
    hidden = network.layout.hidden
    kept = hidden[~network.frozen[hidden]]
    if not available or len(kept) < CROWDED * available:
        return None
    rows = network.W.data[kept.to(network.W.device)]
    density = int((rows != 0).sum()) / rows.numel()
    name, why = ("weight", "cuts synapses") if density > DENSE else ("activity", "deactivates neurons")
    return (
        f"task {task!r}: pruning could remove almost nothing, so the task claims {len(kept)} of the {available} free "
        f"neurons ({len(kept) / available:.0%}) and leaves little room for later tasks. Raise penalties.{name} (now "
        f"{getattr(penalty, name):g}), which {why}, or train for longer."
    )


def drop_unconnected(network: URN, port: str, alive: Tensor) -> Tensor:
    """Shrink `network` to its ports, frozen neurons, inputs and the neurons of `alive` (S,) that reach `port`.

    Only paths of at most I iterations through such neurons count. Returns the local indices that are kept."""
    linked = (network.W.data.cpu() != 0) & alive[:, None] & alive
    index = network.layout.ports[port]
    reached = torch.zeros(network.S, dtype=torch.bool)
    reached[index] = True
    frontier = reached.clone()
    for _ in range(network.iterations - 1):  # a neuron is first active at l = 1, so one iteration is gone already
        frontier = linked[frontier].any(0) & ~reached
        reached |= frontier
    keep = (alive & reached) | network.frozen
    keep[network.layout.inputs] = True
    keep[index] = True
    kept = keep.nonzero().flatten()
    unused_input = torch.zeros(network.S, dtype=torch.bool)
    unused_input[network.layout.inputs] = True
    unused_input &= ~reached & ~network.frozen
    network.W.data[unused_input] = 0
    network.b.data[unused_input] = 0
    keep_only(network, kept)
    return kept


def _bisect(score: Callable[[float], float], floor: float, low: float, high: float) -> float:
    """An allowed value between low (always allowed) and high, by bisection: its score is at least `floor`."""
    if score(high) >= floor:
        return high
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        low, high = (middle, high) if score(middle) >= floor else (low, middle)
    return low
