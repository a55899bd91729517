"""The model that grows from task to task, in the form in which Avalanche trains and asks it.

Between a user's strategy and `nesa.training.accumulation`: while a task is learned its label answers through the worker, once
it is claimed through its own frozen sub-network.
"""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor

from nesa.training.accumulation import Accumulation, Claim, Dynamics
from urn.compaction import keep_only
from urn.layout import Layout
from urn.network import URN
from urn.penalties import Early, Penalty, early_readouts
from urn.row_partition import shard

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # qpsolvers warns about solvers that nothing here uses
    from avalanche.models import MultiTaskModule

MIXED = -1e9  # logit of a class that a task does not have, in batches that mix tasks of different widths


class GrowingURN(MultiTaskModule):
    """A network that grows from task to task. Task label t answers through the accumulation's port number t.

    accumulation: what has been claimed. rule: how new tasks iterate. The Parameters are those of the worker that
    trains the current task; claimed tasks answer through their own frozen sub-networks, and a task that has not been
    learned answers with zeros (Avalanche may ask for it). recycle_gradient, multiply: see `urn.URN`. dealt: the rows of
    workers are dealt out to the ranks of torch's process group until they settle (`urn.row_partition`).
    """

    reuse_gradient_memory = False
    multiply: torch.dtype | None = None
    sharded = False

    def __init__(self, accumulation: Accumulation, rule: Dynamics):
        super().__init__()
        self.accumulation = accumulation
        self.rule = rule
        self.current: int | None = None
        self.index = torch.zeros(0, dtype=torch.long)  # global indices of the worker's neurons
        self.task_network = URN(Layout.flat(3, 1, {"": 1}), rule.iterations)  # something for the optimiser to hold
        self.penalty: Penalty | None = None  # prices activity while training; None while healing
        self.activity: Tensor | None = None
        self.early: Early = []  # readouts before the last, where the penalty asks for them
        self._networks: dict[int, URN] = {}

    @property
    def names(self) -> list[str]:
        return list(self.accumulation.layout.ports)

    def begin(self, task: int, generator: torch.Generator | None) -> dict:
        """Draws a worker for task number `task`; returns {old Parameter: new Parameter} for the optimiser."""
        device = self.task_network.W.device
        old = self.task_network
        self.task_network, self.index = self.accumulation.task_network(self.names[task], self.rule, generator)
        if self.sharded:
            shard(self.task_network)
        self.task_network.to(device)
        self.task_network.reuse_gradient_memory, self.task_network.multiply = self.reuse_gradient_memory, self.multiply
        self.current = task
        return {old.W: self.task_network.W, old.b: self.task_network.b}

    def keep(self, index: Tensor, optimizer: torch.optim.Optimizer) -> None:
        """Leaves the worker the neurons `index` (n,) of its own, global indices, in that order."""
        place = torch.full((int(self.index.max()) + 1,), -1)
        place[self.index] = torch.arange(len(self.index))
        keep_only(self.task_network, place[index], optimizer)
        self.index = index

    def finish(self, **extra: Any) -> Claim:
        """Claims the settled worker's neurons for the current task."""
        assert self.current is not None
        entry = self.accumulation.claim(self.names[self.current], self.rule, self.task_network, self.index, **extra)
        self.current = None
        return entry

    def network(self, task: int) -> URN | None:
        """The frozen network of a claimed task, on the worker's device; None when it has not been learned."""
        name = self.names[task]
        if task not in self._networks:
            if all(entry.name != name for entry in self.accumulation.claims):
                return None
            self._networks[task] = self.accumulation.network(name).to(self.task_network.W.device)
        return self._networks[task]

    def adaptation(self, experience) -> None:
        """Nothing to adapt: ports exist from the start. (Avalanche calls this before each experience.)"""

    def forward(self, x: Tensor, task_labels: Tensor | int) -> Tensor:
        """Logits (B, D_out) of exactly the task's classes; for a batch that mixes tasks, (B, widest) with -1e9 where
        a task has no such class."""
        if isinstance(task_labels, int):
            return self.forward_single_task(x, task_labels)
        labels = task_labels.unique().tolist()
        if len(labels) == 1:
            return self.forward_single_task(x, labels[0])
        parts = {t: self.forward_single_task(x[task_labels == t], t) for t in labels}
        out = x.new_full((len(x), max(part.shape[1] for part in parts.values())), MIXED)
        for t, part in parts.items():
            out[task_labels == t, : part.shape[1]] = part
        return out

    def forward_single_task(self, x: Tensor, task_label: int) -> Tensor:
        if task_label == self.current:
            penalty = self.penalty if self.training and self.penalty is not None else Penalty()
            every = penalty.early_readout > 0
            logits, self.activity = self.task_network.forward_with_activity(
                x,
                self.names[task_label],
                penalty.activity_costs(self.rule.iterations, len(x)),
                literal=penalty.literal,
                ports=penalty.ports,
                every=every,
            )
            self.early = [(slice(None), early_readouts(logits))] if every else []
            return logits[-1] if every else logits
        network = self.network(task_label)
        if network is None:
            return x.new_zeros(len(x), len(self.accumulation.layout.ports[self.names[task_label]]))
        return network(x)
