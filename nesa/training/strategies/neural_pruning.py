"""Continual Learning via Neural Pruning on a URN, as an Avalanche plugin (Golkar, Kagan, Cho, arXiv 1903.04476).

For each task: train the free neurons under penalties, settle (prune, and heal with the support fixed), claim what is
left. `NeuralPruning` works in any Avalanche supervised strategy and with any torch optimiser:

    model = AccumulatingURN(Accumulation(layout), Rule(5, "residual_output", "linear"))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    strategy = Naive(model=model, optimizer=optimizer, plugins=[NeuralPruning(penalty=Penalty(weight=0.1))])

The setting is task-incremental: the task's label is known at test time.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from nesa.errors import RunFailed, UserError
from nesa.seeds import derive
from nesa.training.pruning import PruningResult, accuracy, advice, prune
from nesa.training.strategies.models import GrowingURN
from urn.compaction import ActivityTracker, compact, rebind_parameters, set_active_sets, update_full_pass
from urn.network import URN
from urn.optim import Proximal
from urn.penalties import Penalty, early_loss, soft_threshold_
from urn.row_partition import unshard

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # qpsolvers warns about solvers that nothing here uses
    from avalanche.core import SupervisedPlugin

CONDENSE = 50  # steps at least between two times: where epochs are short, momentum would never build up


@dataclass
class NeuralPruningOptions:
    """margin: most that settling may cost, as a share of the validation samples (0.01 is one point). heal_epochs:
    epochs of training with the support fixed after pruning. heal_lr: their first learning rate as a share of the
    optimiser's. ramp: share of the task over which the weight penalty rises from zero. compaction: leave neurons that
    stayed silent for `window` steps out of the products. active_sets: leave neurons that stayed silent from some l on
    out there; needs compaction, and does nothing in a feedforward network or where the penalty counts every neuron."""

    margin: float = 0.01
    heal_epochs: int = 4
    heal_lr: float = 1.0
    ramp: float = 0.33
    compaction: bool = True
    active_sets: bool = True
    window: int = 100


@dataclass
class Healing:
    """What a task has in hand between settling and its claim. fields: the figures of settling. W (n, n), b (n,): the
    settled weights, whose non-zeros are the support; score: theirs on validation (0..1). epochs: of healing done."""

    fields: dict[str, Any]
    W: Tensor
    b: Tensor
    score: float
    epochs: int = 0


class NeuralPruning(SupervisedPlugin, supports_distributed=True):
    """Train, settle, claim. Needs a strategy whose model is an `AccumulatingURN`.

    penalty: the price of structure; read again at the start of each task, so it may be replaced between tasks.
    validation: experience -> (x, y) to settle on; without it a tenth of each experience is held out.
    extra: experience -> what to store with the task. before_settling: experience -> figures to report with those of
    settling, measured on the trained network as it is. report(name, fields): hears of settling ("settled") and of what
    the user should know ("warning"); without it, warnings are Python's.
    Raises RunFailed when the weights stop being finite; earlier tasks are untouched by that. Raises UserError for
    experiences that it cannot learn, and for the penalty method prox_adam with an optimiser other than Proximal.
    """

    def __init__(
        self,
        penalty: Penalty | None = None,
        *,
        seed: int = 0,
        validation: Callable[[Any], tuple[Tensor, Tensor]] | None = None,
        extra: Callable[[Any], Mapping[str, Any]] | None = None,
        before_settling: Callable[[Any], Mapping[str, Any]] | None = None,
        report: Callable[[str, dict[str, Any]], None] | None = None,
        **options: Any,
    ):
        super().__init__()
        self.penalty = penalty or Penalty()
        self.options = NeuralPruningOptions(**options)
        self.seed = seed
        self.validation = validation
        self.extra = extra
        self._before_settling = before_settling  # a public name would look like one of Avalanche's callbacks
        self.report = report or _warn
        self.settled: PruningResult | None = None
        self._held_out: tuple[Tensor, Tensor] | None = None
        self._healing: Healing | None = None

    # --- before a task -------------------------------------------------------------------------------------------

    def after_train_dataset_adaptation(self, strategy, **kwargs) -> None:
        if self.validation is None:
            self._held_out = _hold_out(strategy, derive(self.seed, "split", strategy.experience.current_experience))

    def before_training_exp(self, strategy, **kwargs) -> None:
        model = _model(strategy)
        task = _label(strategy)
        if self.penalty.method == "prox_adam" and not isinstance(strategy.optimizer, Proximal):
            raise UserError(
                f"the penalty method prox_adam needs the moments of urn.optim.Proximal, not of "
                f"{type(strategy.optimizer).__name__}; use that optimiser, or the method prox_decoupled"
            )
        generator = torch.Generator().manual_seed(derive(self.seed, "weights", model.names[task]))
        rebind_parameters(strategy.optimizer, model.begin(task, generator))
        strategy.optimized_param_id = dict(model.named_parameters())
        if isinstance(strategy.optimizer, Proximal):
            strategy.optimizer.urn = model.task_network
            strategy.optimizer.penalty = self.penalty
        strategy.optimizer.state.clear()
        self._available = int((~model.task_network.frozen[model.task_network.layout.hidden]).sum())
        self._drawn = model.index
        self._rates = [group["lr"] for group in strategy.optimizer.param_groups]
        self._steps = 0
        self._total = max(1, strategy.train_epochs * len(strategy.dataloader))
        self._healing = None
        self._watch(model.task_network)

    # --- a step --------------------------------------------------------------------------------------------------

    def before_training_iteration(self, strategy, **kwargs) -> None:
        if self._healing:  # a half cosine from heal_lr times the task's first learning rate down to zero
            share = 0.5 * (1 + math.cos(math.pi * self._steps / self._total)) * self.options.heal_lr
            for group, rate in zip(strategy.optimizer.param_groups, self._rates, strict=True):
                group["lr"] = rate * share

    def before_forward(self, strategy, **kwargs) -> None:
        task_network = _model(strategy).task_network
        if task_network.tracker is not None and self._narrows(task_network):
            update_full_pass(task_network, strategy.optimizer, self._steps)
        # healing prices nothing, and answers as early
        healing = self._healing is not None
        _model(strategy).penalty = Penalty(early_readout=self.penalty.early_readout) if healing else self.penalty

    def before_backward(self, strategy, **kwargs) -> None:
        model = _model(strategy)
        if model.activity is not None and not self._healing:
            strategy.loss = strategy.loss + model.activity
        take_early(strategy, self.penalty)

    def before_update(self, strategy, **kwargs) -> None:
        optimizer, task_network = strategy.optimizer, _model(strategy).task_network
        if isinstance(optimizer, Proximal):
            optimizer.ramp = self._ramp()
        elif self.penalty.method == "subgradient" and task_network.W.grad is not None and not self._healing:
            coefficient = self._coefficient(task_network)
            task_network.W.grad.add_(task_network.W.data.sign() * coefficient)

    def after_update(self, strategy, **kwargs) -> None:
        task_network = _model(strategy).task_network
        if not isinstance(strategy.optimizer, Proximal):
            if self.penalty.method != "subgradient" and not self._healing:
                lr = float(strategy.optimizer.param_groups[0]["lr"])
                coefficient = self._coefficient(task_network)
                if isinstance(coefficient, Tensor) or coefficient > 0:
                    soft_threshold_(task_network.W.data, lr * coefficient)
            task_network.restore_frozen()
        self._steps += 1
        task_network.compute_all_now = False
        if task_network.tracker is not None and self._steps % self.options.window == 0:
            self.compact(strategy)
        epoch = len(strategy.dataloader)
        if isinstance(strategy.optimizer, Proximal) and self._steps % (epoch * -(-CONDENSE // epoch)) == 0:
            strategy.optimizer.condense()  # whether or not it is kept now: a resumed run must be the same run

    def compact(self, strategy) -> None:
        """Drops the free neurons that nothing has woken during the last window."""
        model, task_network = _model(strategy), _model(strategy).task_network
        leave_out = set_active_sets if self._narrows(task_network) else compact
        model.index = model.index[leave_out(task_network, strategy.optimizer)]
        strategy.optimized_param_id = dict(model.named_parameters())
        self._watch(task_network)

    def after_training_epoch(self, strategy, **kwargs) -> None:
        task_network = _model(strategy).task_network
        if isinstance(strategy.optimizer, Proximal):
            strategy.optimizer.apply_deferred()
        if not bool(torch.isfinite(task_network.W.data).all() and torch.isfinite(task_network.b.data).all()):
            raise RunFailed(
                f"task {_model(strategy).names[_label(strategy)]!r}: the weights are no longer finite after epoch "
                f"{strategy.clock.train_exp_epochs}. Lower the learning rate or the initial gain. "
                "Earlier tasks are unharmed."
            )

    # --- after a task --------------------------------------------------------------------------------------------

    def after_training_exp(self, strategy, **kwargs) -> None:
        model, task_network = _model(strategy), _model(strategy).task_network
        task_network.tracker = None
        if self._narrows(task_network):
            self._widen(strategy)
        port = model.names[_label(strategy)]
        x, y = self._held_out or self.validation(strategy.experience)  # type: ignore[misc]
        if self._healing is None:  # a run that was stopped while it healed has settled already
            self._settle(strategy, x, y, port)
        assert self._healing is not None
        fields = self._healing.fields
        if self.options.heal_epochs:
            self._heal(strategy, x, y, port)
        self._healing = None
        fields["accuracy_val_after"] = accuracy(task_network, x, y, port)
        extra = self.extra(strategy.experience) if self.extra is not None else {}
        model.finish(**extra)
        strategy.optimizer.state.clear()
        self.report("settled", {"task": port, **fields})

    def _settle(self, strategy, x: Tensor, y: Tensor, port: str) -> None:
        """Prunes the worker, says what the user should know, and notes what healing begins with."""
        model, task_network = _model(strategy), _model(strategy).task_network
        trained = (task_network.W, task_network.b)
        unshard(task_network)
        fields = dict(self._before_settling(strategy.experience)) if self._before_settling is not None else {}
        self.settled = first = prune(task_network, x, y, port, self.options.margin)
        model.index = model.index[first.kept]
        rebind_parameters(strategy.optimizer, dict(zip(trained, (task_network.W, task_network.b), strict=True)))
        strategy.optimized_param_id = dict(model.named_parameters())
        if message := advice(port, task_network, self._available, self.penalty):
            self.report("warning", {"message": message})
        fields |= {
            "accuracy_val_before": first.score_before,
            "accuracy_val_pruned": first.score_after,
            "theta": first.theta,
            "weight_threshold": first.weight_threshold,
        }
        strategy.optimizer.state.clear()
        self._steps = 0
        score = accuracy(task_network, x, y, port) if self.options.heal_epochs else first.score_after
        self._healing = Healing(fields, task_network.W.data.clone(), task_network.b.data.clone(), score)

    def _heal(self, strategy, x: Tensor, y: Tensor, port: str) -> None:
        """Trains on without penalties and with the support fixed; keeps the better of before and after."""
        task_network, healing = _model(strategy).task_network, self._healing
        assert healing is not None
        task_network.mask = healing.W != 0
        self._total = max(1, self.options.heal_epochs * len(strategy.dataloader))
        while healing.epochs < self.options.heal_epochs:
            strategy.training_epoch()
            healing.epochs += 1
        for group, rate in zip(strategy.optimizer.param_groups, self._rates, strict=True):
            group["lr"] = rate
        if not bool(torch.isfinite(task_network.W.data).all()) or accuracy(task_network, x, y, port) < healing.score:
            task_network.W.data.copy_(healing.W)
            task_network.b.data.copy_(healing.b)
        task_network.mask = None

    # --- inside --------------------------------------------------------------------------------------------------

    def _watch(self, task_network: URN) -> None:
        task_network.tracker = (
            ActivityTracker(task_network) if self.options.compaction and task_network.iterations > 1 else None
        )

    def _narrows(self, task_network: URN) -> bool:
        every = task_network.outputs_send or self.penalty.literal or self.penalty.ports
        return self.options.active_sets and task_network.layout.layers is None and not every

    def _widen(self, strategy) -> None:
        """Everything is computed again, and neurons have the order in which they were drawn."""
        model, task_network = _model(strategy), _model(strategy).task_network
        task_network.set_inactive(None)
        index = self._drawn[torch.isin(self._drawn, model.index)]
        if not torch.equal(index, model.index):
            model.keep(index, strategy.optimizer)
            strategy.optimized_param_id = dict(model.named_parameters())

    def _ramp(self) -> float:
        if self._healing:
            return 0.0
        rise = self.options.ramp * self._total
        return min(1.0, self._steps / rise) if rise else 1.0

    def _coefficient(self, task_network: URN) -> Tensor | float:
        coefficient = self.penalty.coefficient(task_network.layout, slice(None))
        return (
            coefficient.to(task_network.W) * self._ramp()
            if isinstance(coefficient, Tensor)
            else coefficient * self._ramp()
        )


def take_early(strategy, penalty: Penalty) -> None:
    """Takes the penalty's share of the task's loss at the early readouts of the batch instead of at the last, where the
    model has kept any (`urn.penalties.early_loss`)."""
    if strategy.model.early:
        early = early_loss(strategy._criterion, strategy.model.early, strategy.mb_y)
        strategy.loss = strategy.loss + penalty.early_readout * (early - strategy.criterion())


def _model(strategy) -> GrowingURN:
    model = strategy.model
    if not isinstance(model, GrowingURN):
        raise TypeError(f"NeuralPruning needs a strategy whose model is an AccumulatingURN, not {type(model).__name__}")
    return model


def _label(strategy) -> int:
    """The task label of the current experience; each experience must hold one task that has an output port."""
    labels, names = list(strategy.experience.task_labels), _model(strategy).names
    if len(labels) != 1:
        raise UserError(f"NeuralPruning learns one task at a time; this experience holds the task labels {labels}")
    if labels[0] >= len(names):
        raise UserError(
            f"the experience has task label {labels[0]}, but the network has {len(names)} output port(s), for the "
            f"labels 0 to {len(names) - 1}: {', '.join(names)}; give it a port with Accumulation.add_ports"
        )
    return labels[0]


def _warn(name: str, fields: Mapping[str, Any]) -> None:
    """Where nobody else listens: warnings are said aloud."""
    if name == "warning":
        warnings.warn(fields["message"], stacklevel=2)


def _hold_out(strategy, seed: int) -> tuple[Tensor, Tensor]:
    """Takes a tenth of the samples out of the strategy's training data and returns them as (x, y)."""
    data = strategy.adapted_dataset
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(seed))
    held = max(1, len(data) // 10)
    samples = [data[int(i)] for i in order[:held]]
    strategy.adapted_dataset = data.subset(order[held:].tolist())
    x = torch.stack([sample[0] for sample in samples]).to(strategy.device)
    return x, torch.tensor([int(sample[1]) for sample in samples], device=strategy.device)
