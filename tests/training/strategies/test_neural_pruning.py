"""The plugin step by step: hold-out, penalties, ramp, compaction, settling, healing, reports, and what it refuses.

Old answers are held in test_exactness.py, the store in test_accumulation.py.
"""

from __future__ import annotations

import math

import avalanche_run
import pytest
import torch
from avalanche_run import Naive, experiences
from torch import nn

from nesa.errors import RunFailed, UserError
from nesa.training.accumulation import Accumulation, Dynamics
from nesa.training.evaluation import accuracy
from nesa.training.strategies.avalanche_api import SupervisedPlugin
from nesa.training.strategies.models import MISSING_CLASS, GrowingURN
from nesa.training.strategies.neural_pruning import NeuralPruning
from urn.layout import Layout
from urn.optim import Proximal
from urn.penalties import Penalty

D_IN, B, EPOCHS = 6, 10, 3
WIDTHS = {"a": 3, "b": 4}


def samples(k: int, n: int = 60, dtype=torch.float32) -> tuple[torch.Tensor, torch.Tensor]:
    classes = list(WIDTHS.values())[k]
    generator = torch.Generator().manual_seed(30 + k)
    y = torch.arange(n) % classes
    x = 2 * torch.randn(classes, D_IN, generator=generator)[y] + 0.4 * torch.randn(n, D_IN, generator=generator)
    return x.to(dtype), y


def stream(labels=((0,), (1,)), dtype=torch.float32) -> list:
    """Experiences with the given task labels; k-th data for the k-th experience."""
    return experiences([samples(k % 2, dtype=dtype) for k in range(len(labels))], labels)


def model(dtype=torch.float32, I: int = 3, S: int = 45) -> GrowingURN:
    accumulation = Accumulation(Layout.flat(S, D_IN, WIDTHS), dtype=dtype)
    learner = GrowingURN(accumulation, Dynamics(I, "residual_output", "linear"))
    return learner.to(dtype)


def plugin(**options) -> NeuralPruning:
    quiet = {"on_event": lambda name, fields: None, "heal_epochs": 1, "margin": 0.05}
    return NeuralPruning(options.pop("penalty", None), **(quiet | options))


def naive(urn: GrowingURN, plugins, optimizer=None, epochs: int = EPOCHS) -> Naive:
    optimizer = optimizer or torch.optim.Adam(urn.parameters(), 0.01)
    return avalanche_run.naive(urn, plugins, optimizer, size=B, epochs=epochs)


class Notes(SupervisedPlugin):
    """Calls a function after every step, or at a named moment."""

    def __init__(self, note, moment: str = "after_update"):
        super().__init__()
        setattr(self, moment, lambda strategy, **kwargs: note(strategy))


# --- validation data -------------------------------------------------------------------------------------------------


def test_without_validation_data_a_tenth_is_held_out():
    sizes, pruning = [], plugin()
    strategy = naive(model(), [pruning, Notes(lambda s: sizes.append(len(s.adapted_dataset)), "before_training_exp")])
    first, _ = stream()
    strategy.train(first)
    x, y = pruning._held_out
    assert sizes == [54] and x.shape == (6, D_IN) and y.shape == (6,)
    rows = {tuple(row) for row in samples(0)[0].tolist()}
    held = {tuple(row) for row in x.tolist()}
    trained = {tuple(first.dataset[i][0].tolist()) for i in range(60)} & rows
    assert held < rows and len(trained - held) == 54
    again = plugin()
    naive(model(), [again]).train(stream()[0])
    assert torch.equal(again._held_out[0], x)
    other = plugin(seed=1)
    naive(model(), [other]).train(stream()[0])
    assert not torch.equal(other._held_out[0], x)


def test_the_held_out_samples_are_not_trained_on():
    seen = []
    pruning = plugin()
    strategy = naive(model(), [pruning, Notes(lambda s: seen.append(s.mb_x.clone()))])
    strategy.train(stream()[0])
    seen = {tuple(row) for row in torch.cat(seen).tolist()}
    assert len(seen) == 54 and not seen & {tuple(row) for row in pruning._held_out[0].tolist()}


def test_given_validation_data_are_used_and_nothing_is_held_out():
    x, y = samples(0, 33)
    asked, sizes = [], []
    pruning = plugin(validation=lambda experience: asked.append(experience.current_experience) or (x, y))
    strategy = naive(model(), [pruning, Notes(lambda s: sizes.append(len(s.adapted_dataset)), "before_training_exp")])
    strategy.train(stream()[0])
    assert sizes == [60] and asked == [0]
    assert pruning.result.score_before * 33 == pytest.approx(round(pruning.result.score_before * 33))


