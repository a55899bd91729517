"""Learn tasks one after the other by pruning and freezing: an Avalanche plugin (Golkar, Kagan, Cho, arXiv 1903.04476).

For each task: train the free neurons under penalties, prune, fine-tune with the mask of the pruned weights, claim what
is left. `NeuralPruning` works in any Avalanche supervised strategy and with the torch optimisers that docs/index.md
lists:

    model = GrowingURN(Accumulation(layout), Dynamics(5, "residual_output", "linear"))
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
from nesa.training.evaluation import accuracy
from nesa.training.pruning import PruningResult, advice, prune
from nesa.training.sparse_tensors import pack, unpack
from nesa.training.strategies.avalanche_api import SupervisedPlugin
from nesa.training.strategies.models import GrowingURN, add_penalties
from urn.compaction import ActivityTracker, compact, set_active_sets, update_full_pass
from urn.network import URN
from urn.optim import Proximal
from urn.penalties import Penalty, soft_threshold_
from urn.surgery import rebind_parameters, unshard

FACTOR_INTERVAL = 50  # steps at least between two times: where epochs are short, momentum would never build up


@dataclass
class NeuralPruningOptions:
    """margin: most that pruning may cost, as a share of the validation samples (0.01 is one point). heal_epochs:
    epochs of fine-tuning after pruning. heal_lr: their first learning rate as a share of the optimiser's. ramp: share
    of the task over which the weight penalty rises from zero. compaction: leave neurons that stayed inactive for
    `window` steps out of the products. active_sets: leave neurons that stayed inactive from some l on out there; needs
    compaction, and does nothing in a feedforward network or where the penalty counts every neuron."""

    margin: float = 0.01
    heal_epochs: int = 4
    heal_lr: float = 1.0
    ramp: float = 0.33
    compaction: bool = True
    active_sets: bool = True
    window: int = 100


@dataclass
class FineTuning:
    """A task between pruning and its claim. figures: of pruning. W (n, n), b (n,): the pruned weights, whose non-zeros
    are the mask; score: theirs on validation data (0..1). epochs: of fine-tuning done."""

    figures: dict[str, Any]
    W: Tensor
    b: Tensor
    score: float
    epochs: int = 0


class NeuralPruning(SupervisedPlugin, supports_distributed=True):
    """Train, prune, fine-tune, claim. Needs a strategy whose model is a `GrowingURN`.

    penalty: penalty coefficients; read again at the start of each task, so it may be replaced between tasks.
    validation: experience -> (x, y) to prune on; without it a tenth of each experience is held out.
    extra: experience -> what to store with the task. before_pruning: experience -> figures to report with those of
    pruning, measured on the trained network as it is. on_event(name, fields): called after pruning ("settled") and with
    what the user should know ("warning"); without it, warnings are Python's. figures: those of the last pruning.
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
        before_pruning: Callable[[Any], Mapping[str, Any]] | None = None,
        on_event: Callable[[str, dict[str, Any]], None] | None = None,
        **options: Any,
    ):
        super().__init__()
        self.penalty = penalty or Penalty()
        self.options = NeuralPruningOptions(**options)
        self.seed = seed
        self.validation = validation
        self.extra = extra
        self._before_pruning = before_pruning  # a public name would look like one of Avalanche's callbacks
        self.on_event = on_event or _warn
        self.result: PruningResult | None = None
        self.figures: dict[str, Any] = {}
        self._held_out: tuple[Tensor, Tensor] | None = None
        self._fine_tuning: FineTuning | None = None

    # --- before a task -------------------------------------------------------------------------------------------

    def after_train_dataset_adaptation(self, strategy, **kwargs) -> None:
        if self.validation is None:
            self._held_out = _hold_out(strategy, derive(self.seed, "split", strategy.experience.current_experience))

    def before_training_exp(self, strategy, **kwargs) -> None:
        model, task, optimizer = _model(strategy), _label(strategy), strategy.optimizer
        if self.penalty.method == "prox_adam" and not isinstance(optimizer, Proximal):
            raise UserError(
                f"the penalty method prox_adam needs the moments of urn.optim.Proximal, not of "
                f"{type(optimizer).__name__}; use that optimiser, or the method prox_decoupled"
            )
        generator = torch.Generator().manual_seed(derive(self.seed, "weights", model.names[task]))
        rebind_parameters(optimizer, model.begin(task, generator))
        strategy.optimized_param_id = dict(model.named_parameters())
        if isinstance(optimizer, Proximal):
            optimizer.network = model.task_network
            optimizer.penalty = self.penalty
        optimizer.state.clear()
        self._model = model
        self._available = int((~model.task_network.frozen[model.task_network.layout.hidden]).sum())
        self._drawn = model.index
        self._rates = [group.get("initial_lr", group["lr"]) for group in optimizer.param_groups]
        self._steps = 0
        self._total = max(1, strategy.train_epochs * len(strategy.dataloader))
        self._fine_tuning = None
        self.track_activity(model.task_network)

    # --- a step --------------------------------------------------------------------------------------------------

    def before_training_iteration(self, strategy, **kwargs) -> None:
        if self._fine_tuning:  # a half cosine from heal_lr times the task's first learning rate down to zero
            share = 0.5 * (1 + math.cos(math.pi * self._steps / self._total)) * self.options.heal_lr
            for group, rate in zip(strategy.optimizer.param_groups, self._rates, strict=True):
                group["lr"] = rate * share

    def before_forward(self, strategy, **kwargs) -> None:
        model = _model(strategy)
        if model.task_network.tracker is not None and self._has_active_sets(model.task_network):
            update_full_pass(model.task_network, strategy.optimizer, self._steps)
        # fine-tuning has no penalties, and answers as early
        early_alone = Penalty(early_readout=self.penalty.early_readout)
        model.penalty = self.penalty if self._fine_tuning is None else early_alone

    def before_backward(self, strategy, **kwargs) -> None:
        model = _model(strategy)
        if getattr(strategy, "adds_penalties", False) or model.last_pass is None or model.penalty is None:
            return  # the criterion of CurriculumStrategy contains them
        task_loss = strategy.criterion() if model.last_pass.early else strategy.loss
        strategy.loss = add_penalties(
            strategy.loss, task_loss, model.last_pass, model.penalty, strategy._criterion, strategy.mb_y
        )

    def before_update(self, strategy, **kwargs) -> None:
        optimizer, network = strategy.optimizer, _model(strategy).task_network
        if isinstance(optimizer, Proximal):
            optimizer.ramp = self._ramp()
        elif self.penalty.method == "subgradient" and network.W.grad is not None and not self._fine_tuning:
            network.W.grad.add_(network.W.data.sign() * self._coefficient(network))

    def after_update(self, strategy, **kwargs) -> None:
        optimizer, network = strategy.optimizer, _model(strategy).task_network
        if not isinstance(optimizer, Proximal):
            if self.penalty.method != "subgradient" and not self._fine_tuning:
                coefficient = self._coefficient(network)
                if isinstance(coefficient, Tensor) or coefficient > 0:
                    soft_threshold_(network.W.data, float(optimizer.param_groups[0]["lr"]) * coefficient)
            network.restore_frozen()
        self._steps += 1
        network.compute_all_now = False
        if network.tracker is not None and self._steps % self.options.window == 0:
            self.compact(strategy)
        if isinstance(optimizer, Proximal) and optimizer.factored_moments:
            epoch = len(strategy.dataloader)
            if self._steps % (epoch * -(-FACTOR_INTERVAL // epoch)) == 0:
                optimizer.factor_moments()  # saved now or not: a resumed run must be the same run

    def compact(self, strategy) -> None:
        """Drop the free neurons that have not been active during the last window."""
        model = _model(strategy)
        reduce = set_active_sets if self._has_active_sets(model.task_network) else compact
        model.index = model.index[reduce(model.task_network, strategy.optimizer)]
        strategy.optimized_param_id = dict(model.named_parameters())
        self.track_activity(model.task_network)

    def after_training_epoch(self, strategy, **kwargs) -> None:
        network = _model(strategy).task_network
        if isinstance(strategy.optimizer, Proximal):
            strategy.optimizer.apply_deferred()
        if not bool(torch.isfinite(network.W.data).all() and torch.isfinite(network.b.data).all()):
            raise RunFailed(
                f"task {_model(strategy).names[_label(strategy)]!r}: the weights are no longer finite after epoch "
                f"{strategy.clock.train_exp_epochs}. Lower the learning rate or the initial gain. "
                "Earlier tasks are unharmed."
            )

    # --- after a task --------------------------------------------------------------------------------------------

    def after_training_exp(self, strategy, **kwargs) -> None:
        model = _model(strategy)
        model.task_network.tracker = None
        if self._has_active_sets(model.task_network):
            self._leave_active_sets(strategy)
        port = model.names[_label(strategy)]
        x, y = self._held_out or self.validation(strategy.experience)  # type: ignore[misc]
        if self._fine_tuning is None:  # a run that was interrupted while fine-tuning has been pruned already
            self._fine_tuning = self._prune(strategy, x, y, port)
        self.figures = self._fine_tuning.figures
        if self.options.heal_epochs:
            self._fine_tune(strategy, self._fine_tuning, x, y, port)
        self._fine_tuning = None
        self.figures["accuracy_val_after"] = accuracy(model.task_network, x, y, port)
        extra = self.extra(strategy.experience) if self.extra is not None else {}
        model.finish(**extra)
        strategy.optimizer.state.clear()
        self.on_event("settled", {"task": port, **self.figures})

    def _prune(self, strategy, x: Tensor, y: Tensor, port: str) -> FineTuning:
        """Prune the task network, report what the user should know, and return what fine-tuning starts from."""
        model, network = _model(strategy), _model(strategy).task_network
        trained = (network.W, network.b)
        unshard(network)
        figures = dict(self._before_pruning(strategy.experience)) if self._before_pruning is not None else {}
        self.result = found = prune(network, x, y, port, self.options.margin)
        model.index = model.index[found.kept]
        rebind_parameters(strategy.optimizer, dict(zip(trained, (network.W, network.b), strict=True)))
        strategy.optimized_param_id = dict(model.named_parameters())
        if message := advice(port, network, self._available, self.penalty):
            self.on_event("warning", {"message": message})
        figures |= {
            "accuracy_val_before": found.score_before,
            "accuracy_val_pruned": found.score_after,
            "theta": found.theta,
            "weight_threshold": found.weight_threshold,
        }
        strategy.optimizer.state.clear()
        self._steps = 0
        score = accuracy(network, x, y, port) if self.options.heal_epochs else found.score_after
        return FineTuning(figures, network.W.data.clone(), network.b.data.clone(), score)

    def _fine_tune(self, strategy, pruned: FineTuning, x: Tensor, y: Tensor, port: str) -> None:
        """Train on without penalties and with the mask fixed; keep the better of before and after."""
        network = _model(strategy).task_network
        network.mask = pruned.W != 0
        self._total = max(1, self.options.heal_epochs * len(strategy.dataloader))
        while pruned.epochs < self.options.heal_epochs:
            strategy.training_epoch()
            pruned.epochs += 1
        for group, rate in zip(strategy.optimizer.param_groups, self._rates, strict=True):
            group["lr"] = rate
        if not bool(torch.isfinite(network.W.data).all()) or accuracy(network, x, y, port) < pruned.score:
            network.W.data.copy_(pruned.W)
            network.b.data.copy_(pruned.b)
        network.mask = None

    # --- checkpoints ---------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Steps done and, while fine-tuning, the pruned weights: free rows (n_free, n), packed."""
        tuning = None
        if self._fine_tuning is not None:
            free = self._free_rows()
            tuning = {
                "figures": self._fine_tuning.figures,
                "W": pack(self._fine_tuning.W[free]),
                "b": pack(self._fine_tuning.b[free]),
                "score": self._fine_tuning.score,
                "epochs": self._fine_tuning.epochs,
            }
        return {"steps": self._steps, "fine_tuning": tuning}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned, when the task network has its neurons and weights already."""
        self._steps = state["steps"]
        if (tuning := state["fine_tuning"]) is not None:
            free, network = self._free_rows(), self._model.task_network
            W, b = network.W.data.clone(), network.b.data.clone()
            W[free], b[free] = unpack(tuning["W"]).to(W.device), unpack(tuning["b"]).to(b.device)
            self._fine_tuning = FineTuning(tuning["figures"], W, b, tuning["score"], tuning["epochs"])

    # --- inside --------------------------------------------------------------------------------------------------

    def track_activity(self, network: URN) -> None:
        """Start a window in which the network notes which neurons are active."""
        network.tracker = ActivityTracker(network) if self.options.compaction and network.iterations > 1 else None

    def _free_rows(self) -> Tensor:
        network = self._model.task_network
        return (~network.frozen).to(network.W.device)

    def _has_active_sets(self, network: URN) -> bool:
        every = network.outputs_send or self.penalty.literal or self.penalty.ports
        return self.options.active_sets and network.layout.layers is None and not every

    def _leave_active_sets(self, strategy) -> None:
        """Compute every neuron at every l again, and put neurons in the order in which they were drawn."""
        model = _model(strategy)
        model.task_network.set_inactive(None)
        index = self._drawn[torch.isin(self._drawn, model.index)]
        if not torch.equal(index, model.index):
            model.keep(index, strategy.optimizer)
            strategy.optimized_param_id = dict(model.named_parameters())

    def _ramp(self) -> float:
        if self._fine_tuning:
            return 0.0
        rise = self.options.ramp * self._total
        return min(1.0, self._steps / rise) if rise else 1.0

    def _coefficient(self, network: URN) -> Tensor | float:
        coefficient = self.penalty.coefficient(network.layout, slice(None))
        return (coefficient.to(network.W) if isinstance(coefficient, Tensor) else coefficient) * self._ramp()


def _model(strategy) -> GrowingURN:
    model = strategy.model
    if not isinstance(model, GrowingURN):
        raise TypeError(f"NeuralPruning needs a strategy whose model is a GrowingURN, not {type(model).__name__}")
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
    """The default of on_event: warnings become Python's."""
    if name == "warning":
        warnings.warn(fields["message"], stacklevel=2)


def _hold_out(strategy, seed: int) -> tuple[Tensor, Tensor]:
    """Take a tenth of the samples out of the strategy's training data and return them as (x, y)."""
    data = strategy.adapted_dataset
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(seed))
    held = max(1, len(data) // 10)
    samples = [data[int(i)] for i in order[:held]]
    strategy.adapted_dataset = data.subset(order[held:].tolist())
    x = torch.stack([sample[0] for sample in samples]).to(strategy.device)
    return x, torch.tensor([int(sample[1]) for sample in samples], device=strategy.device)
