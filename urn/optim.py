"""One optimiser step for a URN: moments, prox and hold in one pass over W.

`Proximal` updates the trainable rows only, so fixed rows keep their bits whatever the state says. It works through W
in strips of rows that stay in the cache: gradient, moments, soft threshold and support touch memory once. Weights that
a step's gradient cannot reach, because neurons are left out, wait: `catch_up` takes their steps together.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import pairwise

import torch
from torch import Tensor

from urn.kernel import GradientSupport
from urn.layout import Layout
from urn.network import URN
from urn.penalties import Penalty, soft_threshold_

KEPT = 1 << 29  # largest S x S whose prices are kept: 2 GB; to compute them costs as much as the rest of a step
STRIP = 1 << 17  # elements of W in one strip: with its gradient and two moments 2 MB, one core's cache
WIDE_STRIP = 1 << 26  # the same on a GPU, where launches cost more than a cache gives


Block = tuple[int, int, slice, bool]  # first and last row, columns, and whether some of its synapses may not exist
Deferred = tuple[
    GradientSupport, int, float, float, float, float
]  # what is waited outside of; steps; sums: see `Proximal._wait`


class Proximal(torch.optim.Optimizer):
    """Adam, AdamW or SGD with the penalty's weight and length terms as a proximal (or subgradient) step.

    urn: the network; its fixed rows and absent synapses never change. base: "adam", "adamw" or "sgd".
    penalty: constants of eq 9; `ramp` (0..1, set before each step) scales them. weight_decay: L2 for adam and sgd,
    decoupled for adamw. Biases get no penalty.

    prox_adam follows ProxGen (Yun, Lozano, Yang 2021): the threshold is lr * price / (sqrt(v_hat) + eps); under sgd
    the metric is the identity, so it equals prox_decoupled. Raises ValueError for an unknown base.
    """

    def __init__(
        self,
        urn: URN,
        base: str = "adam",
        lr: float = 1e-3,
        *,
        penalty: Penalty | None = None,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
    ):
        if base not in BASES:
            raise ValueError(f"the optimiser is one of {', '.join(BASES)}, not {base!r}")
        self.urn = urn
        self.base = base
        self.penalty = penalty or Penalty()
        self.ramp = 1.0
        self._kept: tuple[Penalty, Tensor] | None = None  # the prices of W
        self._known: tuple | None = None  # what `_where` has worked out, and for which network
        self.condensed: dict[str, tuple[Tensor, Tensor] | None] | None = None
        defaults = {"lr": lr, "betas": betas, "eps": eps, "momentum": momentum, "weight_decay": weight_decay}
        super().__init__([urn.W, urn.b], defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        (group,) = self.param_groups
        urn, penalty = self.urn, self.penalty
        lr = float(group["lr"])
        rule = BASES[self.base]
        self.condensed = None
        gradient_support = urn.take_gradient_support() if self._may_wait(group) else None
        if (deferred := self._deferred()) is not None and deferred[0] != gradient_support:
            self.apply_deferred()
        ranges, blocks, layout, neurons = self._where()
        if gradient_support is not None:
            blocks = [
                (top, bottom, slice(left, right), urn.mask is not None) for top, bottom, left, right in gradient_support
            ]
        for p in (urn.W, urn.b):
            if p.grad is None:
                continue
            state = self.state[p]
            if not state:
                state["step"] = 0
                for name in rule.moments(group):
                    state[name] = torch.zeros_like(p)
            state["step"] += 1
            coefficients = rule.coefficients(group, int(state["step"]))
            moments = [state[name] for name in rule.moments(group)]
            is_W = p is urn.W
            if is_W and gradient_support is not None:
                state["idle"] = self._wait(gradient_support, state.get("idle"), int(state["step"]))
            room = _room(p)
            scratch = torch.empty(max(room, p.shape[-1]), dtype=p.dtype, device=p.device) if is_W else None
            for first, last, columns, partial in blocks if is_W else [(*r, slice(None), False) for r in ranges]:
                strip = max(1, room // len(range(*columns.indices(p.shape[1])))) if is_W else len(p)
                for start in range(first, last, strip):
                    rows = slice(start, min(start + strip, last))
                    block_at = (rows, columns) if is_W else rows
                    w, g = p.data[block_at], p.grad[block_at]
                    coefficient = self._coefficient(layout, neurons, rows, columns, self.ramp) if is_W else 0.0
                    penalised = isinstance(coefficient, Tensor) or coefficient > 0
                    if penalised and penalty.method == "subgradient":
                        g = g + coefficient * w.sign()
                    metric = rule.update(w, g, [m[block_at] for m in moments], group, coefficients)
                    if penalised and penalty.method != "subgradient":
                        if penalty.method == "prox_adam" and metric is not None:
                            soft_threshold_(w, lr * coefficient / metric)
                        elif isinstance(coefficient, Tensor):
                            soft_threshold_(w, lr * coefficient)
                        else:
                            assert scratch is not None
                            soft_threshold_(w, lr * coefficient, scratch[: w.numel()].view_as(w))
                    if partial and urn.mask is not None:
                        w.mul_(urn.mask[block_at])
        return loss

    @torch.no_grad()
    def condense(self) -> None:
        """Leaves of the moments of zero weights what fits in a row and a column, in place: the first moment becomes
        zero, the second the rank-one estimate from its sums over rows and columns (as Adafactor has it for all weights;
        Shazeer and Stern 2018). The state of W is then three numbers for each weight that is not zero, and what
        `condensed` has of each moment until the next step: None, or the row (n,) and column (S,) whose outer product
        the zero weights have. Collective where the rows of W are with several processes."""
        urn = self.urn
        self.apply_deferred()
        W, state = urn.W.data, self.state.get(urn.W, {})
        self.condensed = {}
        for name, moment in state.items():
            if not isinstance(moment, Tensor) or moment.shape != W.shape:
                continue
            outer = None
            if name in SQUARES:
                row, column, total = self._sums(moment)
                outer = (row, column / total.clamp_min(torch.finfo(column.dtype).tiny))
            self.condensed[name] = outer
            strip = max(1, _room(W) // W.shape[1])
            for first in range(0, len(W), strip):
                rows = slice(first, first + strip)
                estimate = 0.0 if outer is None else torch.outer(outer[0][rows], outer[1])
                moment[rows] = torch.where(W[rows] == 0, estimate, moment[rows])

    @torch.no_grad()
    def apply_deferred(self) -> None:
        """Takes, in closed form, the steps that weights outside of the gradient's reach have waited for. Without a
        gradient the moments decay as they would have; what is left of the first one moves the weight and the prox
        shrinks it by the sums over these steps, both in the mean metric of these steps, which changes by 1 % in 20."""
        if (deferred := self._deferred()) is None:
            return
        urn, penalty, (group,), rule = self.urn, self.penalty, self.param_groups, BASES[self.base]
        gradient_support, steps, tail, shrink, root, decay = deferred
        state = self.state[urn.W]
        del state["idle"]
        ranges, _, layout, neurons = self._where()
        moments = [state[name] for name in rule.moments(group)]
        for first, last, columns in _outside(ranges, urn.S, gradient_support):
            strip = max(1, _room(urn.W) // (columns.stop - columns.start))
            for start in range(first, last, strip):
                block_at = (slice(start, min(start + strip, last)), columns)
                w = urn.W.data[block_at].mul_(decay)
                metric = rule.drift(w, [m[block_at] for m in moments], group, steps, tail, root / steps)
                coefficient = self._coefficient(layout, neurons, *block_at, shrink)
                if isinstance(coefficient, Tensor) or coefficient > 0:
                    if penalty.method == "prox_adam" and metric is not None:
                        coefficient = coefficient / metric
                    soft_threshold_(w, coefficient)
                if urn.mask is not None:
                    w.mul_(urn.mask[block_at])

    def _may_wait(self, group: dict) -> bool:
        """Does a weight without a gradient only decay and shrink?"""
        free = not (self.penalty.weight or self.penalty.synapse_length) or self.penalty.method != "subgradient"
        return free and (not group["weight_decay"] or BASES[self.base].decoupled)

    def _deferred(self) -> Deferred | None:
        return self.state[self.urn.W].get("idle") if self.urn.W in self.state else None

    def _wait(self, gradient_support: GradientSupport, deferred: Deferred | None, step: int) -> Deferred:
        """Adds step number `step` to what is waited for outside of `reach`: how many steps, and their sums of the first
        moment's share in a step, of lr * ramp and of the share of the metric's root; the product of decays."""
        (group,), rule = self.param_groups, BASES[self.base]
        lr = float(group["lr"])
        _, steps, tail, shrink, root, decay = deferred or (gradient_support, 0, 0.0, 0.0, 0.0, 1.0)
        moved, partition = rule.deferred(group, steps + 1, step)
        decay *= 1 - lr * group["weight_decay"]
        return gradient_support, steps + 1, tail + lr * moved, shrink + lr * self.ramp, root + partition, decay

    def _sums(self, moment: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Sums of W's moment over columns (n,), over rows (S,), and over both; in a feedforward network those of each
        layer's block by itself, and the last one (S,), for each sender that of its block."""
        urn = self.urn
        if urn.layout.layers is None:
            row, column = moment.sum(1), urn.partition.total(moment.sum(0))
            return row, column, column.sum()
        row, column = moment.new_zeros(len(moment)), moment.new_zeros(urn.S)
        for first, last, columns, _ in self._where()[1]:
            row[first:last] += moment[first:last, columns].sum(1)
            column[columns] += moment[first:last, columns].sum(0)
        column, layer = urn.partition.total(column), urn.layout.layer.to(column.device)
        return row, column, column.new_zeros(urn.layout.layers + 2).index_add_(0, layer, column)[layer]

    def _where(self) -> tuple[list[tuple[int, int]], list[Block], Layout, Tensor]:
        """The ranges of rows that train, and the blocks of W; the layout and each row's neuron, on W's device. Worked
        out anew when the network has changed: a step must not wait for the device."""
        urn, device = self.urn, self.urn.W.device
        key = (urn.partition, device)  # a network that becomes another one gets a share of its own
        if self._known is None or self._known[0] != key or self._known[1] is not urn.mask:
            neurons = urn.partition.neurons
            layout = replace(urn.layout, positions=urn.layout.positions.to(device))
            ranges, blocks = _ranges(~urn.frozen[neurons]), _blocks(urn)
            self._known, self._kept = (key, urn.mask, (ranges, blocks, layout, neurons.to(device))), None
        return self._known[2]

    def _coefficient(
        self, layout: Layout, neurons: Tensor, rows: slice, columns: slice, scale: float
    ) -> Tensor | float:
        """The price of a block of W, times `scale`. With synaptic length all prices are kept from step to step where
        they are few; on a large network strips of them are computed again each time."""
        W, penalty = self.urn.W, self.penalty
        if not penalty.synapse_length:
            return penalty.weight * scale
        if W.numel() > KEPT:
            return torch.as_tensor(penalty.coefficient(layout, neurons[rows])).to(W)[:, columns].mul_(scale)
        if self._kept is None or self._kept[0] != penalty:
            self._kept = (penalty, torch.as_tensor(penalty.coefficient(layout, neurons)).to(W))
        return self._kept[1][rows, columns] * scale


