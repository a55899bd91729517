"""The nets that the geometry study compares with a URN on the same images, batches, epochs and rate."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

CLASSES = 10


class Local(nn.Module):
    """Planes of X x X rectified neurons, each reading those of the plane before within `radius`, then a dense output:
    a locally connected net, weights not shared."""

    def __init__(self, X: int, planes: int, radius: int):
        super().__init__()
        place = torch.arange(X * X)
        near = ((place[:, None] // X - place // X).abs() <= radius) & ((place[:, None] % X - place % X).abs() <= radius)
        self.near: Tensor
        self.register_buffer("near", near.float())
        self.planes = nn.ModuleList(nn.Linear(X * X, X * X) for _ in range(planes))
        for plane in self.planes:
            std = math.sqrt(2 / (2 * radius + 1) ** 2)
            nn.init.normal_(plane.weight, std=std)  # type: ignore[arg-type]
        self.out = nn.Linear(X * X, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        for plane in self.planes:
            x = nn.functional.linear(x, plane.weight * self.near, plane.bias).relu()  # type: ignore[arg-type]
        return self.out(x)


def anchor(name: str, X: int, planes: int, hidden: int, radius: int) -> nn.Module:
    """linear, mlp (one layer of `hidden` neurons) or local, for images of X x X pixels and ten classes."""
    if name == "linear":
        return nn.Linear(X * X, CLASSES)
    if name == "mlp":
        return nn.Sequential(nn.Linear(X * X, hidden), nn.ReLU(), nn.Linear(hidden, CLASSES))
    return Local(X, planes, radius)


def synapses(model: nn.Module) -> int:
    """Weights without biases."""
    if isinstance(model, Local):
        return len(model.planes) * int(model.near.sum()) + model.out.weight.numel()
    return sum(p.numel() for p in model.parameters() if p.dim() == 2)
