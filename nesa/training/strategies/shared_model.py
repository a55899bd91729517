"""One URN for all tasks, all of it trainable: the network of the learners that NeuralPruning is compared with."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from urn.network import URN
from urn.penalties import Penalty, early_readouts

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # qpsolvers warns about solvers that nothing here uses
    from avalanche.models import MultiTaskModule

MIXED = -1e9  # logit of a class that a task does not have, in batches that mix tasks of different widths


class SharedURN(MultiTaskModule):
    """Task label t reads output port number t of `urn` after iterations[t] updates.

    A batch of one task gives exactly that task's logits (B, D_out). A batch that mixes tasks gives (B, widest) with
    -1e9 where a task has no such class: the softmax and its gradient are zero there. Tasks with the same number of
    iterations share one pass, because no port sends anything.

    penalty: its activity term is summed up in `activity` while training (paper eq 5); None counts nothing.
    """

    def __init__(self, urn: URN, iterations: Sequence[int]):
        super().__init__()
        self.urn = urn
        self.iterations = tuple(iterations)
        self.names = tuple(urn.layout.ports)[: len(self.iterations)]
        self.penalty: Penalty | None = None
        self.activity: Tensor | None = None
        self.early: list[tuple[slice | Tensor, Tensor]] = []  # readouts before the last, where the penalty asks

    def at(self, task: int) -> URN:
        """The network, set to the iterations of a task: read the task's port from it."""
        self.urn.iterations = self.iterations[task]
        return self.urn

    def adaptation(self, experience: Any) -> None:
        """Ports exist from the start; only notes which tasks training has seen (Avalanche's LwF asks for those)."""
        if self.training:
            self.known_train_tasks_labels = self.known_train_tasks_labels | set(experience.task_labels)

    def forward(self, x: Tensor, task_labels: Tensor | int | None) -> Any:
        """Logits for x (B, D_in) and labels (B,) or one label; for None, {t: logits} of every task seen in training,
        without the activity term."""
        if task_labels is None:
            return self.forward_all_tasks(x)
        if isinstance(task_labels, int):
            return self.forward_single_task(x, task_labels)
        if bool((task_labels == task_labels[0]).all()):  # a quarter of the time of unique(), at every step
            return self.forward_single_task(x, int(task_labels[0]))
        tasks = task_labels.unique().tolist()
        labels, widest = task_labels.to(x.device), max(self._width(t) for t in tasks)
        out = self.urn.W.new_full((len(x), widest), MIXED)
        self.activity, self.early = self.urn.W.new_zeros(()), []
        for group in self._groups(tasks):
            rows = torch.isin(labels, labels.new_tensor(group)).nonzero().flatten()
            answers, activity = self._read(x[rows], group, len(x))
            self.activity = self.activity + activity
            for task, readouts in answers.items():
                mine = labels[rows] == task
                out[rows[mine], : self._width(task)] = readouts[-1, mine]
                self._hear(rows[mine], readouts[:, mine])
        return out

    def forward_single_task(self, x: Tensor, task_label: int) -> Tensor:
        self.early = []
        answers, self.activity = self._read(x, [task_label], len(x))
        self._hear(slice(None), answers[task_label])
        return answers[task_label][-1]

    def forward_all_tasks(self, x: Tensor) -> dict[int, Tensor]:
        answers: dict[int, Tensor] = {}
        for group in self._groups(sorted(self.known_train_tasks_labels)):
            answers |= {task: readouts[-1] for task, readouts in self._read(x, group, 0)[0].items()}
        return answers

    def __deepcopy__(self, memo: dict) -> SharedURN:
        """The same answers from weights of its own (the teacher of LwF), without what a training step leaves behind."""
        twin = SharedURN(self.urn.subnetwork(torch.arange(self.urn.S)), self.iterations)
        twin.known_train_tasks_labels = set(self.known_train_tasks_labels)
        return twin.train(self.training)

    def _hear(self, rows: slice | Tensor, readouts: Tensor) -> None:
        if self.penalty is not None and self.penalty.early_readout and self.training:
            self.early.append((rows, early_readouts(readouts)))

    def _width(self, task: int) -> int:
        return len(self.urn.layout.ports[self.names[task]])

    def _groups(self, tasks: Sequence[int]) -> list[list[int]]:
        """The tasks that iterate equally often, together."""
        depths = sorted({self.iterations[t] for t in tasks})
        return [[t for t in tasks if self.iterations[t] == depth] for depth in depths]

    def _read(self, x: Tensor, tasks: Sequence[int], B: int) -> tuple[dict[int, Tensor], Tensor]:
        """Readouts (L, B, D_out) of each task for all of x, in one pass over a port that joins theirs, and the pass's
        activity term; L is I where the penalty asks for early readouts, else 1. B: samples in the whole batch, by which
        the term is divided; 0 leaves it out."""
        urn, port = self.at(tasks[0]), "+".join(self.names[t] for t in tasks)
        if port not in urn.layout.ports:
            joined = torch.cat([urn.layout.ports[self.names[t]] for t in tasks])
            urn.layout = replace(urn.layout, ports={**urn.layout.ports, port: joined})
        penalty = self.penalty if B and self.training else None
        if penalty is None:
            penalty = Penalty()
        every = penalty.early_readout > 0
        logits, activity = urn.forward_with_activity(
            x,
            port,
            penalty.activity_costs(urn.iterations, max(1, B)),
            literal=penalty.literal,
            ports=penalty.ports,
            every=every,
        )
        parts = (logits if every else logits[None]).split([self._width(t) for t in tasks], dim=2)
        return dict(zip(tasks, parts, strict=True)), activity
