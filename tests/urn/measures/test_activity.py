"""urn.measures.activity: what counts as active and as varying, levels, and the same numbers whole and in batches."""

import pytest
import torch

from urn.measures.activity import NEVER, Activity, active, layer_widths, levels, varies

# Five neurons, two samples, I = 3: an input, one that varies at l = 1, one that rests at a bias until l = 3, a
# constant, an inactive one.
STATES = [
    torch.tensor([[1.0, 0.0, 0.0, 0.0, 0.0], [2.0, 0.0, 0.0, 0.0, 0.0]]),
    torch.tensor([[0.0, 5.0, 0.5, 3.0, 0.0], [0.0, 6.0, 0.5, 3.0, 0.0]]),
    torch.tensor([[0.0, 0.1, 0.5, 3.0, 0.0], [0.0, 0.1, 0.5, 3.0, 0.0]]),
    torch.tensor([[0.0, 0.0, 7.0, 3.0, 0.0], [0.0, 0.0, 0.0, 3.0, 0.0]]),
]


def test_a_bias_alone_makes_a_neuron_active_but_gives_it_no_level():
    assert active(STATES).tolist() == [False, True, True, True, False]
    assert levels(STATES).tolist() == [0, 1, 3, NEVER, NEVER]
    assert varies(STATES).nonzero().tolist() == [[0, 0], [1, 1], [3, 2]]


def test_an_input_neuron_is_at_level_0_even_if_it_is_constant():
    states = [N.clone() for N in STATES]
    states[0][:] = 1.0
    assert levels(states, inputs=torch.tensor([0])).tolist()[0] == 0
    assert levels(states).tolist()[0] == NEVER


def test_differences_below_the_tolerance_do_not_count():
    states = [N.double() for N in STATES]
    states[1][0, 3] += 6.9e-6  # the largest activation is 7: the threshold is 7e-6
    states[1][:, 4] = 6.9e-6
    assert levels(states).tolist() == [0, 1, 3, NEVER, NEVER]
    assert not active(states)[4]
    states[1][0, 3] += 2e-7
    states[1][:, 4] = 7.1e-6
    assert levels(states).tolist() == [0, 1, 3, 1, NEVER]
    assert active(states)[4]


def test_batches_give_what_the_whole_gives():
    generator = torch.Generator().manual_seed(0)
    states = [torch.randn(50, 8, generator=generator).relu() for _ in range(4)]
    whole, parts = Activity().update(states), Activity()
    for start in (0, 7, 40):
        stop = {0: 7, 7: 40, 40: 50}[start]
        parts.update([N[start:stop] for N in states])
    parts.update([N[:0] for N in states])
    assert parts.samples == whole.samples == 50
    for name in ("low", "high", "varies", "active", "changing"):
        assert torch.equal(getattr(parts, name), getattr(whole, name)), name
    torch.testing.assert_close(parts.mean, torch.stack(states).abs().double().mean(1))
    torch.testing.assert_close(parts.strength, whole.strength)


def test_strength_is_the_largest_mean_over_varying_iterations_before_the_last():
    states = [torch.zeros(2, 4) for _ in range(4)]
    states[1][:, 0] = torch.tensor([1.0, 3.0])  # varies, mean 2
    states[2][:, 0] = 9.0  # larger, but constant
    states[1][:, 1] = torch.tensor([1.0, 0.0])
    states[2][:, 1] = torch.tensor([4.0, 0.0])
    states[3][:, 2] = torch.tensor([1.0, 2.0])  # at l = I: no neuron reads it
    assert Activity().update(states).strength.tolist() == [2.0, 2.0, 0.0, 0.0]


def test_the_scale_can_come_from_some_neurons_only():
    states = [N.double() for N in STATES]
    states[3][:, 4] = torch.tensor([1e9, 2e9])  # say, a free neuron that blew up
    assert levels(states).tolist() == [NEVER, NEVER, NEVER, NEVER, 3]
    some = Activity(scale_from=torch.tensor([True, True, True, True, False])).update(states)
    assert levels(some).tolist() == [0, 1, 3, NEVER, 3]
    assert some.scale == 7.0


def test_what_is_not_finite_varies_and_does_not_set_the_scale():
    states = [N.clone() for N in STATES]
    states[2][0, 4] = float("inf")
    states[2][0, 3] = float("nan")
    measured = Activity().update(states)
    assert measured.scale == 7.0
    assert levels(measured).tolist() == [0, 1, 3, 2, 2]


def test_widths_count_the_chosen_neurons_at_each_level():
    level = torch.tensor([0, 0, 1, 1, 3, NEVER, 1])
    hidden = torch.tensor([False, False, True, True, True, True, False])
    assert layer_widths(level, hidden, 4) == (2, 0, 1, 0)
    assert layer_widths(level, torch.tensor([2, 4])) == (1, 0, 1)
    assert layer_widths(level, torch.tensor([5]), 2) == (0, 0)
    assert layer_widths(level, torch.tensor([], dtype=torch.long)) == ()


def test_mistakes_are_named():
    with pytest.raises(ValueError, match="no batch"):
        _ = Activity().varies
    with pytest.raises(ValueError, match=r"\(I\+1, S\)"):
        Activity().update(STATES).update([N[:, :3] for N in STATES])
