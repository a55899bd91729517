"""The activity term of eq 5 as a network gives it, to the letter and without what cannot matter."""

import pytest
import torch
from forward_passes import with_costs

from urn.layout import Layout
from urn.network import URN
from urn.penalties import Penalty, literal_penalty
from urn.update_rules import UPDATES


@pytest.mark.parametrize("update", UPDATES)
@pytest.mark.parametrize(("literal", "ports"), [(False, False), (True, False), (False, True), (True, True)])
def test_term_and_gradient_equal_the_sum_over_the_states(update, literal, ports):
    torch.manual_seed(0)
    urn = URN(Layout.flat(30, 5, {"a": 3}), 4, update, "linear", dtype=torch.float64)
    x = torch.randn(6, 5, dtype=torch.float64)
    penalty = Penalty(activity=0.3, activity_growth=1.5, literal=literal, ports=ports)
    costs = penalty.activity_costs(4, len(x))
    _, term = with_costs(urn, x, "a", costs, literal=literal, ports=ports)
    expected = literal_penalty(
        urn.W.detach(), urn.states(x, "a"), urn.layout, penalty, last_iteration=literal, ports=ports
    )
    torch.testing.assert_close(term, expected)
    found = torch.autograd.grad(term, (urn.W, urn.b))
    for ours, theirs in zip(found, torch.autograd.grad(expected, (urn.W, urn.b)), strict=True):
        ours, theirs = ours.clone(), theirs.clone()
        if ours.dim() == 2:  # what output neurons would send stays zero
            ours[:, urn.layout.ports["a"]] = theirs[:, urn.layout.ports["a"]] = 0
        torch.testing.assert_close(ours, theirs)


def test_literal_and_ports_change_the_term():
    torch.manual_seed(0)
    urn = URN(Layout.flat(30, 5, {"a": 3}), 4, "residual_both")
    x = torch.randn(6, 5)
    costs = Penalty(activity=1.0).activity_costs(4, len(x))
    kinds = [(False, False), (True, False), (False, True), (True, True)]
    terms = [float(with_costs(urn, x, "a", costs, literal=a, ports=b)[1].detach()) for a, b in kinds]
    assert len(set(terms)) == 4
    assert terms[0] == min(terms)
    assert terms[3] == max(terms)
