"""The one training loop: Avalanche's supervised template over batches that are already in memory.

`build` makes the strategy that a curriculum asks for: NeuralPruning, or one of Avalanche's own learners (naive, EWC,
replay, LwF, joint) on the same network, in the same loop.
"""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from nesa import distributed
from nesa.config.curriculum import Curriculum, Penalties, Task, Training
from nesa.errors import RunFailed, UserError
from nesa.interrupts import DelayedInterrupt
from nesa.run_folder.digest import digest
from nesa.seeds import derive
from nesa.training.accumulation import Accumulation, Dynamics
from nesa.training.evaluation import accuracy
from nesa.training.strategies.models import GrowingURN
from nesa.training.strategies.neural_pruning import NeuralPruning, SupervisedPlugin
from nesa.training.strategies.step_checkpoint import StepCheckpointPlugin
from nesa.training.task_data import Batches, TaskData
from urn.network import URN
from urn.optim import Proximal
from urn.penalties import Penalty
from urn.precision import multiply_in

if TYPE_CHECKING:
    from nesa.training.strategies.baselines import BaselineLearner

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from avalanche.benchmarks import benchmark_from_datasets, with_task_labels
    from avalanche.benchmarks.utils import DataAttribute
    from avalanche.benchmarks.utils.classification_dataset import TaskAwareClassificationDataset
    from avalanche.benchmarks.utils.data_attribute import TaskLabels
    from avalanche.benchmarks.utils.flat_data import ConstantSequence
    from avalanche.training.plugins import EvaluationPlugin
    from avalanche.training.templates import SupervisedTemplate

STRIP = 1024  # rows of W that are priced at a time: synaptic lengths of all of them would need W's memory again


class CurriculumStrategy(SupervisedTemplate):
    """Avalanche's template with loaders that gather batches from tensors. `tasks` maps a task label to its data."""

    def __init__(self, *, tasks: Sequence[TaskData], curriculum: Curriculum, **options: Any):
        self.tasks = tasks
        self.curriculum = curriculum
        self.take_up: Callable[[], int] | None = None  # goes on inside a task; says how many epochs are done
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it misses loggers: nesa.run_folder.writer is the only writer
            super().__init__(evaluator=EvaluationPlugin(), **options)
        self.plugins.remove(self.evaluator)  # type: ignore[arg-type]  # has no metrics, and would look at every event

    def make_train_dataloader(self, **kwargs) -> None:  # type: ignore[override]
        assert self.experience is not None
        data = self.tasks[self.experience.current_experience]
        task = self.curriculum.tasks[data.index]
        seed = derive(self.curriculum.seed, "order", task.name)
        self.dataloader = Batches(data, data.train, self.train_mb_size, seed, task.augment)

    def make_eval_dataloader(self, **kwargs) -> None:  # type: ignore[override]
        assert self.experience is not None
        data = self.tasks[self.experience.current_experience]
        self.dataloader = Batches(data, data.test, self.eval_mb_size)

    def _train_exp(self, experience, eval_streams=None, **kwargs) -> None:
        epochs = self.train_epochs
        self.train_epochs -= self.take_up() if self.take_up is not None else 0
        super()._train_exp(experience, eval_streams, **kwargs)
        self.train_epochs = epochs

    def _unpack_minibatch(self) -> None:
        """Batches are lists of tensors on the right device already."""


class LRSchedulePlugin(SupervisedPlugin, supports_distributed=True):
    """The learning rate over a task: constant, or half a cosine from lr to zero; it rises linearly over the first
    `warmup` steps, as Adam's second moment is noise at first, and a step of all weights of a large network at once
    moves its outputs by their number."""

    def __init__(self, training: Training):
        super().__init__()
        self.name, self.lr, self.warmup = training.schedule, training.lr, max(1, training.warmup)

    def before_training_exp(self, strategy, **kwargs) -> None:
        self.steps, self.total = 0, max(1, strategy.train_epochs * len(strategy.dataloader))
        self._set(strategy, self.lr)

    def before_training_iteration(self, strategy, **kwargs) -> None:
        if self.steps >= self.total:
            return  # healing has its own
        rate = self.lr * min(1.0, (self.steps + 1) / self.warmup)
        if self.name == "cosine":
            rate *= 0.5 * (1 + math.cos(math.pi * self.steps / self.total))
        self._set(strategy, rate)
        self.steps += 1

    def _set(self, strategy, rate: float) -> None:
        for group in strategy.optimizer.param_groups:
            group["lr"] = rate


