"""nesa.training.strategies.template: the one training loop, against Avalanche's own, and what it reports."""

import math
import warnings
from copy import deepcopy

import numpy as np
import pytest
import torch
from torch import nn

from nesa.config.curriculum import Curriculum, Input, Learner, Network, Penalties, Task, Training
from nesa.datasets.registry import Arrays
from nesa.errors import RunFailed
from nesa.seeds import derive
from nesa.training.accumulation import Accumulation
from nesa.training.batches import Batches
from nesa.training.build import make_optimizer
from nesa.training.strategies.baselines import BaselineLearner
from nesa.training.strategies.learner import make_learner
from nesa.training.strategies.plugins import LRSchedulePlugin, TrainingLogPlugin
from nesa.training.strategies.pruning_learner import PruningLearner
from nesa.training.strategies.template import CurriculumStrategy, experiences
from nesa.training.task_data import TaskData, from_arrays
from urn.layout import Layout
from urn.network import URN

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from avalanche.benchmarks import benchmark_from_datasets, with_task_labels
    from avalanche.benchmarks.utils import AvalancheDataset, DataAttribute
    from avalanche.benchmarks.utils.data_attribute import TaskLabels
    from avalanche.benchmarks.utils.flat_data import ConstantSequence
    from avalanche.core import SupervisedPlugin
    from avalanche.models import MultiTaskModule
    from avalanche.training.plugins import EvaluationPlugin
    from avalanche.training.supervised import Naive

D_IN, CLASSES, B, EPOCHS, LR = 8, 5, 36, 5, 0.2  # 180 training samples: 5 steps an epoch, 25 a task


def task(index: int) -> TaskData:
    """Five clouds in eight dimensions."""
    draw = np.random.default_rng(index)
    centres = draw.normal(size=(CLASSES, D_IN)) * 1.5
    y = np.arange(200) % CLASSES
    x = (centres[y] + draw.normal(size=(200, D_IN))).astype(np.float32)
    arrays = Arrays(x, y, x[:50], y[:50], tuple("abcde"), kind="vector", origin="drawn")
    return from_arrays(f"t{index}", index, arrays, seed=index)


def curriculum(learner: str = "naive", **training) -> Curriculum:
    settings = {"optimizer": "sgd", "lr": LR, "batch_size": B, "epochs": EPOCHS, "schedule": "constant"} | training
    shared = {"penalties": Penalties(weight=0.0, activity=0.0), "training": Training(**settings)}
    return Curriculum(
        name="pair",
        input=Input((D_IN,)),
        network=Network(neurons=50, iterations=3),
        learner=Learner(name=learner),
        tasks=tuple(Task(name=f"t{k}", source="arrays", iterations=3, **shared) for k in range(2)),
        **shared,
    )


def accumulation(tasks, dtype=torch.float32) -> Accumulation:
    return Accumulation(Layout.flat(50, D_IN, {t.name: t.classes for t in tasks}), dtype=dtype)


def naive(tasks, dtype=torch.float32, report=lambda name, fields: None, **training) -> BaselineLearner:
    learner = make_learner(curriculum(**training), tasks, accumulation(tasks, dtype), torch.device("cpu"), report)
    assert isinstance(learner, BaselineLearner)
    return learner


class Literal(MultiTaskModule):
    """The URN by its update rule to the letter, with autograd's gradients."""

    def __init__(self, network: URN, names):
        super().__init__()
        self.network, self.names = network, names

    def adaptation(self, experience) -> None:
        pass

    def forward(self, x, task_labels):
        name = self.names[int(task_labels[0])]
        return self.network.states(x, name)[-1][:, self.network.layout.ports[name]]


class Rise(SupervisedPlugin):
    """The learning rate rises to LR over the first 50 steps of a task."""

    def before_training_exp(self, strategy, **kwargs):
        self.step = 0

    def before_training_iteration(self, strategy, **kwargs):
        self.step += 1
        strategy.optimizer.param_groups[0]["lr"] = LR * min(1.0, self.step / 50)


class Listed(torch.utils.data.Dataset):
    """Samples in the order of given batches."""

    def __init__(self, batches):
        self.x = torch.cat([x for x, _, _ in batches])
        self.targets = torch.cat([y for _, y, _ in batches]).tolist()

    def __len__(self):
        return len(self.targets)

    def __getitem__(self, i):
        return self.x[i], self.targets[i]


def avalanche_naive(model: nn.Module, tasks) -> None:
    """Avalanche's Naive with torch's SGD and Avalanche's loaders, on the batches of our loop."""
    datasets = []
    for data in tasks:
        ours = Batches(data, data.train, B, derive(0, "order", data.name))
        listed = Listed([batch for _ in range(EPOCHS) for batch in ours])
        labels = [DataAttribute(listed.targets, "targets"), TaskLabels(ConstantSequence(data.index, len(listed)))]
        datasets.append(AvalancheDataset([listed], data_attributes=labels))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        strategy = Naive(
            model=model,
            optimizer=torch.optim.SGD(model.parameters(), lr=LR),
            criterion=nn.CrossEntropyLoss(),
            train_mb_size=B,
            plugins=[Rise()],
            evaluator=EvaluationPlugin(),
        )
    for experience in with_task_labels(benchmark_from_datasets(train=datasets)).train_stream:
        strategy.train(experience, eval_streams=[], shuffle=False)
    assert strategy.clock.train_iterations == 50


