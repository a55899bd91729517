"""Adapt Avalanche's plugins against forgetting (EWC, replay, LwF), with state that resumes exactly.

    naive, joint   nothing
    ewc            EWCPlugin: weights and importances        Kirkpatrick et al. 2017, arXiv 1612.00796
    replay         ReplayPlugin: some training samples
    lwf            LwFPlugin: the last network as a teacher  Li and Hoiem 2016, arXiv 1606.09282

The arithmetic is Avalanche's own. Avalanche squares the gradient of a *batch's* mean loss for EWC's importances, so
they shrink with the batch size and useful lambdas are large.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from nesa.config.curriculum import Curriculum
from nesa.seeds import derive
from nesa.training.batches import Batches, InterleavedBatches, split_evenly
from nesa.training.strategies.avalanche_api import EWCPlugin, LwFPlugin, ParamData, ReplayPlugin, SupervisedPlugin
from nesa.training.strategies.models import SharedURN
from nesa.training.task_data import Samples, TaskData


class Naive(SupervisedPlugin):
    """Nothing is done against forgetting. The other baseline plugins have these methods too."""

    def state_dict(self) -> dict[str, Any]:
        """Return what resuming needs beside the weights; tensors, numbers and text only."""
        return {}

    def load_state_dict(self, state: dict[str, Any], model: SharedURN, learned: Sequence[Any]) -> None:
        """Restore the state. model: with the weights after the experiences `learned`."""


class EWC(EWCPlugin):
    """Avalanche's, with its memory as plain tensors: two of W's size for each learned task."""

    def state_dict(self) -> dict[str, Any]:
        return {
            name: {task: {key: value.data for key, value in params.items()} for task, params in memory.items()}
            for name, memory in (("importances", self.importances), ("weights", self.saved_params))
        }

    def load_state_dict(self, state: dict[str, Any], model: SharedURN, learned: Sequence[Any]) -> None:
        device = model.network.W.device
        for name, memory in (("importances", self.importances), ("weights", self.saved_params)):
            for task, params in state[name].items():
                named = {key.replace("urn.", "network.", 1): value for key, value in params.items()}  # earlier versions
                memory[task] = {
                    key: ParamData(key, value.shape, init_tensor=value.to(device), device=device)
                    for key, value in named.items()
                }


class Replay(ReplayPlugin):
    """Avalanche's memory and its task-balanced batches, gathered from tensors: its own loader reads sample by sample
    and would train without the task's augmentation."""

    def __init__(self, memory: int, curriculum: Curriculum, tasks: Sequence[TaskData]):
        super().__init__(memory, task_balanced_dataloader=True)
        self.curriculum, self.tasks = curriculum, tasks

    def remembered(self) -> dict[int, Tensor]:
        """Return {task: rows} of the training samples that are in memory."""
        policy: Any = self.storage_policy
        buffers = (group.buffer for group in policy.buffer_groups.values())
        return {buffer.targets_task_labels[0]: torch.tensor(list(buffer.rows)) for buffer in buffers if len(buffer)}

    def before_training_exp(self, strategy, **kwargs) -> None:  # type: ignore[override]
        memory = self.remembered()
        if not memory:
            return
        now = self.curriculum.tasks[strategy.experience.current_experience].name
        parts = [strategy.dataloader]
        for (task, rows), share in zip(memory.items(), split_evenly(strategy.train_mb_size, len(memory)), strict=True):
            data, config = self.tasks[task], self.curriculum.tasks[task]
            rows = rows.to(data.train.y.device)
            samples = Samples(data.train.x[rows], data.train.y[rows])
            seed = derive(self.curriculum.seed, "replay", now, config.name)
            parts.append(Batches(data, samples, share, seed, config.augment))
        strategy.dataloader = InterleavedBatches(parts, len(parts[0]))

    def after_training_exp(self, strategy, **kwargs) -> None:
        self.remember(strategy.experience)

    def remember(self, experience: Any) -> None:
        """Store samples of an experience, drawn from (seed, task) where Avalanche uses torch's global generator."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive(self.curriculum.seed, "memory", experience.current_experience))
            self.storage_policy.post_adapt(None, experience)

    def state_dict(self) -> dict[str, Any]:
        return {}  # the same draws give the same memory

    def load_state_dict(self, state: dict[str, Any], model: SharedURN, learned: Sequence[Any]) -> None:
        for experience in learned:
            self.remember(experience)


class LwF(LwFPlugin):
    """Avalanche's. Its teacher is the network after the last task, so the weights are all that has to be stored."""

    def after_training_exp(self, strategy, **kwargs) -> None:
        self.lwf.post_adapt(strategy, strategy.experience)

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any], model: SharedURN, learned: Sequence[Any]) -> None:
        for experience in learned:
            self.lwf.post_adapt(SimpleNamespace(model=model), experience)


def make_baseline_plugin(curriculum: Curriculum, tasks: Sequence[TaskData]) -> Naive | EWC | Replay | LwF:
    """Create the plugin that does what the curriculum's learner does against forgetting."""
    params = curriculum.learner.params
    make: dict[str, Callable[[], Naive | EWC | Replay | LwF]] = {
        "naive": Naive,
        "joint": Naive,
        "ewc": lambda: EWC(params["lambda"]),
        "replay": lambda: Replay(params["memory"], curriculum, tasks),
        "lwf": lambda: LwF(params["alpha"], params["temperature"]),
    }
    return make[curriculum.learner.name]()
