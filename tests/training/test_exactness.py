"""The promise: after any later task, with any torch optimiser, the logits of every earlier task are bit for bit what
they were. Trained with NeuralPruning as a plugin of Avalanche's own Naive strategy, on tasks of 5, 6 and 10 classes.
"""

from __future__ import annotations

import itertools
import runpy
from pathlib import Path

import avalanche_run
import pytest
import torch
from avalanche_run import Naive, experiences

from nesa.errors import RunFailed
from nesa.seeds import derive
from nesa.training.accumulation import Accumulation, Dynamics
from nesa.training.strategies.models import GrowingURN
from nesa.training.strategies.neural_pruning import NeuralPruning
from urn.layout import Layout
from urn.network import URN
from urn.optim import Proximal
from urn.penalties import Penalty
from urn.update_rules import UPDATES

CLASSES = {"five": 5, "six": 6, "ten": 10}
D_IN, N_TRAIN, I = 8, 30, 3
KEEP_ALL = -1.0  # a margin that lets settling drop nothing but silent neurons and dead ends

OPTIMIZERS = {
    "sgd": lambda model: torch.optim.SGD(model.parameters(), 0.03),
    "sgd with momentum": lambda model: torch.optim.SGD(model.parameters(), 0.01, momentum=0.9),
    "sgd with decay": lambda model: torch.optim.SGD(model.parameters(), 0.01, momentum=0.9, weight_decay=0.01),
    "adam": lambda model: torch.optim.Adam(model.parameters(), 0.01),
    "adam with decay": lambda model: torch.optim.Adam(model.parameters(), 0.01, weight_decay=0.01),
    "adamw": lambda model: torch.optim.AdamW(model.parameters(), 0.01, weight_decay=0.1),
    "proximal adam": lambda model: Proximal(model.task_network, "adam", 0.01, weight_decay=0.01),
    "proximal adamw": lambda model: Proximal(model.task_network, "adamw", 0.01, weight_decay=0.1),
    "proximal sgd": lambda model: Proximal(model.task_network, "sgd", 0.01, momentum=0.9, weight_decay=0.01),
}


