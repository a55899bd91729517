"""Update weights by Adam, AdamW or SGD, in place and for a block of W at a time, with or without a gradient."""

from __future__ import annotations

import math

from torch import Tensor


class Adam:
    """Kingma and Ba 2015. decoupled: whether weight decay acts on the weight itself instead of the gradient."""

    decoupled = False

    @staticmethod
    def moments(group: dict) -> tuple[str, ...]:
        return ("exp_avg", "exp_avg_sq")

    @staticmethod
    def bias_corrections(group: dict, step: int) -> tuple[float, float]:
        beta1, beta2 = group["betas"]
        return 1 - beta1**step, math.sqrt(1 - beta2**step)

    @classmethod
    def update(cls, w: Tensor, g: Tensor, moments: list[Tensor], group: dict, corrections) -> Tensor:
        """Take one step in place; returns sqrt(v_hat) + eps, the metric of the step."""
        (m, v), (beta1, beta2), lr = moments, group["betas"], float(group["lr"])
        if group["weight_decay"] and cls.decoupled:
            w.mul_(1 - lr * group["weight_decay"])
        elif group["weight_decay"]:
            g = g.add(w, alpha=group["weight_decay"])
        m.lerp_(g, 1 - beta1)
        v.mul_(beta2).addcmul_(g, g, value=1 - beta2)
        metric = v.sqrt().div_(corrections[1]).add_(group["eps"])
        w.addcdiv_(m, metric, value=-lr / corrections[0])
        return metric

    @staticmethod
    def deferred(group: dict, steps: int, step: int) -> tuple[float, float]:
        """Return what of the first moment moves the weight, and what of the second one's root is left in the metric.

        For the last of `steps` steps without a gradient, the task's step number `step`."""
        beta1, beta2 = group["betas"]
        return beta1**steps / (1 - beta1**step), beta2 ** (steps / 2) / math.sqrt(1 - beta2**step)

    @staticmethod
    def drift(w: Tensor, moments: list[Tensor], group: dict, steps: int, tail: float, root: float) -> Tensor:
        """Take `steps` steps without a gradient in place; returns their metric."""
        (m, v), (beta1, beta2) = moments, group["betas"]
        metric = v.sqrt().mul_(root).add_(group["eps"])
        w.addcdiv_(m, metric, value=-tail)
        m.mul_(beta1**steps)
        v.mul_(beta2**steps)
        return metric


class AdamW(Adam):
    """Loshchilov and Hutter 2019."""

    decoupled = True


class SGD:
    """Stochastic gradient descent, with heavy-ball momentum or without."""

    decoupled = False

    @staticmethod
    def moments(group: dict) -> tuple[str, ...]:
        return ("momentum_buffer",) if group["momentum"] else ()

    @staticmethod
    def bias_corrections(group: dict, step: int) -> tuple[float, float]:
        return 1.0, 1.0

    @staticmethod
    def update(w: Tensor, g: Tensor, moments: list[Tensor], group: dict, corrections) -> None:
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


BASES = {"adam": Adam, "adamw": AdamW, "sgd": SGD}
