"""Train on tensors in memory with Avalanche's supervised template: the one training loop of all learners.

One step, in the template's order (docs/architecture.md lists every hook): a batch of `Batches`, `forward`, `criterion`
(task loss, activity term, early readouts), the plugins' before_backward, backward, the optimiser, the plugins'
after_update.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from nesa.config.curriculum import Curriculum
from nesa.seeds import derive
from nesa.training.batches import Batches, InterleavedBatches, split_evenly
from nesa.training.strategies.avalanche_api import (
    ConstantSequence,
    DataAttribute,
    EvaluationPlugin,
    JointTraining,
    SupervisedTemplate,
    TaskAwareClassificationDataset,
    TaskLabels,
    benchmark_from_datasets,
    with_task_labels,
)
from nesa.training.strategies.models import TrainingPass, add_penalties
from nesa.training.task_data import TaskData


class CurriculumStrategy(SupervisedTemplate):
    """Avalanche's template with loaders that gather batches from tensors, and with the penalties in its criterion.

    tasks: the data by task label. The model is a GrowingURN or a SharedURN. restore: called when the hooks before
    training have run; it restores a partly trained task and returns how many of its epochs are done."""

    adds_penalties = True

    def __init__(self, *, tasks: Sequence[TaskData], curriculum: Curriculum, **options: Any):
        self.tasks = tasks
        self.curriculum = curriculum
        self.restore: Callable[[], int] | None = None
        self.training_pass: TrainingPass | None = None  # of the batch at hand
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it misses loggers: nesa.run_folder.writer is the only writer
            super().__init__(evaluator=EvaluationPlugin(), **options)
        self.plugins.remove(self.evaluator)  # type: ignore[arg-type]  # has no metrics, but costs time at every event

    def make_train_dataloader(self, **kwargs) -> None:  # type: ignore[override]
        assert self.experience is not None
        data = self.tasks[self.experience.current_experience]
        self.dataloader = task_batches(self.curriculum, data, self.train_mb_size)

    def criterion(self) -> Tensor:
        """Return the loss of the batch: the task's loss, computed once, and what the penalties add to it."""
        model: Any = self.model
        task_loss: Any = self._criterion(self.mb_output, self.mb_y)  # type: ignore[arg-type]
        self.training_pass, penalty = model.last_pass, model.penalty
        if penalty is None or self.training_pass is None:
            return task_loss
        return add_penalties(task_loss, task_loss, self.training_pass, penalty, self._criterion, self.mb_y)

    def state_dict(self) -> dict[str, Any]:
        """Return the position in the training data."""
        return self.dataloader.state_dict()  # type: ignore[attr-defined]

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.dataloader.load_state_dict(state)  # type: ignore[attr-defined]

    def _train_exp(self, experience, eval_streams=None, **kwargs) -> None:
        epochs = self.train_epochs
        self.train_epochs -= self.restore() if self.restore is not None else 0
        super()._train_exp(experience, eval_streams, **kwargs)
        self.train_epochs = epochs

    def _unpack_minibatch(self) -> None:
        """Batches are lists of tensors on the right device already."""


class JointStrategy(CurriculumStrategy, JointTraining):  # type: ignore[override]
    """Avalanche's JointTraining over batches in memory, balanced over the tasks as its own are."""

    def make_train_dataloader(self, **kwargs) -> None:  # type: ignore[override]
        tasks = [self.tasks[experience.current_experience] for experience in self._experiences]
        self.dataloader = joint_batches(self.curriculum, tasks, self.train_mb_size)


def task_batches(curriculum: Curriculum, data: TaskData, B: int) -> Batches:
    """Return the batches of B training samples of one task, in an order drawn from the curriculum's seed."""
    task = curriculum.tasks[data.index]
    return Batches(data, data.train, B, derive(curriculum.seed, "order", task.name), task.augment)


def joint_batches(curriculum: Curriculum, tasks: Sequence[TaskData], B: int) -> InterleavedBatches:
    """Return an epoch of batches of B samples, equally many of each task; small tasks begin again."""
    shares = split_evenly(B, len(tasks))
    parts = [task_batches(curriculum, data, share) for data, share in zip(tasks, shares, strict=True)]
    return InterleavedBatches(parts, max(map(len, parts)))


class _NormalisedSamples(torch.utils.data.Dataset):
    """Normalised samples one by one, for the parts of Avalanche that bring their own loader."""

    def __init__(self, data: TaskData):
        self.data = data
        self.targets = data.train.y.tolist()

    def __len__(self) -> int:
        return len(self.data.train)

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        return self.data.prepare(self.data.train.x[i]), self.targets[i]


def experiences(tasks: Sequence[TaskData]) -> list[Any]:
    """Build Avalanche experiences, one a task, in order; label t is the task's index, targets run from 0 in each."""
    datasets: list[Any] = []
    for data in tasks:
        samples: Any = _NormalisedSamples(data)
        numbers: Any = range(len(samples))  # which sample it is, so that a subset can be found again
        attributes = [
            DataAttribute(samples.targets, "targets"),
            DataAttribute(numbers, "rows"),
            TaskLabels(ConstantSequence(data.index, len(samples))),
        ]
        datasets.append(TaskAwareClassificationDataset([samples], data_attributes=attributes))
    benchmark: Any = with_task_labels(benchmark_from_datasets(train=datasets))
    return list(benchmark.train_stream)
