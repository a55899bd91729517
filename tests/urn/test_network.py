"""The network: states by hand, as an MLP, ports, frozen rows, absent synapses, subnetworks."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import nn

from urn.layout import Layout
from urn.network import URN
from urn.penalties import Penalty
from urn.update_rules import UPDATES


def by_hand(urn: URN, x: torch.Tensor, port: str | None) -> list[list[list[float]]]:
    """The update rule with Python floats, neuron by neuron."""
    W, b = urn.W.data.tolist(), urn.b.data.tolist()
    S, inputs = urn.S, urn.layout.inputs.tolist()
    names = list(urn.layout.ports) if port is None else [port]
    out = {i for name in names for i in urn.layout.ports[name].tolist()}
    frames = [x[:, k].tolist() for k in range(x.shape[1])] if x.dim() == 3 else [x.tolist()] * urn.iterations
    states = [[[0.0] * S for _ in range(len(x))]]
    for n, row in enumerate(states[0]):
        for component, i in enumerate(inputs):
            row[i] = frames[0][n][component]
    for level in range(1, urn.iterations + 1):
        shown = frames[min(level, urn.iterations - 1)]
        rows = []
        for n, N in enumerate(states[-1]):
            new = []
            for i in range(S):
                z = math.fsum(W[i][j] * N[j] for j in range(S)) + b[i]
                value = z if i in out and urn.output_activation == "linear" else max(z, 0.0)
                if i in out and urn.update.residual_output:
                    value += N[i]
                if i in inputs and urn.update.residual_input:
                    value += shown[n][inputs.index(i)]
                new.append(value)
            rows.append(new)
        states.append(rows)
    return states


@pytest.mark.parametrize("output", ["relu", "linear"])
@pytest.mark.parametrize(
    ("update", "sequence"),
    [(name, False) for name in UPDATES] + [(name, True) for name, rule in UPDATES.items() if rule.residual_input],
)
def test_states_by_hand(update, output, sequence):
    I = 4
    urn = URN(Layout.flat(12, 3, {"a": 2, "b": 1}), I, update, output, gain=1.5, dtype=torch.float64)
    urn.b.data.normal_(std=0.3)
    x = torch.randn((5, I, 3) if sequence else (5, 3), dtype=torch.float64)
    for port in ("a", None):
        expected = torch.tensor(by_hand(urn, x, port), dtype=torch.float64)
        assert torch.allclose(torch.stack(urn.states(x, port)), expected, rtol=1e-12, atol=1e-12)
    expected = torch.tensor(by_hand(urn, x, "a"), dtype=torch.float64)
    assert torch.allclose(urn(x, "a"), expected[-1][:, urn.layout.ports["a"]], rtol=1e-12)
    readouts = torch.stack(urn.readouts(x, "a"))
    assert torch.allclose(readouts, expected[1:][:, :, urn.layout.ports["a"]], rtol=1e-12)
    assert expected.gt(0).float().mean() > 0.2


@pytest.mark.parametrize("output", ["relu", "linear"])
def test_a_block_sub_diagonal_network_is_an_mlp(output):
    """Paper eq 1 and fig 1: layer l + 1 reads layer l; after I = number of layers the output is the MLP's."""
    sizes = [4, 7, 5, 3]
    layers = [nn.Linear(n, m).double() for n, m in itertools.pairwise(sizes)]
    layout = Layout.flat(sum(sizes), 4, {"y": 3})
    first = [sum(sizes[:k]) for k in range(len(sizes))]
    W, b = torch.zeros(19, 19).double(), torch.zeros(19).double()
    for k, layer in enumerate(layers):
        rows = slice(first[k + 1], first[k + 1] + sizes[k + 1])
        W[rows, first[k] : first[k] + sizes[k]], b[rows] = layer.weight.data, layer.bias.data
    urn = URN(layout, 3, "plain", output)
    urn.set_parameters(layout, W, b)
    x = torch.randn(6, 4).double()
    states = urn.states(x)
    h = x
    for k, layer in enumerate(layers):
        h = layer(h)
        if output == "relu" or k < 2:
            h = h.relu()
        rows = slice(first[k + 1], first[k + 1] + sizes[k + 1])
        assert torch.allclose(states[k + 1][:, rows], h, rtol=1e-12)
    assert torch.allclose(urn(x), h, rtol=1e-12)


# --- the first weights ---------------------------------------------------------------------------------------------


