"""The four update rules: names, ports, and one step of each by hand."""

from __future__ import annotations

import pytest
import torch

from urn.layout import Layout
from urn.network import URN
from urn.update_rules import UPDATES, find_update

# name -> (input port keeps x, output port accumulates), paper eq 3, 6 and 7
RULES = {
    "plain": (False, False),
    "residual_output": (False, True),
    "residual_input": (True, False),
    "residual_both": (True, True),
}


def test_the_four_rules():
    assert {name: (u.residual_input, u.residual_output) for name, u in UPDATES.items()} == RULES
    assert all(find_update(name).name == name for name in RULES)


def test_an_unknown_rule_is_named_with_those_that_exist():
    with pytest.raises(ValueError, match=r"'resnet'; there are plain, residual_output, residual_input, residual_both"):
        find_update("resnet")


@pytest.mark.parametrize("update", list(RULES))
def test_two_steps_by_hand(update):
    """Neurons: 0 input, 1 hidden, 2 output; one sample x = 2.

    W: 0 reads 1 (x 3); 1 reads 0 (x 1) and itself (x -1); 2 reads 1 (x 5). b = (0, -1, 0.5).
    l = 1: Z0 = 3*0 = 0,      Z1 = 2 - 1 = 1,         Z2 = 5*0 + 0.5 = 0.5
    l = 2: Z0 = 3*1 = 3,      Z1 = N0 - 1 - 1,        Z2 = 5*1 + 0.5 = 5.5
    with N0 at l = 1 being 0, or 2 where the input port shows x again.
    """
    shows, accumulates = RULES[update]
    W = torch.zeros(3, 3, dtype=torch.float64)
    W[0, 1], W[1, 0], W[1, 1], W[2, 1] = 3.0, 1.0, -1.0, 5.0
    urn = URN(Layout.flat(3, 1, {"a": 1}), 2, update, "linear")
    urn.set_parameters(urn.layout, W, torch.tensor([0.0, -1.0, 0.5], dtype=torch.float64))
    x = torch.tensor([[2.0]], dtype=torch.float64)
    first = [2.0 if shows else 0.0, 1.0, 0.5]
    second = [5.0 if shows else 3.0, max(0.0, first[0] - 2.0), 6.0 if accumulates else 5.5]
    states = urn.states(x)
    assert [N[0].tolist() for N in states] == [[2.0, 0.0, 0.0], first, second]
    assert urn(x).tolist() == [[second[2]]]


def test_relu_outputs_are_rectified_before_they_accumulate():
    """eq 6: N^(l+1) = N^(l) + phi(Z): with ReLU an output never falls, with linear outputs it may."""
    W = torch.zeros(3, 3)
    W[1, 0], W[1, 1], W[2, 0], W[2, 1] = 1.0, 1.0, 2.0, -1.0
    values = {}
    for output in ("relu", "linear"):
        urn = URN(Layout.flat(3, 1, {"a": 1}), 3, "residual_output", output)
        urn.set_parameters(urn.layout, W.clone(), torch.zeros(3))
        values[output] = torch.cat(urn.readouts(torch.tensor([[1.0]]))).flatten().tolist()
    assert values == {"relu": [2.0, 2.0, 2.0], "linear": [2.0, 1.0, 0.0]}
