"""The paper to the letter, as anyone would write it down: the reference that the benchmarks compare with.

Full S x S products at every iteration, all penalties through autograd, torch.optim.Adam with its defaults. It exists
for benchmarks and their tests alone; nothing else imports it. Source: paper eq 2 to 6 and 9.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


class LiteralURN(torch.nn.Module):
    """S neurons, the first d_in are the input, the last d_out the output; rule `plain` or `residual_output`.

    linear_output: the output neurons are not rectified (with `plain`, one that is negative on all data stays so)."""

    def __init__(
        self,
        S: int,
        d_in: int,
        d_out: int,
        iterations: int,
        residual_output: bool = False,
        seed: int = 0,
        linear_output: bool = False,
    ):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.W = torch.nn.Parameter(torch.randn(S, S, generator=generator) * math.sqrt(2 / S))
        self.b = torch.nn.Parameter(torch.zeros(S))
        self.d_in, self.d_out, self.iterations, self.residual_output = d_in, d_out, iterations, residual_output
        self.linear_output = linear_output

    def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Logits (B, d_out) and the states N^(1)..N^(I), each (B, S)."""
        N = torch.cat([x, x.new_zeros(len(x), len(self.b) - self.d_in)], 1)
        states = []
        for _ in range(self.iterations):
            Z = N @ self.W.T + self.b
            new = torch.relu(Z)
            if self.linear_output:
                new = torch.cat([new[:, : -self.d_out], Z[:, -self.d_out :]], 1)
            if self.residual_output:
                new = torch.cat([new[:, : -self.d_out], N[:, -self.d_out :] + new[:, -self.d_out :]], 1)
            N = new
            states.append(N)
        return N[:, -self.d_out :], states


def literal_loss(model: LiteralURN, x: Tensor, y: Tensor, c_W: float, c_N: float, reduction: str = "sum") -> Tensor:
    """Eq 5: cross entropy + c_W sum |W| + c_N sum over l = 1..I of |N^(l)|, the batch summed or averaged."""
    logits, states = model(x)
    activity = sum(N.abs().sum() for N in states)
    scale = 1 / len(x) if reduction == "mean" else 1.0
    return torch.nn.functional.cross_entropy(logits, y) + c_W * model.W.abs().sum() + c_N * scale * activity
