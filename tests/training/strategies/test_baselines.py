"""nesa.training.strategies.baselines: Avalanche's learners on one URN, with unequal heads, exact to resume."""

from copy import deepcopy
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy, kl_div

from nesa.config.curriculum import Augment, Curriculum, Input, Learner, Network, Penalties, Task, Training
from nesa.datasets.registry import Arrays
from nesa.errors import RunFolderError
from nesa.run_folder.checkpoint import save
from nesa.training.accumulation import Accumulation
from nesa.training.batches import Batches, InterleavedBatches, split_evenly
from nesa.training.evaluation import weight_penalty
from nesa.training.strategies.baseline_plugins import Replay
from nesa.training.strategies.baselines import BaselineLearner
from nesa.training.strategies.models import MISSING_CLASS, SharedURN
from nesa.training.task_data import TaskData, from_arrays
from urn.layout import Layout
from urn.network import URN
from urn.penalties import Penalty, early_loss, literal_penalty

D_IN, WIDTHS = 8, (5, 6, 10)
PARAMS = {
    "naive": {},
    "ewc": {"lambda": 1e4},
    "replay": {"memory": 100},
    "lwf": {"alpha": 5.0, "temperature": 2.0},
    "joint": {},
}


def task(index: int, n: int = 300, clouds: int = 1) -> TaskData:
    """Each class is some clouds in eight dimensions; other clouds in every task."""
    draw = np.random.default_rng(10 + index)
    classes = WIDTHS[index]
    cloud = np.arange(n) % (classes * clouds)
    centres = draw.normal(size=(classes * clouds, D_IN)) * 1.5
    x, y = (centres[cloud] + draw.normal(size=(n, D_IN)) * 0.5).astype(np.float32), cloud % classes
    arrays = Arrays(x, y, x[:300], y[:300], tuple(map(str, range(classes))), kind="vector", origin="drawn")
    return from_arrays(f"t{index}", index, arrays, seed=index)


TASKS = [task(k) for k in range(3)]
TANGLED = [
    task(k, n=600, clouds=4) for k in range(3)
]  # needs the hidden neurons, so the second task disturbs the first


def curriculum(learner: str, *, penalties=None, params=None, iterations=(3, 3, 3), **training) -> Curriculum:
    settings = {"optimizer": "adam", "lr": 5e-3, "batch_size": 32, "epochs": 8, "schedule": "constant"} | training
    shared = {"penalties": penalties or Penalties(weight=0.0, activity=0.0), "training": Training(**settings)}
    return Curriculum(
        name="three",
        input=Input((D_IN,)),
        network=Network(neurons=70, iterations=3),
        learner=Learner(name=learner, params=PARAMS[learner] if params is None else params),
        tasks=tuple(Task(name=f"t{k}", source="arrays", iterations=iterations[k], **shared) for k in range(3)),
        **shared,
    )


def rival(
    learner: str, report=lambda name, fields: None, dtype=torch.float32, tasks=TASKS, **options
) -> BaselineLearner:
    layout = Layout.flat(70, D_IN, {t.name: t.classes for t in tasks})
    config = curriculum(learner, **options)
    return BaselineLearner(config, tasks, Accumulation(layout, dtype=dtype), torch.device("cpu"), report)


def shared_urn(iterations=(3, 3, 3), update: str = "residual_both") -> SharedURN:
    layout = Layout.flat(60, D_IN, {f"t{k}": width for k, width in enumerate(WIDTHS)})
    generator = torch.Generator().manual_seed(1)
    return SharedURN(URN(layout, 3, update, "linear", generator=generator, dtype=torch.float64), iterations)


def literal_logits(model: SharedURN, x, t: int):
    """Task t's logits (B, D_out) by the update rule to the letter, for autograd."""
    name = model.names[t]
    return model.at(t).states(x, name)[-1][:, model.network.layout.ports[name]]


