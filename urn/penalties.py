"""The price of structure: activity, weights, synaptic length (paper eq 5 and 9).

    loss = task + c_W sum |W| + c_N sum_l,i |N_i^(l)| + c_syn sum_{i != j} |W_ij| d_ij^gamma

The paper's eq 9 sums i < j; W is not symmetric, so we read it as all ordered pairs. The paper's 1/N stands on the
task loss alone, so the batch reduction of the activity term is open: "mean" divides by B, "sum" does not.

The same constant means different things under the three methods:

    subgradient     the gradient gains price * sign(W); never exact zeros                     (the paper)
    prox_adam       soft threshold lr * price / (sqrt(v) + eps) after the step, the proximal step in Adam's metric
    prox_decoupled  soft threshold lr * price after the step, as AdamW's decay is decoupled; exact zeros
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from urn.geometry import Layout, Metric

METHODS = ("subgradient", "prox_adam", "prox_decoupled")
REDUCTIONS = ("mean", "sum")


@dataclass(frozen=True)
class Penalty:
    """The constants of eq 9 and how they act.

    weight: c_W. activity: c_N, times l ** activity_growth at iteration l (0 is the paper's). synapse_length: c_syn,
    with the metric's beta (eq 8) and gamma. literal: the activity at l = I counts too, as in eq 5. ports: so does that
    of input and output neurons. Raises ValueError for unknown names and negative prices.
    """

    method: str = "prox_decoupled"
    weight: float = 0.0
    activity: float = 0.0
    activity_reduction: str = "mean"
    activity_growth: float = 0.0
    synapse_length: float = 0.0
    beta: float = 1.0
    gamma: float = 1.0
    literal: bool = False
    ports: bool = False

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise ValueError(f"the penalty method is one of {', '.join(METHODS)}, not {self.method!r}")
        if self.activity_reduction not in REDUCTIONS:
            raise ValueError(f"activity_reduction is mean or sum, not {self.activity_reduction!r}")
        if min(self.weight, self.activity, self.synapse_length) < 0:
            raise ValueError("penalties cannot be negative")

    @property
    def metric(self) -> Metric:
        return Metric(self.beta, self.gamma)

    def activity_costs(self, I: int, B: int) -> tuple[float, ...]:
        """costs[l] for l = 0..I: the price of one unit of |N^(l)| of one neuron for one sample. l = 0 is the
        embedded input and costs nothing."""
        each = self.activity / B if self.activity_reduction == "mean" else self.activity
        return (0.0, *(each * level**self.activity_growth for level in range(1, I + 1)))

    def price(self, layout: Layout, rows: slice | Tensor) -> Tensor | float:
        """The price of one unit of |W_ij| for receivers `rows`: a float, or (len(rows), S) with synaptic length."""
        if not self.synapse_length:
            return self.weight
        positions = layout.positions
        lengths = self.metric.lengths(positions[rows], positions)
        if self.gamma == 0:  # 0 ** 0 is 1, but eq 9 leaves a neuron's synapse to itself out
            receivers = torch.arange(layout.S)[rows]
            lengths[torch.arange(len(receivers)), receivers] = 0
        return self.weight + self.synapse_length * lengths


def literal_penalty(
    W: Tensor,
    states: Sequence[Tensor],
    layout: Layout,
    penalty: Penalty,
    *,
    last_iteration: bool = True,
    ports: bool = True,
) -> Tensor:
    """The three penalty terms of eq 9 to the letter, as a scalar for autograd; the oracle of the fast paths.

    W (S, S), states [N^(0)..N^(I)] of (B, S). last_iteration: count l = I too (eq 5 does). ports: count input and
    output neurons too (eq 5 does).
    """
    B, I = states[0].shape[0], len(states) - 1
    neurons = torch.arange(layout.S) if ports else layout.hidden
    costs = penalty.activity_costs(I, B)
    total = W.new_zeros(())
    for level in range(1, I + 1 if last_iteration else I):
        total = total + costs[level] * states[level][:, neurons].abs().sum()
    price = penalty.price(layout, slice(None))
    return total + (W.abs() * price).sum()


def soft_threshold_(W: Tensor, threshold: Tensor | float, scratch: Tensor | None = None) -> Tensor:
    """In place W <- sign(W) max(|W| - threshold, 0), the proximal map of threshold * |W|."""
    if isinstance(threshold, Tensor):
        return W.sub_(W.clamp(-threshold, threshold))
    clipped = torch.clamp(W, -threshold, threshold, out=scratch)
    return W.sub_(clipped)
