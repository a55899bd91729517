"""Define the four update rules of a URN, as data (paper eq 3, 6, 7).

With Z = N^(l) W^T + b (S neurons, batch B, row of W = receiving neuron):

    plain            N^(l+1) = phi(Z)                                        eq 3
    residual_output  output port:  N^(l+1) = N^(l) + phi(Z);  else phi(Z)    eq 6
    residual_input   input port:   N^(l+1) = x + phi(Z);      else phi(Z)    eq 7
    residual_both    eq 6 on the output port and eq 7 on the input port
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Update:
    """Which ports carry a residual connection."""

    name: str
    residual_input: bool
    residual_output: bool


UPDATES: dict[str, Update] = {
    update.name: update
    for update in (
        Update("plain", residual_input=False, residual_output=False),
        Update("residual_output", residual_input=False, residual_output=True),
        Update("residual_input", residual_input=True, residual_output=False),
        Update("residual_both", residual_input=True, residual_output=True),
    )
}


def find_update(name: str) -> Update:
    """Find the rule called `name`; raises ValueError that lists the rules when there is none."""
    try:
        return UPDATES[name]
    except KeyError:
        raise ValueError(f"no update rule is called {name!r}; there are {', '.join(UPDATES)}") from None
