"""Grey CIFAR-10 for studies/geometry.py: as it is, with pixels permuted, or Gaussian images like it."""

from __future__ import annotations

import functools

import numpy as np
import torch
from reference_nets import CLASSES
from spheres import Data
from torch import Tensor

from nesa.datasets.registry import DataDirs, load

VALIDATION = 1000


@functools.cache
def photos(X: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Training images (n, X * X) uint8 and labels (n,), test images and labels."""
    found = load("cifar10", {}, size=(X, X), channels=1, data=DataDirs(None))
    train_x, test_x = (torch.tensor(np.asarray(x)).reshape(len(x), -1) for x in (found.train_x, found.test_x))
    return train_x, torch.tensor(found.train_y), test_x, torch.tensor(found.test_y)


def make_data(images: str, X: int, train: int, seed: int) -> Data:
    """`train` images for training, 1,000 for validation and all test images, scaled by one mean and one deviation.
    images: photos, permuted (one order of pixels for all images), or gaussian."""
    train_x, train_y, test_x, test_y = photos(X)
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(train_x), generator=generator)[: train + VALIDATION]
    x, y, test = train_x[order].float(), train_y[order], test_x.float()
    if images == "permuted":
        pixels = torch.randperm(x.shape[1], generator=generator)
        x, test = x[:, pixels], test[:, pixels]
    elif images == "gaussian":
        x, test = gaussian(train_x, train_y, y, generator), gaussian(train_x, train_y, test_y, generator)
    std, mean = torch.std_mean(x[:train])
    x, test, n = (x - mean) / std, (test - mean) / std, train
    return Data(x[:n], y[:n], x[n:], y[n:], test, test_y)


def gaussian(photos: Tensor, labels: Tensor, y: Tensor, generator: torch.Generator) -> Tensor:
    """(len(y), D_in) Gaussian images, each class with the mean and covariance of its photos."""
    x = torch.empty(len(y), photos.shape[1])
    for k in range(CLASSES):
        of_class = photos[labels == k].double()
        power, axes = torch.linalg.eigh(torch.cov(of_class.T))
        z = torch.randn(int((y == k).sum()), len(power), generator=generator, dtype=torch.float64)
        x[y == k] = (of_class.mean(0) + (z * power.clamp(min=0).sqrt()) @ axes.T).float()
    return x