X = torch.randn(24, D_IN, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


# --- the network -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("t", [0, 1, 2])
def test_a_batch_of_one_task_gives_exactly_its_logits(t: int):
    model = shared_urn()
    logits = model(X, torch.full((24,), t))
    assert logits.shape == (24, WIDTHS[t])
    assert torch.equal(logits, model.network(X, f"t{t}")) and torch.equal(logits, model(X, t))
    assert torch.allclose(logits, literal_logits(model, X, t), atol=1e-12)


@pytest.mark.parametrize("iterations", [(3, 3, 3), (2, 4, 2)])
@pytest.mark.parametrize("update", ["plain", "residual_both"])
def test_mixed_batches_have_each_tasks_logits_and_gradients(iterations, update: str):
    model = shared_urn(iterations, update)
    labels = torch.arange(24) % 3
    y = torch.arange(24) % 5
    out = model(X, labels)
    assert out.shape == (24, 10)
    loss = cross_entropy(out, y)
    loss.backward()
    found = model.network.W.grad.clone(), model.network.b.grad.clone()
    model.zero_grad()
    losses = []
    for t in range(3):
        mine = labels == t
        literal = literal_logits(model, X[mine], t)
        assert torch.allclose(out[mine, : WIDTHS[t]], literal, atol=1e-12)
        assert bool((out[mine, WIDTHS[t] :] == MISSING_CLASS).all())
        losses.append(cross_entropy(literal, y[mine], reduction="sum"))
    expected = sum(losses) / 24
    assert float(loss.detach()) == pytest.approx(float(expected.detach()), abs=1e-12)
    expected.backward()
    assert torch.allclose(found[0], model.network.W.grad, atol=1e-12)
    assert torch.allclose(found[1], model.network.b.grad, atol=1e-12)


def test_two_passes_before_one_backward_have_the_sum_of_their_gradients():
    model = shared_urn()
    (model(X, 0).square().mean() + 3 * model(X[:7], 2).square().mean()).backward()
    found = model.network.W.grad.clone()
    model.zero_grad()
    (literal_logits(model, X, 0).square().mean() + 3 * literal_logits(model, X[:7], 2).square().mean()).backward()
    assert torch.allclose(found, model.network.W.grad, atol=1e-12)


@pytest.mark.parametrize("iterations", [(4, 4, 4), (3, 5, 4)])
def test_the_activity_term_of_a_mixed_batch(iterations):
    model = shared_urn(iterations)
    model.penalty = Penalty(activity=0.01)
    labels = torch.arange(24) % 3
    model.train()(X, labels)
    expected = 0.0
    for t in range(3):
        states = model.at(t).states(X[labels == t], f"t{t}")
        terms = literal_penalty(
            model.network.W, states, model.network.layout, model.penalty, last_iteration=False, ports=False
        )
        expected += float(terms.detach()) * int((labels == t).sum()) / 24  # a mean over the whole batch
    assert float(model.last_pass.activity.detach()) == pytest.approx(expected, rel=1e-9)
    model.eval()(X, labels)
    assert float(model.last_pass.activity.detach()) == 0


@pytest.mark.parametrize("iterations", [(4, 4, 4), (2, 5, 4)])
@pytest.mark.parametrize("mixed", [False, True])
def test_the_early_loss_of_a_batch(iterations, mixed: bool):
    model = shared_urn(iterations)
    model.penalty = Penalty(early_readout=0.5)
    labels = torch.arange(24) % 3 if mixed else torch.ones(24, dtype=torch.long)
    y = torch.arange(24) % 2
    out = model.train()(X, labels)
    found = early_loss(cross_entropy, model.last_pass.early, y).item()
    expected = 0.0
    for t in labels.unique().tolist():
        mine = labels == t
        readouts = model.at(t).readouts(X[mine], f"t{t}")
        early = readouts[1:-1] if len(readouts) > 2 else readouts[-1:]
        losses = [float(cross_entropy(read, y[mine]).detach()) for read in early]
        expected += sum(losses) / len(losses) * int(mine.sum()) / 24
        width = readouts[-1].shape[1]
        assert torch.allclose(out[mine, :width], readouts[-1], atol=1e-12)
    assert found == pytest.approx(expected, rel=1e-6)
    model.eval()(X, labels)
    assert not model.last_pass.early


def test_without_labels_every_task_seen_in_training_answers():
    model = shared_urn((3, 5, 3))
    model.penalty = Penalty(activity=1.0)
    model.train()(X, 1)
    activity = model.last_pass.activity
    for label in (2, 0):
        model.adaptation(type("Experience", (), {"task_labels": [label]}))
    answers = model(X, None)
    assert sorted(answers) == [0, 2]
    for t, logits in answers.items():
        assert torch.allclose(logits, literal_logits(model, X, t), atol=1e-12)
    assert model.last_pass.activity is activity  # a look at old answers is not activity of the batch


def test_a_copy_keeps_its_answers_when_the_model_moves_on():
    model = shared_urn()
    model(X, torch.arange(24) % 3).sum().backward()
    twin = deepcopy(model)
    before = twin(X, 2)
    assert torch.equal(before, model(X, 2))
    with torch.no_grad():
        model.network.W.mul_(0.5)
    assert torch.equal(twin(X, 2), before) and not torch.equal(model(X, 2), before)
    assert twin.names == model.names


# --- batches ---------------------------------------------------------------------------------------------------------


def test_together_lays_parts_under_one_another_and_begins_short_ones_again():
    parts = [Batches(TASKS[0], TASKS[0].train, 30, 1), Batches(TASKS[1], TASKS[1].train, 100, 2)]
    batches = list(InterleavedBatches(parts, len(parts[0])))
    assert len(batches) == 9 == len(InterleavedBatches(parts, 9))
    assert all(t.tolist() == [0] * 30 + [1] * 100 for _, _, t in batches)
    first = torch.cat([y[:30] for _, y, _ in batches])
    assert torch.equal(first.bincount(), TASKS[0].train.y.bincount())  # every sample once
    assert not torch.equal(batches[0][0][30:], batches[2][0][30:])  # 270 samples: two batches, then another order


@pytest.mark.parametrize(("B", "parts", "expected"), [(7, 3, [3, 2, 2]), (8, 1, [8]), (2, 3, [1, 1, 1])])
def test_shares(B: int, parts: int, expected):
    assert split_evenly(B, parts) == expected


class Spy:
    """Takes the batches of a learner's loop as they are trained on."""

    def __init__(self, learner: BaselineLearner):
        self.batches: list[list[torch.Tensor]] = []
        forward = learner.model.forward

        def noted(x, labels):
            if labels is not None and learner.model.training and torch.is_grad_enabled():
                self.batches.append([x, labels])
            return forward(x, labels)

        learner.model.forward = noted


def test_replay_trains_on_as_many_remembered_samples_as_new_ones():
    learner = rival("replay", params={"memory": 64}, epochs=1)
    for k in (0, 1):
        learner.train(k)
    memory = learner.plugin
    assert isinstance(memory, Replay)
    remembered = memory.remembered()
    assert {t: len(rows.unique()) for t, rows in remembered.items()} == {0: 32, 1: 32}
    spy = Spy(learner)
    learner.train(2)
    assert len(spy.batches) == 270 // 32 == learner.steps(2)
    for x, labels in spy.batches:
        assert labels.tolist() == [2] * 32 + [0] * 16 + [1] * 16
        for t in (0, 1):
            allowed = TASKS[t].prepare(TASKS[t].train.x[remembered[t]])
            assert bool((x[labels == t][:, None] == allowed[None]).all(2).any(1).all())
    assert {t: len(rows) for t, rows in memory.remembered().items()} == {0: 22, 1: 21, 2: 21}


def test_replay_draws_its_memory_from_the_seed_alone():
    first, second, other = (rival("replay", epochs=1) for _ in range(3))
    other.curriculum = other.plugin.curriculum = replace(other.curriculum, seed=1)
    for learner in (first, second, other):
        before = torch.random.get_rng_state()
        learner.train(0)
        after = torch.random.get_rng_state()
        torch.rand(3)  # whatever else has used the global generator
    rows = [learner.plugin.remembered()[0].tolist() for learner in (first, second, other)]
    assert rows[0] == rows[1] != rows[2]
    assert torch.equal(before, after)


def test_a_memory_smaller_than_the_number_of_tasks():
    learner = rival("replay", params={"memory": 1}, epochs=1)
    for k in range(3):
        learner.train(k)
    assert sum(map(len, learner.plugin.remembered().values())) == 1


def test_remembered_images_are_augmented_as_their_own_task_says():
    learner = rival("replay", epochs=1)
    images = tuple(replace(data, shape=(1, 2, 4)) for data in TASKS)
    tasks = (replace(learner.curriculum.tasks[0], augment=Augment(flip=True)), *learner.curriculum.tasks[1:])
    learner.plugin.curriculum = replace(learner.curriculum, tasks=tasks)
    learner.plugin.tasks = images
    learner.train(0)
    rows = learner.plugin.remembered()[0]
    spy = Spy(learner)
    learner.train(1)
    plain = TASKS[0].prepare(TASKS[0].train.x[rows])
    mirrored = plain.reshape(-1, 2, 4).flip(2).reshape(-1, 8)
    seen = torch.cat([x[labels == 0] for x, labels in spy.batches])
    is_plain, is_mirrored = ((seen[:, None] == some[None]).all(2).any(1) for some in (plain, mirrored))
    assert bool((is_plain | is_mirrored).all()) and 0.3 < float(is_mirrored.float().mean()) < 0.7


def test_joint_batches_are_balanced_and_begin_from_the_first_weights():
    learner, naive = rival("joint", epochs=1), rival("naive", epochs=1)
    start = learner.model.network.W.data.clone()
    learner.train(0)
    naive.train(0)
    assert torch.equal(learner.model.network.W.data, naive.model.network.W.data)  # one task is one task
    learner.train(1)
    after_two = learner.model.network.W.data.clone()
    again = rival("joint", epochs=1)
    assert torch.equal(again.model.network.W.data, start)
    seen = []
    fresh = again._fresh

    def spied():
        model = fresh()
        again.model = model
        seen.append(Spy(again))
        return model

    again._fresh = spied
    again.train(1)
    assert torch.equal(again.model.network.W.data, after_two)  # what came before does not matter
    (spy,) = seen
    assert len(spy.batches) == 270 // 16 == again.steps(1)
    assert all(labels.tolist() == [0] * 16 + [1] * 16 for _, labels in spy.batches)


# --- what each learner does ------------------------------------------------------------------------------------------


def learned(learner: str) -> tuple[BaselineLearner, float]:
    """Trained on two tasks, and how much of the first the second has cost (0..1)."""
    made = rival(learner, tasks=TANGLED, epochs=12, lr=0.03)
    made.train(0)
    before = made.accuracy(0, "test")
    assert before > 0.9
    made.train(1)
    return made, before - made.accuracy(0, "test")


@pytest.fixture(scope="module")
def outcomes() -> dict[str, tuple[BaselineLearner, float]]:
    return {name: learned(name) for name in PARAMS}


def test_naive_forgets(outcomes):
    learner, lost = outcomes["naive"]
    assert lost > 0.1 and learner.accuracy(1, "test") > 0.9


@pytest.mark.parametrize("name", ["ewc", "replay", "lwf", "joint"])
def test_the_others_forget_less_and_learn_too(outcomes, name: str):
    learner, lost = outcomes[name]
    assert lost < outcomes["naive"][1] - 0.03
    assert learner.accuracy(1, "test") > 0.8


@pytest.mark.parametrize(("name", "params"), [("ewc", {"lambda": 0.0}), ("lwf", {"alpha": 0.0, "temperature": 2.0})])
def test_strength_zero_is_naive(name: str, params):
    without, naive = rival(name, params=params, epochs=2), rival("naive", epochs=2)
    for k in (0, 1):
        without.train(k)
        naive.train(k)
    assert torch.equal(without.model.network.W.data, naive.model.network.W.data)


def test_ewc_of_a_huge_strength_hardly_moves_what_matters():
    moved = {}
    for strength in (0.0, 1e7):
        learner = rival("ewc", params={"lambda": strength}, epochs=3)
        learner.train(0)
        kept = learner.model.network.W.data.clone()
        importance = learner.plugin.importances[0]["network.W"].data.clone()
        learner.train(1)
        matters = importance >= importance.quantile(0.9)
        moved[strength] = float((learner.model.network.W.data - kept)[matters].abs().mean())
    assert moved[1e7] < 0.1 * moved[0.0]


def test_ewc_importances_are_mean_squares_of_batch_gradients():
    learner = rival("ewc", dtype=torch.float64, epochs=1)
    learner.train(0)
    urn, data = learner.model.network, TASKS[0]
    x, y = data.prepare(data.train.x).double(), data.train.y
    squares, batches = torch.zeros_like(urn.W), 0
    for first in range(0, len(x), 32):
        urn.zero_grad()
        states = urn.states(x[first : first + 32], data.name)
        cross_entropy(states[-1][:, urn.layout.ports[data.name]], y[first : first + 32]).backward()
        squares, batches = squares + urn.W.grad**2, batches + 1
    found = learner.plugin.importances[0]["network.W"].data
    assert torch.allclose(found, (squares / batches).detach().to(found.dtype), rtol=1e-4, atol=1e-9)


def test_lwf_distils_each_old_head():
    """The loss that Avalanche adds, against its formula; unequal heads, so no unit may leak into another task's."""
    learner = rival("lwf", epochs=1)
    for k in (0, 1):
        learner.train(k)
    model, lwf = learner.model.train(), learner.plugin.lwf
    model.known_train_tasks_labels |= {2}
    with torch.no_grad():
        model.network.W.mul_(0.9)  # away from the teacher
    x = TASKS[2].prepare(TASKS[2].train.x[:32])
    expected = 0.0
    for t in (0, 1):
        student, teacher = model(x, t) / 2.0, lwf.prev_model(x, t) / 2.0
        assert student.shape == (32, WIDTHS[t])
        loss = kl_div(student.log_softmax(1), teacher.softmax(1), reduction="batchmean")
        expected += 5.0 * float(loss.detach())
    assert expected > 0.01
    assert float(lwf(x, model(x, 2), model).detach()) == pytest.approx(expected, rel=1e-4)


def test_penalties_act_on_rivals_as_on_the_pruning_learner():
    heard: dict[str, list[dict]] = {}
    for name, penalties in {
        "none": Penalties(weight=0.0, activity=0.0),
        "weight": Penalties(weight=0.3, activity=0.0),
        "activity": Penalties(weight=0.0, activity=0.03),
    }.items():
        events: list[dict] = []
        learner = rival("naive", lambda _, fields, out=events: out.append(fields), penalties=penalties)
        learner.train(0)
        heard[name] = [fields for fields in events if "epoch" in fields]
    last = {name: events[-1] for name, events in heard.items()}
    assert len(heard["none"]) == 8
    needed = {"task", "epoch", "step", "loss", "train_accuracy", "penalty_activity", "seconds", "val_accuracy"}
    needed |= {"penalty_weight", "live_neurons", "live_synapses"}
    assert needed <= set(last["none"])
    assert last["none"]["live_synapses"] == 70 * (70 - 21)
    assert last["weight"]["live_synapses"] < 0.9 * last["none"]["live_synapses"]  # exact zeros
    assert heard["weight"][0]["live_synapses"] > last["weight"]["live_synapses"]
    assert last["none"]["penalty_weight"] == 0 < last["weight"]["penalty_weight"]
    assert heard["activity"][-1]["penalty_activity"] < 0.8 * heard["activity"][0]["penalty_activity"]


@pytest.mark.parametrize("penalties", [Penalties(weight=0.0, literal=True), Penalties(weight=0.0, ports=True)])
@pytest.mark.parametrize("name", ["naive", "joint"])
def test_outputs_send_nothing_under_any_penalty(name: str, penalties: Penalties):
    """The full products of these penalties see the outputs' columns of W: training must leave them at zero."""
    learner = rival(name, penalties=penalties, epochs=1)
    for k in (0, 1):
        learner.train(k)
    outputs = torch.cat([learner.model.network.layout.ports[port] for port in learner.model.names])
    assert not bool(learner.model.network.W.data[:, outputs].any())


def test_the_weight_penalty_that_is_reported():
    urn = URN(Layout.grid((4, 3, 3), 1, {"a": 2}), 2, generator=torch.Generator().manual_seed(0))
    penalty = Penalty(weight=0.2, synapse_length=0.5, beta=4.0)
    states = [torch.zeros(1, urn.S)] * 3
    assert weight_penalty(urn, penalty) == pytest.approx(
        float(literal_penalty(urn.W.data, states, urn.layout, penalty))
    )


# --- resuming --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", list(PARAMS))
def test_a_resumed_rival_equals_an_unbroken_one(name: str, tmp_path):
    unbroken, broken = rival(name, epochs=2), rival(name, epochs=2)
    for k in range(3):
        unbroken.train(k)
    for k in range(2):
        broken.train(k)
    save(tmp_path / "checkpoint.pt", broken.state_dict())
    torch.manual_seed(99)
    resumed = rival(name, epochs=2)
    resumed.load_state_dict(torch.load(tmp_path / "checkpoint.pt", weights_only=True))
    assert resumed.accuracy(0, "test") == broken.accuracy(0, "test")
    resumed.train(2)
    assert torch.equal(resumed.model.network.W.data, unbroken.model.network.W.data)
    assert torch.equal(resumed.model.network.b.data, unbroken.model.network.b.data)


def test_a_checkpoint_of_another_learner_is_refused():
    state = rival("naive").state_dict()
    with pytest.raises(RunFolderError, match="learner naive with 70 neurons, the curriculum asks for ewc"):
        rival("ewc").load_state_dict(state)
    smaller = {**state, "W": state["W"][:60, :60], "b": state["b"][:60]}
    with pytest.raises(RunFolderError, match="naive with 60 neurons"):
        rival("naive").load_state_dict(smaller)
    with pytest.raises(RunFolderError, match="neural_pruning"):
        rival("naive").load_state_dict({"owner": torch.zeros(3)})


def test_fixed_input_rows_stay_zero():
    layout = Layout.flat(70, D_IN, {t.name: t.classes for t in TASKS})
    source = Accumulation(layout, inputs_receive=False)
    learner = BaselineLearner(
        curriculum("naive", epochs=1), TASKS, source, torch.device("cpu"), lambda name, fields: None
    )
    start = learner.model.network.W.data.clone()
    learner.train(0)
    assert not bool(learner.model.network.W.data[layout.inputs].any())
    assert not torch.equal(learner.model.network.W.data, start)
