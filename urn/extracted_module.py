"""Run an extracted network as a plain torch module: one small dense layer after the other, without a URN.

`urn.mlp_conversion.extract` returns it. Weights are buffers and torch alone is needed, so that torch.export takes it as
it is. With h_l the neurons computed at iteration l and x the input:

    h_l = [relu(W_l h_(l-1) + b_l) (+ x for input neurons under a residual input), x (input neurons without other
           senders), y_l (output neurons that send)]
    y_l = phi_out(R_l h_(l-1) + r_l), added to y_(l-1) where the output accumulates; y_I is the result
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Dense(nn.Module):
    """An affine map (B, n_in) -> (B, n_out) with weight (n_out, n_in) and bias (n_out,) as buffers. n_in may be 0."""

    weight: Tensor
    bias: Tensor

    def __init__(self, weight: Tensor, bias: Tensor):
        super().__init__()
        self.register_buffer("weight", weight.detach().clone())
        self.register_buffer("bias", bias.detach().clone())

    def forward(self, h: Tensor) -> Tensor:
        if self.weight.shape[1] == 0:
            return self.bias.expand(h.shape[0], -1)
        return F.linear(h, self.weight, self.bias)

    def extra_repr(self) -> str:
        n_out, n_in = self.weight.shape
        return f"{n_in} -> {n_out}, {int((self.weight != 0).sum())} synapses"


class Step(NamedTuple):
    """One iteration. hidden: the neurons to compute, those that x is added to last; None where there are none.
    read: the output port, None where it is not needed. add_x, only_x: (n,) components of x. sent: (n,) outputs that
    the next iteration reads."""

    hidden: Dense | None
    read: Dense | None
    add_x: Tensor
    only_x: Tensor
    sent: Tensor


class Unrolled(nn.Module):
    """Maps x (B, D_in), or (B, I, D_in) for a sequence, to the output (B, D_out).

    first: (n,) the components of x that are read at the first iteration. steps: one for each iteration. linear:
    whether outputs are linear or rectified. accumulate: whether readouts are added up."""

    first: Tensor

    def __init__(self, first: Tensor, steps: Sequence[Step], outputs: int, linear: bool, accumulate: bool):
        super().__init__()
        self.outputs, self.linear, self.accumulate = outputs, linear, accumulate
        self.dtype = next(step.read.bias.dtype for step in steps if step.read)
        self.register_buffer("first", first)
        self.iterations = len(steps)
        self.hidden = nn.ModuleDict({str(level): step.hidden for level, step in enumerate(steps, 1) if step.hidden})
        self.read = nn.ModuleDict({str(level): step.read for level, step in enumerate(steps, 1) if step.read})
        for level, step in enumerate(steps, 1):
            for name in ("add_x", "only_x", "sent"):
                self.register_buffer(f"{name}_{level}", getattr(step, name))

    def forward(self, x: Tensor) -> Tensor:
        x = x.to(self.dtype)
        frames = x.unbind(1) if x.dim() == 3 else [x] * self.iterations
        h = frames[0][:, self.first]
        y = x.new_zeros(x.shape[0], self.outputs)
        for level in range(1, self.iterations + 1):
            again = frames[min(level, self.iterations - 1)]
            add_x, only_x, sent = (getattr(self, f"{name}_{level}") for name in ("add_x", "only_x", "sent"))
            parts = []
            if str(level) in self.hidden:
                now = self.hidden[str(level)](h).relu()
                alone = now.shape[1] - len(add_x)
                parts += [now[:, :alone], now[:, alone:] + again[:, add_x]] if len(add_x) else [now]
            if len(only_x):
                parts.append(again[:, only_x])
            if str(level) in self.read:
                out = self.read[str(level)](h) if self.linear else self.read[str(level)](h).relu()
                y = y + out if self.accumulate else out
            if len(sent):
                parts.append(y[:, sent])
            h = torch.cat(parts, dim=1) if parts else h[:, :0]
        return y
