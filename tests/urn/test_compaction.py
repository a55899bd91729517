"""Compaction: weights and optimiser state are gathered, activity is tracked, and what leaving neurons out changes."""

from __future__ import annotations

import copy

import pytest
import torch
from forward_passes import with_costs

from urn.compaction import FULL_PASS_INTERVAL, ActivityTracker, compact, set_active_sets, update_full_pass
from urn.layout import Layout
from urn.network import URN
from urn.optim import Proximal
from urn.penalties import Penalty
from urn.surgery import keep_only, rebind_parameters

OPTIMIZERS = {
    "sgd": lambda urn: torch.optim.SGD(urn.parameters(), 0.02),
    "sgd with momentum": lambda urn: torch.optim.SGD(urn.parameters(), 0.02, momentum=0.9, weight_decay=0.01),
    "adam": lambda urn: torch.optim.Adam(urn.parameters(), 0.02),
    "amsgrad": lambda urn: torch.optim.Adam(urn.parameters(), 0.02, amsgrad=True),
    "adamw": lambda urn: torch.optim.AdamW(urn.parameters(), 0.02),
    "proximal": lambda urn: Proximal(urn, "adam", 0.02, penalty=Penalty(weight=0.1)),
    "proximal with length": lambda urn: Proximal(urn, "sgd", 0.02, penalty=Penalty(synapse_length=0.1), momentum=0.9),
}
INACTIVE = [5, 8, 13]


def network() -> URN:
    """A grid of 4 inputs and 12 hidden neurons, three of which a bias of -100 keeps inactive; two outputs."""
    layout = Layout.grid((2, 2, 4), 1, {"a": 2})
    generator = torch.Generator().manual_seed(3)
    urn = URN(layout, 4, "residual_both", "linear", generator=generator, dtype=torch.float64)
    frozen = torch.zeros(18, dtype=torch.bool)
    frozen[:4] = True
    W, b = urn.W.data.clone(), urn.b.data.clone()
    W[:4] = 0
    b[INACTIVE] = -100.0
    urn.set_parameters(layout, W, b, frozen)
    return urn


def batches(count: int):
    generator = torch.Generator().manual_seed(9)
    for _ in range(count):
        yield torch.randn(6, 4, dtype=torch.float64, generator=generator)


def train(urn: URN, optimizer: torch.optim.Optimizer, data) -> None:
    for x in data:
        optimizer.zero_grad()
        logits, activity = with_costs(urn, x, None, (0.0, 1e-3, 1e-3, 1e-3, 1e-3))
        ((logits - x[:, :2]).pow(2).mean() + activity).backward()
        optimizer.step()
        if not isinstance(optimizer, Proximal):
            urn.restore_frozen()


# --- gathering ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", list(OPTIMIZERS))
def test_weights_and_state_are_gathered(name):
    urn = network()
    urn.mask = torch.rand(18, 18) < 0.9
    optimizer = OPTIMIZERS[name](urn)
    train(urn, optimizer, batches(3))
    before, state = copy.deepcopy(urn), copy.deepcopy({"W": optimizer.state[urn.W], "b": optimizer.state[urn.b]})
    keep = torch.tensor([i for i in range(18) if i not in INACTIVE])
    inactive = torch.rand(4, 18) < 0.5
    urn.set_inactive(inactive)
    keep_only(urn, keep, optimizer)
    assert torch.equal(urn.W.data, before.W.data[keep][:, keep]) and torch.equal(urn.b.data, before.b.data[keep])
    assert torch.equal(urn.mask, before.mask[keep][:, keep])
    assert torch.equal(urn.frozen, before.frozen[keep]) and torch.equal(urn.inactive, inactive[:, keep])
    assert urn.layout.S == 15 and torch.equal(urn.layout.positions, before.layout.positions[keep])
    assert [p is q for p, q in zip(optimizer.param_groups[0]["params"], (urn.W, urn.b), strict=True)] == [True, True]
    assert set(map(id, optimizer.state)) <= {id(urn.W), id(urn.b)}  # nothing is left of the old ones
    for key, value in state["W"].items():
        found = optimizer.state[urn.W][key]
        if isinstance(value, torch.Tensor) and value.shape == (18, 18):
            assert value.any()
            value = value[keep][:, keep]
        assert torch.equal(found, value) if isinstance(value, torch.Tensor) else found == value
    for key, value in state["b"].items():
        if isinstance(value, torch.Tensor) and value.shape == (18,):
            assert torch.equal(optimizer.state[urn.b][key], value[keep])


