"""One optimiser step for a URN: moments, prox and hold in one pass over W.

`Proximal` updates the trainable rows only, so fixed rows keep their bits whatever the state says. It works through W
in strips of rows that stay in the cache: gradient, moments, soft threshold and support touch memory once.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from urn.network import URN
from urn.penalties import Penalty, soft_threshold_

KEPT = 1 << 25  # largest S x S whose prices are kept: 128 MB
STRIP = 1 << 17  # elements of W in one strip: with its gradient and two moments 2 MB, one core's cache


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
        self._kept: tuple | None = None  # (layout, penalty, prices of W)
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
        ranges = _ranges(~urn.fixed[urn.share.neurons])
        for p in (urn.W, urn.b):
            if p.grad is None:
                continue
            state = self.state[p]
            if not state:
                state["step"] = torch.zeros(())
                for name in rule.moments(group):
                    state[name] = torch.zeros_like(p)
            state["step"] += 1
            coefficients = rule.coefficients(group, int(state["step"]))
            moments = [state[name] for name in rule.moments(group)]
            is_W = p is urn.W
            strip = max(1, STRIP // p.shape[1]) if is_W else len(p)
            scratch = torch.empty(strip * p.shape[1], dtype=p.dtype, device=p.device) if is_W else None
            for first, last in ranges:
                for start in range(first, last, strip):
                    rows = slice(start, min(start + strip, last))
                    w, g = p.data[rows], p.grad[rows]
                    price = self._price(rows) if is_W else 0.0
                    priced = isinstance(price, Tensor) or price > 0
                    if priced and penalty.method == "subgradient":
                        g = g + price * w.sign()
                    metric = rule.update(w, g, [m[rows] for m in moments], group, coefficients)
                    if priced and penalty.method != "subgradient":
                        if penalty.method == "prox_adam" and metric is not None:
                            soft_threshold_(w, lr * price / metric)
                        elif isinstance(price, Tensor):
                            soft_threshold_(w, lr * price)
                        else:
                            assert scratch is not None
                            soft_threshold_(w, lr * price, scratch[: w.numel()].view_as(w))
                    if is_W and urn.support is not None:
                        w.mul_(urn.support[rows])
        return loss

    def _price(self, rows: slice) -> Tensor | float:
        """The price of W's rows, ramped. With synaptic length the whole (S, S) of prices is kept from step to step
        where it is small; on a large network strips of it are computed again each time."""
        urn, penalty = self.urn, self.penalty
        if not penalty.synapse_length:
            return penalty.weight * self.ramp
        neurons = urn.share.neurons
        if urn.W.numel() > KEPT:
            return torch.as_tensor(penalty.price(urn.layout, neurons[rows])).to(urn.W).mul_(self.ramp)
        if self._kept is None or self._kept[:2] != (urn.layout, penalty):
            self._kept = (urn.layout, penalty, torch.as_tensor(penalty.price(urn.layout, neurons)).to(urn.W))
        return self._kept[2][rows] * self.ramp


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


class _AdamW(_Adam):
    decoupled = True


class _SGD:
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


BASES = {"adam": _Adam, "adamw": _AdamW, "sgd": _SGD}


def _ranges(mask: Tensor) -> list[tuple[int, int]]:
    """The runs [first, last) of True in a (S,) mask."""
    edges = torch.diff(mask.int(), prepend=torch.zeros(1, dtype=torch.int), append=torch.zeros(1, dtype=torch.int))
    return list(zip((edges == 1).nonzero().flatten().tolist(), (edges == -1).nonzero().flatten().tolist(), strict=True))
