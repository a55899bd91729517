"""urn.measures.structure on networks of known structure: embedded MLPs, nets with skips, rings, grids, claims.

The same values under every update rule that is exact, and after relabelling."""

from dataclasses import fields
from itertools import pairwise

import pytest
import torch
from torch import nn

from urn.layout import Distance, Layout
from urn.measures.activity import NEVER, Activity
from urn.measures.graph import Synapses
from urn.measures.structure import (
    Structure,
    cut_reuse,
    locality,
    mean_depth,
    measure,
    readout_depth,
    reuse,
    shares,
    shares_by_plane,
    skip_share,
)
from urn.mlp_conversion import embed
from urn.network import URN
from urn.update_rules import UPDATES

WIDTHS = (6, 12, 9, 7, 4)  # d = 4 layers of weights


def mlp(seed: int = 0, widths: tuple[int, ...] = WIDTHS) -> nn.Sequential:
    """Hidden biases < 0 and none at the output: exact under all four rules."""
    generator = torch.Generator().manual_seed(seed)
    layers: list[nn.Module] = []
    for n_in, n_out in pairwise(widths):
        layer = nn.Linear(n_in, n_out, dtype=torch.float64)
        layer.weight.data = torch.randn(n_out, n_in, generator=generator, dtype=torch.float64) * (2 / n_in) ** 0.5
        layer.bias.data = -0.05 * torch.rand(n_out, generator=generator, dtype=torch.float64)
        layers += [layer, nn.ReLU()]
    layers[-2].bias.data.zero_()  # type: ignore[union-attr]
    return nn.Sequential(*layers[:-1])


