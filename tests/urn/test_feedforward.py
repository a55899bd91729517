"""A feedforward network inside a URN: each layer reads the one before, in answers, gradients, training and claims.

The oracle is a torch MLP with the same weights, in float64.
"""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from forward_passes import with_costs
from small_run import events, write_data
from torch import nn

from nesa.config.curriculum import Curriculum
from nesa.config.loader import dump, load
from nesa.experiment.run import run
from nesa.neuron_owner import FREE
from nesa.training.accumulation import Accumulation, Dynamics
from nesa.training.build import make_layout
from nesa.training.pruning import mean_activity
from urn.layout import Layout
from urn.network import URN
from urn.optim import Proximal
from urn.penalties import Penalty
from urn.surgery import keep_only

WIDTHS, D_IN, PORTS = (7, 5), 4, {"a": 3, "b": 2}
RULE = Dynamics(3, "plain", "linear")
YAML = """\
name: layered
seed: 3
input: {size: [8, 8]}
network: {layers: [30, 20]}
penalties: {method: prox_adam, weight: 1.0e-4, activity: 1.0e-3}
learner: {margin: 0.02, heal_epochs: 1}
training: {lr: 5.0e-3, batch_size: 50, epochs: 4}
tasks:
  - {name: five, source: arrays, params: {path: five.npz}}
  - {name: six, source: arrays, params: {path: six.npz}}
"""


def store(dtype=torch.float64, **options) -> Accumulation:
    return Accumulation(Layout.feedforward(WIDTHS, D_IN, PORTS), inputs_receive=False, dtype=dtype, **options)


def mlp_of(urn: URN, port: str) -> nn.Sequential:
    """A torch MLP with the weights of a URN's blocks, the neurons of a layer in ascending order."""
    layer, modules = urn.layout.layer, []
    sets = [(layer == z).nonzero().flatten() for z in range(len(WIDTHS) + 1)] + [urn.layout.ports[port]]
    for before, now in pairwise(sets):
        linear = nn.Linear(len(before), len(now), dtype=urn.W.dtype)
        linear.weight.data, linear.bias.data = urn.W.data[now[:, None], before], urn.b.data[now]
        modules += [linear, nn.ReLU()]
    return nn.Sequential(*modules[:-1])


def batch(n: int = 11, dtype=torch.float64) -> torch.Tensor:
    return torch.randn(n, D_IN, generator=torch.Generator().manual_seed(1), dtype=dtype)


def blocks(urn: URN) -> torch.Tensor:
    """(S, S) bool, written down on its own: row z + 1, column z."""
    z = urn.layout.positions[:, 2].tolist()
    return torch.tensor([[to == frm + 1 for frm in z] for to in z])


def claim_half(accumulation: Accumulation, task: str) -> None:
    task_network, index = accumulation.task_network(task, RULE, torch.Generator().manual_seed(len(accumulation.claims)))
    task_network.b.data[~task_network.frozen] += 0.1
    half = torch.arange(task_network.S) % 2 == 0
    kept = (half | task_network.frozen | (task_network.layout.layer == 3)).nonzero().flatten()
    keep_only(task_network, kept)
    accumulation.claim(task, RULE, task_network, index[kept])


# The layout -------------------------------------------------------------------------------------------------------


def test_layers_lie_behind_one_another_and_new_neurons_join_each():
    layout = Layout.feedforward(WIDTHS, D_IN, PORTS)
    assert layout.layer.tolist() == [0] * 4 + [1] * 7 + [2] * 5 + [3] * 5 and layout.S == 21
    assert layout.inputs.tolist() == [0, 1, 2, 3] and layout.ports["b"].tolist() == [19, 20]
    more = layout.with_planes(2).with_ports({"c": 2})
    assert more.layer.tolist()[21:] == [1, 1, 2, 2, 3, 3]
    assert more.positions[21:25, 0].tolist() == [7, 8, 5, 6]  # the next places in their layers
    assert torch.equal(more.positions[:21], layout.positions) and more.take(torch.arange(25)).layers == 2
    with pytest.raises(ValueError, match=r"the layers \[3, 0\] has an empty layer"):
        Layout.feedforward((3, 0), 2, {"a": 1})


