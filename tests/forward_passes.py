"""Training passes with given activity coefficients, so that tests can choose them for each iteration."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from urn.network import URN
from urn.penalties import Penalty


@dataclass(frozen=True)
class GivenCosts(Penalty):
    """A penalty whose activity coefficients are `costs`, whatever the number of samples."""

    costs: tuple[float, ...] = ()

    def activity_costs(self, I: int, B: int) -> tuple[float, ...]:
        return self.costs


def with_costs(
    network: URN,
    x: Tensor,
    port: str | None,
    costs: Sequence[float],
    *,
    literal: bool = False,
    ports: bool = False,
    every: bool = False,
) -> tuple[Tensor, Tensor]:
    """Logits (B, D_out), or with `every` the readouts (I, B, D_out) after each iteration, and the activity term."""
    penalty = GivenCosts(literal=literal, ports=ports, costs=tuple(costs))
    if every:
        full = network.outputs_send or literal or ports
        return network._full_pass(x, port, penalty, costs) if full else network._planned_pass(x, port, costs, True)
    return network.training_pass(x, port, penalty)[:2]
