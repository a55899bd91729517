"""The blocks that a structure names are all of the network, and the proof fails where they are not."""

import pytest
import torch
from torch import nn

from urn.layout import Layout
from urn.measures.activity import NEVER
from urn.measures.block_proof import Proof, keep_blocks, named_blocks, proof
from urn.measures.graph import Synapses
from urn.mlp_conversion import embed
from urn.network import URN


def mlp_urn(update: str = "plain") -> URN:
    """4 inputs, layers of 8, 6 and 3 neurons: 4 * 8 + 8 * 6 + 6 * 3 = 98 synapses, no biases."""
    torch.manual_seed(0)
    linear = [nn.Linear(n, m, bias=False, dtype=torch.float64) for n, m in ((4, 8), (8, 6), (6, 3))]
    urn = embed(nn.Sequential(linear[0], nn.ReLU(), linear[1], nn.ReLU(), linear[2]), update=update)
    urn.mask = None
    return urn


X = torch.randn(300, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def test_blocks_are_kept_by_level():
    level = torch.tensor([0, 1, 1, 2, 3, NEVER])
    W = torch.ones(6, 6)
    W[3, 2] = 0
    kept = keep_blocks(W, level)
    assert kept.nonzero().tolist() == [[1, 0], [2, 0], [3, 1], [4, 3]]
    more = keep_blocks(W, level, [(0, 3), (2, 1), (1, 1)])
    added = [[1, 1], [1, 2], [1, 3], [2, 1], [2, 2], [2, 3], [4, 0]]
    assert (more & ~kept).nonzero().tolist() == added
    edges = Synapses.of(W)
    assert torch.equal(keep_blocks(edges, level, [(0, 3)]), keep_blocks(W, level, [(0, 3)])[W != 0])


def test_blocks_are_named_with_their_synapses_and_mass():
    level = torch.tensor([0, 1, 1, 2, NEVER])
    W = torch.zeros(5, 5)
    W[1, 0], W[2, 0], W[3, 0], W[1, 3], W[3, 4] = 1.0, -2.0, 4.0, 8.0, 16.0
    data = Synapses.of(W)
    data = data.select(data.sender != 4)
    found = {(b.sender, b.receiver): (b.synapses, b.mass, b.carries_data) for b in named_blocks(W, level, data)}
    assert found == {
        (0, 1): (2, 3.0, True),
        (2, 1): (1, 8.0, True),
        (0, 2): (1, 4.0, True),
        (NEVER, 2): (1, 16.0, False),
    }
    assert [b.consecutive for b in named_blocks(W, level)] == [True, False, False, False]


@pytest.mark.parametrize("update", ["plain", "residual_output", "residual_input", "residual_both"])
def test_an_embedded_mlp_is_its_blocks(update: str):
    urn = mlp_urn(update)
    found = proof(urn, X, batch_size=64)
    assert found.holds()
    assert (found.kept, found.nonzero, found.samples, found.named) == (98, 98, 300, ())
    assert [(b.sender, b.receiver) for b in found.blocks] == [(0, 1), (1, 2), (2, 3)]


def test_weights_that_do_not_matter_are_set_to_zero_and_counted():
    """Feedback 2 -> 1 and skips 0 -> 2 have no time to matter under the plain rule with I = d and no biases."""
    urn = mlp_urn()
    before = urn(X)
    urn.W.data[4:12, 12:18] = 5.0  # 48 synapses of feedback
    urn.W.data[18:21, 4:12] = 5.0  # 24 that skip to the output: they arrive too early
    torch.testing.assert_close(urn(X), before)
    W = urn.W.detach().clone()
    found = proof(urn, X)
    assert found.holds(1e-12)
    assert (found.kept, found.nonzero) == (98, 98 + 48 + 24)
    assert torch.equal(urn.W, W)


def test_a_block_that_only_keeps_a_neuron_silent_is_named_too():
    layout = Layout.flat(6, 1, {"p": 2})
    urn = URN(layout, 4, "residual_output", "linear", dtype=torch.float64)
    W, b = torch.zeros(6, 6, dtype=torch.float64), torch.zeros(6, dtype=torch.float64)
    W[1, 0], W[2, 1], W[3, 1] = 1, 2, 1  # the input, a neuron at level 1, two at level 2
    W[3, 2], b[3] = -2, 0.5  # the first inhibits the other at l = 3, where its bias alone would activate it
    W[4, 3] = W[5, 1] = 1
    urn.set_parameters(layout, W, b)
    x = 1 + torch.rand(50, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert (urn.states(x)[2][:, 3] > 0).all() and not urn.states(x)[3][:, 3].any()
    found = proof(urn, x, skips=None)
    assert (2, 2) in found.named and (2, 2) not in {(b.sender, b.receiver) for b in found.blocks}
    assert found.max_difference == 0 and found.kept == found.nonzero == 6
    assert proof(urn, x, skips=set(found.named) - {(2, 2)}).max_difference == pytest.approx(0.5)


def test_weights_that_matter_break_the_proof_until_they_are_named():
    urn = mlp_urn("residual_input")
    urn.W.data[12:18, 0:4] = 1.0  # 24 synapses that skip the first hidden layer
    assert not proof(urn, X, by="path").holds()
    found = proof(urn, X, by="path", skips=[(0, 2)])
    assert found.holds(1e-12)
    assert (found.kept, found.nonzero) == (98 + 24, 98 + 24)
    assert proof(urn, X, by="path", skips=None).named == ((0, 2),)
    by_time = proof(urn, X, skips=None)  # by the first time, both hidden layers are at level 1
    assert by_time.named == ((1, 1), (1, 2)) or by_time.named == ((1, 1),)
    assert by_time.holds(1e-12)


def test_recurrence_has_to_be_named():
    layout = Layout.flat(4, 1, {"out": 1})
    W = torch.zeros(4, 4, dtype=torch.float64)
    W[1, 0], W[2, 1], W[1, 2], W[3, 2] = 1.0, 1.0, 0.5, 1.0
    urn = URN(layout, 6, "residual_input", "linear", dtype=torch.float64)
    urn.set_parameters(layout, W, torch.zeros(4, dtype=torch.float64))
    x = torch.rand(10, 1, dtype=torch.float64) + 0.1
    assert proof(urn, x).max_difference > 0.05
    found = proof(urn, x, skips=[(2, 1)])
    assert found.max_difference == 0.0
    assert (found.kept, found.nonzero) == (4, 4)


def test_a_constant_neuron_counts_when_it_is_named():
    """Neuron 2 reads nothing and is active by its bias; the network needs it."""
    layout = Layout.flat(4, 1, {"out": 1})
    W, b = torch.zeros(4, 4), torch.tensor([0.0, 0.0, 2.0, 0.0])
    W[1, 0], W[1, 2], W[3, 1] = 1.0, 1.0, 1.0
    urn = URN(layout, 3, "residual_input", "linear")
    urn.set_parameters(layout, W, b)
    x = torch.rand(10, 1)
    unnamed = proof(urn, x)
    assert unnamed.max_difference == pytest.approx(2.0)
    assert unnamed.same_predictions == 10  # one output, positive either way
    assert not unnamed.holds()
    assert [(b.sender, b.receiver, b.carries_data) for b in unnamed.blocks] == [
        (NEVER, 1, False),
        (0, 1, True),
        (1, 2, True),
    ]
    assert proof(urn, x, skips=[(NEVER, 1)]).max_difference == 0.0


def test_other_tasks_ports_are_in_no_block():
    layout = Layout.flat(6, 2, {"a": 1, "b": 1})
    W = torch.zeros(6, 6)
    W[2, 0], W[3, 1], W[4, 2], W[5, 2], W[5, 3] = 1.0, 1.0, 1.0, 1.0, 1.0
    urn = URN(layout, 2, "plain", "linear")
    urn.set_parameters(layout, W, torch.zeros(6))
    x = torch.rand(10, 2)
    assert (proof(urn, x, "a").kept, proof(urn, x, "b").kept) == (3, 4)  # all of 0 -> 1, and the port's own
    with pytest.raises(ValueError, match="name the output port"):
        proof(urn, x)


def test_mistakes_and_verdicts():
    with pytest.raises(ValueError, match="sample"):
        proof(mlp_urn(), X[:0])
    base = {"samples": 10, "kept": 1, "nonzero": 2, "blocks": (), "named": ()}
    assert Proof(max_difference=1e-5, same_predictions=10, **base).holds()
    assert not Proof(max_difference=1e-5, same_predictions=9, **base).holds()
    assert not Proof(max_difference=2e-5, same_predictions=10, **base).holds()