def test_without_a_way_to_carry_it_the_state_is_dropped():
    urn = network()
    optimizer = OPTIMIZERS["adam"](urn)
    train(urn, optimizer, batches(1))
    new = torch.nn.Parameter(torch.zeros(3))
    old = urn.b
    rebind_parameters(optimizer, {old: new})
    assert new not in optimizer.state and old not in optimizer.state and urn.W in optimizer.state
    assert optimizer.param_groups[0]["params"][1] is new


def test_the_input_port_cannot_be_dropped():
    with pytest.raises(ValueError, match="whole input port"):
        keep_only(network(), torch.arange(1, 18))


# --- the same result ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", list(OPTIMIZERS))
def test_on_and_off_agree_while_the_dropped_neurons_stay_silent(name):
    """Six steps whole, against three whole and three without the inactive neurons: the same weights."""
    whole, part = network(), network()
    data = list(batches(6))
    train(whole, OPTIMIZERS[name](whole), data)
    optimizer = OPTIMIZERS[name](part)
    part.tracker = ActivityTracker(part)
    train(part, optimizer, data[:3])
    active = part.tracker.active()
    assert [i for i in INACTIVE if active[i]] == []
    active[:4] = active[16:] = True
    keep = active.nonzero().flatten()
    keep_only(part, keep, optimizer)
    train(part, optimizer, data[3:])
    assert part.S <= 15
    assert torch.allclose(part.W, whole.W[keep][:, keep], rtol=1e-9, atol=1e-12)
    assert torch.allclose(part.b, whole.b[keep], rtol=1e-9, atol=1e-12)
    x = data[0]
    assert torch.allclose(part(x), whole(x), rtol=1e-9)


def test_a_neuron_that_would_have_come_back_makes_the_difference():
    """0 input, 1 hidden with N = w x, 2 hidden with N = relu(N_1 - 1.5) and inactive at first, 3 output.

    Training raises w from 1 to beyond 1.5, which activates neuron 2 where it has not been removed."""
    outcomes = {}
    for compaction in (False, True):
        layout = Layout.flat(4, 1, {"a": 1})
        W = torch.zeros(4, 4, dtype=torch.float64)
        W[1, 0], W[2, 1], W[3, 1], W[3, 2] = 1.0, 1.0, 1.0, 3.0
        frozen = torch.tensor([True, False, False, False])
        urn = URN(layout, 3, "residual_input", "linear")
        urn.set_parameters(layout, W, torch.tensor([0.0, 0.0, -1.5, 0.0], dtype=torch.float64), frozen)
        urn.tracker = ActivityTracker(urn)
        optimizer = torch.optim.SGD([urn.W], 0.01)  # the bias stays
        x = torch.ones(4, 1, dtype=torch.float64)

        def steps(count: int, urn=urn, optimizer=optimizer, x=x) -> None:
            for _ in range(count):
                optimizer.zero_grad()
                (urn(x) - 6).pow(2).mean().backward()
                optimizer.step()
                urn.restore_frozen()

        steps(1)
        assert urn.tracker.active().tolist() == [False, True, False, False]
        if compaction:
            keep_only(urn, torch.tensor([0, 1, 3]), optimizer)
        urn.tracker = ActivityTracker(urn)
        steps(100)
        woke = urn.S == 4 and bool(urn.tracker.active()[2])
        outcomes[compaction] = (woke, urn(x).mean().item(), float(urn.W.data[1, 0]))
    assert outcomes[False][0] and not outcomes[True][0]
    assert outcomes[False][1] == pytest.approx(6.0, abs=0.05) and outcomes[True][1] == pytest.approx(6.0, abs=0.05)
    assert abs(outcomes[False][2] - outcomes[True][2]) > 0.05  # the same answer by other weights


# --- the tracker ----------------------------------------------------------------------------------------------------