class _Adam:
    decoupled = False

    @staticmethod
    def moments(group: dict) -> tuple[str, ...]:
        return ("exp_avg", "exp_avg_sq")

    @staticmethod
    def coefficients(group: dict, step: int) -> tuple[float, float]:
        beta1, beta2 = group["betas"]
        return 1 - beta1**step, math.sqrt(1 - beta2**step)

    @classmethod
    def update(cls, w: Tensor, g: Tensor, moments: list[Tensor], group: dict, coefficients) -> Tensor:
        """One step of Adam (Kingma and Ba 2015) in place; returns sqrt(v_hat) + eps, the metric of the step."""
        (m, v), (beta1, beta2), lr = moments, group["betas"], float(group["lr"])
        if group["weight_decay"] and cls.decoupled:
            w.mul_(1 - lr * group["weight_decay"])
        elif group["weight_decay"]:
            g = g.add(w, alpha=group["weight_decay"])
        m.lerp_(g, 1 - beta1)
        v.mul_(beta2).addcmul_(g, g, value=1 - beta2)
        metric = v.sqrt().div_(coefficients[1]).add_(group["eps"])
        w.addcdiv_(m, metric, value=-lr / coefficients[0])
        return metric

    @staticmethod
    def deferred(group: dict, steps: int, step: int) -> tuple[float, float]:
        """After `steps` steps without a gradient, the last of them number `step`: what of the first moment moves the
        weight, and of the second one's root is left in the metric."""
        beta1, beta2 = group["betas"]
        return beta1**steps / (1 - beta1**step), beta2 ** (steps / 2) / math.sqrt(1 - beta2**step)

    @staticmethod
    def drift(w: Tensor, moments: list[Tensor], group: dict, steps: int, tail: float, root: float) -> Tensor:
        """`steps` steps without a gradient in place; returns their metric."""
        (m, v), (beta1, beta2) = moments, group["betas"]
        metric = v.sqrt().mul_(root).add_(group["eps"])
        w.addcdiv_(m, metric, value=-tail)
        m.mul_(beta1**steps)
        v.mul_(beta2**steps)
        return metric