def test_first_weights_are_he_normal_by_the_layer_that_is_read():
    urn = URN(Layout.feedforward((60, 50), 40, {"a": 30}), 3, generator=torch.Generator().manual_seed(0))
    z = urn.layout.layer
    for to, senders in ((1, 40), (2, 60), (3, 50)):
        block = urn.W.data[z == to][:, z == to - 1]
        assert float(block.std()) == pytest.approx(math.sqrt(2 / senders), rel=0.05)
    assert torch.equal(urn.W != 0, blocks(urn))


def test_only_plain_networks_as_deep_as_their_layers_are_feedforward():
    for iterations, update in ((4, "plain"), (3, "residual_both")):
        with pytest.raises(ValueError, match="2 layers need the rule plain and 3 iterations"):
            URN(Layout.feedforward(WIDTHS, D_IN, PORTS), iterations, update)


# Answers, gradients, steps ------------------------------------------------------------------------------------------


def test_answers_and_gradients_are_those_of_the_mlp_before_and_after_a_claim():
    accumulation = store()
    for task in PORTS:
        urn, _ = accumulation.task_network(task, RULE, torch.Generator().manual_seed(3))
        urn.b.data[~urn.frozen] += 0.05
        mlp, x, port = mlp_of(urn, task), batch(), urn.layout.ports[task]
        out, activity = with_costs(urn, x, task, (0.0, 0.3, 0.3))
        hidden = [mlp[:2](x), mlp[:4](x)]
        torch.testing.assert_close(out, mlp(x), rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(urn.states(x, task)[-1][:, port], mlp(x), rtol=1e-12, atol=1e-12)
        layer = urn.layout.layer
        free = [~urn.frozen[layer == z] for z in (1, 2)]
        coefficient = sum(0.3 * h[:, f].sum() for h, f in zip(hidden, free, strict=True))
        torch.testing.assert_close(activity, coefficient, rtol=1e-12, atol=1e-12)
        (out.square().sum() + activity).backward()
        (mlp(x).square().sum() + coefficient).backward()
        sets = [(layer == z).nonzero().flatten() for z in range(3)] + [port]
        for k, (before, now) in enumerate(pairwise(sets)):
            train = ~urn.frozen[now]
            found, wanted = urn.W.grad[now[:, None], before], mlp[2 * k].weight.grad
            torch.testing.assert_close(found[train], wanted[train], rtol=1e-10, atol=1e-10)
            torch.testing.assert_close(urn.b.grad[now][train], mlp[2 * k].bias.grad[train], rtol=1e-10, atol=1e-10)
        assert not urn.W.grad[~blocks(urn)].any()
        claim_half(accumulation, task)
    assert len(accumulation.claimed) and len(accumulation.free)


@pytest.mark.parametrize("every", [False, True])
def test_a_gradient_in_memory_used_again_is_the_fresh_one(every):
    urn = URN(Layout.feedforward(WIDTHS, D_IN, {"a": 3}), 3, generator=torch.Generator().manual_seed(0))
    for step, switch in enumerate((not every, every, every)):
        x = batch(dtype=torch.float32) + step
        found = []
        for urn.reuse_gradient_memory in (True, False):
            urn.W.grad = None
            out, _ = with_costs(urn, x, None, (0.0,) * 4, every=switch)
            out.square().sum().backward()
            found.append(urn.W.grad.clone())
        assert torch.equal(*found) and found[0].any()


@pytest.mark.parametrize("base", ["adam", "adamw", "sgd"])
def test_a_proximal_step_is_the_mlps_own_and_leaves_all_else_at_zero(base):
    accumulation = store(gain=1.5)
    claim_half(accumulation, "a")
    urn, _ = accumulation.task_network("b", RULE, torch.Generator().manual_seed(4))
    mlp, frozen, before = mlp_of(urn, "b"), urn.frozen, urn.W.data.clone()
    make = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW, "sgd": torch.optim.SGD}[base]
    theirs = make(mlp.parameters(), lr=0.01, weight_decay=0.1)
    ours = Proximal(urn, base, 0.01, weight_decay=0.1)
    layer, x = urn.layout.layer, batch()
    sets = [(layer == z).nonzero().flatten() for z in range(3)] + [urn.layout.ports["b"]]
    for _ in range(3):
        for optimizer, out in ((ours, urn(x, "b")), (theirs, mlp(x))):
            optimizer.zero_grad()
            out.square().sum().backward()
            optimizer.step()
        for k, (frm, to) in enumerate(pairwise(sets)):  # the MLP's claimed rows are put back
            mlp[2 * k].weight.data[frozen[to]] = before[to[:, None], frm][frozen[to]]
            mlp[2 * k].bias.data[frozen[to]] = urn.b.data[to][frozen[to]]
    assert torch.equal(urn.W.data[frozen], before[frozen]) and not torch.equal(urn.W.data, before)
    assert not urn.W.data[~blocks(urn)].any()
    for k, (frm, to) in enumerate(pairwise(sets)):
        torch.testing.assert_close(urn.W.data[to[:, None], frm], mlp[2 * k].weight.data, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("method", ["subgradient", "prox_adam", "prox_decoupled"])
def test_penalties_act_on_the_blocks_as_they_do_on_whole_rows(method):
    """The same network without layers, with their pattern as an ordinary mask."""
    layered = URN(Layout.feedforward(WIDTHS, D_IN, {"a": 3}), 3, generator=torch.Generator().manual_seed(0))
    plain = Layout(layered.layout.positions, layered.layout.inputs, layered.layout.ports)
    whole = URN(plain, 3, mask=blocks(layered), generator=torch.Generator())
    whole.set_parameters(plain, layered.W.data.clone(), layered.b.data.clone())
    x = batch(dtype=torch.float32)
    for urn in (layered, whole):
        optimizer = Proximal(urn, "adam", 0.01, penalty=Penalty(method, 0.02))
        for _ in range(4):
            optimizer.zero_grad()
            urn(x).square().sum().backward()
            if urn is whole:
                urn.W.grad[:4] = 0  # it lets the inputs read; nothing there may exist
            optimizer.step()
    torch.testing.assert_close(layered.W.data, whole.W.data, rtol=1e-5, atol=1e-6)


def test_moments_are_factored_in_each_block_by_itself():
    """Where nothing but a block's own sums is known of it, the estimate is Adafactor's for that block alone."""
    urn = URN(Layout.feedforward(WIDTHS, D_IN, {"a": 3}), 3, generator=torch.Generator().manual_seed(0))
    optimizer, exists = Proximal(urn, "adam", 0.01, penalty=Penalty("prox_decoupled", 2.0)), blocks(urn)
    for _ in range(3):
        optimizer.zero_grad()
        urn(batch(dtype=torch.float32)).square().sum().backward()
        optimizer.step()
    moment, zero = optimizer.state[urn.W]["exp_avg_sq"], urn.W.data == 0
    before = moment.clone()
    assert (zero & exists).any() and (~zero & exists).any()
    for _ in range(2):  # a second time changes nothing but the estimates' last bits and what they sum to
        optimizer.factor_moments()
        assert torch.equal(moment[~zero], before[~zero])
        for z in (1, 2, 3):
            rows, columns = (urn.layout.layer == z).nonzero().flatten(), (urn.layout.layer == z - 1).nonzero().flatten()
            old, new = before[rows[:, None], columns], moment[rows[:, None], columns]
            estimate = old.sum(1)[:, None] * old.sum(0) / old.sum()
            at = zero[rows[:, None], columns]
            torch.testing.assert_close(new[at], estimate[at])
        before = moment.clone()


# Claims and files -----------------------------------------------------------------------------------------------------


def test_claimed_neurons_keep_their_layer_and_old_answers_their_bits():
    accumulation = store(torch.float32)
    claim_half(accumulation, "a")
    x = batch(dtype=torch.float32)
    answers, owner = accumulation.network("a")(x, "a"), accumulation.owner.clone()
    accumulation.grow(2)
    claim_half(accumulation, "b")
    assert torch.equal(accumulation.network("a")(x, "a"), answers)
    assert torch.equal(accumulation.owner[: len(owner)] == 0, owner == 0) and (accumulation.owner == 1).any()
    W, _ = accumulation.full()
    z = accumulation.layout.layer
    assert W.any() and not W[z[:, None] != z + 1].any()
    copy = Accumulation.from_state_dict(accumulation.state_dict())
    assert copy.layout.layers == 2 and torch.equal(copy.network("b")(x, "b"), accumulation.network("b")(x, "b"))


def test_room_is_wanted_in_every_layer():
    accumulation = store()
    assert accumulation.missing() <= 0
    accumulation.owner[accumulation.layout.layer == 1] = 0
    assert accumulation.missing() == 2 * 1  # one neuron in each of two layers
    accumulation.grow(1)
    assert accumulation.missing() <= 0 and len(accumulation.free) == 5 + 2


# Curricula ------------------------------------------------------------------------------------------------------------


def curriculum(folder, *overrides: str) -> Curriculum:
    (folder / "layered.yaml").write_text(YAML)
    return load(folder / "layered.yaml", overrides)


def test_what_follows_from_layers_is_in_the_resolved_curriculum(tmp_path):
    made = curriculum(tmp_path)
    network = made.network
    assert (network.iterations, network.update, network.inputs_receive) == (3, "plain", False)
    assert all(task.iterations == 3 for task in made.tasks)
    (tmp_path / "again.yaml").write_text(dump(made))
    assert load(tmp_path / "again.yaml") == made


@pytest.mark.parametrize("learner", ["neural_pruning", "naive"])
def test_a_run_keeps_to_its_layers_and_reports_them_as_levels(tmp_path, monkeypatch, learner):
    monkeypatch.setattr("nesa.experiment.task_figures.draw", lambda *_: None)
    folder = run(
        curriculum(tmp_path, f"learner.name={learner}"),
        out=tmp_path,
        data=write_data(tmp_path / "data", negatives=True),
        command=["nesa"],
    )
    log = events(folder)
    state = torch.load(folder / "tasks" / "six" / "checkpoint.pt", weights_only=True)["learner"]
    if learner == "naive":
        z = make_layout(load(folder / "curriculum.yaml"), _sizes(5, 6)).layer
        assert state["W"].any() and not state["W"][z[:, None] != z + 1].any()
        return
    accumulation = Accumulation.from_state_dict(state)
    z = accumulation.layout.layer[accumulation.stored]
    assert accumulation.W.any() and not accumulation.W[z[:, None] != z + 1].any()
    for k, event in enumerate(event for event in log if event["event"] == "task_claimed"):
        claimed = accumulation.layout.layer[accumulation.owner == k]
        widths = [int((claimed == level).sum()) for level in (1, 2)]
        assert event["levels_claimed"][:2] == widths and (k or min(widths) > 0) and event["depth_graph"] == 3
        assert event["feedforward_share"] == 1.0
    assert event["neurons_reused"] > 0
    finished = next(event for event in log if event["event"] == "run_finished")
    assert finished["bwt"] == 0


def _sizes(*classes: int) -> list:
    from types import SimpleNamespace

    names, x = ("five", "six"), SimpleNamespace(x=torch.zeros(1, 64))
    return [SimpleNamespace(name=name, classes=n, train=x) for name, n in zip(names, classes, strict=True)]


# --- what follows from its layers -----------------------------------------------------------------------------------


def test_free_neurons_are_needed_in_each_layer_and_the_forecast_is_what_would_happen():
    """Tasks that claim 5 of 20 and 10 of 200 neurons: the first layer is full long before the second."""
    owned = Accumulation(Layout.feedforward((20, 200), 3, {"a": 2}), inputs_receive=False)

    def claim(k: int, first: int, second: int) -> None:
        for z, count in ((1, first), (2, second)):
            free = ((owned.layout.layer == z) & (owned.owner == FREE)).nonzero().flatten()
            owned.owner[free[:count]] = k

    claim(0, 5, 10)
    assert owned.missing() <= 0 and owned.more(0) == 3  # the next begins with 15, 10 and 5 free ones, and 3 are needed
    for k in (1, 2):
        claim(k, 5, 10)
        assert owned.missing() <= 0 and owned.more(k) == 3 - k
    claim(3, 5, 10)
    assert owned.missing() > 0 and owned.more(3) == 0
    assert owned.more(9) is None  # a task that claimed nothing forecasts nothing


def test_a_neuron_is_as_active_as_at_the_iteration_of_its_layer():
    """A bias that the data overrule: without data, at other l, the neuron would be active; it is not computed there."""
    urn = URN(Layout.feedforward((2, 2), 1, {"a": 2}), 3, "plain", "linear", dtype=torch.float64)
    one, two = ((urn.layout.layer == z).nonzero().flatten() for z in (1, 2))
    urn.W.data.zero_()
    urn.b.data.zero_()
    urn.W.data[one, 0], urn.W.data[two[0], one[0]], urn.W.data[two[1], one[1]] = 1.0, -9.0, 2.0
    urn.b.data[two] = 5.0
    found = mean_activity(urn, torch.tensor([[1.0], [2.0]], dtype=torch.float64), "a")
    assert found[one].tolist() == [1.5, 1.5] and found[two].tolist() == [0.0, 8.0]