def test_weights_are_he_normal_and_dense():
    S = 400
    urn = URN(Layout.flat(S, 10, {"a": 3}), 3, gain=0.5, generator=torch.Generator().manual_seed(1))
    W = urn.W.data[:, :-3]
    assert float(W.std()) == pytest.approx(0.5 * math.sqrt(2 / S), rel=0.02)
    assert abs(float(W.mean())) < 1e-3
    assert int((W == 0).sum()) == 0 and not urn.b.any()


def test_weights_come_from_the_generator():
    layout = Layout.flat(20, 3, {"a": 2})
    one, two, three = (URN(layout, 3, generator=torch.Generator().manual_seed(seed)).W for seed in (4, 4, 5))
    assert torch.equal(one, two) and not torch.equal(one, three)


# --- ports ----------------------------------------------------------------------------------------------------------


def test_output_neurons_send_nothing_unless_asked():
    layout = Layout.flat(12, 3, {"a": 2, "b": 1})
    urn = URN(layout, 3)
    assert not urn.W[:, 9:].any()
    urn.W.data.fill_(1.0)
    urn.restore_frozen()
    assert not urn.W[:, 9:].any() and urn.W[:, :9].eq(1).all()
    sending = URN(layout, 3, outputs_send=True)
    sending.restore_frozen()
    assert sending.W[:, 9:].all()


def test_outputs_that_send_change_the_answer():
    urn = URN(Layout.flat(9, 3, {"a": 2}), 3, "residual_both", "linear", outputs_send=True, dtype=torch.float64)
    x = torch.randn(4, 3).double()
    expected = torch.tensor(by_hand(urn, x, "a"), dtype=torch.float64)[-1][:, 7:]
    assert torch.allclose(urn(x), expected, rtol=1e-12)
    urn.W.data[:, 7:] = 0
    assert not torch.allclose(urn(x), expected)


def test_a_port_reads_the_same_whatever_other_ports_there_are():
    """Two tasks share the hidden neurons: the answer of one does not depend on the other's port."""
    urn = URN(Layout.flat(14, 3, {"a": 2, "b": 3}), 4, "residual_both", "linear", dtype=torch.float64)
    x = torch.randn(4, 3).double()
    before = urn(x, "a")
    urn.W.data[11:] *= 7
    assert torch.equal(urn(x, "a"), before)
    assert urn(x, "b").shape == (4, 3)


def test_unknown_and_unnamed_ports():
    urn = URN(Layout.flat(14, 3, {"a": 2, "b": 3}), 4)
    x = torch.zeros(1, 3)
    with pytest.raises(ValueError, match="name the output port to read: a, b"):
        urn(x)
    with pytest.raises(ValueError, match="no output port is called 'c'; there are a, b"):
        urn(x, "c")


@pytest.mark.parametrize("shape", [(3,), (4, 2), (4, 4), (4, 2, 3), (4, 3, 4), (1, 1, 3, 3)])
def test_shapes_that_do_not_fit(shape):
    urn = URN(Layout.flat(12, 3, {"a": 2}), 3, "residual_input")
    with pytest.raises(ValueError, match=r"expected \(B, 3\), or \(B, 3, 3\) for a sequence"):
        urn(torch.zeros(shape))
    plain = URN(Layout.flat(12, 3, {"a": 2}), 3, "plain")
    with pytest.raises(ValueError, match="a sequence of inputs needs a residual input rule, this network's is plain"):
        plain(torch.zeros(4, 3, 3))


def test_impossible_networks():
    layout = Layout.flat(12, 3, {"a": 2})
    with pytest.raises(ValueError, match="at least one iteration, not 0"):
        URN(layout, 0)
    with pytest.raises(ValueError, match="output_activation is relu or linear, not 'tanh'"):
        URN(layout, 3, output_activation="tanh")
    with pytest.raises(ValueError, match=r"the mask has shape \(3, 3\), the network's W is \(12, 12\)"):
        URN(layout, 3, mask=torch.ones(3, 3, dtype=torch.bool))
    with pytest.raises(ValueError, match="no update rule is called 'eq3'"):
        URN(layout, 3, "eq3")


# --- frozen rows ----------------------------------------------------------------------------------------------------


def test_frozen_rows_are_restored_by_value():
    layout = Layout.flat(12, 3, {"a": 2})
    urn = URN(layout, 3)
    frozen = torch.zeros(12, dtype=torch.bool)
    frozen[[0, 1, 2, 5, 7]] = True
    urn.set_parameters(layout, torch.randn(12, 12), torch.randn(12), frozen)
    W, b = urn.W.data.clone(), urn.b.data.clone()
    urn.W.data += 1
    urn.b.data += 1
    urn.restore_frozen()
    assert torch.equal(urn.W.data[frozen], W[frozen]) and torch.equal(urn.b.data[frozen], b[frozen])
    assert torch.equal(urn.W.data[~frozen][:, :10], W[~frozen][:, :10] + 1)
    assert torch.equal(urn.b.data[~frozen], b[~frozen] + 1)


