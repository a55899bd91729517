"""Load permuted_mnist: MNIST with its pixels in another, fixed order.

A task of the same difficulty with nothing to reuse but what survives any order (Goodfellow et al., arXiv 1312.6211).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from nesa.datasets.paths import DataDirs
from nesa.datasets.source import Arrays, Param, ProgressCallback, Source, no_progress
from nesa.datasets.sources import mnist


def load(
    params: Mapping[str, Any],
    *,
    size: tuple[int, ...],
    channels: int,
    seed: int,
    data: DataDirs,
    progress: ProgressCallback = no_progress,
) -> Arrays:
    """Load MNIST with its pixels permuted by params["permutation"] alone: the task is the same in every run."""
    plain = mnist.load({}, size=size, channels=channels, seed=seed, data=data, progress=progress)
    number = params["permutation"]
    if number == 0:
        return plain
    order = np.random.default_rng(number).permutation(size[0] * size[1])

    def permuted(x: np.ndarray) -> np.ndarray:
        return x.reshape(len(x), len(order), -1)[:, order].reshape(x.shape)

    origin = f"{plain.origin}, pixels in order {number}"
    return replace(plain, train_x=permuted(plain.train_x), test_x=permuted(plain.test_x), origin=origin)


SOURCE = Source(
    name="permuted_mnist",
    summary="MNIST with its pixels in another order",
    difficulty="easy: that of mnist for a network without locality",
    load=load,
    classes=lambda params: 10,
    available=lambda params, data: mnist.DATA.available(data),
    params=(Param("permutation", int, 1, "number of the order; 0 leaves MNIST as it is", 0, 2**31 - 1),),
)