# --- penalties -------------------------------------------------------------------------------------------------------


def weights_along_a_task(optimizer, penalty: Penalty, **options) -> list[torch.Tensor]:
    torch.manual_seed(4)  # Avalanche's loader draws the order from the global generator
    urn = model(torch.float64)
    seen: list[torch.Tensor] = []
    strategy = naive(
        urn,
        [plugin(penalty=penalty, **options), Notes(lambda s: seen.append(urn.task_network.W.data.clone()))],
        optimizer(urn),
    )
    strategy.train(stream(dtype=torch.float64)[0])
    return seen


def test_moments_are_condensed_at_ends_of_epochs_so_many_steps_apart(monkeypatch):
    """An epoch has 6 steps here: at least 10 steps are two epochs, and healing is over before it has come to that."""
    steps: list[int] = []
    monkeypatch.setattr("nesa.training.strategies.neural_pruning.FACTOR_INTERVAL", 10)
    monkeypatch.setattr(Proximal, "factor_moments", lambda self: steps.append(int(self.state[self.network.W]["step"])))
    penalty = Penalty("prox_decoupled", weight=0.3, activity=0.01)
    weights_along_a_task(
        lambda urn: Proximal(urn.task_network, "adam", 0.01, factored_moments=True), penalty, compaction=False
    )
    assert steps == list(range(12, 6 * EPOCHS + 1, 12)) and steps


@pytest.mark.parametrize("method", ["subgradient", "prox_decoupled"])
@pytest.mark.parametrize("length", [0.0, 0.05])
def test_any_torch_optimiser_gets_the_same_penalty_as_proximal(method, length):
    """The plugin adds prox or subgradient, ramp and hold to torch's Adam: step by step the same weights."""
    penalty = Penalty(method, weight=0.3, synapse_length=length, activity=0.01)
    one = weights_along_a_task(lambda urn: torch.optim.Adam(urn.parameters(), 0.01), penalty, compaction=False)
    two = weights_along_a_task(lambda urn: Proximal(urn.task_network, "adam", 0.01), penalty, compaction=False)
    assert len(one) == len(two) == 6 * (EPOCHS + 1)
    for ours, theirs in zip(one, two, strict=True):
        assert ours.shape == theirs.shape
        assert torch.allclose(ours, theirs, rtol=1e-6, atol=1e-9)
    bare = weights_along_a_task(lambda urn: torch.optim.Adam(urn.parameters(), 0.01), Penalty(), compaction=False)
    assert not torch.allclose(bare[17], one[17], atol=1e-3)


def test_the_weight_penalty_ramps_up_and_is_off_while_healing():
    ramps = []
    urn = model()
    optimizer = Proximal(urn.task_network, "adam", 0.01)
    pruning = plugin(penalty=Penalty(weight=0.1), ramp=0.5)
    strategy = naive(urn, [pruning, Notes(lambda s: ramps.append(optimizer.ramp))], optimizer)
    strategy.train(stream()[0])
    total = 6 * EPOCHS  # 54 samples in batches of 10, the last one short
    assert ramps == [*(pytest.approx(min(1.0, step / (total / 2))) for step in range(total)), *[0.0] * 6]


def test_no_ramp_is_the_full_penalty_from_the_first_step():
    ramps = []
    urn = model()
    optimizer = Proximal(urn.task_network, "adam", 0.01)
    pruning = plugin(penalty=Penalty(weight=0.1), ramp=0.0, heal_epochs=0)
    naive(urn, [pruning, Notes(lambda s: ramps.append(optimizer.ramp))], optimizer).train(stream()[0])
    assert set(ramps) == {1.0}


def test_the_loss_holds_the_activity_term_until_healing():
    """strategy.loss - cross-entropy = sum over l of c_N / B * sum |N^(l)| over free hidden neurons."""
    urn, found = model(torch.float64, I=4), []
    penalty = Penalty(activity=0.02, activity_growth=1.0)

    def note(strategy) -> None:
        task_network, x = urn.task_network, strategy.mb_x
        with torch.no_grad():
            states = task_network.states(x, "a")
            task_loss = nn.functional.cross_entropy(states[-1][:, task_network.layout.ports["a"]], strategy.mb_y)
            hidden = task_network.layout.hidden
            activity = sum(0.02 * level / len(x) * states[level][:, hidden].abs().sum() for level in (1, 2, 3))
        found.append((strategy.loss.item() - task_loss.item(), activity.item()))

    strategy = naive(urn, [plugin(penalty=penalty), Notes(note, "after_backward")])
    strategy.train(stream(dtype=torch.float64)[0])
    training, healing = found[: 6 * EPOCHS], found[6 * EPOCHS :]
    # Avalanche adds up the loss in float32
    assert all(extra == pytest.approx(activity, rel=1e-4, abs=1e-6) and extra > 0.01 for extra, activity in training)
    assert len(healing) == 6 and all(extra == pytest.approx(0.0, abs=1e-6) for extra, _ in healing)


