"""Compaction: weights and optimiser state are gathered; the watch sees who fired; what leaving neurons out changes."""

from __future__ import annotations

import copy

import pytest
import torch

from urn.compaction import Watch, follow, keep_only
from urn.geometry import Layout
from urn.network import URN
from urn.optim import Proximal
from urn.penalties import Penalty

OPTIMIZERS = {
    "sgd": lambda urn: torch.optim.SGD(urn.parameters(), 0.02),
    "sgd with momentum": lambda urn: torch.optim.SGD(urn.parameters(), 0.02, momentum=0.9, weight_decay=0.01),
    "adam": lambda urn: torch.optim.Adam(urn.parameters(), 0.02),
    "amsgrad": lambda urn: torch.optim.Adam(urn.parameters(), 0.02, amsgrad=True),
    "adamw": lambda urn: torch.optim.AdamW(urn.parameters(), 0.02),
    "proximal": lambda urn: Proximal(urn, "adam", 0.02, penalty=Penalty(weight=0.1)),
    "proximal with length": lambda urn: Proximal(urn, "sgd", 0.02, penalty=Penalty(synapse_length=0.1), momentum=0.9),
}
SILENT = [5, 8, 13]


def network() -> URN:
    """A grid of 4 inputs and 12 hidden neurons, three of which a bias of -100 keeps silent; two outputs."""
    layout = Layout.grid((2, 2, 4), 1, {"a": 2})
    generator = torch.Generator().manual_seed(3)
    urn = URN(layout, 4, "residual_both", "linear", generator=generator, dtype=torch.float64)
    fixed = torch.zeros(18, dtype=torch.bool)
    fixed[:4] = True
    W, b = urn.W.data.clone(), urn.b.data.clone()
    W[:4] = 0
    b[SILENT] = -100.0
    urn.become(layout, W, b, fixed)
    return urn


def batches(count: int):
    generator = torch.Generator().manual_seed(9)
    for _ in range(count):
        yield torch.randn(6, 4, dtype=torch.float64, generator=generator)


def train(urn: URN, optimizer: torch.optim.Optimizer, data) -> None:
    for x in data:
        optimizer.zero_grad()
        logits, activity = urn.forward_with_activity(x, None, (0.0, 1e-3, 1e-3, 1e-3, 1e-3))
        ((logits - x[:, :2]).pow(2).mean() + activity).backward()
        optimizer.step()
        if not isinstance(optimizer, Proximal):
            urn.hold()


# --- gathering ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", list(OPTIMIZERS))
def test_weights_and_state_are_gathered(name):
    urn = network()
    urn.support = torch.rand(18, 18) < 0.9
    optimizer = OPTIMIZERS[name](urn)
    train(urn, optimizer, batches(3))
    before, state = copy.deepcopy(urn), copy.deepcopy({"W": optimizer.state[urn.W], "b": optimizer.state[urn.b]})
    keep = torch.tensor([i for i in range(18) if i not in SILENT])
    silent = torch.rand(4, 18) < 0.5
    urn.declare_silent(silent)
    keep_only(urn, keep, optimizer)
    assert torch.equal(urn.W.data, before.W.data[keep][:, keep]) and torch.equal(urn.b.data, before.b.data[keep])
    assert torch.equal(urn.support, before.support[keep][:, keep])
    assert torch.equal(urn.fixed, before.fixed[keep]) and torch.equal(urn.silent, silent[:, keep])
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
    follow(optimizer, {old: new})
    assert new not in optimizer.state and old not in optimizer.state and urn.W in optimizer.state
    assert optimizer.param_groups[0]["params"][1] is new


def test_the_input_port_cannot_be_dropped():
    with pytest.raises(ValueError, match="whole input port"):
        keep_only(network(), torch.arange(1, 18))


# --- the same result ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", list(OPTIMIZERS))
def test_on_and_off_agree_while_the_dropped_neurons_stay_silent(name):
    """Six steps whole, against three whole and three without the silent neurons: the same weights."""
    whole, part = network(), network()
    data = list(batches(6))
    train(whole, OPTIMIZERS[name](whole), data)
    optimizer = OPTIMIZERS[name](part)
    part.watch = Watch(part)
    train(part, optimizer, data[:3])
    awake = part.watch.awake()
    assert [i for i in SILENT if awake[i]] == []
    awake[:4] = awake[16:] = True
    keep = awake.nonzero().flatten()
    keep_only(part, keep, optimizer)
    train(part, optimizer, data[3:])
    assert part.S <= 15
    assert torch.allclose(part.W, whole.W[keep][:, keep], rtol=1e-9, atol=1e-12)
    assert torch.allclose(part.b, whole.b[keep], rtol=1e-9, atol=1e-12)
    x = data[0]
    assert torch.allclose(part(x), whole(x), rtol=1e-9)


def test_a_neuron_that_would_have_come_back_makes_the_difference():
    """0 input, 1 hidden with N = w x, 2 hidden with N = relu(N_1 - 1.5) and silent at first, 3 output.

    Training raises w from 1 to beyond 1.5, which wakes neuron 2 where it is still there."""
    outcomes = {}
    for compaction in (False, True):
        layout = Layout.flat(4, 1, {"a": 1})
        W = torch.zeros(4, 4, dtype=torch.float64)
        W[1, 0], W[2, 1], W[3, 1], W[3, 2] = 1.0, 1.0, 1.0, 3.0
        fixed = torch.tensor([True, False, False, False])
        urn = URN(layout, 3, "residual_input", "linear")
        urn.become(layout, W, torch.tensor([0.0, 0.0, -1.5, 0.0], dtype=torch.float64), fixed)
        urn.watch = Watch(urn)
        optimizer = torch.optim.SGD([urn.W], 0.01)  # the bias stays
        x = torch.ones(4, 1, dtype=torch.float64)

        def steps(count: int, urn=urn, optimizer=optimizer, x=x) -> None:
            for _ in range(count):
                optimizer.zero_grad()
                (urn(x) - 6).pow(2).mean().backward()
                optimizer.step()
                urn.hold()

        steps(1)
        assert urn.watch.awake().tolist() == [False, True, False, False]
        if compaction:
            keep_only(urn, torch.tensor([0, 1, 3]), optimizer)
        urn.watch = Watch(urn)
        steps(100)
        woke = urn.S == 4 and bool(urn.watch.awake()[2])
        outcomes[compaction] = (woke, urn(x).mean().item(), float(urn.W.data[1, 0]))
    assert outcomes[False][0] and not outcomes[True][0]
    assert outcomes[False][1] == pytest.approx(6.0, abs=0.05) and outcomes[True][1] == pytest.approx(6.0, abs=0.05)
    assert abs(outcomes[False][2] - outcomes[True][2]) > 0.05  # the same answer by other weights


# --- the watch ------------------------------------------------------------------------------------------------------


def test_the_watch_sees_who_fired_at_which_iteration():
    urn = network()
    urn.watch = Watch(urn)
    fired = torch.zeros(4, 18, dtype=torch.bool)
    for x in batches(3):
        urn(x)
        for level, N in enumerate(urn.states(x)[:4]):
            if level:
                fired[level] |= (N > 0).any(0)
    hidden = urn.layout.hidden
    assert torch.equal(urn.watch.fired[1:][:, hidden], fired[1:][:, hidden])
    assert torch.equal(urn.watch.awake()[hidden], fired.any(0)[hidden])
    assert not urn.watch.awake()[SILENT].any() and urn.watch.awake()[hidden].any()
    urn.watch.reset()
    assert not urn.watch.fired.any()
