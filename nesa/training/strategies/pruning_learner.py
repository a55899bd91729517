"""Train the tasks of a curriculum with NeuralPruning, in the loop that all learners share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from nesa import distributed
from nesa.config.curriculum import Curriculum
from nesa.interrupts import DelayedInterrupt
from nesa.run_folder.digest import digest
from nesa.training.accumulation import Accumulation
from nesa.training.build import make_dynamics, make_optimizer, make_penalty
from nesa.training.evaluation import task_accuracy, weight_penalty
from nesa.training.strategies.models import GrowingURN
from nesa.training.strategies.neural_pruning import NeuralPruning
from nesa.training.strategies.plugins import LRSchedulePlugin, OnEvent, TrainingLogPlugin
from nesa.training.strategies.step_checkpoint import StepCheckpointPlugin, TaskNetworkState
from nesa.training.strategies.template import CurriculumStrategy, experiences
from nesa.training.task_data import TaskData
from urn.precision import multiply_in


class PruningLearner:
    """NeuralPruning over the tasks of a curriculum (a `nesa.training.strategies.learner.Learner`).

    on_event(name, fields): called after every step ("step"), epoch ("epoch") and pruning ("settled")."""

    claims_neurons = True

    def __init__(
        self,
        curriculum: Curriculum,
        tasks: Sequence[TaskData],
        accumulation: Accumulation,
        device: torch.device,
        on_event: OnEvent,
    ):
        self.curriculum, self.tasks, self.on_event = curriculum, tasks, on_event
        self.fine_tuning_epochs = curriculum.learner.heal_epochs
        self.experiences = experiences(tasks)
        self.device = device
        self.model = GrowingURN(accumulation, make_dynamics(curriculum, 0)).to(device)
        self.model.sharded = distributed.world() > 1
        self.model.reuse_gradient_memory = True  # one forward pass for each backward pass: the only plugins are ours

    @property
    def accumulation(self) -> Accumulation:
        return self.model.accumulation

    def train(
        self,
        k: int,
        save: Callable[[dict[str, Any]], None] | None = None,
        state: dict[str, Any] | None = None,
        interrupt: DelayedInterrupt | None = None,
    ) -> dict[str, Any]:
        """Train, prune and claim task k; returns the figures of its pruning."""
        config, learner = self.curriculum.tasks[k], self.curriculum.learner
        self.model.dynamics = make_dynamics(self.curriculum, k)
        self.model.multiply = multiply_in(config.training.precision, self.device)
        optimizer = make_optimizer(config, self.model.task_network)
        schedule = LRSchedulePlugin(config.training)
        log = TrainingLogPlugin(lambda fields: self._epoch(k, fields), lambda n: self.on_event("step", {"n": n}))
        pruning = NeuralPruning(
            make_penalty(config.penalties),
            seed=self.curriculum.seed,
            margin=learner.margin,
            heal_epochs=learner.heal_epochs,
            heal_lr=learner.heal_lr,
            compaction=learner.compaction,
            active_sets=learner.active_sets,
            ramp=config.penalties.ramp,
            validation=lambda _: self._validation(k),
            extra=lambda _: {"mean": self.tasks[k].mean, "std": self.tasks[k].std},
            before_pruning=lambda _: {"accuracy_test_before": self.accuracy(k, "test")},
            on_event=self.on_event,
        )
        checkpoints = StepCheckpointPlugin(None if self.model.sharded else save, interrupt)  # no rank has all rows
        strategy = CurriculumStrategy(
            tasks=self.tasks,
            curriculum=self.curriculum,
            model=self.model,
            optimizer=optimizer,
            criterion=nn.CrossEntropyLoss(),
            train_mb_size=config.training.batch_size,
            train_epochs=config.training.epochs,
            device=self.device,
            plugins=[schedule, log, pruning, checkpoints],
        )
        checkpoints.parts = {
            "task_network": TaskNetworkState(self.model, optimizer, pruning.track_activity),
            "batches": strategy,
            "schedule": schedule,
            "log": log,
            "pruning": pruning,
        }
        if state is not None:
            strategy.restore = lambda: checkpoints.restore(strategy, state)
        strategy.train(self.experiences[k], eval_streams=[])
        if self.model.sharded:
            distributed.check_agreement(self.tasks[k].name, digest(self.state_dict()))
        return pruning.figures

    def steps(self, k: int) -> int:
        samples = len(self.tasks[k].train)
        return max(1, samples // min(self.curriculum.tasks[k].training.batch_size, samples))

    def steps_done(self, state: dict[str, Any]) -> int:
        return state["log"]["steps"]

    def accuracy(self, j: int, part: str) -> float:
        """Accuracy of task j: of the task network while it trains, of its own frozen network once it is claimed."""
        network = self.model.task_network if j == self.model.current else self.model.network(j)
        assert network is not None
        return task_accuracy(network, self.tasks[j], part)

    def weights(self) -> tuple[Tensor, Tensor]:
        return self.model.task_network.W.data, self.model.index

    def state_dict(self) -> dict[str, Any]:
        return self.model.accumulation.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.model.accumulation = Accumulation.from_state_dict(state)

    def _validation(self, k: int) -> tuple[Tensor, Tensor]:
        data = self.tasks[k]
        return data.prepare(data.val.x), data.val.y

    def _epoch(self, k: int, fields: dict[str, Any]) -> None:
        network = self.model.task_network
        partition, hidden = network.partition, network.layout.hidden
        W = network.W.data[~network.frozen[partition.neurons].to(network.W.device)]
        self.on_event(
            "epoch",
            {
                "task": self.tasks[k].name,
                **fields,
                "val_accuracy": self.accuracy(k, "val"),
                "penalty_weight": weight_penalty(network, make_penalty(self.curriculum.tasks[k].penalties)),
                "live_neurons": int((~network.frozen[hidden]).sum()),
                "live_synapses": int(partition.total((W != 0).sum())),
            },
        )