@pytest.mark.parametrize("I", [1, 2, 4])
def test_a_share_of_the_loss_is_taken_at_early_readouts_while_healing_too(I: int):
    """(1 - share) * cross-entropy at I + share * its mean over l = 2..I-1; nothing lies before the last when I <= 2."""
    urn, found, share = model(torch.float64, I=I), [], 0.75

    def note(strategy) -> None:
        with torch.no_grad():
            readouts = urn.task_network.readouts(strategy.mb_x, "a")
            losses = [nn.functional.cross_entropy(read, strategy.mb_y).item() for read in readouts]
        early = sum(losses[1:-1]) / len(losses[1:-1]) if I > 2 else losses[-1]
        found.append((strategy.loss.item(), (1 - share) * losses[-1] + share * early, losses[-1]))

    naive(urn, [plugin(penalty=Penalty(early_readout=share)), Notes(note, "after_backward")]).train(
        stream(dtype=torch.float64)[0]
    )
    assert len(found) == 6 * (EPOCHS + 1)
    assert all(loss == pytest.approx(expected, rel=1e-5) for loss, expected, _ in found)
    assert I <= 2 or any(abs(loss - last) > 1e-3 for loss, _, last in found)


def test_evaluation_has_no_activity_term():
    urn = model()
    strategy = naive(urn, [plugin(penalty=Penalty(activity=5.0))])
    strategy.train(stream()[0])
    urn.begin(1, None)
    urn.penalty = Penalty(activity=5.0)
    urn.eval()
    urn(samples(1)[0], 1)
    assert urn.last_pass.activity.item() == 0.0
    urn.train()
    urn(samples(1)[0], 1)
    assert urn.last_pass.activity.item() > 0


def test_prox_adam_needs_the_moments():
    strategy = naive(model(), [plugin(penalty=Penalty("prox_adam", weight=0.1))])
    with pytest.raises(UserError, match=r"prox_adam needs the moments of urn\.optim\.Proximal, not of Adam"):
        strategy.train(stream()[0])


# --- optimiser state and learning rate -------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["adam", "proximal"])
def test_no_state_is_carried_from_task_to_task(kind):
    """Avalanche does not clear it, and moments move weights that have no gradient."""
    urn, steps = model(), []
    optimizer = Proximal(urn.task_network) if kind == "proximal" else torch.optim.Adam(urn.parameters(), 0.01)

    def first_steps(strategy) -> None:
        if urn.task_network.W in optimizer.state:
            steps.append(int(optimizer.state[urn.task_network.W]["step"]))

    strategy = naive(urn, [plugin(compaction=False), Notes(first_steps)], optimizer)
    for experience in stream():
        strategy.train(experience)
        assert not optimizer.state
    assert steps == [*range(1, 19), *range(1, 7)] * 2
    assert [p is q for p, q in zip(optimizer.param_groups[0]["params"], urn.parameters(), strict=True)] == [True] * 2


def test_healing_has_a_learning_rate_of_its_own_and_gives_it_back():
    rates, urn = [], model()
    pruning = plugin(heal_lr=0.5)
    strategy = naive(urn, [pruning, Notes(lambda s: rates.append(s.optimizer.param_groups[0]["lr"]))])
    strategy.train(stream()[0])
    assert rates[: 6 * EPOCHS] == [0.01] * 6 * EPOCHS
    cosine = [0.01 * 0.5 * 0.5 * (1 + math.cos(math.pi * step / 6)) for step in range(6)]
    assert rates[6 * EPOCHS :] == pytest.approx(cosine)
    assert strategy.optimizer.param_groups[0]["lr"] == 0.01


# --- settling and healing --------------------------------------------------------------------------------------------


