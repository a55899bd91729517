"""Provide the Avalanche plugins that every learner uses: learning-rate schedule, ramp of the penalties, and log."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim.lr_scheduler import LRScheduler

from nesa.config.curriculum import Training
from nesa.errors import RunFailed
from nesa.training.strategies.avalanche_api import SupervisedPlugin

OnEvent = Callable[[str, dict[str, Any]], None]


class WarmupSchedule(LRScheduler):
    """torch's LinearLR warm-up times a constant, or times CosineAnnealingLR from lr to zero, in closed form.

    A chain of the two multiplies the rate of the step before, so its rounding errors add up; here the rate is a
    function of the step alone, and a resumed task has the same one to the last bit. warmup: steps until the rate is lr,
    as Adam's second moment is noise at first, and one step of all weights of a large network moves its outputs by their
    number. total: steps of the task, after which the rate stays."""

    def __init__(self, optimizer: torch.optim.Optimizer, training: Training, total: int):
        self.cosine, self.warmup, self.total = training.schedule == "cosine", max(1, training.warmup), total
        super().__init__(optimizer)

    def get_lr(self) -> list[float | Tensor]:
        return [self._rate(float(lr)) for lr in self.base_lrs]

    def _rate(self, lr: float) -> float | Tensor:
        rate = lr * min(1.0, (self.last_epoch + 1) / self.warmup)
        return rate * (0.5 * (1 + math.cos(math.pi * self.last_epoch / self.total))) if self.cosine else rate


class LRSchedulePlugin(SupervisedPlugin, supports_distributed=True):
    """Sets the learning rate of each step of a task (`WarmupSchedule`); fine-tuning steps have a schedule of their
    own (`nesa.training.strategies.neural_pruning`)."""

    def __init__(self, training: Training):
        super().__init__()
        self.training = training

    def before_training_exp(self, strategy, **kwargs) -> None:
        for group in strategy.optimizer.param_groups:
            group["lr"] = self.training.lr
            group.pop("initial_lr", None)  # of an earlier task, which torch's schedulers would keep
        total = max(1, strategy.train_epochs * len(strategy.dataloader))
        self.schedule = WarmupSchedule(strategy.optimizer, self.training, total)

    def after_training_iteration(self, strategy, **kwargs) -> None:
        if self.schedule.last_epoch + 1 < self.schedule.total:
            self.schedule.step()

    def state_dict(self) -> dict[str, Any]:
        return {"steps": self.schedule.last_epoch}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.schedule.last_epoch = state["steps"]
        for group, rate in zip(self.schedule.optimizer.param_groups, self.schedule.get_lr(), strict=True):
            group["lr"] = rate


class PenaltyRampPlugin(SupervisedPlugin):
    """Raises the weight and length penalties of the proximal optimiser from zero over the share `ramp` of a task."""

    def __init__(self, ramp: float):
        super().__init__()
        self.ramp = ramp

    def before_training_exp(self, strategy, **kwargs) -> None:
        self.steps, self.rise = 0, self.ramp * max(1, strategy.train_epochs * len(strategy.dataloader))

    def before_update(self, strategy, **kwargs) -> None:
        strategy.optimizer.ramp = min(1.0, self.steps / self.rise) if self.rise else 1.0
        self.steps += 1


class TrainingLogPlugin(SupervisedPlugin, supports_distributed=True):
    """Adds up loss and accuracy and reports them after each epoch; stops a run whose loss is not finite.

    on_epoch(fields): called after every epoch. on_step(n): called after every n steps."""

    SUMS = ("loss", "right", "activity", "finite", "seen", "batches")  # of the epoch at hand

    def __init__(self, on_epoch: Callable[[dict[str, Any]], None], on_step: Callable[[int], None] | None = None):
        super().__init__()
        self.on_epoch, self.on_step = on_epoch, on_step

    def before_training_exp(self, strategy, **kwargs) -> None:
        self.epoch, self.steps, self.started = 0, 0, time.perf_counter()
        self.device = strategy.device
        self._reset()

    def after_training_iteration(self, strategy, **kwargs) -> None:
        self.loss += strategy.loss.detach().squeeze()  # Avalanche starts from a loss of shape (1,)
        self.right += (strategy.mb_output.detach().argmax(1) == strategy.mb_y).sum()
        self.finite += torch.isfinite(self.loss)  # once it is not, it stays so: this counts the steps before
        self.seen += len(strategy.mb_y)
        self.steps += 1
        self.batches += 1
        if strategy.training_pass is not None:
            self.activity += strategy.training_pass.activity.detach()
        if self.on_step is not None:
            self.on_step(1)

    def after_training_epoch(self, strategy, **kwargs) -> None:
        loss = float(self.loss) / max(1, self.batches)
        if not math.isfinite(loss):
            step = self.steps - self.batches + int(self.finite) + 1
            raise RunFailed(
                f"task {strategy.tasks[strategy.experience.current_experience].name!r}: the loss is {loss}, since step "
                f"{step} (epoch {self.epoch}). Lower the learning rate or the initial gain. Earlier tasks are unharmed."
            )
        self.on_epoch(
            {
                "epoch": self.epoch,
                "step": self.steps,
                "loss": loss,
                "train_accuracy": int(self.right) / max(1, self.seen),
                "penalty_activity": float(self.activity) / max(1, self.batches),
                "seconds": time.perf_counter() - self.started,
            }
        )
        self.epoch += 1
        self._reset()

    def state_dict(self) -> dict[str, Any]:
        sums = {key: getattr(self, key) for key in self.SUMS}
        return {
            "epoch": self.epoch,
            "steps": self.steps,
            "seconds": time.perf_counter() - self.started,
            **{key: value.detach().cpu() if isinstance(value, Tensor) else value for key, value in sums.items()},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.epoch, self.steps = state["epoch"], state["steps"]
        self.started = time.perf_counter() - state["seconds"]
        for key in self.SUMS:
            value = state[key]
            setattr(self, key, value.to(self.device) if isinstance(value, Tensor) else value)

    def _reset(self) -> None:
        zero = torch.zeros((), device=self.device)
        self.loss, self.right, self.activity, self.finite = (zero.clone() for _ in range(4))
        self.seen = self.batches = 0
