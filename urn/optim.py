"""Train a URN with Adam, AdamW or SGD and a proximal step for the weight penalties, in one pass over W.

`Proximal` updates the trainable rows only, so frozen rows keep their bits whatever the state contains. It works through
W in strips of rows that stay in the cache: gradient, moments, soft threshold and mask touch memory once. Steps of
weights that a step's gradient cannot reach, because neurons are left out, are deferred: `apply_deferred` takes them
together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from urn.base_optimizers import BASES
from urn.layout import Layout
from urn.network import URN
from urn.penalties import Penalty, soft_threshold_
from urn.plan import GradientSupport

KEPT = 1 << 29  # largest S x S whose coefficients are kept: 2 GB; to compute them costs as much as the rest of a step
STRIP = 1 << 17  # elements of W in one strip: with its gradient and two moments 2 MB, one core's cache
WIDE_STRIP = 1 << 26  # the same on a GPU, where launches cost more than a cache gives
DEFERRED = "deferred"  # key of the optimiser's state
SQUARES = ("exp_avg_sq",)  # moments of squares: without a sign, and steps are divided by them

Block = tuple[int, int, slice, bool]  # first and last row, columns, and whether the mask excludes some of its synapses
Deferred = tuple[GradientSupport, int, float, float, float, float]  # see `Proximal._defer`


class Trainable(NamedTuple):
    """What of a network trains. ranges: of rows. blocks: of W. layout: with positions on W's device. neurons: (n,) the
    neuron of each row of W."""

    ranges: list[tuple[int, int]]
    blocks: list[Block]
    layout: Layout
    neurons: Tensor


class Proximal(torch.optim.Optimizer):
    """Adam, AdamW or SGD with the penalty's weight and length terms as a proximal (or subgradient) step.

    network: its frozen rows and the synapses outside of its mask never change. base: "adam", "adamw" or "sgd".
    penalty: coefficients of eq 9; `ramp` (0..1, set before each step) scales them. weight_decay: L2 for adam and sgd,
    decoupled for adamw. Biases get no penalty. factored_moments: whether the training loop calls `factor_moments` now
    and then, so that checkpoints stay small; off by default, because it changes training.

    prox_adam follows ProxGen (Yun, Lozano, Yang 2021): the threshold is lr * coefficient / (sqrt(v_hat) + eps); under
    sgd the metric is the identity, so it equals prox_decoupled. Raises ValueError for an unknown base.
    """

    def __init__(
        self,
        network: URN,
        base: str = "adam",
        lr: float = 1e-3,
        *,
        penalty: Penalty | None = None,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
        factored_moments: bool = False,
    ):
        if base not in BASES:
            raise ValueError(f"the optimiser is one of {', '.join(BASES)}, not {base!r}")
        self.network = network
        self.base = base
        self.penalty = penalty or Penalty()
        self.ramp = 1.0
        self.factored_moments = factored_moments
        self.factored: dict[str, tuple[Tensor, Tensor] | None] = {}  # by `factor_moments`, until the next step
        self._coefficients: tuple[Penalty, Tensor] | None = None  # of W
        self._known: tuple | None = None  # what `_trainable` has found, and for which network
        defaults = {"lr": lr, "betas": betas, "eps": eps, "momentum": momentum, "weight_decay": weight_decay}
        super().__init__([network.W, network.b], defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        (group,) = self.param_groups
        self.factored = {}
        support = self.network.take_gradient_support() if self._may_defer(group) else None
        deferred = self._deferred()
        if deferred is not None and deferred[0] != support:
            self.apply_deferred()
        if self.network.W.grad is not None:
            self._step_W(group, support)
        if self.network.b.grad is not None:
            self._step_b(group)
        return loss

    @torch.no_grad()
    def factor_moments(self) -> None:
        """Reduce the moments of zero weights to what fits in a row and a column, in place.

        The first moment becomes zero, the second the rank-one estimate from its sums over rows and columns (Adafactor's
        for all weights; Shazeer and Stern 2018). Until the next step `factored` has of each moment None, or the row
        (n,) and column (S,) whose outer product the zero weights have: all that a checkpoint must store of them.
        Collective where the rows of W are split over several processes."""
        self.apply_deferred()
        W, state = self.network.W.data, self.state.get(self.network.W, {})
        self.factored = {}
        for name, moment in state.items():
            if not isinstance(moment, Tensor) or moment.shape != W.shape:
                continue
            outer = None
            if name in SQUARES:
                row, column, total = self._sums(moment)
                outer = (row, column / total.clamp_min(torch.finfo(column.dtype).tiny))
            self.factored[name] = outer
            for rows in _strips(0, len(W), W.shape[1], W):
                estimate = 0.0 if outer is None else torch.outer(outer[0][rows], outer[1])
                moment[rows] = torch.where(W[rows] == 0, estimate, moment[rows])

    @torch.no_grad()
    def apply_deferred(self) -> None:
        """Apply, in closed form, the steps that weights outside of the gradient's support have not taken yet.

        Without a gradient the moments decay as they would have; what is left of the first one moves the weight and the
        prox shrinks it by the sums over these steps, both in the mean metric of these steps, which changes by 1 % in
        20."""
        deferred = self._deferred()
        if deferred is None:
            return
        network, (group,), rule = self.network, self.param_groups, BASES[self.base]
        support, steps, tail, shrink, root, decay = deferred
        state = self.state[network.W]
        del state[DEFERRED]
        moments = [state[name] for name in rule.moments(group)]
        for first, last, columns in _outside(self._trainable().ranges, network.S, support):
            for rows in _strips(first, last, columns.stop - columns.start, network.W):
                here = (rows, columns)
                w = network.W.data[here].mul_(decay)
                metric = rule.drift(w, [m[here] for m in moments], group, steps, tail, root / steps)
                coefficient = self._coefficient(rows, columns, shrink)
                if isinstance(coefficient, Tensor) or coefficient > 0:
                    if self.penalty.method == "prox_adam" and metric is not None:
                        coefficient = coefficient / metric
                    soft_threshold_(w, coefficient)
                if network.mask is not None:
                    w.mul_(network.mask[here])

    # --- a step --------------------------------------------------------------------------------------------------

    def _step_W(self, group: dict, support: GradientSupport | None) -> None:
        W, masked = self.network.W, self.network.mask is not None
        state = self._next_state(W, group)
        blocks = self._trainable().blocks
        if support is not None:
            state[DEFERRED] = self._defer(support, state.get(DEFERRED), int(state["step"]))
            blocks = [(top, bottom, slice(left, right), masked) for top, bottom, left, right in support]
        scratch = torch.empty(max(_strip_size(W), W.shape[-1]), dtype=W.dtype, device=W.device)
        for first, last, columns, partial in blocks:
            for rows in _strips(first, last, len(range(*columns.indices(W.shape[1]))), W):
                self._step_block((rows, columns), partial, group, state, scratch)

    def _step_block(self, here: tuple[slice, slice], partial: bool, group: dict, state: dict, scratch: Tensor) -> None:
        network, method, lr, rule = self.network, self.penalty.method, float(group["lr"]), BASES[self.base]
        assert network.W.grad is not None
        w, g = network.W.data[here], network.W.grad[here]
        coefficient = self._coefficient(*here, self.ramp)
        penalised = isinstance(coefficient, Tensor) or coefficient > 0
        if penalised and method == "subgradient":
            g = g + coefficient * w.sign()
        moments = [state[name][here] for name in rule.moments(group)]
        metric = rule.update(w, g, moments, group, rule.bias_corrections(group, int(state["step"])))
        if penalised and method != "subgradient":
            if method == "prox_adam" and metric is not None:
                soft_threshold_(w, lr * coefficient / metric)
            elif isinstance(coefficient, Tensor):
                soft_threshold_(w, lr * coefficient)
            else:
                soft_threshold_(w, lr * coefficient, scratch[: w.numel()].view_as(w))
        if partial and network.mask is not None:
            w.mul_(network.mask[here])

    def _step_b(self, group: dict) -> None:
        b, rule = self.network.b, BASES[self.base]
        state = self._next_state(b, group)
        assert b.grad is not None
        for first, last in self._trainable().ranges:
            rows = slice(first, last)
            moments = [state[name][rows] for name in rule.moments(group)]
            corrections = rule.bias_corrections(group, int(state["step"]))
            rule.update(b.data[rows], b.grad[rows], moments, group, corrections)

    def _next_state(self, p: Tensor, group: dict) -> dict:
        """The optimiser's state of a parameter, its step counted up; moments are zero before the first step."""
        state = self.state[p]
        if not state:
            state["step"] = 0
            for name in BASES[self.base].moments(group):
                state[name] = torch.zeros_like(p)
        state["step"] += 1
        return state

    # --- inside --------------------------------------------------------------------------------------------------

    def _may_defer(self, group: dict) -> bool:
        """Does a weight without a gradient only decay and shrink?"""
        free = not (self.penalty.weight or self.penalty.synapse_length) or self.penalty.method != "subgradient"
        return free and (not group["weight_decay"] or BASES[self.base].decoupled)

    def _deferred(self) -> Deferred | None:
        return self.state[self.network.W].get(DEFERRED) if self.network.W in self.state else None

    def _defer(self, support: GradientSupport, deferred: Deferred | None, step: int) -> Deferred:
        """Add step number `step` to those deferred outside of `support`: how many steps, and their sums of the first
        moment's share in a step, of lr * ramp and of the share of the metric's root; the product of decays."""
        (group,), rule = self.param_groups, BASES[self.base]
        lr = float(group["lr"])
        _, steps, tail, shrink, root, decay = deferred or (support, 0, 0.0, 0.0, 0.0, 1.0)
        moved, share = rule.deferred(group, steps + 1, step)
        decay *= 1 - lr * group["weight_decay"]
        return support, steps + 1, tail + lr * moved, shrink + lr * self.ramp, root + share, decay

    def _sums(self, moment: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Sums of W's moment over columns (n,), over rows (S,), and over both; in a feedforward network those of each
        layer's block by itself, and the last one (S,), for each sender that of its block."""
        network = self.network
        if network.layout.layers is None:
            row, column = moment.sum(1), network.partition.total(moment.sum(0))
            return row, column, column.sum()
        row, column = moment.new_zeros(len(moment)), moment.new_zeros(network.S)
        for first, last, columns, _ in self._trainable().blocks:
            row[first:last] += moment[first:last, columns].sum(1)
            column[columns] += moment[first:last, columns].sum(0)
        column, layer = network.partition.total(column), network.layout.layer.to(column.device)
        return row, column, column.new_zeros(network.layout.layers + 2).index_add_(0, layer, column)[layer]

    def _trainable(self) -> Trainable:
        """Found anew only when the network has changed: a step must not wait for the device."""
        network, device = self.network, self.network.W.device
        key = (network.partition, device)  # a network whose neurons change gets a partition of its own
        if self._known is None or self._known[0] != key or self._known[1] is not network.mask:
            neurons = network.partition.neurons
            layout = replace(network.layout, positions=network.layout.positions.to(device))
            found = Trainable(_ranges(~network.frozen[neurons]), _blocks(network), layout, neurons.to(device))
            self._known, self._coefficients = (key, network.mask, found), None
        return self._known[2]

    def _coefficient(self, rows: slice, columns: slice, scale: float) -> Tensor | float:
        """The penalty coefficient of a block of W, times `scale`. With synaptic length all coefficients are kept from
        step to step where they are few; on a large network strips of them are computed again each time."""
        W, penalty = self.network.W, self.penalty
        if not penalty.synapse_length:
            return penalty.weight * scale
        layout, neurons = self._trainable()[2:]
        if W.numel() > KEPT:
            return torch.as_tensor(penalty.coefficient(layout, neurons[rows])).to(W)[:, columns].mul_(scale)
        if self._coefficients is None or self._coefficients[0] != penalty:
            self._coefficients = (penalty, torch.as_tensor(penalty.coefficient(layout, neurons)).to(W))
        return self._coefficients[1][rows, columns] * scale


def _strip_size(W: Tensor) -> int:
    """Elements of W that are worked on together."""
    return STRIP if W.device.type == "cpu" else WIDE_STRIP


def _strips(first: int, last: int, columns: int, W: Tensor) -> Iterator[slice]:
    """The rows first..last of a block with so many columns, in strips of `_strip_size` elements."""
    step = max(1, _strip_size(W) // columns)
    for start in range(first, last, step):
        yield slice(start, min(start + step, last))


def _blocks(network: URN) -> list[Block]:
    """The blocks of W that train. In a feedforward network those of its layers: what lies outside is zero and
    stays so. Otherwise whole rows."""
    neurons, layer = network.partition.neurons, network.layout.layer
    train = ~network.frozen[neurons]
    if network.layout.layers is None:
        return [(first, last, slice(None), network.mask is not None) for first, last in _ranges(train)]
    return [
        (
            *rows,
            slice(*columns),
            network.mask is not None and not bool(network.mask[slice(*rows), slice(*columns)].all()),
        )
        for z in range(1, network.layout.layers + 2)
        for columns in _ranges(layer == z - 1)
        for rows in _ranges(train & (layer[neurons] == z))
    ]


def _outside(ranges: list[tuple[int, int]], S: int, support: GradientSupport) -> Iterator[tuple[int, int, slice]]:
    """The rest of the rows `ranges` of W, as rectangles."""
    cuts = sorted({row for rows in (*ranges, *(rectangle[:2] for rectangle in support)) for row in rows})
    for top, bottom in pairwise(cuts):
        if not any(first <= top and bottom <= last for first, last in ranges):
            continue
        taken = sorted((left, right) for first, last, left, right in support if first <= top and bottom <= last)
        at = 0
        for left, right in [*taken, (S, S)]:
            if at < left:
                yield top, bottom, slice(at, left)
            at = max(at, right)


def _ranges(mask: Tensor) -> list[tuple[int, int]]:
    """The runs [first, last) of True in a (S,) mask."""
    edges = torch.diff(mask.int(), prepend=torch.zeros(1, dtype=torch.int), append=torch.zeros(1, dtype=torch.int))
    return list(zip((edges == 1).nonzero().flatten().tolist(), (edges == -1).nonzero().flatten().tolist(), strict=True))
