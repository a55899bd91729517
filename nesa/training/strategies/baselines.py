"""Avalanche's own learners on the whole network, in the same loop as NeuralPruning, so that comparisons are fair.

    naive   trains on, and forgets
    ewc     lambda: a quadratic penalty for each learned task holds the weights that mattered to it
    replay  memory: as many remembered samples in a step as new ones, balanced over the learned tasks
    lwf     alpha, temperature: answers of the last network are distilled, on the new task's samples
    joint   at each task afresh on all tasks so far, so that every row of R has its own upper bound

Same network (every row trains, one output port a task), same batches, augmentation, schedule, optimiser and penalties;
the optimiser's state is cleared between tasks. `joint` trains as the last of its tasks says, and an epoch lasts until
the largest task has been seen once, as Avalanche's balanced loader has it.

All random choices come from (seed, task, purpose): a resumed run equals an unbroken one.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from nesa.config.curriculum import Curriculum
from nesa.errors import RunFolderError
from nesa.seeds import derive
from nesa.training.accumulation import Accumulation
from nesa.training.evaluation import accuracy
from nesa.training.strategies.baseline_plugins import InterleavedBatches, make_baseline_plugin, shares
from nesa.training.strategies.neural_pruning import take_early
from nesa.training.strategies.shared_model import SharedURN
from nesa.training.strategies.template import (
    CurriculumStrategy,
    LRSchedulePlugin,
    TrainingLogPlugin,
    experiences,
    make_optimizer,
    make_penalty,
    weight_cost,
)
from nesa.training.task_data import Batches, TaskData
from urn.network import URN
from urn.precision import multiply_in

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # qpsolvers warns about solvers that nothing here uses
    from avalanche.core import SupervisedPlugin
    from avalanche.training.supervised.joint_training import JointTraining


class JointStrategy(CurriculumStrategy, JointTraining):  # type: ignore[override]
    """Avalanche's JointTraining over batches in memory, balanced over the tasks as its own are."""

    def make_train_dataloader(self, **kwargs) -> None:  # type: ignore[override]
        tasks = [self.tasks[experience.current_experience] for experience in self._experiences]
        self.dataloader = joint_batches(self.curriculum, tasks, self.train_mb_size)


def joint_batches(curriculum: Curriculum, tasks: Sequence[TaskData], B: int) -> InterleavedBatches:
    """An epoch of batches of B samples, of each task as many; small tasks begin again."""
    parts = []
    for data, share in zip(tasks, shares(B, len(tasks)), strict=True):
        config = curriculum.tasks[data.index]
        seed = derive(curriculum.seed, "order", config.name)
        parts.append(Batches(data, data.train, share, seed, config.augment))
    return InterleavedBatches(parts, max(map(len, parts)))


class PenaltyPlugin(SupervisedPlugin):
    """The curriculum's penalties: activity into the loss, weights and lengths through the optimiser, with the ramp."""

    def __init__(self, ramp: float):
        super().__init__()
        self.ramp = ramp

    def before_training_exp(self, strategy, **kwargs) -> None:
        self.steps, self.rise = 0, self.ramp * max(1, strategy.train_epochs * len(strategy.dataloader))

    def before_backward(self, strategy, **kwargs) -> None:
        model = strategy.model
        strategy.loss = strategy.loss + model.activity
        take_early(strategy, model.penalty)
        model.activity = model.activity.detach()  # for the record; LwF reads the model again after this

    def before_update(self, strategy, **kwargs) -> None:
        strategy.optimizer.ramp = min(1.0, self.steps / self.rise) if self.rise else 1.0
        self.steps += 1


