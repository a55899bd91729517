"""The penalties: eq 9 by hand, gradients by finite differences, coefficients, the proximal map."""

from __future__ import annotations

import itertools

import pytest
import torch
from forward_passes import with_costs

from urn.layout import Layout
from urn.network import URN
from urn.penalties import METHODS, Penalty, literal_penalty, soft_threshold_


def test_the_three_terms_by_hand():
    """Two samples, three neurons in a row (input, hidden, output), I = 2."""
    layout = Layout(
        torch.tensor([[0.0, 0, 0], [3.0, 0, 0], [3.0, 0, 2.0]]), torch.tensor([0]), {"a": torch.tensor([2])}
    )
    W = torch.tensor([[1.0, -2.0, 0.0], [4.0, 0.5, 0.0], [-1.0, 3.0, 0.0]])
    states = [torch.tensor([[9.0, 0, 0], [9.0, 0, 0]]), *(torch.tensor([[1.0, 2.0, -4.0], [0.0, 6.0, 1.0]]),) * 2]
    penalty = Penalty(weight=0.1, activity=0.01, synapse_length=1.0, beta=4.0, activity_reduction="sum")
    weights = 0.1 * (1 + 2 + 4 + 0.5 + 1 + 3)
    # distances: 0-1: 3; 1-2: sqrt(4 * 4) = 4; 0-2: sqrt(9 + 16) = 5
    lengths = 3 * 2 + 3 * 4 + 5 * 1 + 4 * 3
    hidden, everyone = 2.0 + 6.0, 1 + 2 + 4 + 6 + 1
    each = {True: everyone, False: hidden}
    for ports, last in itertools.product((True, False), (True, False)):
        activity = 0.01 * each[ports] * (2 if last else 1)
        found = literal_penalty(W, states, layout, penalty, last_iteration=last, ports=ports)
        assert float(found) == pytest.approx(weights + lengths + activity, rel=1e-6)


def test_the_mean_over_the_batch_and_growth_with_the_iteration():
    mean = Penalty(activity=0.6, activity_reduction="mean", activity_growth=1.5)
    assert mean.activity_costs(3, 4) == pytest.approx((0.0, 0.15, 0.15 * 2**1.5, 0.15 * 3**1.5))
    assert Penalty(activity=0.6, activity_reduction="sum").activity_costs(2, 4) == (0.0, 0.6, 0.6)


def test_a_synapse_to_itself_has_no_length_under_any_gamma():
    """eq 9 sums over i != j; with gamma = 0 a distance of zero would cost one."""
    layout = Layout.grid((3, 3, 2), 1, {"a": 2})
    for gamma in (0.0, 0.5, 1.0):
        penalty = Penalty(weight=0.25, synapse_length=2.0, gamma=gamma)
        coefficient = penalty.coefficient(layout, slice(None))
        assert coefficient.diagonal().tolist() == [0.25] * layout.S
        assert torch.equal(coefficient[4:7], penalty.coefficient(layout, slice(4, 7)))
        assert torch.equal(coefficient[[5, 2]], penalty.coefficient(layout, torch.tensor([5, 2])))
    elsewhere = Penalty(weight=0.25, synapse_length=2.0, gamma=0.0).coefficient(layout, slice(None))
    assert float(elsewhere[0, 1]) == 2.25  # every other synapse costs the same


def test_the_price_is_a_number_without_synaptic_length():
    assert Penalty(weight=0.25).coefficient(Layout.flat(9, 2, {"a": 2}), slice(None)) == 0.25


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_gradients_against_finite_differences(reduction):
    urn = URN(Layout.grid((2, 2, 3), 1, {"a": 2}), 3, "residual_both", dtype=torch.float64)
    urn.b.data.normal_(std=0.3)
    x = torch.randn(3, 4, dtype=torch.float64)
    penalty = Penalty(
        weight=0.2, activity=0.3, synapse_length=0.1, beta=3.0, activity_growth=1.0, activity_reduction=reduction
    )

    def loss() -> torch.Tensor:
        return literal_penalty(urn.W, urn.states(x), urn.layout, penalty)

    loss().backward()
    step = 1e-6
    for i, j in itertools.product(range(4, 14), range(12)):
        before = float(urn.W.data[i, j])
        with torch.no_grad():
            urn.W.data[i, j] = before + step
            up = loss()
            urn.W.data[i, j] = before - step
            down = loss()
            urn.W.data[i, j] = before
        assert float(up - down) / (2 * step) == pytest.approx(float(urn.W.grad[i, j]), abs=1e-5)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_the_fast_activity_term_is_the_literal_one_without_the_last_iteration(reduction):
    urn = URN(Layout.flat(14, 3, {"a": 2}), 4, "residual_both", "linear", dtype=torch.float64)
    x = torch.randn(5, 3, dtype=torch.float64)
    penalty = Penalty(activity=0.3, activity_growth=0.5, activity_reduction=reduction)
    _, activity = with_costs(urn, x, None, penalty.activity_costs(4, 5))
    expected = literal_penalty(urn.W * 0, urn.states(x), urn.layout, penalty, last_iteration=False, ports=False)
    assert activity.item() == pytest.approx(expected.item(), rel=1e-12)
    assert activity.item() > 0


