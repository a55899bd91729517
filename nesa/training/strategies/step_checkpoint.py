"""A task in the middle of its training, kept so that a run goes on from that very step, bit for bit.

What can be derived is not kept: fixed rows are the accumulation's, the first weights come from (seed, task), the order
and the changes of the samples from (seed, task, epoch). Kept are the free rows of W, b and the optimiser's moments,
which neurons have not been dropped, their order, who is computed at which l, who has fired since compaction last
looked, the counters, and what the epoch in hand has added up so far.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from nesa.interrupts import DelayedInterrupt
from nesa.training.sparse_tensors import pack, unpack
from nesa.training.strategies.neural_pruning import Healing, NeuralPruning, SupervisedPlugin

if TYPE_CHECKING:
    from nesa.training.strategies.template import LRSchedulePlugin, TrainingLogPlugin

EVERY = 30.0  # seconds of training between two of these, at least: at ends of epochs where they are small,
LONG = 600.0  # and anywhere else
SHARE = 0.02  # of the training time that they may take
SPEED = 100e6  # bytes a second, until the first has been timed: a slow disk

State = dict[str, Any]


class StepCheckpointPlugin(SupervisedPlugin, supports_distributed=True):
    """Calls `save(state)` after steps, as often as EVERY, LONG and SHARE allow, and before it obeys `stop`; comes after
    the plugins it is given."""

    def __init__(
        self,
        schedule: LRSchedulePlugin,
        pruning: NeuralPruning,
        observer: TrainingLogPlugin,
        save: Callable[[State], None] | None,
        stop: DelayedInterrupt | None = None,
    ):
        super().__init__()
        self.schedule, self.pruning, self.observer, self.save = schedule, pruning, observer, save
        self.stop = stop or DelayedInterrupt()
        self.batches = 0  # of the pass in hand that are done, 1 to all of them
        self.cost, self.last = 0.0, time.perf_counter()

    def before_training_exp(self, strategy, **kwargs) -> None:
        task_network = strategy.model.task_network
        self.cost = 3 * 4 * task_network.W.numel() / SPEED
        self.last = time.perf_counter()

    def before_training_iteration(self, strategy, **kwargs) -> None:
        self.stop.deferred = self.save is not None

    def after_training_iteration(self, strategy, **kwargs) -> None:
        self.batches = self.batches % len(strategy.dataloader) + 1
        self._keep(strategy)

    def after_training_exp(self, strategy, **kwargs) -> None:
        self.stop.deferred = False
        self.stop.raise_if_pending()

    def _keep(self, strategy) -> None:
        began = time.perf_counter()
        small = getattr(strategy.optimizer, "condensed", True) is not None  # or never is, under torch's optimisers
        wait = EVERY if small and self.batches == len(strategy.dataloader) else LONG
        due = began - self.last >= max(wait, self.cost / SHARE)
        if self.save is not None and (due or self.stop.asked is not None) and _finite(strategy.model.task_network):
            self.save(self.state(strategy))
            self.last = time.perf_counter()
            self.cost = self.last - began
            self.stop.saved = self.stop.asked is not None
        self.stop.raise_if_pending()

    def state(self, strategy) -> State:
        """Tensors, numbers and text only. W, b and moments: free rows (n_free, n), packed; fired and silent: (I, n) or
        None. Moments of synapses that healing leaves out decide nothing and are left out; where the optimiser has just
        been condensed, those of zero weights are a row and a column."""
        model, task_network, observer = strategy.model, strategy.model.task_network, self.observer
        healing = self.pruning._healing
        free = (~task_network.frozen).to(task_network.W.device)
        condensed = getattr(strategy.optimizer, "condensed", None) or {}

        def rows(name: str, value: Any, p: Tensor) -> Any:
            if not isinstance(value, Tensor):
                return value
            if value.shape != p.shape:
                return value.detach().cpu()
            value = value[free]
            if p is task_network.W and name in condensed:
                outer = condensed[name] and (condensed[name][0][free].cpu(), condensed[name][1].cpu())
                return {"at": value[p.data[free] != 0].cpu(), "outer": outer}
            return pack(
                value * task_network.mask[free] if task_network.mask is not None and p is task_network.W else value
            )

        parameters = {"W": task_network.W, "b": task_network.b}
        return {
            "epochs": strategy.dataloader.epoch - 1,  # that are done; `batches` are of the next one
            "batches": self.batches,
            "index": model.index,
            **{name: pack(p.data[free]) for name, p in parameters.items()},
            "optimizer": {
                name: {key: rows(key, value, p) for key, value in strategy.optimizer.state.get(p, {}).items()}
                for name, p in parameters.items()
            },
            "fired": None if task_network.tracker is None else pack(task_network.tracker.fired),
            "silent": None
            if task_network.inactive is None or task_network.layout.layers is not None
            else pack(task_network.inactive),
            "steps": [self.schedule.steps, self.pruning._steps, observer.steps],
            "sums": {key: _plain(getattr(observer, key)) for key in observer.SUMS},
            "seconds": time.perf_counter() - observer.started,
            "healing": healing
            and {
                "fields": healing.fields,
                "score": healing.score,
                "W": pack(healing.W[free]),
                "b": pack(healing.b[free]),
            },
        }

    def take_up(self, strategy, state: State) -> int:
        """Puts a worker that has just been drawn, its optimiser and the counters into `state`; returns the number of
        epochs of training that are done."""
        model, task_network, optimizer, observer = (
            strategy.model,
            strategy.model.task_network,
            strategy.optimizer,
            self.observer,
        )
        model.keep(state["index"], optimizer)
        free = (~task_network.frozen).to(task_network.W.device)
        for name, p in (("W", task_network.W), ("b", task_network.b)):
            p.data[free] = unpack(state[name]).to(p.device)
            optimizer.state[p] = {
                key: _whole(value, p, free) if isinstance(value, dict) else value
                for key, value in state["optimizer"][name].items()
            }
        strategy.optimized_param_id = dict(model.named_parameters())
        self.pruning._watch(task_network)
        if task_network.tracker is not None and state["fired"] is not None:
            task_network.tracker.fired.copy_(unpack(state["fired"]))
        if state.get("silent") is not None:
            task_network.set_inactive(unpack(state["silent"]))
        self.schedule.steps, self.pruning._steps, observer.steps = state["steps"]
        for key, value in state["sums"].items():
            setattr(observer, key, value.to(strategy.device) if isinstance(value, Tensor) else value)
        loader = strategy.dataloader
        observer.started = time.perf_counter() - state["seconds"]
        loader.epoch, loader.skip = state["epochs"], state["batches"]
        observer.epoch = strategy.clock.train_exp_epochs = trained = min(state["epochs"], strategy.train_epochs)
        self.batches = state["batches"]
        if (healing := state["healing"]) is not None:
            W, b = task_network.W.data.clone(), task_network.b.data.clone()
            W[free], b[free] = unpack(healing["W"]).to(W.device), unpack(healing["b"]).to(b.device)
            self.pruning._healing = Healing(healing["fields"], W, b, healing["score"], state["epochs"] - trained)
        return trained


def _finite(task_network) -> bool:
    """A state that has diverged is not worth keeping: the last good one stays."""
    return bool(torch.isfinite(task_network.W.data).all() and torch.isfinite(task_network.b.data).all())


def _plain(value: Any) -> Any:
    return value.detach().cpu() if isinstance(value, Tensor) else value


def _whole(state: State, p: Tensor, free: Tensor) -> Tensor:
    """A moment of all rows; those of fixed rows have never been touched."""
    whole = torch.zeros_like(p)
    if "at" not in state:
        whole[free] = unpack(state).to(p.device)
        return whole
    values, outer = state["at"].to(p.device), state["outer"]
    rows = torch.zeros_like(p[free]) if outer is None else torch.outer(*(part.to(p.device) for part in outer))
    rows[p.data[free] != 0] = values
    whole[free] = rows
    return whole


__all__ = ["StepCheckpointPlugin"]
