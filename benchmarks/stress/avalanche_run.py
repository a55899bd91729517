"""Avalanche's own Naive strategy and experiences from tensors: the plugin outside our loop, here and in tests."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import torch
from torch import Tensor, nn

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from avalanche.benchmarks import benchmark_from_datasets, with_task_labels
    from avalanche.benchmarks.utils import AvalancheDataset, DataAttribute
    from avalanche.benchmarks.utils.data_attribute import TaskLabels
    from avalanche.training.plugins import EvaluationPlugin
    from avalanche.training.supervised import Naive


class Samples(torch.utils.data.Dataset):
    """x (n, D_in) and y (n,), one by one."""

    def __init__(self, x: Tensor, y: Tensor):
        self.x, self.y, self.targets = x, y, y.tolist()

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        return self.x[i], self.targets[i]


def experiences(data: Sequence[tuple[Tensor, Tensor]], labels: Sequence[Sequence[int]]) -> list:
    """An experience for each (x, y); its samples have the task labels of `labels` in turns."""
    datasets = []
    for (x, y), label in zip(data, labels, strict=True):
        samples = Samples(x, y)
        each = [label[i % len(label)] for i in range(len(samples))]
        attributes = [DataAttribute(samples.targets, "targets"), TaskLabels(each)]
        datasets.append(AvalancheDataset([samples], data_attributes=attributes))
    return list(with_task_labels(benchmark_from_datasets(train=datasets)).train_stream)


def naive(model: nn.Module, plugins: list, optimizer: torch.optim.Optimizer, size: int, epochs: int) -> Naive:
    """The strategy with cross entropy over batches of `size`."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it misses loggers
        return Naive(
            model=model,
            optimizer=optimizer,
            criterion=nn.CrossEntropyLoss(),
            train_mb_size=size,
            train_epochs=epochs,
            evaluator=EvaluationPlugin(),
            plugins=plugins,
        )