@pytest.mark.parametrize("twin", ["same model", "literal rule"])
def test_naive_is_avalanches_naive(twin: str):
    tasks = [task(0), task(1)]
    learner = naive(tasks, torch.float64)
    start = learner.model.network.W.detach().clone()
    model = deepcopy(learner.model)
    if twin == "literal rule":
        model = Literal(model.network, model.names)
    avalanche_naive(model, tasks)
    learner.train(0)
    learner.train(1)
    ours, theirs = learner.model.network, model.network
    assert float((ours.W.data - start).abs().max()) > 0.05  # it has learned something that could differ
    assert float((ours.W.data - theirs.W.data).abs().max()) < 1e-10
    assert float((ours.b.data - theirs.b.data).abs().max()) < 1e-10


def test_learners_by_name():
    tasks = [task(0), task(1)]
    assert isinstance(naive(tasks), BaselineLearner)
    made = make_learner(
        curriculum("neural_pruning"), tasks, accumulation(tasks), torch.device("cpu"), lambda n, f: None
    )
    assert isinstance(made, PruningLearner)


def test_experiences_say_what_avalanche_asks():
    tasks = [task(0), task(1)]
    for index, (experience, data) in enumerate(zip(experiences(tasks), tasks, strict=True)):
        dataset = experience.dataset
        assert experience.task_labels == [index]
        assert list(dataset.targets) == data.train.y.tolist()
        assert list(dataset.rows) == list(range(180))
        assert dataset.task_set[index].targets.uniques == set(range(CLASSES))
        x, y, t = dataset[7]
        assert torch.equal(x, data.prepare(data.train.x[7])) and (y, t) == (int(data.train.y[7]), index)
        part = dataset.subset([5, 3])
        assert list(part.rows) == [5, 3]


class Rates(SupervisedPlugin):
    def before_training_exp(self, strategy, **kwargs):
        self.seen: list[float] = []

    def before_update(self, strategy, **kwargs):
        self.seen.append(strategy.optimizer.param_groups[0]["lr"])


def loop(plugins, tasks, config: Curriculum) -> CurriculumStrategy:
    learner = BaselineLearner(config, tasks, accumulation(tasks), torch.device("cpu"), lambda name, fields: None)
    return CurriculumStrategy(
        tasks=tasks,
        curriculum=config,
        model=learner.model,
        optimizer=make_optimizer(config.tasks[0], learner.model.network),
        criterion=nn.CrossEntropyLoss(),
        train_mb_size=B,
        eval_mb_size=B,
        train_epochs=config.tasks[0].training.epochs,
        plugins=plugins,
    )


@pytest.mark.parametrize(("name", "warmup"), [("constant", 50), ("cosine", 50), ("cosine", 7), ("cosine", 0)])
def test_schedule(name: str, warmup: int):
    tasks = [task(0), task(1)]
    rates = Rates()
    strategy = loop(
        [LRSchedulePlugin(Training(schedule=name, lr=0.1, warmup=warmup)), rates], tasks, curriculum(epochs=12)
    )
    strategy.train(experiences(tasks)[0], eval_streams=[])
    assert len(rates.seen) == 60
    for step, rate in enumerate(rates.seen):
        expected = 0.1 * (min(1.0, (step + 1) / warmup) if warmup else 1.0)
        if name == "cosine":
            expected *= (1 + math.cos(math.pi * step / 60)) / 2
        assert rate == pytest.approx(expected, abs=1e-15)


def test_observer_reports_means_of_each_epoch():
    """With a learning rate of nearly zero the epoch's figures are those of the network as it stands."""
    tasks = [task(0), task(1)]
    epochs, steps = [], []
    observer = TrainingLogPlugin(epochs.append, steps.append)
    strategy = loop([LRSchedulePlugin(Training(schedule="constant", lr=1e-12)), observer], tasks, curriculum(epochs=2))
    data = tasks[0]
    with torch.no_grad():
        logits = strategy.model.at(0)(data.prepare(data.train.x), data.name)
    strategy.train(experiences(tasks)[0], eval_streams=[])
    assert sum(steps) == 10
    first, second = epochs
    assert (first["epoch"], second["epoch"], first["step"], second["step"]) == (0, 1, 5, 10)
    for fields in (first, second):
        assert fields["loss"] == pytest.approx(float(nn.functional.cross_entropy(logits, data.train.y)), abs=1e-5)
        assert fields["train_accuracy"] == pytest.approx(float((logits.argmax(1) == data.train.y).float().mean()))


def test_a_loss_that_is_not_finite_stops_the_run():
    tasks = [task(0), task(1)]
    learner = naive(tasks, optimizer="sgd", lr=1e30)
    with pytest.raises(RunFailed, match=r"the loss is (nan|inf).*Lower the learning rate"):
        learner.train(0)