class TrainingLogPlugin(SupervisedPlugin, supports_distributed=True):
    """Adds up loss and accuracy, and reports them at the end of each epoch; stops a run whose loss is not finite."""

    SUMS = ("loss", "right", "activity", "finite", "seen", "batches")  # of the epoch in hand

    def __init__(self, report: Callable[[str, dict[str, Any]], None], step: Callable[[int], None] | None = None):
        super().__init__()
        self.report, self.step = report, step or (lambda n: None)

    def before_training_exp(self, strategy, **kwargs) -> None:
        self.epoch, self.steps, self.started = 0, 0, time.perf_counter()
        self._reset(strategy)

    def after_training_iteration(self, strategy, **kwargs) -> None:
        self.loss += strategy.loss.detach().squeeze()  # Avalanche starts from a loss of shape (1,)
        self.right += (strategy.mb_output.detach().argmax(1) == strategy.mb_y).sum()
        self.finite += torch.isfinite(self.loss)  # once it is not, it stays so: this counts the steps before
        self.seen += len(strategy.mb_y)
        self.steps += 1
        self.batches += 1
        activity = getattr(strategy.model, "activity", None)
        if activity is not None:
            self.activity += activity.detach()
        self.step(1)

    def after_training_epoch(self, strategy, **kwargs) -> None:
        loss = float(self.loss) / max(1, self.batches)
        if not math.isfinite(loss):
            step = self.steps - self.batches + int(self.finite) + 1
            raise RunFailed(
                f"task {strategy.tasks[strategy.experience.current_experience].name!r}: the loss is {loss}, since step "
                f"{step} (epoch {self.epoch}). Lower the learning rate or the initial gain. Earlier tasks are unharmed."
            )
        self.report(
            "epoch",
            {
                "epoch": self.epoch,
                "step": self.steps,
                "loss": loss,
                "train_accuracy": int(self.right) / max(1, self.seen),
                "penalty_activity": float(self.activity) / max(1, self.batches),
                "seconds": time.perf_counter() - self.started,
            },
        )
        self.epoch += 1
        self._reset(strategy)

    def _reset(self, strategy) -> None:
        zero = torch.zeros((), device=strategy.device)
        self.loss, self.right, self.activity, self.finite = (zero.clone() for _ in range(4))
        self.seen = self.batches = 0


