"""A task in the middle of its training, kept at the end of an epoch so that a run goes on from there, bit for bit.

What can be derived is not kept: fixed rows are the accumulation's, the first weights come from (seed, task), the order
and the changes of the samples from (seed, task, epoch). Kept are the free rows of W, b and the optimiser's moments,
which neurons have not been dropped, who has fired since compaction last looked, and the counters.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from nesa.learner import NeuralPruning, SupervisedPlugin
from urn.compaction import keep_only

if TYPE_CHECKING:
    from nesa.strategy import Observer, Schedule

EVERY = 30.0  # seconds of training between two of these, at least
SHARE = 0.02  # of the training time that they may take

State = dict[str, Any]


class Keeper(SupervisedPlugin):
    """Calls `save(state)` at ends of epochs, as often as EVERY and SHARE allow; comes after the plugins it is given."""

    def __init__(
        self, schedule: Schedule, pruning: NeuralPruning, observer: Observer, save: Callable[[State], None] | None
    ):
        super().__init__()
        self.schedule, self.pruning, self.observer, self.save = schedule, pruning, observer, save
        self.cost, self.last = 0.0, time.perf_counter()

    def before_training_exp(self, strategy, **kwargs) -> None:
        self.last = time.perf_counter()

    def after_training_epoch(self, strategy, **kwargs) -> None:
        began = time.perf_counter()
        if self.save is None or began - self.last < max(EVERY, self.cost / SHARE):
            return
        self.save(self.state(strategy))
        self.last = time.perf_counter()
        self.cost = self.last - began

    def state(self, strategy) -> State:
        """Tensors, numbers and text only. W, b and moments: free rows (n_free, n); fired: (I, n) or None."""
        model, worker = strategy.model, strategy.model.worker
        free = (~worker.fixed).to(worker.W.device)

        def rows(value: Any, p: Tensor) -> Any:
            return value[free] if isinstance(value, Tensor) and value.shape == p.shape else value

        parameters = {"W": worker.W, "b": worker.b}
        return {
            "epochs": strategy.dataloader.epoch,
            "index": model.index,
            **{name: p.data[free] for name, p in parameters.items()},
            "optimizer": {
                name: {key: rows(value, p) for key, value in strategy.optimizer.state.get(p, {}).items()}
                for name, p in parameters.items()
            },
            "fired": None if worker.watch is None else worker.watch.fired,
            "steps": [self.schedule.steps, self.pruning._steps, self.observer.steps],
        }

    def take_up(self, strategy, state: State) -> int:
        """Puts a worker that has just been drawn, its optimiser and the counters into `state`; returns the number of
        epochs that are done."""
        model, worker, optimizer = strategy.model, strategy.model.worker, strategy.optimizer
        place = torch.full((int(model.index.max()) + 1,), -1)
        place[model.index] = torch.arange(len(model.index))
        keep_only(worker, place[state["index"]], optimizer)
        model.index = state["index"]
        free = (~worker.fixed).to(worker.W.device)
        for name, p in (("W", worker.W), ("b", worker.b)):
            p.data[free] = state[name].to(p.device)
            optimizer.state[p] = {
                key: _whole(value, p, free) if isinstance(value, Tensor) and value.dim() else value
                for key, value in state["optimizer"][name].items()
            }
        strategy.optimized_param_id = dict(model.named_parameters())
        self.pruning._watch(worker)
        if worker.watch is not None:
            worker.watch.fired.copy_(state["fired"])
        self.schedule.steps, self.pruning._steps, self.observer.steps = state["steps"]
        self.observer.epoch = strategy.dataloader.epoch = strategy.clock.train_exp_epochs = state["epochs"]
        return state["epochs"]


def _whole(value: Tensor, p: Tensor, free: Tensor) -> Tensor:
    """A moment of all rows; those of fixed rows have never been touched."""
    whole = torch.zeros_like(p)
    whole[free] = value.to(p.device)
    return whole


__all__ = ["Keeper"]