class _AdamW(_Adam):
    decoupled = True


class _SGD:
    decoupled = False

    @staticmethod
    def moments(group: dict) -> tuple[str, ...]:
        return ("momentum_buffer",) if group["momentum"] else ()

    @staticmethod
    def coefficients(group: dict, step: int) -> tuple[float, float]:
        return 1.0, 1.0

    @staticmethod
    def update(w: Tensor, g: Tensor, moments: list[Tensor], group: dict, coefficients) -> None:
        if group["weight_decay"]:
            g = g.add(w, alpha=group["weight_decay"])
        if moments:
            g = moments[0].mul_(group["momentum"]).add_(g)
        w.add_(g, alpha=-float(group["lr"]))

    @staticmethod
    def deferred(group: dict, steps: int, step: int) -> tuple[float, float]:
        return group["momentum"] ** steps, 1.0

    @staticmethod
    def drift(w: Tensor, moments: list[Tensor], group: dict, steps: int, tail: float, root: float) -> None:
        if moments:
            w.sub_(moments[0], alpha=tail)
            moments[0].mul_(group["momentum"] ** steps)


BASES = {"adam": _Adam, "adamw": _AdamW, "sgd": _SGD}
SQUARES = ("exp_avg_sq",)  # moments of squares: without a sign, and steps are divided by them