def test_the_watch_sees_who_fired_at_which_iteration():
    urn = network()
    urn.tracker = ActivityTracker(urn)
    fired = torch.zeros(4, 18, dtype=torch.bool)
    for x in batches(3):
        urn(x)
        for level, N in enumerate(urn.states(x)[:4]):
            if level:
                fired[level] |= (N > 0).any(0)
    hidden = urn.layout.hidden
    assert torch.equal(urn.tracker.fired[1:][:, hidden], fired[1:][:, hidden])
    assert torch.equal(urn.tracker.active()[hidden], fired.any(0)[hidden])
    assert not urn.tracker.active()[INACTIVE].any() and urn.tracker.active()[hidden].any()
    urn.tracker = ActivityTracker(urn)
    assert not urn.tracker.fired.any()


# --- active sets ----------------------------------------------------------------------------------------------------


def layered(inputs: str = "still") -> URN:
    """4 inputs, 2 frozen and 18 free hidden neurons, active up to l = 1, 2, 3 or 4, by turns: they read the input,
    and those that stop one l before they do. The first frozen neuron stops after l = 1."""
    layout = Layout.flat(26, 4, {"a": 2})
    generator = torch.Generator().manual_seed(5)
    urn = URN(layout, 5, "residual_output", "linear", generator=generator, dtype=torch.float64)
    W, b, frozen = urn.W.data.abs(), urn.b.data.clone(), torch.arange(26) < 6
    stops = torch.arange(26) % 4 + 1
    W[6:24, 4:24] *= stops[6:24, None] == stops[None, 4:24] + 1
    W[6:24, 4:6] = 0
    W[:4] = W[4:6, 4:] = 0
    b[5] = 0.3
    if inputs == "firing":
        b[0], b[1:4], W[4:24, 0] = 0.05, 1e-6, -0.5
    urn.set_parameters(layout, W, b, frozen)
    return urn


def drive(count: int):
    generator = torch.Generator().manual_seed(4)
    for _ in range(count):
        yield torch.rand(6, 4, dtype=torch.float64, generator=generator)


def with_sets(inputs: str = "still", optimizer: torch.optim.Optimizer | None = None, urn: URN | None = None):
    """The network, and the order that `set_active_sets` has given it."""
    urn = layered(inputs) if urn is None else urn
    optimizer = optimizer or torch.optim.SGD(urn.parameters(), 0.0)
    urn.tracker = ActivityTracker(urn)
    train(urn, optimizer, drive(2))
    return urn, set_active_sets(urn, optimizer)


@pytest.mark.parametrize("inputs", ["still", "firing"])
def test_active_sets_are_slices_within_one_another(inputs):
    whole = layered(inputs)
    urn, order = with_sets(inputs)
    assert order.tolist() != list(range(26)) and sorted(order.tolist()) == list(range(26))
    assert order[:4].tolist() == [0, 1, 2, 3] and order[24:].tolist() == [24, 25]
    assert torch.equal(urn.frozen, whole.frozen[order]) and torch.equal(urn.W.data, whole.W.data[order][:, order])
    fired = torch.zeros(5, 26, dtype=torch.bool)
    for x in drive(2):
        fired |= torch.stack([(N > 0).any(0) for N in whole.states(x)[:5]])
    last = (fired[1:] * torch.arange(1, 5)[:, None]).amax(0)[order]
    hidden = torch.arange(4, 24)
    assert len(set(last[hidden].tolist())) >= 3
    plan = urn._plan("a")
    for level in range(1, 5):
        computed = torch.zeros(26, dtype=torch.bool)
        computed[plan.levels[level].senders] = True
        assert all(isinstance(index, slice) for index in (plan.levels[level].senders, plan.levels[level].free))
        expected = last[6:24] >= level
        assert torch.equal(computed[6:24], expected)
        if inputs == "still":
            assert torch.equal(computed[4:6], last[4:6] >= level)
        else:  # input neurons send, so that frozen ones are computed at all l
            assert bool(computed[:6].all())
    assert (plan.gradient_support is None) == (inputs == "firing")