class BaselineLearner:
    """One of the learners above over the tasks of a curriculum; the same methods as `nesa.training.strategies.template.Pruning`.

    accumulation: where the neurons and the ports are, the gain and the type of the weights; nothing is claimed in it.
    report(name, fields) hears of steps and epochs."""

    def __init__(
        self,
        curriculum: Curriculum,
        tasks: Sequence[TaskData],
        accumulation: Accumulation,
        device: torch.device,
        report: Callable[[str, dict[str, Any]], None],
    ):
        self.curriculum, self.tasks, self.accumulation = curriculum, tasks, accumulation
        self.device, self.report = device, report
        self.name = curriculum.learner.name
        self.experiences = experiences(tasks)
        self.learned = 0
        self.model = self._fresh()
        self.memory = make_baseline_plugin(curriculum, tasks)

    def train(self, k: int) -> None:
        """Trains on task k (joint: on tasks 0 to k, from the first weights)."""
        config, joint = self.curriculum.tasks[k], self.name == "joint"
        if joint:
            self.model = self._fresh()
        self.model.penalty = make_penalty(config.penalties)
        self.model.urn.multiply = multiply_in(config.training.precision, self.device)
        strategy = (JointStrategy if joint else CurriculumStrategy)(
            tasks=self.tasks,
            curriculum=self.curriculum,
            model=self.model,
            optimizer=make_optimizer(config, self.model.urn),
            criterion=nn.CrossEntropyLoss(),
            train_mb_size=config.training.batch_size,
            train_epochs=config.training.epochs,
            device=self.device,
            plugins=[
                PenaltyPlugin(config.penalties.ramp),  # first: it takes the activity of the batch's own pass
                self.memory,
                LRSchedulePlugin(config.training),
                TrainingLogPlugin(
                    lambda name, fields: self._epoch(k, name, fields), lambda n: self.report("step", {"n": n})
                ),
            ],
        )
        strategy.clock.train_exp_counter = k  # EWC asks it for the number of learned tasks
        strategy.train(self.experiences[: k + 1] if joint else self.experiences[k], eval_streams=[])
        self.learned = k + 1

    def steps(self, k: int) -> int:
        """Optimiser steps in an epoch of task k."""
        together = self.tasks[: k + 1] if self.name == "joint" else self.tasks[k : k + 1]
        return len(joint_batches(self.curriculum, together, self.curriculum.tasks[k].training.batch_size))

    def accuracy(self, j: int, part: str) -> float:
        """Test, validation or training accuracy of task j on the network as it is now."""
        data = self.tasks[j]
        return accuracy(self.model.at(j), data, getattr(data, part))

    def state_dict(self) -> dict[str, Any]:
        urn = self.model.urn
        return {
            "learner": self.name,
            "learned": self.learned,
            "W": urn.W.detach(),
            "b": urn.b.detach(),
            "memory": self.memory.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes back to the state between two tasks, exactly. Raises RunFolderError where it is not this learner's."""
        urn = self.model.urn
        if state.get("learner") != self.name or state["W"].shape != urn.W.shape:
            held = f"{state.get('learner', 'neural_pruning')} with {len(state.get('b', ()))} neurons"
            raise RunFolderError(
                f"the checkpoint is of the learner {held}, the curriculum asks for {self.name} with {urn.S}; a run of "
                "a rival learner keeps its network and its tasks: start a new run for a changed curriculum"
            )
        with torch.no_grad():
            urn.W.copy_(state["W"])
            urn.b.copy_(state["b"])
        self.learned = state["learned"]
        self.model.known_train_tasks_labels = set(range(self.learned))
        self.memory = make_baseline_plugin(self.curriculum, self.tasks)
        self.memory.load_state_dict(state["memory"], self.model, self.experiences[: self.learned])

    def _fresh(self) -> SharedURN:
        """He-normal weights and zero biases, from the seed of the pruning learner's first worker. Not its numbers: all
        ports are drawn at once here, and count in the deviation."""
        network, source = self.curriculum.network, self.accumulation
        layout, iterations = source.layout, [task.iterations for task in self.curriculum.tasks]
        urn = URN(
            layout,
            iterations[0],
            network.update,
            network.output_activation,
            gain=source.gain,
            generator=torch.Generator().manual_seed(derive(self.curriculum.seed, "weights", self.tasks[0].name)),
            dtype=source.W.dtype,
        )
        W, frozen = urn.W.data, torch.zeros(layout.S, dtype=torch.bool)
        if not source.inputs_receive:
            frozen[layout.inputs], W[layout.inputs] = True, 0
        urn.set_parameters(layout, W.to(self.device), urn.b.data.to(self.device), frozen)
        return SharedURN(urn, iterations)

    @torch.no_grad()
    def _epoch(self, k: int, name: str, fields: dict[str, Any]) -> None:
        urn, penalty = self.model.urn, self.model.penalty
        assert penalty is not None
        linked = urn.W.data != 0
        hidden = urn.layout.hidden.to(linked.device)
        self.report(
            name,
            {
                "task": self.tasks[k].name,
                **fields,
                "val_accuracy": self.accuracy(k, "val"),
                "penalty_weight": weight_cost(urn, penalty),
                "live_neurons": int((linked.any(0) & linked.any(1))[hidden].sum()),
                "live_synapses": int(linked.sum()),
            },
        )
