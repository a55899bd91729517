"""Penalise activity, weights and synaptic length (paper eq 5 and 9).

    loss = task + c_W sum |W| + c_N sum_l,i |N_i^(l)| + c_syn sum_{i != j} |W_ij| d_ij^gamma

The paper's eq 9 sums i < j; W is not symmetric, so we read it as all ordered pairs. The paper's 1/N stands on the
task loss alone, so the batch reduction of the activity term is open: "mean" divides by B, "sum" does not.

The same coefficient c has different effects under the three methods:

    subgradient     c * sign(W) is added to the gradient; never exact zeros                   (the paper)
    prox_adam       soft threshold lr * c / (sqrt(v) + eps) after the step, the proximal step in Adam's metric
    prox_decoupled  soft threshold lr * c after the step, as AdamW's decay is decoupled; exact zeros
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from urn.layout import Distance, Layout

METHODS = ("subgradient", "prox_adam", "prox_decoupled")
REDUCTIONS = ("mean", "sum")
Early = Sequence[tuple[slice | Tensor, Tensor]]


@dataclass(frozen=True)
class Penalty:
    """The coefficients of eq 9 and how they act.

    weight: c_W. activity: c_N, times l ** activity_growth at iteration l (0 is the paper's). synapse_length: c_syn,
    with the metric's beta (eq 8) and gamma. literal: the activity at l = I counts too, as in eq 5. ports: so does that
    of input and output neurons. early_readout: share of the task's loss that is taken at the readouts before the last
    (`early_loss`), so that an answer which comes late costs something; 0 is the paper's. Raises ValueError
    for unknown names, negative coefficients and other shares than 0 to 1.
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
    early_readout: float = 0.0

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise ValueError(f"the penalty method is one of {', '.join(METHODS)}, not {self.method!r}")
        if self.activity_reduction not in REDUCTIONS:
            raise ValueError(f"activity_reduction is mean or sum, not {self.activity_reduction!r}")
        if min(self.weight, self.activity, self.synapse_length) < 0:
            raise ValueError("penalties cannot be negative")
        if not 0 <= self.early_readout <= 1:
            raise ValueError(f"early_readout is a share of the loss, from 0 to 1, not {self.early_readout}")

    @property
    def metric(self) -> Distance:
        return Distance(self.beta, self.gamma)

    def activity_costs(self, I: int, B: int) -> tuple[float, ...]:
        """Compute costs[l], l = 0..I: the penalty on one unit of |N^(l)| of one neuron for one sample of a batch of B.

        l = 0 is the embedded input and costs nothing."""
        each = self.activity / B if self.activity_reduction == "mean" else self.activity
        return (0.0, *(each * level**self.activity_growth for level in range(1, I + 1)))

    def coefficient(self, layout: Layout, rows: slice | Tensor) -> Tensor | float:
        """Compute the penalty on one unit of |W_ij| for receivers `rows`: a float, or (n, S) with synaptic length."""
        if not self.synapse_length:
            return self.weight
        positions = layout.positions
        lengths = self.metric.lengths(positions[rows], positions)
        if self.gamma == 0:  # 0 ** 0 is 1, but eq 9 leaves a neuron's synapse to itself out
            receivers = torch.arange(layout.S, device=positions.device)[rows]
            lengths.scatter_(1, receivers[:, None], 0)
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
    """Compute the three penalty terms of eq 9 to the letter, as a scalar for autograd; the oracle of the fast paths.

    W (S, S), states [N^(0)..N^(I)] of (B, S). last_iteration: count l = I too (eq 5 does). ports: count input and
    output neurons too (eq 5 does).
    """
    B, I = states[0].shape[0], len(states) - 1
    neurons = torch.arange(layout.S) if ports else layout.hidden
    costs = penalty.activity_costs(I, B)
    total = W.new_zeros(())
    for level in range(1, I + 1 if last_iteration else I):
        total = total + costs[level] * states[level][:, neurons].abs().sum()
    coefficient = penalty.coefficient(layout, slice(None))
    return total + (W.abs() * coefficient).sum()


def early_readouts(readouts: Tensor) -> Tensor:
    """Select the readouts before the last, l = 2..I-1, of (I, B, D_out).

    At l = 1 the port has read the input alone; where I is 1 or 2, the last readout is returned."""
    return readouts[1:-1] if len(readouts) > 2 else readouts[-1:]


def early_loss(criterion: Callable[[Tensor, Tensor], Tensor], early: Early, y: Tensor) -> Tensor:
    """Average the task's loss over early readouts and samples.

    early: samples and their readouts (L, n, D_out), together those of the whole batch y (B,)."""
    total = torch.zeros((), device=y.device)
    for rows, readouts in early:
        L, n, _ = readouts.shape
        total = total + n / len(y) * criterion(readouts.flatten(0, 1), y[rows].repeat(L))
    return total


def soft_threshold_(W: Tensor, threshold: Tensor | float, scratch: Tensor | None = None) -> Tensor:
    """Shrink W in place to sign(W) max(|W| - threshold, 0), the proximal map of threshold * |W|."""
    if isinstance(threshold, Tensor):
        return W.sub_(W.clamp(-threshold, threshold))
    clipped = torch.clamp(W, -threshold, threshold, out=scratch)
    return W.sub_(clipped)