def test_absent_synapses_are_restored_to_zero():
    layout = Layout.flat(12, 3, {"a": 2})
    mask = torch.rand(12, 12) < 0.5
    urn = URN(layout, 3, mask=mask)
    assert not urn.W.data[~mask].any()
    urn.W.data.normal_()
    urn.restore_frozen()
    assert not urn.W.data[~mask].any()
    assert urn.W.data[:, :10][mask[:, :10]].all()


# --- subnetworks ----------------------------------------------------------------------------------------------------


def test_a_subnetwork_has_the_weights_of_its_neurons():
    layout = Layout.flat(14, 3, {"a": 2, "b": 2})
    frozen = torch.zeros(14, dtype=torch.bool)
    frozen[[0, 1, 2, 4]] = True
    urn = URN(layout, 3, "residual_both", "linear", mask=torch.rand(14, 14) < 0.8)
    urn.set_parameters(layout, urn.W.data.clone(), torch.randn(14), frozen)
    index = torch.tensor([0, 1, 2, 4, 6, 9, 10, 11])
    part = urn.subnetwork(index)
    assert torch.equal(part.W.data, urn.W.data[index][:, index]) and torch.equal(part.b.data, urn.b.data[index])
    assert part.frozen.tolist() == frozen[index].tolist()
    assert torch.equal(part.mask, urn.mask[index][:, index])
    assert list(part.layout.ports) == ["a"] and (part.update, part.iterations) == (urn.update, 3)
    part.W.data.zero_()
    assert urn.W.data.any()  # a copy


def test_a_subnetwork_without_the_inactive_neurons_answers_alike():
    """Leaving neurons out that are never active on x changes nothing on x."""
    urn = URN(Layout.flat(30, 4, {"a": 2}), 4, "residual_both", "linear", dtype=torch.float64)
    urn.b.data.fill_(-0.5)
    x = torch.randn(5, 4).double()
    active = torch.stack(urn.states(x)).ne(0).any(0).any(0)
    active[-2:] = True
    assert 6 < int(active.sum()) < 30
    assert torch.allclose(urn.subnetwork(active.nonzero().flatten())(x), urn(x), rtol=1e-10)


# --- passes and text ------------------------------------------------------------------------------------------------


def test_a_pass_over_several_ports_reads_them_side_by_side():
    network = URN(Layout.flat(14, 3, {"a": 2, "b": 3}), 4, "residual_output", "linear", dtype=torch.float64)
    x, penalty = torch.randn(5, 3).double(), Penalty(activity=0.1, early_readout=0.5)
    both, a, b = (network.training_pass(x, port, penalty) for port in (("a", "b"), "a", "b"))
    assert torch.allclose(both.logits, torch.cat([a.logits, b.logits], 1), rtol=1e-12)
    assert both.early is not None and a.early is not None and b.early is not None
    assert torch.allclose(both.early, torch.cat([a.early, b.early], 2), rtol=1e-12)
    assert torch.allclose(both.activity, a.activity) and a.activity > 0
    halved = network.training_pass(x, "a", penalty, batch=10)
    assert torch.allclose(halved.activity * 2, a.activity) and torch.equal(halved.logits, a.logits)


def test_early_readouts_are_those_before_the_last():
    network = URN(Layout.flat(14, 3, {"a": 2}), 4, "residual_output", "linear", dtype=torch.float64)
    x = torch.randn(5, 3).double()
    assert network.training_pass(x, "a", Penalty()).early is None
    early = network.training_pass(x, "a", Penalty(early_readout=0.5)).early
    assert torch.allclose(early, torch.stack(network.readouts(x, "a")[1:-1]), rtol=1e-12)


def test_the_representation_describes_the_network():
    network = URN(Layout.flat(12, 3, {"a": 2, "b": 1}), 4, "residual_both")
    frozen = torch.zeros(12, dtype=torch.bool)
    frozen[:3] = True
    network.set_parameters(network.layout, torch.eye(12), torch.zeros(12), frozen)
    assert repr(network) == (
        "URN(12 neurons (3 inputs, ports {a: 2, b: 1}), 4 iterations of residual_both, 9 synapses, 3 frozen neurons)"
    )