def test_settling_and_healing_are_reported():
    told = []
    x, y = samples(0)
    pruning = plugin(
        validation=lambda experience: (x, y),
        on_event=lambda name, fields: told.append((name, fields)),
        before_pruning=lambda experience: {"note": experience.current_experience},
        extra=lambda experience: {"mean": 0.5},
    )
    urn = model()
    naive(urn, [pruning]).train(stream()[0])
    [fields] = [fields for name, fields in told if name == "settled"]
    assert (fields["task"], fields["note"]) == ("a", 0)
    settled = pruning.result
    assert fields["accuracy_val_before"] == settled.score_before
    assert fields["accuracy_val_pruned"] == settled.score_after
    assert (fields["theta"], fields["weight_threshold"]) == (settled.theta, settled.weight_threshold)
    network = urn.accumulation.network("a")
    assert fields["accuracy_val_after"] == accuracy(network, x, y) >= settled.score_after
    assert urn.accumulation.claims[0].extra == {"mean": 0.5}


def test_healing_moves_weights_and_adds_no_synapse():
    urn, pruning = model(), plugin(validation=lambda experience: samples(0), margin=0.4)
    before: dict[str, torch.Tensor] = {}

    def remember(strategy) -> None:
        if pruning._fine_tuning and "W" not in before:
            before["W"] = urn.task_network.W.data.clone()

    naive(urn, [pruning, Notes(remember, "before_forward")]).train(stream()[0])
    W = urn.task_network.W.data
    assert not W[before["W"] == 0].any()
    assert (W != before["W"]).any()


def test_healing_that_does_harm_is_undone():
    x, y = samples(0)
    pruning = plugin(validation=lambda experience: (x, y), heal_lr=1e4)
    urn = model()
    naive(urn, [pruning]).train(stream()[0])
    assert accuracy(urn.accumulation.network("a"), x, y) == pruning.result.score_after


def test_without_healing_the_settled_network_is_claimed():
    x, y = samples(0)
    pruning, steps = plugin(validation=lambda experience: (x, y), heal_epochs=0), []
    urn = model()
    naive(urn, [pruning, Notes(lambda s: steps.append(1))]).train(stream()[0])
    assert len(steps) == 6 * EPOCHS
    assert accuracy(urn.accumulation.network("a"), x, y) == pruning.result.score_after


def test_a_task_that_claims_everything_is_a_warning():
    """With nobody else to tell, the advice is one of Python's warnings."""
    strategy = naive(model(), [NeuralPruning(margin=-1.0, heal_epochs=0)])
    with pytest.warns(UserWarning, match=r"task 'a': pruning could remove almost nothing.*Raise penalties\.weight"):
        strategy.train(stream()[0])
    told = []
    strategy = naive(model(), [plugin(margin=-1.0, on_event=lambda name, fields: told.append((name, fields)))])
    strategy.train(stream()[0])
    assert [name for name, _ in told] == ["warning", "settled"] and "Raise penalties" in told[0][1]["message"]


# --- compaction ------------------------------------------------------------------------------------------------------


def compacted(compaction: bool, bias: float) -> tuple[GrowingURN, list[int]]:
    """A task on a net in which 8 hidden neurons start with the given bias."""
    torch.manual_seed(4)
    urn, sizes = model(torch.float64), []

    def silence(strategy) -> None:
        urn.task_network.b.data[10:18] = bias

    pruning = plugin(penalty=Penalty(weight=0.1), compaction=compaction, window=4, margin=-1.0)
    plugins = [
        pruning,
        Notes(silence, "before_training_exp"),
        Notes(lambda s: sizes.append(urn.task_network.S)),
    ]
    naive(urn, plugins, torch.optim.SGD(urn.parameters(), 0.02, momentum=0.9)).train(stream(dtype=torch.float64)[0])
    return urn, sizes


def test_compaction_on_and_off_give_the_same_network_while_the_dropped_stay_silent():
    """100 below zero nothing wakes them; on and off agree to rounding, in the weights and in who is claimed."""
    (on, small), (off, whole) = compacted(True, -100.0), compacted(False, -100.0)
    assert set(whole[: 6 * EPOCHS]) == {45 - 4} and min(small[: 6 * EPOCHS]) <= 41 - 8
    assert torch.equal(on.accumulation.owner, off.accumulation.owner)
    assert int((on.accumulation.owner == 0).sum()) > 3
    for one, two in zip(on.accumulation.full(), off.accumulation.full(), strict=True):
        assert torch.allclose(one, two, rtol=1e-8, atol=1e-10)


def test_compaction_waits_for_a_whole_window():
    _, sizes = compacted(True, -100.0)
    assert sizes[:3] == [41] * 3 and sizes[3] <= 33
    _, sizes = compacted(True, 0.0)
    assert sizes[3] > 33


