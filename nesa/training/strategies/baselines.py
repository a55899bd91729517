"""Train Avalanche's own learners on the whole network, in the same loop as NeuralPruning, for fair comparisons.

    naive   trains on, and forgets
    ewc     lambda: a quadratic penalty for each learned task holds the weights that mattered to it
    replay  memory: as many stored samples in a step as new ones, balanced over the learned tasks
    lwf     alpha, temperature: answers of the last network are distilled, on the new task's samples
    joint   at each task afresh on all tasks so far, so that every row of R has its own upper bound

Same network (every row trains, one output port a task), same batches, augmentation, schedule, optimiser and penalties;
the optimiser's state is cleared between tasks. `joint` trains as the last of its tasks says, and an epoch lasts until
the largest task has been used once, as Avalanche's balanced loader has it.

All random choices come from (seed, task, purpose): a resumed run equals an unbroken one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from nesa.config.curriculum import Curriculum
from nesa.errors import RunFolderError
from nesa.interrupts import DelayedInterrupt
from nesa.seeds import derive
from nesa.training.accumulation import Accumulation
from nesa.training.build import make_optimizer, make_penalty
from nesa.training.evaluation import task_accuracy, weight_penalty
from nesa.training.strategies.baseline_plugins import make_baseline_plugin
from nesa.training.strategies.models import SharedURN
from nesa.training.strategies.plugins import LRSchedulePlugin, OnEvent, PenaltyRampPlugin, TrainingLogPlugin
from nesa.training.strategies.template import CurriculumStrategy, JointStrategy, experiences, joint_batches
from nesa.training.task_data import TaskData
from urn.network import URN
from urn.precision import multiply_in


class BaselineLearner:
    """One of the learners above over the tasks of a curriculum (a `nesa.training.strategies.learner.Learner`).

    accumulation: where the neurons and the ports are, the gain and the type of the weights; nothing is claimed in it.
    on_event(name, fields): called after every step and epoch. A task is not checkpointed inside."""

    claims_neurons = False
    fine_tuning_epochs = 0

    def __init__(
        self,
        curriculum: Curriculum,
        tasks: Sequence[TaskData],
        accumulation: Accumulation,
        device: torch.device,
        on_event: OnEvent,
    ):
        self.curriculum, self.tasks, self.accumulation = curriculum, tasks, accumulation
        self.device, self.on_event = device, on_event
        self.name = curriculum.learner.name
        self.experiences = experiences(tasks)
        self.learned = 0
        self.model = self._fresh()
        self.plugin = make_baseline_plugin(curriculum, tasks)

    def train(
        self,
        k: int,
        save: Callable[[dict[str, Any]], None] | None = None,
        state: dict[str, Any] | None = None,
        interrupt: DelayedInterrupt | None = None,
    ) -> dict[str, Any]:
        """Train task k (joint: tasks 0 to k, from the first weights); nothing is pruned."""
        config, joint = self.curriculum.tasks[k], self.name == "joint"
        if joint:
            self.model = self._fresh()
        self.model.penalty = make_penalty(config.penalties)
        self.model.network.multiply = multiply_in(config.training.precision, self.device)
        strategy = (JointStrategy if joint else CurriculumStrategy)(
            tasks=self.tasks,
            curriculum=self.curriculum,
            model=self.model,
            optimizer=make_optimizer(config, self.model.network),
            criterion=nn.CrossEntropyLoss(),
            train_mb_size=config.training.batch_size,
            train_epochs=config.training.epochs,
            device=self.device,
            plugins=[
                PenaltyRampPlugin(config.penalties.ramp),
                self.plugin,
                LRSchedulePlugin(config.training),
                TrainingLogPlugin(lambda fields: self._epoch(k, fields), lambda n: self.on_event("step", {"n": n})),
            ],
        )
        strategy.clock.train_exp_counter = k  # EWC reads the number of learned tasks there
        strategy.train(self.experiences[: k + 1] if joint else self.experiences[k], eval_streams=[])
        self.learned = k + 1
        return {}

    def steps(self, k: int) -> int:
        together = self.tasks[: k + 1] if self.name == "joint" else self.tasks[k : k + 1]
        return len(joint_batches(self.curriculum, together, self.curriculum.tasks[k].training.batch_size))

    def steps_done(self, state: dict[str, Any]) -> int:
        return 0

    def accuracy(self, j: int, part: str) -> float:
        """Accuracy of task j on the network as it is now."""
        return task_accuracy(self.model.at(j), self.tasks[j], part)

    def weights(self) -> tuple[Tensor, Tensor]:
        network = self.model.network
        return network.W.data, torch.arange(network.S)

    def state_dict(self) -> dict[str, Any]:
        network = self.model.network
        return {
            "learner": self.name,
            "learned": self.learned,
            "W": network.W.detach(),
            "b": network.b.detach(),
            "memory": self.plugin.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the state between two tasks, exactly. Raises RunFolderError where it is another learner's."""
        network = self.model.network
        if state.get("learner") != self.name or state["W"].shape != network.W.shape:
            held = f"{state.get('learner', 'neural_pruning')} with {len(state.get('b', ()))} neurons"
            raise RunFolderError(
                f"the checkpoint is of the learner {held}, the curriculum asks for {self.name} with {network.S}; a run "
                "of a baseline learner keeps its network and its tasks: start a new run for a changed curriculum"
            )
        with torch.no_grad():
            network.W.copy_(state["W"])
            network.b.copy_(state["b"])
        self.learned = state["learned"]
        self.model.known_train_tasks_labels = set(range(self.learned))
        self.plugin = make_baseline_plugin(self.curriculum, self.tasks)
        self.plugin.load_state_dict(state["memory"], self.model, self.experiences[: self.learned])

    def _fresh(self) -> SharedURN:
        """He-normal weights and zero biases, from the seed of the pruning learner's first network. Not its numbers: all
        ports are drawn at once here, and count in the deviation."""
        config, source = self.curriculum.network, self.accumulation
        layout, iterations = source.layout, [task.iterations for task in self.curriculum.tasks]
        network = URN(
            layout,
            iterations[0],
            config.update,
            config.output_activation,
            gain=source.gain,
            generator=torch.Generator().manual_seed(derive(self.curriculum.seed, "weights", self.tasks[0].name)),
            dtype=source.W.dtype,
        )
        W, frozen = network.W.data, torch.zeros(layout.S, dtype=torch.bool)
        if not source.inputs_receive:
            frozen[layout.inputs], W[layout.inputs] = True, 0
        network.set_parameters(layout, W.to(self.device), network.b.data.to(self.device), frozen)
        return SharedURN(network, iterations)

    @torch.no_grad()
    def _epoch(self, k: int, fields: dict[str, Any]) -> None:
        network, penalty = self.model.network, self.model.penalty
        assert penalty is not None
        linked = network.W.data != 0
        hidden = network.layout.hidden.to(linked.device)
        self.on_event(
            "epoch",
            {
                "task": self.tasks[k].name,
                **fields,
                "val_accuracy": self.accuracy(k, "val"),
                "penalty_weight": weight_penalty(network, penalty),
                "live_neurons": int((linked.any(0) & linked.any(1))[hidden].sum()),
                "live_synapses": int(linked.sum()),
            },
        )