def data(n: int = 200, width: int = 6) -> torch.Tensor:
    return torch.randn(n, width, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def measured(urn: URN, x: torch.Tensor, **options) -> Structure:
    """Scores are agreement with the final output's own predictions."""
    (port,) = urn.layout.ports
    answer = urn.readouts(x)[-1].argmax(1)
    scores = [float((y.argmax(1) == answer).double().mean()) for y in urn.readouts(x)]
    activity = Activity().update(urn.states(x))
    residual_output = urn.update.residual_output
    return measure(urn.W, activity, urn.layout, port, residual_output=residual_output, scores=scores, **options)


def assert_same(a: Structure, b: Structure, but: tuple[str, ...] = ()) -> None:
    for field in fields(Structure):
        if field.name in but:
            continue
        one, other = getattr(a, field.name), getattr(b, field.name)
        if isinstance(one, torch.Tensor):
            assert torch.equal(one, other), field.name
        elif isinstance(one, tuple) and field.name in ("path_lengths", "widths", "widths_unsettled"):
            longest = max(len(one), len(other))  # another I only appends zeros
            pad = [list(t) + [0] * (longest - len(t)) for t in (one, other)]
            assert pad[0] == pytest.approx(pad[1]), field.name
        elif one is None or other is None:
            assert one is other, field.name
        else:
            assert one == pytest.approx(other), field.name


# --- an embedded MLP -------------------------------------------------------------------------------------------------


def test_an_embedded_mlp_is_measured_as_what_it_is():
    net, x = mlp(), data()
    s = measured(embed(net), x)
    hidden, widths = x, []
    for layer in list(net)[:-1]:
        hidden = layer(hidden)
        if isinstance(layer, nn.ReLU):
            widths.append(int((hidden.amax(0) > hidden.amin(0)).sum()))
    assert sum(widths) > 20
    assert s.widths == (*widths, 0)
    assert s.widths_unsettled == (0, 0, 0, 0)
    assert s.active == sum(widths)
    assert s.constant == 0
    assert s.depth_readout == s.depth_graph == 4
    assert s.depth_mean == pytest.approx(4.0)
    assert s.path_lengths == pytest.approx((0, 0, 0, 1))
    assert s.shares == (1.0, 0.0, 0.0)
    assert s.shares_by_plane is None
    assert s.skip_share == 0
    assert s.recurrent == ()
    assert sum(widths) < 12 + 9 + 7  # one neuron is dead
    live = [6, *widths, 4]
    assert s.synapses == s.live_synapses == sum(a * b for a, b in pairwise(live))
    assert s.levels[:6].tolist() == [0] * 6
    assert s.levels[-4:].tolist() == [4] * 4


@pytest.mark.parametrize("seed", range(3))
def test_one_feedforward_net_has_the_same_measures_under_all_four_rules(seed: int):
    net, x = mlp(seed), data()
    reference = measured(embed(net, update="plain"), x)
    assert reference.depth_graph == 4
    for update in UPDATES:
        assert_same(measured(embed(net, update=update), x), reference)
    for update in ("residual_input", "residual_output"):  # the rules that are exact for I > d
        assert_same(measured(embed(net, update=update, iterations=7), x), reference)


def test_positive_biases_do_not_change_levels_or_depths_between_rules():
    net, x = mlp(), data()
    for layer in net:
        if isinstance(layer, nn.Linear):
            layer.bias.data += 0.5
    plain, fed = measured(embed(net), x), measured(embed(net, update="residual_input", iterations=6), x)
    assert_same(plain, fed, but=("active", "constant"))
    assert plain.depth_mean == pytest.approx(4.0)


def test_a_network_that_nothing_reaches_has_depth_0():
    net = mlp()
    net[2].weight.data.zero_()  # type: ignore[union-attr]
    s = measured(embed(net), data())
    assert (s.depth_mean, s.depth_graph, s.live_synapses, s.skip_share) == (0.0, 0, 0, 0.0)
    assert s.levels[-4:].tolist() == [NEVER] * 4
    assert s.shares == (0.0, 0.0, 0.0)


# --- skips, lateral and feedback synapses ----------------------------------------------------------------------------


def with_skips(iterations: int) -> tuple[URN, dict[str, float]]:
    """2 inputs -> a -> b -> output, and skips input -> b, input -> output, a -> output; exact under residual_input."""
    layout = Layout.flat(5, 2, {"out": 1})
    W = torch.zeros(5, 5, dtype=torch.float64)
    weights = {"xa": 1.0, "ab": 2.0, "bo": 0.5, "xb": 0.25, "xo": -3.0, "ao": 1.5}
    W[2, 0], W[3, 2], W[4, 3], W[3, 1], W[4, 1], W[4, 2] = weights.values()
    urn = URN(layout, iterations, "residual_input", "linear", dtype=torch.float64)
    urn.set_parameters(layout, W, torch.zeros(5, dtype=torch.float64))
    return urn, weights


@pytest.mark.parametrize("iterations", [3, 6])
def test_skip_connections_are_found_and_weighed(iterations: int):
    urn, w = with_skips(iterations)
    x = torch.rand(50, 2, dtype=torch.float64) + 0.1
    s = measured(urn, x)
    # b varies from l = 1 on, by its skip, so a and b are both at level 1 and their synapse is lateral
    assert s.levels.tolist() == [0, 0, 1, 1, 2]
    assert s.path_levels.tolist() == [0, 0, 1, 2, 3]
    assert s.depth_graph == 3
    total = sum(map(abs, w.values()))
    assert s.skip_share == pytest.approx((abs(w["xo"]) + w["xb"] + w["ao"]) / total)
    assert s.shares == pytest.approx(((total - w["ab"]) / total, w["ab"] / total, 0.0))
    a, b = x[:, 0], 2 * x[:, 0] + 0.25 * x[:, 1]
    flow_x, flow_ab = 3.0 * float(x[:, 1].mean()), 1.5 * float(a.mean()) + 0.5 * float(b.mean())
    assert s.depth_mean == pytest.approx((flow_x * 1 + flow_ab * 2) / (flow_x + flow_ab))
    by_length = [3.0, w["xa"] * w["ao"] + w["xb"] * w["bo"], w["xa"] * w["ab"] * w["bo"]]
    assert s.path_lengths[:3] == pytest.approx([p / sum(by_length) for p in by_length])


def test_an_mlp_with_a_skip_from_the_input_keeps_its_layers_by_path():
    net, x = mlp(), data()
    urn = embed(net, update="residual_input")
    generator = torch.Generator().manual_seed(5)
    skip = 0.1 * torch.randn(9, 6, generator=generator, dtype=torch.float64)
    urn.mask = None
    W = urn.W.data
    W[18:27, :6] = skip  # input -> second hidden layer
    s = measured(urn, x)
    live = s.path_levels >= 0
    layer = torch.arange(5).repeat_interleave(torch.tensor(WIDTHS))
    assert torch.equal(s.path_levels[live], layer[live])
    assert live.sum() > 30
    mass = float((W.abs() * live * live[:, None]).sum())
    assert s.skip_share == pytest.approx(float((skip.abs() * live[18:27, None]).sum()) / mass)
    assert s.depth_graph == 4
    assert s.path_lengths[1] == 0
    assert s.path_lengths[2] > 0
    assert s.path_lengths[3] > 0


def test_directions_by_level_and_by_plane():
    level = torch.tensor([0, 1, 2, 1, NEVER, 4])
    W = torch.zeros(6, 6)
    W[1, 0], W[2, 1], W[3, 1], W[1, 2], W[1, 1], W[5, 0], W[4, 0], W[2, 4] = 1, -2, 3, -4, 5, 6, 70, 80
    assert shares(W, level) == pytest.approx(((1 + 2 + 6) / 21, (3 + 5) / 21, 4 / 21))
    assert skip_share(W, level) == pytest.approx(6 / 21)
    z = torch.tensor([0.0, 1, 1, 2, 0, 3])
    positions = torch.stack([torch.rand(6), torch.rand(6), z], dim=1)
    assert shares_by_plane(W, positions) == pytest.approx(((1 + 3 + 6 + 80) / 171, (2 + 4 + 5 + 70) / 171, 0.0))
    assert shares_by_plane(W.T, positions) == pytest.approx((0.0, 81 / 171, 90 / 171))


def test_mean_depth_is_the_formula():
    W = torch.zeros(6, 6)
    W[4, 0], W[4, 1], W[5, 2], W[5, 3], W[1, 0] = 1.0, -2.0, 3.0, 9.0, 50.0
    level = torch.tensor([0, 1, 3, NEVER, 4, 4])
    strength = torch.tensor([0.5, 1.0, 2.0, 7.0, 1.0, 1.0], dtype=torch.float64)
    expected = (1 * 0.5 * 1 + 2 * 1.0 * 2 + 3 * 2.0 * 4) / (1 * 0.5 + 2 * 1.0 + 3 * 2.0)
    assert mean_depth(W, strength, level, torch.tensor([4, 5])) == pytest.approx(expected)
    assert mean_depth(W, strength, level, torch.tensor([3])) == 0.0


def test_readout_depth_is_the_first_iteration_that_is_good_enough():
    scores = [0.19, 0.24, 0.895, 0.91, 0.90]
    assert readout_depth(scores, 0.01) == 3
    assert readout_depth(scores, 0.0) == 4
    assert readout_depth([0.3, 0.89, 0.90], 0.01) == 2  # in floating point 0.90 - 0.89 > 0.01
    assert readout_depth([0.5], 0.0) == 1
    for scores, margin in (([], 0.1), ([0.5], -0.1)):
        with pytest.raises(ValueError, match="margin"):
            readout_depth(scores, margin)


def test_a_ring_is_a_class_of_its_own_in_the_widths():
    """Input -> 1 <-> 2 -> output, and a chain input -> 3 -> output."""
    layout = Layout.flat(5, 1, {"out": 1})
    W = torch.zeros(5, 5, dtype=torch.float64)
    W[1, 0], W[2, 1], W[1, 2], W[3, 0], W[4, 2], W[4, 3] = 1, 1.1, 1.1, 1, 1, 1
    urn = URN(layout, 6, "residual_both", "linear", dtype=torch.float64)
    urn.set_parameters(layout, W, torch.zeros(5, dtype=torch.float64))
    s = measured(urn, torch.rand(20, 1, dtype=torch.float64) + 0.5)
    assert s.recurrent == (2,)
    assert s.widths == (2, 1, 0, 0, 0, 0)
    assert s.widths_unsettled == (1, 1, 0, 0, 0, 0)
    assert s.depth_graph == 2
    assert s.shares.feedback == pytest.approx(1.1 / 6.2)


# --- relabelling -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("update", list(UPDATES))
def test_relabelling_the_neurons_changes_nothing(update: str):
    generator = torch.Generator().manual_seed(3)
    layout = Layout.grid((3, 3, 4), 1, {"out": 2})
    S = layout.S
    W = torch.randn(S, S, generator=generator, dtype=torch.float64) * (torch.rand(S, S, generator=generator) < 0.1)
    b = 0.1 * torch.randn(S, generator=generator, dtype=torch.float64)
    urn = URN(layout, 5, update, "linear", dtype=torch.float64)
    urn.set_parameters(layout, W, b)
    order = torch.randperm(S, generator=generator)
    other = urn.subnetwork(order)
    x, members = data(60, 9), torch.rand(S, generator=generator) < 0.9
    metric = Distance(beta=4.0)
    s = measured(urn, x, members=members, metric=metric, generator=torch.Generator().manual_seed(0))
    t = measured(other, x, members=members[order], metric=metric, generator=torch.Generator().manual_seed(0))
    assert torch.equal(s.levels[order], t.levels)
    assert torch.equal(s.path_levels[order], t.path_levels)
    assert s.live_synapses > 30
    assert s.recurrent
    assert s.locality is not None and t.locality is not None
    assert s.locality.length == pytest.approx(t.locality.length)
    assert s.locality.shuffled == pytest.approx(t.locality.shuffled, rel=0.1)  # another draw of the same null
    assert_same(s, t, but=("levels", "path_levels", "locality"))


def test_neurons_that_are_no_members_do_not_count():
    urn, x = embed(mlp()), data()
    alone = measured(urn, x)
    bigger = Layout(
        torch.cat([urn.layout.positions, torch.zeros(5, 3)]), urn.layout.inputs, urn.layout.ports, urn.layout.plane
    )
    W, b = torch.zeros(43, 43, dtype=torch.float64), torch.zeros(43, dtype=torch.float64)
    W[:38, :38], b[:38] = urn.W.data, urn.b.data
    W[38:, :6] = 1e3  # free neurons that read the input and are loud
    W[39, 38] = 1.0
    big = URN(bigger, 4, "plain", "linear", dtype=torch.float64)
    big.set_parameters(bigger, W, b)
    members = torch.arange(43) < 38
    s = measured(big, x, members=members)
    assert torch.equal(s.levels[:38], alone.levels)
    assert torch.equal(s.path_levels[:38], alone.path_levels)
    assert_same(s, alone, but=("levels", "path_levels"))
    assert measured(big, x).active > alone.active


# --- locality --------------------------------------------------------------------------------------------------------


def grid(side: int, planes: int) -> torch.Tensor:
    return Layout.grid((side, side, planes), 1, {"out": 1}).positions[:-1]


def test_a_net_of_vertical_synapses_is_local_and_a_random_one_is_not():
    positions, generator = grid(8, 3), torch.Generator().manual_seed(0)
    W = torch.zeros(192, 192)
    for k in range(128):
        W[k + 64, k] = 1.0
    local = locality(W, positions, Distance(beta=4.0), generator)
    assert local.length == pytest.approx(2.0)
    d = torch.cdist(positions[64:128] * torch.tensor([1, 1, 2.0]), positions[:64] * torch.tensor([1, 1, 2.0]))
    assert local.shuffled == pytest.approx(float(d.mean()), rel=0.05)
    assert local.ratio == pytest.approx(local.length / local.shuffled)
    assert local.ratio < 0.6
    W = torch.randn(192, 192, generator=generator)
    assert locality(W, positions, Distance(beta=4.0), generator).ratio == pytest.approx(1.0, abs=0.02)


def test_the_null_keeps_planes_and_weights():
    """With all neurons of a plane at one place, shuffling within planes cannot change any length."""
    positions = torch.zeros(30, 3)
    positions[:, 2] = torch.arange(30) // 10
    generator = torch.Generator().manual_seed(0)
    W = torch.randn(30, 30, generator=generator) * torch.linspace(0, 5, 30)
    for beta in (0.0, 9.0):
        measured = locality(W, positions, Distance(beta=beta), generator)
        assert measured.length == pytest.approx(measured.shuffled)
    positions[:, 0] = positions[:, 2]  # with beta = 0, planes are still distinguished
    measured = locality(W, positions, Distance(beta=0.0), generator)
    assert measured.length == pytest.approx(measured.shuffled)


def test_locality_without_synapses_is_not_a_number():
    assert str(locality(torch.eye(5), torch.zeros(5, 3), Distance(), torch.Generator()).ratio) == "nan"


# --- reuse -----------------------------------------------------------------------------------------------------------


def test_reuse_counts_hidden_neurons_of_earlier_tasks_only():
    # neurons: 2 inputs, 2 of task 0, 2 of task 1, 1 of task 2, 1 free, ports of tasks 0, 1, 2
    owner = torch.tensor([-2, -2, 0, 0, 1, 1, 2, -1, -3, -3, -3], dtype=torch.int16)
    ports = [torch.tensor([k]) for k in (8, 9, 10)]
    W = torch.zeros(11, 11)
    W[4, 0], W[4, 2], W[5, 4], W[9, 3], W[9, 5] = 1.0, -2.0, 4.0, 8.0, 16.0  # task 1
    W[6, 4], W[10, 2], W[10, 6], W[7, 2] = 1.0, 1.0, 2.0, 99.0  # task 2, and a free neuron
    assert reuse(W, owner, 0, ports[0]).neurons.tolist() == []
    assert reuse(W, owner, 0, ports[0]).share == 0.0
    one = reuse(W, owner, 1, ports[1])
    assert one.neurons.tolist() == [2, 3]
    assert one.share == pytest.approx((2 + 8) / 31)
    two = reuse(Synapses.of(W), owner, 2, ports[2])
    assert two.neurons.tolist() == [2, 4]
    assert two.share == pytest.approx(2 / 4)
    cut = cut_reuse(W, owner, 1, ports[1])
    assert reuse(cut, owner, 1, ports[1]).neurons.tolist() == []
    assert (cut != W).nonzero().tolist() == [[4, 2], [9, 3]]


# --- size ------------------------------------------------------------------------------------------------------------


def test_twenty_thousand_neurons_take_seconds_at_most():
    S, E = 20_000, 200_000
    generator = torch.Generator().manual_seed(0)
    receiver, sender = torch.randint(S, (2, E), generator=generator)
    code = (receiver * S + sender).unique()
    edges = Synapses(code // S, code % S, torch.randn(len(code), generator=generator), S)
    layout = Layout.grid((50, 50, 8), 1, {}).with_ports({"out": 10})
    layout = layout.take(torch.cat([torch.arange(S - 10), torch.arange(S, S + 10)]))
    states = [torch.rand(8, S, generator=generator) for _ in range(6)]
    s = measure(
        edges,
        Activity().update(states),
        layout,
        "out",
        residual_output=True,
        metric=Distance(beta=16.0),
        generator=generator,
    )
    assert s.live_synapses > 190_000
    assert s.recurrent[0] > 19_000
    assert s.locality is not None
    assert s.locality.ratio == pytest.approx(1.0, abs=0.01)
