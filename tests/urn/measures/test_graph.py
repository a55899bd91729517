"""urn.measures.graph against networkx: live synapses, components, longest and weighted paths, unsettled cycles."""

from itertools import pairwise

import networkx as nx
import pytest
import torch

from urn.layout import Layout
from urn.measures.activity import Activity
from urn.measures.graph import Synapses, graph_depth, live, on_cycles, path_lengths, recurrence, unsettled
from urn.network import URN
from urn.update_rules import UPDATES


def random_net(S: int, density: float, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    W = torch.randn(S, S, generator=generator, dtype=torch.float64)
    return W * (torch.rand(S, S, generator=generator) < density)


def digraph(W: torch.Tensor) -> nx.DiGraph:
    graph = nx.DiGraph()
    graph.add_nodes_from(range(len(W)))
    graph.add_weighted_edges_from((j, i, abs(float(W[i, j]))) for i, j in W.nonzero().tolist())
    return graph


def urn_of(W: torch.Tensor, iterations: int, update: str) -> URN:
    """Neuron 0 is the input port, the last one the output port."""
    layout = Layout.flat(len(W), 1, {"out": 1})
    urn = URN(layout, iterations, update, "linear", dtype=torch.float64)
    urn.set_parameters(layout, W.clone(), torch.zeros(len(W), dtype=torch.float64))
    return urn


def ring(size: int, gain: float) -> torch.Tensor:
    """Input 0 -> ring 1..size with weights `gain`, its last neuron -> output."""
    W = torch.zeros(size + 2, size + 2, dtype=torch.float64)
    W[1, 0] = 1.0
    for k in range(1, size):
        W[k + 1, k] = 1.0
    W[1, size] += gain
    W[size + 1, size] = 1.0
    return W


def test_the_list_of_synapses_is_the_nonzero_part():
    W = random_net(30, 0.1, 0)
    edges = Synapses.of(W)
    torch.testing.assert_close(torch.from_numpy(edges.matrix().toarray()), W.abs())
    some = torch.tensor([3, 4, 7, 20, 21, 29])
    inside = torch.zeros(30, dtype=torch.bool)
    inside[some] = True
    expected = W * inside * inside[:, None]
    for part in (Synapses.of(W, some), Synapses.of(W, inside), Synapses.of(edges, some), Synapses.of(edges, inside)):
        torch.testing.assert_close(torch.from_numpy(part.matrix().toarray()), expected.abs())
    rows = torch.arange(30) % 2 == 0
    for part in (Synapses.of(W, receivers=rows), Synapses.of(edges, receivers=rows.nonzero().flatten())):
        torch.testing.assert_close(torch.from_numpy(part.matrix().toarray()), (W * rows[:, None]).abs())
    assert len(Synapses.of(W, torch.tensor([], dtype=torch.long))) == 0
    assert Synapses.of(edges) is edges
    assert edges.neurons.tolist() == [bool((W[k] != 0).any() or (W[:, k] != 0).any()) for k in range(30)]
    with pytest.raises(ValueError, match=r"\(S, S\)"):
        Synapses.of(W[:3])


@pytest.mark.parametrize("density", [0.01, 0.03, 0.06, 0.2])
@pytest.mark.parametrize("seed", range(3))
def test_components_and_depth_equal_networkx(density: float, seed: int):
    W = random_net(40, density, seed)
    W.diagonal()[5:] = 0  # a few neurons may feed themselves
    graph = digraph(W)
    cyclic = [c for c in nx.strongly_connected_components(graph) if len(c) > 1 or any(graph.has_edge(n, n) for n in c)]
    assert recurrence(W) == tuple(sorted(map(len, cyclic), reverse=True))
    assert on_cycles(W).nonzero().flatten().tolist() == sorted(set().union(*cyclic))
    inputs, port = torch.tensor([0, 1, 2]), torch.tensor([37, 38, 39])
    condensed = nx.condensation(graph)
    node = condensed.graph["mapping"]
    starts, ends = {node[k] for k in inputs.tolist()}, {node[k] for k in port.tolist()}
    after = starts.union(*(nx.descendants(condensed, n) for n in starts))
    before = ends.union(*(nx.ancestors(condensed, n) for n in ends))
    between = condensed.subgraph(after & before)  # a longest path of it begins at an input and ends at an output, ...
    depth = {n: 0 if n in starts else -99 for n in between}
    for n in nx.topological_sort(between):  # ... but an input may also lie on the way: go step by step
        for m in between.successors(n):
            depth[m] = max(depth[m], depth[n] + 1)
    assert graph_depth(W, inputs, port) == max((depth[n] for n in ends if n in depth), default=0)


def test_path_lengths_are_the_products_along_all_paths():
    W = random_net(14, 0.6, 1).tril(-1)  # no cycles
    inputs, port = torch.tensor([0, 1]), torch.tensor([12, 13])
    graph, expected = digraph(W), [0.0] * 6
    for start in inputs.tolist():
        for end in port.tolist():
            for path in nx.all_simple_paths(graph, start, end, cutoff=6):
                weight = 1.0
                for j, i in pairwise(path):
                    weight *= graph[j][i]["weight"]
                expected[len(path) - 2] += weight
    measured = path_lengths(W, inputs, port, 6)
    assert measured == pytest.approx([e / sum(expected) for e in expected])
    assert sum(measured) == pytest.approx(1.0)
    assert sum(share > 0 for share in measured) >= 4
    assert path_lengths(torch.zeros(14, 14), inputs, port, 3) == (0.0, 0.0, 0.0)


@pytest.mark.parametrize("residual_output", [False, True])
@pytest.mark.parametrize("seed", range(5))
def test_live_synapses_are_those_on_a_path_of_the_unrolled_graph(residual_output: bool, seed: int):
    S, iterations, port = 16, 4, torch.tensor([14, 15])
    W = random_net(S, 0.15, seed)
    generator = torch.Generator().manual_seed(seed)
    carries = torch.rand(iterations + 1, S, generator=generator) < 0.6
    unrolled, end = nx.DiGraph(), ("end",)
    for i, j in W.nonzero().tolist():
        for level in range(iterations):
            outlet = i in port and (residual_output or level + 1 == iterations)
            if carries[level, j] and (carries[level + 1, i] or outlet):
                unrolled.add_edge((j, level), (i, level + 1))
            if carries[level, j] and outlet:
                unrolled.add_edge((i, level + 1), end)
    alive = nx.ancestors(unrolled, end) if end in unrolled else set()
    expected = {(v[0], u[0]) for u, v in unrolled.edges if v != end and u in alive and v in alive}
    way = live(W, carries, port, residual_output)
    found = set(zip(way.receiver.tolist(), way.sender.tolist(), strict=True))
    assert found == expected
    assert 0 < len(found) < len(W.nonzero())


def test_a_cycle_that_there_is_no_time_for_is_not_live():
    W = ring(2, 1.0)  # 0 -> 1 <-> 2 -> 3
    port = torch.tensor([3])
    x = torch.tensor([[1.0], [2.0]], dtype=torch.float64)
    sizes = {}
    for iterations in (3, 4, 5):
        activity = Activity().update(urn_of(W, iterations, "plain").states(x))
        sizes[iterations] = recurrence(live(W, activity.varies, port, residual_output=False))
    assert sizes == {3: (), 4: (), 5: (2,)}  # only after 3 or 5 steps does the pulse arrive in 3


@pytest.mark.parametrize("update", list(UPDATES))
@pytest.mark.parametrize("size", [1, 2, 3])
def test_rings_are_recurrent_and_unsettled_only_when_they_go_on(update: str, size: int):
    x = torch.rand(20, 1, dtype=torch.float64) + 0.5
    for gain, at_rest in ((1.1, False), (1e-4, True)):
        W = ring(size, gain)
        iterations = size * 4 + 1
        activity = Activity().update(urn_of(W, iterations, update).states(x))
        assert recurrence(W) == (size,)
        assert graph_depth(W, torch.tensor([0]), torch.tensor([size + 1])) == 2
        expected = [False] + [not at_rest] * size + [False]
        assert unsettled(W, activity).tolist() == expected


def test_a_neuron_that_keeps_its_value_has_settled():
    W = ring(1, 1.0)
    activity = Activity().update(urn_of(W, 5, "plain").states(torch.rand(9, 1, dtype=torch.float64)))
    assert activity.varies[-1, 1]
    assert not unsettled(W, activity).any()


def test_an_oscillation_that_does_not_depend_on_the_data_is_no_recurrence_of_the_data():
    W = torch.zeros(4, 4, dtype=torch.float64)
    W[1, 2], W[2, 1], W[3, 0], W[3, 2] = -1.0, 1.0, 1.0, 1.0
    urn = urn_of(W, 6, "plain")
    urn.b.data[1] = 1.0
    activity = Activity().update(urn.states(torch.rand(9, 1, dtype=torch.float64)))
    assert len(activity.mean[:, 1].unique()) > 1
    assert on_cycles(W).tolist() == [False, True, True, False]
    assert not unsettled(W, activity).any()


@pytest.mark.parametrize("update", list(UPDATES))
def test_a_feedforward_chain_is_never_unsettled(update: str):
    W = ring(3, 0.0)
    activity = Activity().update(urn_of(W, 3, update).states(torch.rand(9, 1, dtype=torch.float64)))
    assert recurrence(W) == ()
    assert not unsettled(W, activity).any()


def test_twenty_thousand_neurons_in_a_chain():
    S = 20_000
    index = torch.arange(S - 1)
    chain = Synapses(index + 1, index, torch.ones(S - 1), S)
    assert graph_depth(chain, torch.tensor([0]), torch.tensor([S - 1])) == S - 1
    assert recurrence(chain) == ()
    loop = Synapses(torch.cat([index + 1, torch.tensor([0])]), torch.arange(S), torch.ones(S), S)
    assert recurrence(loop) == (S,)