def test_the_activity_term_to_the_letter():
    """literal: l = I counts; ports: the input neurons and the port that is read count, frozen neurons never."""
    layout = Layout.flat(14, 3, {"a": 2, "b": 1})
    urn = URN(layout, 4, "residual_both", dtype=torch.float64)
    x = torch.randn(5, 3, dtype=torch.float64)
    costs = Penalty(activity=0.3, activity_reduction="sum").activity_costs(4, 5)
    states = urn.states(x, "a")
    for literal, ports in itertools.product((True, False), (True, False)):
        neurons = [*range(3, 11), *(range(3) if ports else ()), *((11, 12) if ports else ())]
        _, activity = with_costs(urn, x, "a", costs, literal=literal, ports=ports)
        expected = 0.3 * sum(N[:, neurons].abs().sum() for N in states[1 : 5 if literal else 4])
        assert activity.item() == pytest.approx(expected.item(), rel=1e-12)
    frozen = torch.zeros(14, dtype=torch.bool)
    frozen[[0, 1, 2, 5]] = True
    W = urn.W.data.clone()
    W[frozen[:, None] & ~frozen] = 0
    urn.set_parameters(layout, W, urn.b.data.clone(), frozen)
    states, free = urn.states(x, "a"), [3, 4, *range(6, 11), 11, 12]
    _, activity = with_costs(urn, x, "a", costs, literal=True, ports=True)
    assert activity.item() == pytest.approx(0.3 * sum(N[:, free].abs().sum() for N in states[1:]).item(), rel=1e-12)


def test_relabelling_the_neurons_changes_no_penalty():
    layout = Layout.grid((3, 3, 3), 1, {"a": 3})
    urn = URN(layout, 3, "residual_both", dtype=torch.float64)
    x = torch.randn(4, 9, dtype=torch.float64)
    penalty = Penalty(weight=0.2, activity=0.3, synapse_length=0.1, beta=16.0)
    order = torch.randperm(layout.S)
    other = URN(layout, 3, "residual_both", dtype=torch.float64)
    other.set_parameters(layout.take(order), urn.W.data[order][:, order].clone(), urn.b.data[order].clone())
    for ports in (True, False):
        one = literal_penalty(urn.W, urn.states(x), urn.layout, penalty, ports=ports)
        two = literal_penalty(other.W, other.states(x), other.layout, penalty, ports=ports)
        assert one.item() == pytest.approx(two.item(), rel=1e-10)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"method": "l1"}, "one of subgradient, prox_adam, prox_decoupled, not 'l1'"),
        ({"activity_reduction": "max"}, "mean or sum, not 'max'"),
        ({"weight": -0.1}, "cannot be negative"),
        ({"activity": -0.1}, "cannot be negative"),
        ({"synapse_length": -0.1}, "cannot be negative"),
        ({"early_readout": 1.5}, "from 0 to 1, not 1.5"),
    ],
)
def test_penalties_that_make_no_sense(wrong, message):
    with pytest.raises(ValueError, match=message):
        Penalty(**wrong)


def test_the_methods_are_these():
    assert METHODS == ("subgradient", "prox_adam", "prox_decoupled")


# --- the proximal map -----------------------------------------------------------------------------------------------


def closed_form(W: torch.Tensor, threshold) -> torch.Tensor:
    return W.sign() * (W.abs() - threshold).clamp(min=0)


def test_soft_threshold():
    W = torch.randn(30, 20, dtype=torch.float64)
    W[0, :3] = torch.tensor([0.5, -0.5, 0.0])  # exactly at the threshold
    expected = closed_form(W, 0.5)
    for scratch in (None, torch.empty_like(W)):
        found = soft_threshold_(W.clone(), 0.5, scratch)
        assert torch.allclose(found, expected, atol=1e-15)
        assert torch.equal(found == 0, W.abs() <= 0.5)  # exact zeros, and nowhere else
    thresholds = torch.rand(30, 20, dtype=torch.float64)
    found = soft_threshold_(W.clone(), thresholds)
    assert torch.allclose(found, closed_form(W, thresholds), atol=1e-15)
    assert torch.equal(found == 0, W.abs() <= thresholds)


def test_soft_threshold_is_the_minimiser():
    """prox(w) = argmin_u (u - w)^2 / 2 + t |u|, on a grid of u."""
    u = torch.linspace(-3, 3, 60001, dtype=torch.float64)
    for w, t in ((1.3, 0.4), (-2.0, 0.7), (0.2, 0.5), (-0.1, 0.0)):
        best = u[((u - w) ** 2 / 2 + t * u.abs()).argmin()]
        assert float(soft_threshold_(torch.tensor([w], dtype=torch.float64), t)) == pytest.approx(float(best), abs=1e-4)


def test_soft_threshold_works_in_place():
    W = torch.randn(4, 4)
    assert soft_threshold_(W, 0.1) is W
