"""Checkpoint and restore a partly trained task, bit for bit.

A checkpoint is a dictionary of what each stateful part returns: the task network with its optimiser, the batches, and
the plugins. What can be derived is not stored: frozen rows are the accumulation's, the first weights come from (seed,
task), the order and the augmentation of the samples from (seed, task, epoch).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import torch
from torch import Tensor

from nesa.interrupts import DelayedInterrupt
from nesa.training.sparse_tensors import pack, unpack
from nesa.training.strategies.avalanche_api import SupervisedPlugin
from nesa.training.strategies.models import GrowingURN

INTERVAL = 30.0  # seconds of training between two checkpoints, at least
LONG_INTERVAL = 600.0  # where moments are factored now and then, between those of other steps
SHARE = 0.02  # of the training time that they may take
DISK_SPEED = 100e6  # bytes a second, until the first has been timed: a slow disk

State = dict[str, Any]


class Stateful(Protocol):
    """A part of the training whose state is numbers, text, None and tensors on the CPU."""

    def state_dict(self) -> State: ...
    def load_state_dict(self, state: State, /) -> None: ...


class StepCheckpointPlugin(SupervisedPlugin, supports_distributed=True):
    """Calls `save(state)` after steps, as often as INTERVAL and SHARE allow, and before a pending interrupt is raised.

    Must be the last plugin: its state is that of the others after their hooks of the same step. save: None where no
    checkpoint can be made."""

    def __init__(self, save: Callable[[State], None] | None, interrupt: DelayedInterrupt | None = None):
        super().__init__()
        self.save, self.interrupt = save, interrupt or DelayedInterrupt()
        self.parts: Mapping[str, Stateful] = {}  # restored in this order

    def before_training_exp(self, strategy, **kwargs) -> None:
        self.cost = 3 * 4 * strategy.model.task_network.W.numel() / DISK_SPEED
        self.last = time.perf_counter()

    def before_training_iteration(self, strategy, **kwargs) -> None:
        self.interrupt.deferred = self.save is not None

    def after_training_iteration(self, strategy, **kwargs) -> None:
        now = time.perf_counter()
        wait = INTERVAL if _is_small(strategy.optimizer) else LONG_INTERVAL
        due = now - self.last >= max(wait, self.cost / SHARE)
        if self.save is not None and (due or self.interrupt.pending is not None) and _is_finite(strategy.model):
            self.save(self.state_dict())
            self.last = time.perf_counter()
            self.cost = self.last - now
            self.interrupt.saved = self.interrupt.pending is not None
        self.interrupt.raise_if_pending()

    def after_training_exp(self, strategy, **kwargs) -> None:
        self.interrupt.deferred = False
        self.interrupt.raise_if_pending()

    def state_dict(self) -> State:
        """Return {name: state of the part}."""
        return {name: part.state_dict() for name, part in self.parts.items()}

    def restore(self, strategy, state: State) -> int:
        """Restore all parts of a task whose network has just been created; returns how many epochs are done."""
        for name, part in self.parts.items():
            part.load_state_dict(state[name])
        strategy.optimized_param_id = dict(strategy.model.named_parameters())
        done = min(strategy.dataloader.epoch, strategy.train_epochs)
        strategy.clock.train_exp_epochs = done
        return done


class TaskNetworkState:
    """The free rows of a task network and of the moments of its optimiser, and which neurons are computed when."""

    def __init__(self, model: GrowingURN, optimizer: torch.optim.Optimizer, track_activity: Callable[[Any], None]):
        self.model, self.optimizer, self.track_activity = model, optimizer, track_activity

    def state_dict(self) -> State:
        """W, b and moments: free rows (n_free, n), packed; active and inactive: (I, n) or None.

        Moments of synapses outside of the mask decide nothing and are left out."""
        network = self.model.task_network
        free = self._free()
        tracker, inactive = network.tracker, network.inactive
        feedforward = network.layout.layers is not None  # its inactive neurons follow from its layers
        return {
            "index": self.model.index,
            **{name: pack(p.data[free]) for name, p in self._parameters().items()},
            "optimizer": {
                name: {key: self._packed(key, value, p, free) for key, value in self.optimizer.state.get(p, {}).items()}
                for name, p in self._parameters().items()
            },
            "active": None if tracker is None else pack(tracker.fired),
            "inactive": None if inactive is None or feedforward else pack(inactive),
        }

    def load_state_dict(self, state: State) -> None:
        self.model.keep(state["index"], self.optimizer)
        free = self._free()
        for name, p in self._parameters().items():
            p.data[free] = unpack(state[name]).to(p.device)
            self.optimizer.state[p] = {
                key: _all_rows(value, p, free) if isinstance(value, dict) else value
                for key, value in state["optimizer"][name].items()
            }
        network = self.model.task_network
        self.track_activity(network)
        if network.tracker is not None and state["active"] is not None:
            network.tracker.fired.copy_(unpack(state["active"]))
        if state["inactive"] is not None:
            network.set_inactive(unpack(state["inactive"]))

    def _parameters(self) -> dict[str, torch.nn.Parameter]:
        return {"W": self.model.task_network.W, "b": self.model.task_network.b}

    def _free(self) -> Tensor:
        network = self.model.task_network
        return (~network.frozen).to(network.W.device)

    def _packed(self, key: str, value: Any, p: Tensor, free: Tensor) -> Any:
        """Of factored moments, those of non-zero weights, and the row and column whose product the others are."""
        if not isinstance(value, Tensor):
            return value
        if value.shape != p.shape:
            return value.detach().cpu()
        network, value = self.model.task_network, value[free]
        factored = getattr(self.optimizer, "factored", {}) if p is network.W else {}
        if key in factored:
            outer = factored[key] and (factored[key][0][free].cpu(), factored[key][1].cpu())
            return {"of_nonzero": value[p.data[free] != 0].cpu(), "outer": outer}
        return pack(value if network.mask is None or p is not network.W else value * network.mask[free])


def _all_rows(packed: State, p: Tensor, free: Tensor) -> Tensor:
    """A moment of all rows; those of frozen rows have never been touched."""
    whole, rows = torch.zeros_like(p), torch.zeros_like(p[free])
    if "of_nonzero" not in packed:
        rows = unpack(packed).to(p.device)
    else:
        if packed["outer"] is not None:
            rows = torch.outer(*(part.to(p.device) for part in packed["outer"]))
        rows[p.data[free] != 0] = packed["of_nonzero"].to(p.device)
    whole[free] = rows
    return whole


def _is_small(optimizer: torch.optim.Optimizer) -> bool:
    """Whether a checkpoint is as small now as it gets: the moments have just been factored, or never are."""
    return not getattr(optimizer, "factored_moments", False) or bool(getattr(optimizer, "factored", None))


def _is_finite(model: GrowingURN) -> bool:
    """A state that has diverged is not worth saving: the last good one stays."""
    network = model.task_network
    return bool(torch.isfinite(network.W.data).all() and torch.isfinite(network.b.data).all())
