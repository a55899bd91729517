"""Train one task for one step and note every hook of our strategy and plugins in the order in which it is called."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any
from unittest import mock

import torch

from nesa.config.curriculum import Curriculum, Input, Learner, Network, Task, Training
from nesa.training.build import make_accumulation
from nesa.training.strategies.neural_pruning import NeuralPruning
from nesa.training.strategies.plugins import LRSchedulePlugin, TrainingLogPlugin
from nesa.training.strategies.pruning_learner import PruningLearner
from nesa.training.strategies.step_checkpoint import StepCheckpointPlugin
from nesa.training.strategies.template import CurriculumStrategy
from nesa.training.task_data import Samples, TaskData

PLUGINS = (LRSchedulePlugin, TrainingLogPlugin, NeuralPruning, StepCheckpointPlugin)
STEPS = ("make_train_dataloader", "forward", "criterion", "backward", "optimizer_step")


def noted(owner: type, name: str, called: list[tuple[str, str]]) -> Callable[..., Any]:
    """The method `name` of `owner`, which adds itself to `called` first."""
    inner = getattr(owner, name)

    def outer(*args, **kwargs):
        called.append((name, owner.__name__))
        return inner(*args, **kwargs)

    return outer


def hooks_of_one_step() -> list[tuple[str, str]]:
    """(hook, class) of a task of one batch, from its first hook to its claim; no fine-tuning."""
    training = Training(batch_size=8, epochs=1)
    task = Task(name="task", source="spheres", training=training, iterations=3)
    curriculum = Curriculum(
        name="hooks",
        input=Input(size=(4,)),
        network=Network(neurons=20, iterations=3),
        learner=Learner(heal_epochs=0),
        training=training,
        tasks=(task,),
    )
    samples = Samples(torch.randn(8, 4), torch.arange(8) % 2)
    data = TaskData("task", 0, ("a", "b"), samples, samples, samples, 0.0, 1.0, None, "spheres", False)
    called: list[tuple[str, str]] = []
    learner = PruningLearner(
        curriculum, [data], make_accumulation(curriculum, [data]), torch.device("cpu"), lambda name, fields: None
    )
    hooks = [(owner, name) for owner in PLUGINS for name in vars(owner) if name.startswith(("before_", "after_"))]
    with contextlib.ExitStack() as patches:
        for owner, name in [*hooks, *((CurriculumStrategy, name) for name in STEPS)]:
            patches.enter_context(mock.patch.object(owner, name, noted(owner, name, called)))
        learner.train(0)
    return called