def test_a_worker_of_one_iteration_is_not_watched():
    """With I = 1 no hidden neuron is ever read, so nobody is silent or awake."""
    urn = model(I=1)
    strategy = naive(urn, [plugin(window=1)])
    strategy.train(stream()[0])
    assert len(urn.accumulation.claimed) == 0 and len(urn.accumulation.claims) == 1


def test_looking_at_the_worker_does_not_keep_neurons_awake():
    """Evaluation in the middle of a task decides nothing about who is dropped."""
    results = []
    for update_full_pass in (False, True):
        torch.manual_seed(4)
        urn = model()

        def peek(strategy, urn=urn, update_full_pass=update_full_pass) -> None:
            if update_full_pass:
                with torch.no_grad():
                    urn(100 * torch.randn(50, D_IN, generator=torch.Generator().manual_seed(1)), 0)

        sizes = []
        strategy = naive(
            urn, [plugin(window=2), Notes(peek), Notes(lambda s, u=urn, n=sizes: n.append(u.task_network.S))]
        )
        strategy.train(stream()[0])
        results.append(sizes)
    assert results[0] == results[1]


# --- answers ---------------------------------------------------------------------------------------------------------


def test_each_task_has_exactly_its_logits_and_mixed_batches_are_filled():
    urn = model()
    strategy = naive(urn, [plugin()])
    x, _ = samples(0, 5)
    assert torch.equal(urn(x, 0), torch.zeros(5, 3)) and torch.equal(urn(x, 1), torch.zeros(5, 4))  # not learned yet
    for experience in stream():
        strategy.train(experience)
    assert urn(x, 0).shape == (5, 3) and urn(x, 1).shape == (5, 4)
    labels = torch.tensor([0, 1, 1, 0, 1])
    mixed = urn(x, labels)
    assert mixed.shape == (5, 4)
    assert torch.equal(mixed[labels == 0][:, :3], urn(x[labels == 0], 0))
    assert mixed[labels == 0][:, 3].eq(MISSING_CLASS).all()
    assert torch.equal(mixed[labels == 1], urn(x[labels == 1], 1))
    assert torch.equal(urn(x, torch.ones(5, dtype=torch.long)), urn(x, 1))


def test_avalanche_evaluates_each_task_on_its_own_network():
    urn, seen = model(), []
    note = Notes(
        lambda s: seen.append((int(s.mb_task_id[0]), s.mb_output.clone(), s.mb_x.clone())), "after_eval_forward"
    )
    strategy = naive(urn, [plugin(), note])
    experiences = stream()
    for experience in experiences:
        strategy.train(experience)
    strategy.eval(experiences)
    assert {task for task, _, _ in seen} == {0, 1}
    for task, logits, x in seen:
        assert torch.equal(logits, urn.accumulation.network(task)(x))


# --- what it refuses -------------------------------------------------------------------------------------------------


def test_the_same_label_twice():
    """A stream without task labels has label 0 everywhere: its second experience would overwrite the first answers."""
    urn = model()
    strategy = naive(urn, [plugin()])
    one, two = stream(((0,), (0,)))
    strategy.train(one)
    before = urn(samples(0)[0], 0)
    with pytest.raises(UserError, match="task 'a' has been learned already"):
        strategy.train(two)
    assert torch.equal(urn(samples(0)[0], 0), before)


def test_a_label_without_a_port():
    with pytest.raises(UserError, match=r"task label 2, but the network has 2 output port\(s\), for the labels 0 to 1"):
        naive(model(), [plugin()]).train(stream(((2,),))[0])


def test_two_labels_in_one_experience():
    with pytest.raises(UserError, match=r"one task at a time; this experience holds the task labels \[0, 1\]"):
        naive(model(), [plugin()]).train(stream(((0, 1),))[0])


def test_another_model():
    urn = model()
    strategy = naive(urn, [plugin()])
    strategy.model = nn.Linear(D_IN, 3)
    with pytest.raises(TypeError, match="a strategy whose model is a GrowingURN, not Linear"):
        strategy.train(stream()[0])


def test_an_unknown_option():
    with pytest.raises(TypeError, match="marginn"):
        NeuralPruning(marginn=0.1)


def test_weights_that_are_not_finite_stop_the_task():
    urn = model()

    def spoil(strategy) -> None:
        urn.task_network.b.data[20] = float("nan")

    with pytest.raises(RunFailed, match="task 'a': the weights are no longer finite after epoch 0"):
        naive(urn, [plugin(), Notes(spoil)]).train(stream()[0])
    assert urn.accumulation.claims == []