class Pruning:
    """NeuralPruning over the tasks of a curriculum. report(name, fields) hears of steps, epochs and settling."""

    def __init__(
        self,
        curriculum: Curriculum,
        tasks: Sequence[TaskData],
        accumulation: Accumulation,
        device: torch.device,
        report: Callable[[str, dict[str, Any]], None],
    ):
        self.curriculum, self.tasks, self.report = curriculum, tasks, report
        self.experiences = experiences(tasks)
        self.device = device
        self.model = GrowingURN(accumulation, self._rule(0)).to(device)
        self.model.sharded = distributed.world() > 1
        self.model.reuse_gradient_memory = True  # one forward pass for each backward pass: the only plugins are ours

    def train(
        self,
        k: int,
        save: Callable[[dict[str, Any]], None] | None = None,
        state: dict[str, Any] | None = None,
        stop: DelayedInterrupt | None = None,
    ) -> None:
        """Trains, settles and claims task k. save: called with what to keep, after some of the steps, and before
        `stop` is obeyed. state: go on from there (see nesa.training.strategies.step_checkpoint)."""
        config, learner = self.curriculum.tasks[k], self.curriculum.learner
        self.model.rule = self._rule(k)
        self.model.multiply = multiply_in(config.training.precision, self.device)
        schedule = LRSchedulePlugin(config.training)
        pruning = NeuralPruning(
            make_penalty(config.penalties),
            seed=self.curriculum.seed,
            margin=learner.margin,
            heal_epochs=learner.heal_epochs,
            heal_lr=learner.heal_lr,
            compaction=learner.compaction,
            active_sets=learner.active_sets,
            ramp=config.penalties.ramp,
            validation=lambda _: self._prepared(k),
            extra=lambda _: {"mean": self.tasks[k].mean, "std": self.tasks[k].std},
            before_settling=lambda _: {"accuracy_test_before": self.accuracy(k, "test")},
            report=self.report,
        )
        observer = TrainingLogPlugin(
            lambda name, fields: self._epoch(k, name, fields), lambda n: self.report("step", {"n": n})
        )
        keeper = StepCheckpointPlugin(
            schedule, pruning, observer, None if self.model.sharded else save, stop
        )  # no rank has all rows
        strategy = CurriculumStrategy(
            tasks=self.tasks,
            curriculum=self.curriculum,
            model=self.model,
            optimizer=make_optimizer(config, self.model.task_network),
            criterion=nn.CrossEntropyLoss(),
            train_mb_size=config.training.batch_size,
            train_epochs=config.training.epochs,
            device=self.device,
            plugins=[schedule, observer, pruning, keeper],
        )
        if state is not None:
            strategy.take_up = lambda: keeper.take_up(strategy, state)
        strategy.train(self.experiences[k], eval_streams=[])
        if self.model.sharded:
            distributed.agree(self.tasks[k].name, digest(self.state_dict()))

    def steps(self, k: int) -> int:
        """Optimiser steps in an epoch of task k."""
        samples = len(self.tasks[k].train)
        return max(1, samples // min(self.curriculum.tasks[k].training.batch_size, samples))

    def accuracy(self, j: int, part: str) -> float:
        """Test or validation accuracy of task j: of its own frozen network once it is claimed."""
        data = self.tasks[j]
        network = self.model.task_network if j == self.model.current else self.model.network(j)
        assert network is not None
        return accuracy(network, data, getattr(data, part))

    def state_dict(self) -> dict[str, Any]:
        return self.model.accumulation.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.model.accumulation = Accumulation.from_state_dict(state)

    def _rule(self, k: int) -> Dynamics:
        network = self.curriculum.network
        return Dynamics(self.curriculum.tasks[k].iterations, network.update, network.output_activation)

    def _prepared(self, k: int) -> tuple[Tensor, Tensor]:
        data = self.tasks[k]
        return data.prepare(data.val.x), data.val.y

    def _epoch(self, k: int, name: str, fields: dict[str, Any]) -> None:
        task_network = self.model.task_network
        W = task_network.W.data[~task_network.frozen[task_network.partition.neurons].to(task_network.W.device)]
        hidden = task_network.layout.hidden
        self.report(
            name,
            {
                "task": self.tasks[k].name,
                **fields,
                "val_accuracy": self.accuracy(k, "val"),
                "penalty_weight": weight_cost(task_network, make_penalty(self.curriculum.tasks[k].penalties)),
                "live_neurons": int((~task_network.frozen[hidden]).sum()),
                "live_synapses": int(task_network.partition.total((W != 0).sum())),
            },
        )


def make_learner(
    curriculum: Curriculum,
    tasks: Sequence[TaskData],
    accumulation: Accumulation,
    device: torch.device,
    report: Callable[[str, dict[str, Any]], None],
) -> Pruning | BaselineLearner:
    """The learner that `learner.name` asks for."""
    if curriculum.learner.name != "neural_pruning":
        if distributed.world() > 1:
            raise UserError(f"learner.name: {curriculum.learner.name} trains on one process; start it without torchrun")
        from nesa.training.strategies.baselines import BaselineLearner

        return BaselineLearner(curriculum, tasks, accumulation, device, report)
    return Pruning(curriculum, tasks, accumulation, device, report)


def make_optimizer(task: Task, urn) -> torch.optim.Optimizer:
    """The optimiser of a task for a network: the task's base rule with prox and hold in its step."""
    training = task.training
    return Proximal(
        urn,
        training.optimizer,
        training.lr,
        penalty=make_penalty(task.penalties),
        momentum=training.momentum,
        weight_decay=training.weight_decay,
    )


def make_penalty(p: Penalties) -> Penalty:
    return Penalty(
        p.method,
        p.weight,
        p.activity,
        p.activity_reduction,
        p.activity_growth,
        p.synapse_length,
        p.beta,
        p.gamma,
        p.literal,
        p.ports,
        p.early_readout,
    )


def weight_cost(urn: URN, penalty: Penalty) -> float:
    """The weight and length terms of paper eq 9 over the synapses of all rows that train."""
    total, neurons = 0.0, urn.partition.neurons
    for rows in (~urn.frozen[neurons]).nonzero().flatten().split(STRIP):
        coefficient = penalty.coefficient(urn.layout, neurons[rows])
        coefficient = coefficient.to(urn.W.device) if isinstance(coefficient, Tensor) else coefficient
        total += float((urn.W.data[rows.to(urn.W.device)].abs() * coefficient).sum())
    return float(urn.partition.total(torch.tensor(total, dtype=torch.float64, device=urn.W.device)))


class _Rows(torch.utils.data.Dataset):
    """Normalised samples one by one, for the parts of Avalanche that bring their own loader."""

    def __init__(self, data: TaskData):
        self.data = data
        self.targets = data.train.y.tolist()

    def __len__(self) -> int:
        return len(self.data.train)

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        return self.data.prepare(self.data.train.x[i]), self.targets[i]


def experiences(tasks: Sequence[TaskData]) -> list[Any]:
    """Avalanche experiences, one a task, in order; label t is the task's index and targets run from 0 in each."""
    datasets: list[Any] = []
    for data in tasks:
        rows: Any = _Rows(data)
        numbers: Any = range(len(rows))  # which sample it is, so that a subset can be found again
        attributes = [
            DataAttribute(rows.targets, "targets"),
            DataAttribute(numbers, "rows"),
            TaskLabels(ConstantSequence(data.index, len(rows))),
        ]
        datasets.append(TaskAwareClassificationDataset([rows], data_attributes=attributes))
    benchmark: Any = with_task_labels(benchmark_from_datasets(train=datasets))
    return list(benchmark.train_stream)
