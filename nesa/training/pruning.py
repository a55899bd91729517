"""Settling: pruning a trained worker down to what its task needs (graceful forgetting, arXiv 1903.04476).

The weight threshold is found first, then theta, the activity below which a neuron is dropped; each by bisection and
each alone, because the pair is not monotone. Only validation data decide. Last, neurons that cannot reach the task's
port within I iterations, or that nothing wakes, are dropped.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from urn.compaction import keep_only
from urn.network import URN
from urn.penalties import Penalty

BISECTIONS = 12
CROWDED = 0.9  # a task that claims at least this share of the free neurons has not been pruned
DENSE = 0.5  # where at least this share of the synapses is left, the weight penalty has not acted


@dataclass(frozen=True)
class PruningResult:
    """score_before, score_after: validation scores (0..1). weight_threshold: |W| below it was cut. theta: neurons with
    a mean activation at or below it were dropped. kept: (m,) local indices, in the worker before settling."""

    score_before: float
    score_after: float
    weight_threshold: float
    theta: float
    kept: Tensor


def accuracy(urn: URN, x: Tensor, y: Tensor, port: str | None = None, batch: int = 1024) -> float:
    """Share of the samples x (n, D_in) that `urn` answers with their label y (n,)."""
    right = 0
    with torch.no_grad():
        for first in range(0, len(x), batch):
            right += int((urn(x[first : first + batch], port).argmax(1) == y[first : first + batch]).sum())
    return right / len(x)


@torch.no_grad()
def mean_activity(urn: URN, x: Tensor, port: str | None = None, batch: int = 1024) -> Tensor:
    """(S,) mean activation over the samples, the maximum over l = 1..I-1; in a feedforward network that at the l of a
    neuron's own layer, the only one at which it is computed."""
    total = urn.W.new_zeros(urn.iterations, urn.S)
    for first in range(0, len(x), batch):
        states = urn.states(x[first : first + batch], port)
        for level in range(1, urn.iterations):
            total[level] += states[level].abs().sum(0)
    if urn.iterations == 1:
        return total[0]
    if urn.layout.layers is not None:
        total[torch.arange(urn.iterations)[:, None] != urn.layout.layer] = 0
    mean = total[1:].amax(0) / len(x)
    mean[urn.layout.inputs] = 0  # the residual input rule shows the image again; that is no activity of theirs
    return mean


def prune(urn: URN, x: Tensor, y: Tensor, port: str, margin: float) -> PruningResult:
    """Prunes `urn` in place on validation data x (n, D_in), y (n,): at most `margin` of the score is lost.

    Half of the margin is open to the weight threshold, what is left of all of it to theta."""
    before = accuracy(urn, x, y, port)
    free = (~urn.frozen).to(urn.W.device)
    W = urn.W.data.clone()
    magnitude = (W * free[:, None]).abs()
    sorted_weights = magnitude[magnitude > 0].sort().values
    if not len(sorted_weights):
        sorted_weights = magnitude.new_zeros(1)

    def cut_weights(share: float) -> float:
        threshold = float(sorted_weights[min(int(share * len(sorted_weights)), len(sorted_weights) - 1)])
        urn.W.data.copy_(torch.where(free[:, None] & (magnitude < threshold), 0, W))
        return threshold

    def score_of_share(share: float) -> float:
        cut_weights(share)
        return accuracy(urn, x, y, port)

    weight_threshold = cut_weights(_largest(score_of_share, before - margin / 2, 0.0, 1.0))

    activity = mean_activity(urn, x, port)
    hidden = torch.zeros(urn.S, dtype=torch.bool)
    hidden[urn.layout.hidden] = True
    candidates = (hidden & ~urn.frozen).to(activity.device)
    W, b = urn.W.data.clone(), urn.b.data.clone()
    ranked = activity[candidates].sort().values

    def drop_neurons(theta: float) -> Tensor:
        dropped = candidates & (activity <= theta)
        urn.W.data.copy_(W).masked_fill_(dropped[None, :] | dropped[:, None], 0)
        urn.b.data.copy_(b).masked_fill_(dropped, 0)
        return dropped

    def score_of_rank(share: float) -> float:
        drop_neurons(float(ranked[min(int(share * len(ranked)), len(ranked) - 1)]) if share else 0.0)
        return accuracy(urn, x, y, port)

    theta = 0.0
    if len(ranked):
        share = _largest(score_of_rank, before - margin, 0.0, 1.0)
        theta = float(ranked[min(int(share * len(ranked)), len(ranked) - 1)]) if share else 0.0
    dropped = drop_neurons(theta)
    dropped = dropped | (candidates & (mean_activity(urn, x, port) <= 0))  # only the dropped ones had woken them
    kept = drop_idle(urn, port, ~dropped.cpu())
    return PruningResult(before, accuracy(urn, x, y, port), weight_threshold, theta, kept)


def advice(task: str, urn: URN, available: int, penalty: Penalty) -> str | None:
    """What to tell the user when a settled `urn` gives the same answer to everything, or keeps nearly all of the
    `available` hidden neurons that were free before its task: which penalty to lower or raise. None otherwise."""
    if not bool(urn.W.data[urn.layout.ports[task].to(urn.W.device)].any()):
        return (
            f"task {task!r} has learned nothing: its outputs read no neuron at all, so it answers every sample alike. "
            f"Lower penalties.activity (now {penalty.activity:g}) or penalties.weight (now {penalty.weight:g})."
        )
    hidden = urn.layout.hidden
    kept = hidden[~urn.frozen[hidden]]
    if not available or len(kept) < CROWDED * available:
        return None
    rows = urn.W.data[kept.to(urn.W.device)]
    density = int((rows != 0).sum()) / rows.numel()
    name, why = ("weight", "cuts synapses") if density > DENSE else ("activity", "silences neurons")
    return (
        f"task {task!r}: settling could prune almost nothing, so the task claims {len(kept)} of the {available} free "
        f"neurons ({len(kept) / available:.0%}) and leaves little room for later tasks. Raise penalties.{name} (now "
        f"{getattr(penalty, name):g}), which {why}, or train for longer."
    )


def drop_idle(urn: URN, port: str, alive: Tensor) -> Tensor:
    """Shrinks `urn` to its ports, its fixed neurons, its inputs and the neurons of `alive` (S,) that reach `port`
    within I iterations through such neurons. Returns the kept local indices."""
    linked = (urn.W.data.cpu() != 0) & alive[:, None] & alive
    index = urn.layout.ports[port]
    reached = torch.zeros(urn.S, dtype=torch.bool)
    reached[index] = True
    frontier = reached.clone()
    for _ in range(urn.iterations - 1):  # a neuron first fires at l = 1, so one iteration is gone already
        frontier = linked[frontier].any(0) & ~reached
        reached |= frontier
    keep = (alive & reached) | urn.frozen
    keep[urn.layout.inputs] = True
    keep[index] = True
    kept = keep.nonzero().flatten()
    unused_input = torch.zeros(urn.S, dtype=torch.bool)
    unused_input[urn.layout.inputs] = True
    unused_input &= ~reached & ~urn.frozen
    urn.W.data[unused_input] = 0
    urn.b.data[unused_input] = 0
    keep_only(urn, kept)
    return kept


def _largest(score: Callable[[float], float], floor: float, low: float, high: float) -> float:
    """The largest value found by bisection between low (always allowed) and high whose score is at least floor."""
    if score(high) >= floor:
        return high
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        low, high = (middle, high) if score(middle) >= floor else (low, middle)
    return low
