"""The row of the accumulation table, on two claimed tasks whose structure is known by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from nesa.training import evaluation as module
from nesa.training.accumulation import Accumulation, Dynamics
from nesa.training.evaluation import TaskMeasures, accuracy, measure, observe, task_accuracy, with_weights
from nesa.training.task_data import Samples, TaskData
from urn.layout import Distance, Layout
from urn.surgery import keep_only

RULE = Dynamics(3, "residual_input", "linear")


def task(name: str, index: int) -> TaskData:
    """The label is whether the first of two components is positive; samples are kept as they are (mean 0, std 1)."""
    generator = torch.Generator().manual_seed(index)
    parts = []
    for n in (40, 20, 30):
        y = torch.arange(n) % 2
        u = (2.0 * y - 1) * (0.5 + torch.rand(n, generator=generator))
        parts.append(Samples(torch.stack([u, torch.randn(n, generator=generator)], 1), y))
    return TaskData(name, index, ("no", "yes"), *parts, 0.0, 1.0, None, "arrays", False)


TASKS = [task("a", 0), task("b", 1)]


def claim(store: Accumulation, name: str, synapses: dict[tuple[int, int], float], biases: dict[int, float]) -> None:
    """Claims the free neurons among `synapses`, given by global indices."""
    task_network, index = store.task_network(name, RULE)
    place = {int(i): k for k, i in enumerate(index)}
    free = ~task_network.frozen
    task_network.W.data[free], task_network.b.data[free] = 0.0, 0.0
    for (to, frm), weight in synapses.items():
        task_network.W.data[place[to], place[frm]] = weight
    for i, bias in biases.items():
        task_network.b.data[place[i]] = bias
    used = task_network.frozen | torch.tensor([i in {j for pair in synapses for j in pair} for i in index.tolist()])
    used[task_network.layout.inputs] = used[task_network.layout.ports[name]] = True
    kept = used.nonzero().flatten()
    keep_only(task_network, kept)
    store.claim(name, RULE, task_network, index[kept])


@pytest.fixture
def store() -> Accumulation:
    """Neurons: 0, 1 inputs; 2 to 6 hidden; 7, 8 the port of a; 9, 10 the port of b.

    a: 2 = relu(u), 8 reads 2; 7 is 0.25.        b: 3 reads 2 of a, 10 reads 3 twice; 9 is 0.25.
    """
    store = Accumulation(Layout.flat(11, 2, {"a": 2, "b": 2}))
    claim(store, "a", {(2, 0): 1.0, (8, 2): 1.0}, {7: 0.25})
    claim(store, "b", {(3, 2): 1.0, (10, 3): 2.0}, {9: 0.25})
    return store


def measures(store: Accumulation, k: int) -> TaskMeasures:
    return measure(store, TASKS[k], 0.01, Distance(), seed=0)


def row(store: Accumulation, k: int) -> dict:
    return measures(store, k).row


def test_accuracy_counts_right_answers_whatever_the_batch(store, monkeypatch):
    network, data = store.network("a"), TASKS[0]
    assert task_accuracy(network, data, "test") == 1.0
    wrong = torch.where(torch.arange(30) < 3, 1 - data.test.y, data.test.y)
    monkeypatch.setattr(module, "BATCH", 7)
    assert accuracy(network, data.test.x, wrong, "a", data.prepare) == pytest.approx(0.9)


def test_samples_are_normalised_before_they_reach_the_network(store):
    data = replace(TASKS[0], mean=100.0)
    assert task_accuracy(store.network("a"), data, "test") == 0.5


def test_readouts_and_activity_over_batches(store, monkeypatch):
    network, data = store.network("b"), TASKS[1]
    activity, scores = observe(network, data, data.val)
    assert scores == [0.5, 0.5, 1.0]  # u takes three iterations from the input over 2 and 3 to the port
    states = network.states(data.val.x, "b")
    expected = torch.stack([N.abs().double().mean(0) for N in states])
    assert torch.allclose(activity.mean, expected, rtol=1e-6)
    monkeypatch.setattr(module, "BATCH", 7)
    again, same = observe(network, data, data.val)
    assert same == scores and torch.allclose(again.mean, expected, rtol=1e-6)


def test_the_first_task(store):
    found = row(store, 0)
    assert found["accuracy_test"] == found["accuracy_val"] == 1.0
    assert (found["neurons_claimed"], found["neurons_reused"], found["reuse_share"]) == (1, 0, 0.0)
    assert found["accuracy_cut"] is None  # there is nothing earlier to cut
    assert found["readout_scores"] == [0.5, 1.0, 1.0] and found["depth_readout"] == 2
    assert found["depth_mean"] == pytest.approx(2.0) and found["depth_graph"] == 2
    assert tuple(found["levels_claimed"]) == (1, 0, 0) and tuple(found["levels_reused"]) == (0, 0, 0)
    assert (found["feedforward_share"], found["lateral_share"], found["feedback_share"]) == (1.0, 0.0, 0.0)
    assert found["recurrent_neurons"] == 0


def test_the_second_task(store):
    found = row(store, 1)
    assert found["accuracy_test"] == found["accuracy_val"] == 1.0
    assert (found["neurons_claimed"], found["neurons_total"], found["neurons_free"]) == (1, 2, 3)
    assert found["claimed_share"] == pytest.approx(2 / 5)
    assert found["neurons_reused"] == 1 and found["reuse_share"] == pytest.approx(1 / 3)
    assert found["accuracy_cut"] == 0.5  # without 2 nothing of the image arrives
    assert found["readout_scores"] == [0.5, 0.5, 1.0] and found["depth_readout"] == 3
    assert found["depth_mean"] == pytest.approx(3.0) and found["depth_graph"] == 3
    assert tuple(found["levels_claimed"]) == (0, 1, 0) and tuple(found["levels_reused"]) == (1, 0, 0)
    assert found["skip_share"] == 0.0
    members = store.find("b").members.tolist()
    levels = dict(zip(members, measures(store, 1).levels.tolist(), strict=True))
    assert (levels[2], levels[3]) == (1, 2)


def test_measuring_changes_nothing(store):
    W, b = (tensor.clone() for tensor in store.full())
    row(store, 0)
    row(store, 1)
    assert torch.equal(store.full()[0], W) and torch.equal(store.full()[1], b)


def test_the_same_seed_the_same_row(store):
    one, two = row(store, 1), row(store, 1)
    assert {k: v for k, v in one.items() if not isinstance(v, torch.Tensor)} == {
        k: v for k, v in two.items() if not isinstance(v, torch.Tensor)
    }


def test_a_copy_with_other_weights_leaves_the_original_alone(store):
    network = store.network("b")
    before = network.W.data.clone()
    copy = with_weights(network, torch.zeros_like(before))
    assert torch.equal(network.W.data, before) and not copy.W.any()
    assert copy(TASKS[1].test.x, "b").tolist() == [[0.25, 0.0]] * 30