@pytest.mark.parametrize("inputs", ["still", "firing"])
def test_they_change_no_answer_and_no_gradient(inputs):
    whole = layered(inputs)
    urn, order = with_sets(inputs)
    free = ~urn.frozen
    for recycle in (False, True):
        urn.reuse_gradient_memory = recycle
        for x in drive(2):  # those that were tracked
            for network in (whole, urn):
                network.zero_grad()
                logits, activity = with_costs(network, x, None, (0.0, *[1e-3] * 5))
                (logits.pow(2).sum() + activity).backward()
            assert torch.allclose(urn(x), whole(x), rtol=1e-12)
            one, two = urn.W.grad[free], whole.W.grad[order][:, order][free]
            assert torch.allclose(one[:, :24], two[:, :24], rtol=1e-10, atol=1e-14)
            if urn._plan("a").gradient_support is not None:
                outside = torch.ones_like(urn.W, dtype=torch.bool)
                for top, bottom, left, right in urn._plan("a").gradient_support:
                    outside[top:bottom, left:right] = False
                assert not urn.W.grad[outside].any() and outside[free].sum() > 50


@pytest.mark.parametrize("name", list(OPTIMIZERS))
def test_with_and_without_them_training_agrees(name):
    """In another order of neurons; the deferred steps of Proximal are taken in closed form."""
    whole, urn = layered(), layered()
    one, two = OPTIMIZERS[name](whole), OPTIMIZERS[name](urn)
    for optimizer in (one, two):
        optimizer.param_groups[0]["lr"] = 1e-4
    whole.tracker = ActivityTracker(whole)
    train(whole, one, drive(2))
    _, order = with_sets(urn=urn, optimizer=two)
    assert urn.inactive is not None
    for step, x in enumerate(drive(2 * FULL_PASS_INTERVAL), 1):
        train(whole, one, [x])
        update_full_pass(urn, two, step)
        train(urn, two, [x])
        urn.compute_all_now = False
    close = {"rtol": 1e-3, "atol": 1e-6} if isinstance(two, Proximal) else {"rtol": 1e-8, "atol": 1e-10}
    if isinstance(two, Proximal):
        two.apply_deferred()
    assert torch.allclose(urn.W, whole.W[order][:, order], **close)
    assert torch.allclose(urn.b, whole.b[order], **close)
    assert (urn.W - layered().W[order][:, order]).abs().max() > 1e-3


def test_a_neuron_that_fires_again_is_seen_and_computed_again():
    urn, _ = with_sets()
    optimizer = torch.optim.SGD(urn.parameters(), 0.0)
    early = int((urn.inactive[2] & ~urn.frozen).nonzero()[0])
    with torch.no_grad():
        urn.b[early] += 5.0
    urn.tracker = ActivityTracker(urn)
    for step, x in enumerate(drive(FULL_PASS_INTERVAL - 1), 1):
        update_full_pass(urn, optimizer, step)
        train(urn, optimizer, [x])
        urn.compute_all_now = False
    assert not urn.tracker.fired[2, early]  # it is not computed there, so nothing is tracked
    update_full_pass(urn, optimizer, FULL_PASS_INTERVAL)
    train(urn, optimizer, drive(1))
    urn.compute_all_now = False
    assert urn.tracker.fired[2, early]
    order = set_active_sets(urn, optimizer)
    assert urn.inactive is None or not urn.inactive[2, int((order == early).nonzero())]


def test_sets_that_save_nothing_are_not_declared():
    urn = network()
    optimizer = torch.optim.SGD(urn.parameters(), 0.0)
    urn.tracker = ActivityTracker(urn)
    urn.tracker.fired[1:] = True
    set_active_sets(urn, optimizer)
    assert urn.inactive is None


def test_dropping_keeps_what_the_watch_has_seen():
    urn = network()
    urn.tracker = ActivityTracker(urn)
    train(urn, torch.optim.SGD(urn.parameters(), 0.0), batches(3))
    before = urn.tracker.fired.clone()
    kept = compact(urn)
    assert urn.S == len(kept) < 18 and not set(INACTIVE) & set(kept.tolist())
    assert torch.equal(urn.tracker.fired, before[:, kept])


def test_deferred_steps_are_applied_before_neurons_are_dropped(monkeypatch):
    """Afterwards the rectangles that they were deferred for would be other weights."""
    sizes: list[int] = []
    urn = URN(Layout.flat(12, 3, {"a": 2}), 3)
    optimizer = Proximal(urn, "adam", 0.01)
    monkeypatch.setattr(Proximal, "apply_deferred", lambda self: sizes.append(self.network.S))
    keep_only(urn, torch.tensor([0, 1, 2, 3, 4, 10, 11]), optimizer)
    assert sizes == [12] and urn.S == 7