def _room(W: Tensor) -> int:
    """Elements of W that are worked on together."""
    return STRIP if W.device.type == "cpu" else WIDE_STRIP


def _blocks(urn: URN) -> list[Block]:
    """The blocks of W that train. In a feedforward network those of its layers: what lies outside is zero and
    stays so. Otherwise whole rows."""
    neurons, layer = urn.partition.neurons, urn.layout.layer
    train = ~urn.frozen[neurons]
    if urn.layout.layers is None:
        return [(first, last, slice(None), urn.mask is not None) for first, last in _ranges(train)]
    return [
        (*rows, slice(*columns), urn.mask is not None and not bool(urn.mask[slice(*rows), slice(*columns)].all()))
        for z in range(1, urn.layout.layers + 2)
        for columns in _ranges(layer == z - 1)
        for rows in _ranges(train & (layer[neurons] == z))
    ]


def _outside(
    ranges: list[tuple[int, int]], S: int, gradient_support: GradientSupport
) -> Iterator[tuple[int, int, slice]]:
    """The rest of the rows `ranges` of W, as rectangles."""
    cuts = sorted({row for rows in (*ranges, *(rectangle[:2] for rectangle in gradient_support)) for row in rows})
    for top, bottom in pairwise(cuts):
        if not any(first <= top and bottom <= last for first, last in ranges):
            continue
        taken = sorted(
            (left, right) for first, last, left, right in gradient_support if first <= top and bottom <= last
        )
        at = 0
        for left, right in [*taken, (S, S)]:
            if at < left:
                yield top, bottom, slice(at, left)
            at = max(at, right)


def _ranges(mask: Tensor) -> list[tuple[int, int]]:
    """The runs [first, last) of True in a (S,) mask."""
    edges = torch.diff(mask.int(), prepend=torch.zeros(1, dtype=torch.int), append=torch.zeros(1, dtype=torch.int))
    return list(zip((edges == 1).nonzero().flatten().tolist(), (edges == -1).nonzero().flatten().tolist(), strict=True))
