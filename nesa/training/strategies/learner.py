"""Define what every learner can do, and create the one that a curriculum names."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from nesa import distributed
from nesa.config.curriculum import Curriculum
from nesa.errors import UserError
from nesa.interrupts import DelayedInterrupt
from nesa.training.accumulation import Accumulation
from nesa.training.strategies.baselines import BaselineLearner
from nesa.training.strategies.plugins import OnEvent
from nesa.training.strategies.pruning_learner import PruningLearner
from nesa.training.task_data import TaskData


class Learner(Protocol):
    """Trains the tasks of a curriculum one after the other and answers those that it has learned.

    claims_neurons: whether each task keeps neurons of its own, so that there is a structure to measure and old answers
    never change. fine_tuning_epochs: epochs after those that a task's training asks for. accumulation: what has been
    claimed so far; of a learner that claims nothing, the empty network."""

    claims_neurons: bool
    fine_tuning_epochs: int

    @property
    def accumulation(self) -> Accumulation: ...

    def train(
        self,
        k: int,
        save: Callable[[dict[str, Any]], None] | None = None,
        state: dict[str, Any] | None = None,
        interrupt: DelayedInterrupt | None = None,
    ) -> dict[str, Any]:
        """Train task k and return the figures of its pruning, if any. save: called with a checkpoint after some of the
        steps, and before a pending `interrupt` is raised. state: such a checkpoint, to go on from."""
        ...

    def steps(self, k: int) -> int:
        """Return the number of optimiser steps in an epoch of task k."""
        ...

    def steps_done(self, state: dict[str, Any]) -> int:
        """Return the number of optimiser steps that a checkpoint has behind it."""
        ...

    def accuracy(self, j: int, part: str) -> float:
        """Return the accuracy (0..1) of task j on its "train", "val" or "test" samples."""
        ...

    def weights(self) -> tuple[Tensor, Tensor]:
        """Return W (n, n) in training and the global indices (n,) of its neurons."""
        ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


def make_learner(
    curriculum: Curriculum,
    tasks: Sequence[TaskData],
    accumulation: Accumulation,
    device: torch.device,
    on_event: OnEvent,
) -> Learner:
    """Create the learner that `learner.name` names. on_event(name, fields): called after every step, epoch and pruning.

    Raises UserError for a baseline learner under torchrun."""
    if curriculum.learner.claims_neurons:
        return PruningLearner(curriculum, tasks, accumulation, device, on_event)
    if distributed.world() > 1:
        raise UserError(f"learner.name: {curriculum.learner.name} trains on one process; start it without torchrun")
    return BaselineLearner(curriculum, tasks, accumulation, device, on_event)