def clouds(k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(n, D_in) and (n,): two opposite clouds a class, which no linear readout tells apart, around a common point off
    the origin, which leaves some neurons silent."""
    classes = list(CLASSES.values())[k]
    generator = torch.Generator().manual_seed(100 + k)
    y = torch.arange(N_TRAIN) % classes
    sign = 1.0 - 2 * (torch.arange(N_TRAIN) // classes % 2)
    centres = torch.randn(classes, D_IN, generator=generator)
    return 2 + centres[y] * sign[:, None] + 0.2 * torch.randn(N_TRAIN, D_IN, generator=generator), y


STREAM = experiences([clouds(k) for k in range(len(CLASSES))], [(k,) for k in range(len(CLASSES))])
PROBES = [clouds(k)[0][:17] for k in range(len(CLASSES))]


def learner(optimizer="adam", update="residual_both", inputs_receive=True, penalty=None, **options):
    """A model, the plugin, and Avalanche's Naive strategy around them."""
    accumulation = Accumulation(Layout.flat(55, D_IN, CLASSES), inputs_receive=inputs_receive)
    model = GrowingURN(accumulation, Dynamics(I, update, "linear"))
    plugin = NeuralPruning(
        penalty or Penalty(weight=0.05, activity=0.01),
        validation=lambda experience: clouds(experience.current_experience),
        on_event=lambda name, fields: None,
        **({"margin": KEEP_ALL, "heal_epochs": 1, "window": 2} | options),
    )
    return model, plugin, naive(model, plugin, OPTIMIZERS[optimizer](model))


def naive(model: GrowingURN, plugin: NeuralPruning, optimizer: torch.optim.Optimizer) -> Naive:
    return avalanche_run.naive(model, [plugin], optimizer, size=15, epochs=2)


def answers(model: GrowingURN, k: int) -> torch.Tensor:
    with torch.no_grad():
        return model(PROBES[k], k)


def newborn(model: GrowingURN, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The weights that task k starts with, and the global indices of its free neurons."""
    accumulation = model.accumulation
    name = model.names[k]
    generator = torch.Generator().manual_seed(derive(0, "weights", name))
    task_network, index = accumulation.task_network(name, model.dynamics, generator)
    W, _ = accumulation.full()
    W[index[:, None], index] = task_network.W.data
    return W, index[~task_network.frozen]


def train_and_check(model: GrowingURN, strategy: Naive, fewest: int = 8) -> None:
    """Trains all tasks, growing by 20 neurons before each later one; each must claim `fewest` hidden neurons."""
    accumulation = model.accumulation
    references: list[torch.Tensor] = []
    final = torch.zeros(0, dtype=torch.long)
    settled = (torch.zeros(0), torch.zeros(0))
    for k, experience in enumerate(STREAM):
        if k:
            accumulation.grow(20)
        start, free = newborn(model, k)
        strategy.train(experience)
        W, b = accumulation.full()
        owner, name = accumulation.owner, model.names[k]
        port = accumulation.layout.ports[name]
        # what was claimed before has its bits, input neurons included
        assert torch.equal(W[final][:, : settled[0].shape[1]] if k else settled[0], settled[0])
        assert torch.equal(b[final], settled[1])
        # nothing free writes into a claimed or an input neuron, and nothing newer into anything older
        resting = owner >= 0
        resting[accumulation.layout.inputs] = True
        assert not W[resting][:, owner == -1].any()
        for j in range(k):
            assert not W[owner == j][:, owner > j].any()
            assert not W[accumulation.layout.ports[model.names[j]]][:, owner > j].any()
        if k:
            assert not W[accumulation.layout.inputs][:, owner == k].any()
        assert not W[:, owner == -3].any()  # no port sends
        # something free did change, and later tasks read earlier ones
        new = (owner == k).nonzero().flatten()
        assert len(new) >= fewest and torch.isin(new, free).all()
        for rows in (new, port) if len(new) else (port,):
            assert ((W[rows] != 0) & (W[rows] != start[rows])).any()
        assert k == 0 or W[torch.cat([new, port])][:, (owner >= 0) & (owner < k)].any()
        # old answers
        references.append(answers(model, k))
        assert references[k].shape == (17, CLASSES[name]) and references[k].std(0).max() > 0
        for j, reference in enumerate(references):
            assert torch.equal(answers(model, j), reference)
            with torch.no_grad():
                assert torch.equal(accumulation.network(j)(PROBES[j]), reference)
        final = torch.cat([accumulation.layout.inputs, accumulation.claimed])
        final = torch.cat([final, *(accumulation.layout.ports[model.names[j]] for j in range(k + 1))])
        settled = W[final], b[final]


CASES = list(itertools.product(OPTIMIZERS, UPDATES, (True, False), (True, False)))


@pytest.mark.parametrize(("optimizer", "update", "compaction", "inputs_receive"), CASES)
def test_old_answers_are_bit_for_bit(optimizer, update, compaction, inputs_receive):
    model, _, strategy = learner(optimizer, update, inputs_receive, compaction=compaction)
    train_and_check(model, strategy)


@pytest.mark.parametrize(
    ("method", "optimizer"),
    [
        ("subgradient", "adam"),
        ("subgradient", "proximal adam"),
        ("prox_adam", "proximal adam"),
        ("prox_decoupled", "adam"),
        ("prox_decoupled", "proximal adam"),
    ],
)
def test_under_every_penalty(method, optimizer):
    penalty = Penalty(method, weight=1e-3 if method == "prox_adam" else 0.05, activity=0.01, synapse_length=1e-3)
    model, _, strategy = learner(optimizer, penalty=penalty)
    train_and_check(model, strategy)


@pytest.mark.parametrize("update", list(UPDATES))
def test_with_hard_pruning(update):
    model, _, strategy = learner("adamw", update, margin=0.1)
    strategy.train_epochs = 10
    train_and_check(model, strategy, fewest=0)
    assert len(model.accumulation.claimed) > 0 and len(model.accumulation.free) > 10


@pytest.mark.parametrize("update", list(UPDATES))
def test_the_setting_is_a_hard_one(update):
    """The tests above would be empty if compaction dropped nothing, or no input neuron received anything."""
    dropped = []
    model, plugin, strategy = learner("sgd with decay", update)
    compact = plugin.compact

    def counted(strategy) -> None:
        before = model.task_network.S
        compact(strategy)
        dropped.append(before - model.task_network.S)

    plugin.compact = counted
    strategy.train(STREAM[0])
    assert sum(dropped) > 0
    W, _ = model.accumulation.full()
    inputs = model.accumulation.layout.inputs
    assert W[inputs].any()
    # input neurons matter to old answers after l = 0: other rows, other logits
    network = model.accumulation.network(0)
    before = network(PROBES[0])
    rows = network.layout.inputs
    W, b = network.W.data.clone(), network.b.data.clone()
    W[rows] *= 1.01
    network.set_parameters(network.layout, W, b, network.frozen)
    assert not torch.equal(network(PROBES[0]), before)


@pytest.mark.parametrize("optimizer", ["sgd with decay", "adam with decay", "adamw"])
def test_without_the_hold_it_fails(monkeypatch, optimizer):
    """Weight decay moves weights that have no gradient: the claim is refused, and the store keeps its bits."""
    model, _, strategy = learner(optimizer)
    strategy.train(STREAM[0])
    reference, (W, b) = answers(model, 0), model.accumulation.full()
    monkeypatch.setattr(URN, "restore_frozen", lambda self: None)
    with pytest.raises(RunFailed, match="task 'six': training has moved the frozen weights of earlier tasks"):
        strategy.train(STREAM[1])
    task_network, index = model.task_network, model.index
    frozen = task_network.frozen
    assert not torch.equal(task_network.W.data[frozen][:, frozen], W[index[frozen][:, None], index[frozen]])
    assert torch.equal(answers(model, 0), reference)
    assert torch.equal(model.accumulation.full()[0], W) and torch.equal(model.accumulation.full()[1], b)
    assert len(model.accumulation.claims) == 1


def test_without_the_hold_the_soft_threshold_reaches_frozen_weights(monkeypatch):
    _, _, strategy = learner("sgd", ramp=0.0)
    strategy.train(STREAM[0])
    monkeypatch.setattr(URN, "restore_frozen", lambda self: None)
    with pytest.raises(RunFailed, match="moved the frozen weights"):
        strategy.train(STREAM[1])


def test_a_worker_that_writes_into_a_claimed_neuron_is_refused():
    model, _, strategy = learner("sgd")
    strategy.train(STREAM[0])
    model.begin(1, None)
    task_network = model.task_network
    claimed = int((model.index == model.accumulation.claimed[0]).nonzero())
    task_network.W.data[claimed, int((~task_network.frozen).nonzero()[0])] = 1e-30
    with pytest.raises(RunFailed, match="a claimed neuron reads a free one"):
        model.finish()


# --- divergence -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_a_bad_free_neuron_never_reaches_an_earlier_task(bad):
    """0 * NaN is NaN: earlier tasks must not even read free neurons."""
    model, _, strategy = learner()
    for experience in STREAM[:2]:
        strategy.train(experience)
    references = [answers(model, k) for k in range(2)]
    model.begin(2, None)
    model.train()
    free = ~model.task_network.frozen
    model.task_network.W.data[free] = bad
    model.task_network.b.data[free] = bad
    assert not torch.isfinite(answers(model, 2)).any()
    for k in range(2):
        assert torch.equal(answers(model, k), references[k])
        assert torch.isfinite(references[k]).all()
    with pytest.raises(RunFailed, match="task 'ten': some of its weights are not finite"):
        model.finish()


@pytest.mark.parametrize("optimizer", ["sgd", "proximal sgd"])
def test_a_diverging_task_is_stopped_and_can_be_tried_again(optimizer):
    model, plugin, strategy = learner(optimizer)
    for experience in STREAM[:2]:
        strategy.train(experience)
    references, stored = [answers(model, k) for k in range(2)], model.accumulation.full()[0]
    wild = naive(model, plugin, OPTIMIZERS[optimizer](model))
    wild.optimizer.param_groups[0]["lr"] = 1e38
    with pytest.raises(RunFailed, match=r"task 'ten': the weights are no longer finite .* Earlier tasks are unharmed"):
        wild.train(STREAM[2])
    assert torch.equal(model.accumulation.full()[0], stored)
    naive(model, plugin, OPTIMIZERS[optimizer](model)).train(STREAM[2])
    assert len(model.accumulation.claims) == 3
    for k in range(2):
        assert torch.equal(answers(model, k), references[k])
    assert torch.isfinite(answers(model, 2)).all()


@pytest.mark.parametrize(
    ("optimizer", "update", "compaction", "seed"),
    [("sgd", "plain", True, 0), ("adamw", "residual_both", False, 1), ("proximal", "residual_input", True, 2)],
)
def test_five_tasks_and_a_sixth_that_diverges(optimizer, update, compaction, seed):
    """A few of the combinations of benchmarks/stress/exactness.py."""
    script = Path(__file__).parents[2] / "benchmarks" / "stress" / "exactness.py"
    assert runpy.run_path(str(script))["combination"](optimizer, update, compaction, seed) == []


# --- seeds ----------------------------------------------------------------------------------------------------------


def final_weights(seed: int, torch_seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(torch_seed)  # Avalanche's loader shuffles with the global generator
    model, plugin, strategy = learner("adamw")
    plugin.seed = seed
    for experience in STREAM[:2]:
        strategy.train(experience)
    return model.accumulation.full()[0], model.accumulation.owner


def test_same_seed_same_result():
    (one, owner), (two, same), (other, _) = final_weights(3, 1), final_weights(3, 1), final_weights(4, 1)
    assert torch.equal(one, two) and torch.equal(owner, same)
    assert not torch.equal(one, other)
