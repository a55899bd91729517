"""Give a URN the form of an Avalanche multi-task model: one that grows by claims, and one that all tasks share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from nesa.training.accumulation import Accumulation, Claim, Dynamics
from nesa.training.strategies.avalanche_api import MultiTaskModule
from urn.layout import Layout
from urn.network import URN
from urn.penalties import Early, Penalty, early_loss
from urn.surgery import keep_only, shard

MISSING_CLASS = -1e9  # logit of a class that a task does not have, in batches that mix tasks of different widths


class TrainingPass(NamedTuple):
    """What one forward pass in training gives to the loss.

    logits: (B, D_out). activity: the activity term (paper eq 5), a scalar. early: samples and their readouts before the
    last, (L, n, D_out), where the penalty has a share for them.
    """

    logits: Tensor
    activity: Tensor
    early: Early = ()


def add_penalties(
    loss: Tensor,
    task_loss: Tensor,
    done: TrainingPass,
    penalty: Penalty,
    criterion: Callable[[Tensor, Tensor], Tensor],
    y: Tensor,
) -> Tensor:
    """Add the activity term and the early readouts to a loss (paper eq 5; `urn.penalties.early_loss`).

    loss: contains the task's loss `task_loss`, of which the penalty's share moves to the early readouts."""
    loss = loss + done.activity
    if done.early:
        loss = loss + penalty.early_readout * (early_loss(criterion, done.early, y) - task_loss)
    return loss


class GrowingURN(MultiTaskModule):
    """A network that grows from task to task. Task label t reads the accumulation's output port number t.

    accumulation: what has been claimed. dynamics: how new tasks iterate. The Parameters are those of `task_network`,
    which trains the current task; claimed tasks answer through their own frozen sub-networks, and a task that has not
    been learned answers with zeros (Avalanche may evaluate it). penalty: whose activity term and early readouts are
    computed in training, into `last_pass`; None computes neither. reuse_gradient_memory, multiply: see `urn.URN`.
    sharded: the rows of task networks are split over the ranks of torch's process group until they are pruned
    (`urn.row_partition`).
    """

    reuse_gradient_memory = False
    multiply: torch.dtype | None = None
    sharded = False

    def __init__(self, accumulation: Accumulation, dynamics: Dynamics):
        super().__init__()
        self.accumulation = accumulation
        self.dynamics = dynamics
        self.current: int | None = None
        self.index = torch.zeros(0, dtype=torch.long)  # global indices of the task network's neurons
        self.task_network = URN(Layout.flat(3, 1, {"": 1}), dynamics.iterations)  # replaced by `begin`
        self.penalty: Penalty | None = None
        self.last_pass: TrainingPass | None = None
        self._networks: dict[int, URN] = {}

    @property
    def names(self) -> list[str]:
        return list(self.accumulation.layout.ports)

    def begin(self, task: int, generator: torch.Generator | None) -> dict:
        """Create the network that trains task number `task`; returns {old Parameter: new Parameter} for optimisers."""
        device = self.task_network.W.device
        old = self.task_network
        self.task_network, self.index = self.accumulation.task_network(self.names[task], self.dynamics, generator)
        if self.sharded:
            shard(self.task_network)
        self.task_network.to(device)
        self.task_network.reuse_gradient_memory = self.reuse_gradient_memory
        self.task_network.multiply = self.multiply
        self.current = task
        return {old.W: self.task_network.W, old.b: self.task_network.b}

    def keep(self, index: Tensor, optimizer: torch.optim.Optimizer) -> None:
        """Shrink the task network to the neurons `index` (n,), global indices out of its own, in that order."""
        place = torch.full((int(self.index.max()) + 1,), -1)
        place[self.index] = torch.arange(len(self.index))
        keep_only(self.task_network, place[index], optimizer)
        self.index = index

    def finish(self, **extra: Any) -> Claim:
        """Claim the neurons of the pruned task network for the current task."""
        assert self.current is not None
        entry = self.accumulation.claim(self.names[self.current], self.dynamics, self.task_network, self.index, **extra)
        self.current = None
        return entry

    def network(self, task: int) -> URN | None:
        """Return the frozen network of a claimed task, on the task network's device; None for one not learned yet."""
        name = self.names[task]
        if task not in self._networks:
            if all(entry.name != name for entry in self.accumulation.claims):
                return None
            self._networks[task] = self.accumulation.network(name).to(self.task_network.W.device)
        return self._networks[task]

    def adaptation(self, experience) -> None:
        """Do nothing: ports exist from the start. (Avalanche calls this before each experience.)"""

    def forward(self, x: Tensor, task_labels: Tensor | int) -> Tensor:
        """Logits (B, D_out) of exactly the task's classes; for a batch that mixes tasks, (B, widest) with -1e9 where
        a task has no such class."""
        if isinstance(task_labels, int):
            return self.forward_single_task(x, task_labels)
        labels = task_labels.unique().tolist()
        if len(labels) == 1:
            return self.forward_single_task(x, labels[0])
        parts = {t: self.forward_single_task(x[task_labels == t], t) for t in labels}
        out = x.new_full((len(x), max(part.shape[1] for part in parts.values())), MISSING_CLASS)
        for t, part in parts.items():
            out[task_labels == t, : part.shape[1]] = part
        return out

    def forward_single_task(self, x: Tensor, task_label: int) -> Tensor:
        if task_label == self.current:
            penalty = self.penalty if self.training and self.penalty is not None else Penalty()
            done = self.task_network.training_pass(x, self.names[task_label], penalty)
            early = () if done.early is None else ((slice(None), done.early),)
            self.last_pass = TrainingPass(done.logits, done.activity, early)
            return done.logits
        network = self.network(task_label)
        if network is None:
            return x.new_zeros(len(x), len(self.accumulation.layout.ports[self.names[task_label]]))
        return network(x)


class SharedURN(MultiTaskModule):
    """One URN for all tasks, all of it trainable: task label t reads output port number t after iterations[t] updates.

    A batch of one task gives exactly that task's logits (B, D_out). A batch that mixes tasks gives (B, widest) with
    -1e9 where a task has no such class: the softmax and its gradient are zero there. Tasks with the same number of
    iterations share one pass, because no port sends anything.

    penalty: whose activity term and early readouts are computed in training, into `last_pass`; None computes neither.
    """

    def __init__(self, network: URN, iterations: Sequence[int]):
        super().__init__()
        self.network = network
        self.iterations = tuple(iterations)
        self.names = tuple(network.layout.ports)[: len(self.iterations)]
        self.penalty: Penalty | None = None
        self.last_pass: TrainingPass | None = None

    def at(self, task: int) -> URN:
        """Return the network, set to the iterations of a task: read the task's port from it."""
        self.network.iterations = self.iterations[task]
        return self.network

    def adaptation(self, experience: Any) -> None:
        """Note which tasks training has used (Avalanche's LwF reads those); ports exist from the start."""
        if self.training:
            self.known_train_tasks_labels = self.known_train_tasks_labels | set(experience.task_labels)

    def forward(self, x: Tensor, task_labels: Tensor | int | None) -> Any:
        """Logits for x (B, D_in) and labels (B,) or one label; for None, {t: logits} of every task used in training,
        without the activity term."""
        if task_labels is None:
            return self.forward_all_tasks(x)
        if isinstance(task_labels, int):
            return self.forward_single_task(x, task_labels)
        if bool((task_labels == task_labels[0]).all()):  # a quarter of the time of unique(), at every step
            return self.forward_single_task(x, int(task_labels[0]))
        tasks = task_labels.unique().tolist()
        labels, widest = task_labels.to(x.device), max(self._width(t) for t in tasks)
        out = self.network.W.new_full((len(x), widest), MISSING_CLASS)
        total, early = self.network.W.new_zeros(()), []
        for group in self._groups(tasks):
            rows = torch.isin(labels, labels.new_tensor(group)).nonzero().flatten()
            answers, activity = self._read(x[rows], group, len(x))
            total = total + activity
            for task, (logits, readouts) in answers.items():
                mine = labels[rows] == task
                out[rows[mine], : self._width(task)] = logits[mine]
                if readouts is not None:
                    early.append((rows[mine], readouts[:, mine]))
        self.last_pass = TrainingPass(out, total, early)
        return out

    def forward_single_task(self, x: Tensor, task_label: int) -> Tensor:
        answers, activity = self._read(x, [task_label], len(x))
        logits, readouts = answers[task_label]
        self.last_pass = TrainingPass(logits, activity, () if readouts is None else ((slice(None), readouts),))
        return logits

    def forward_all_tasks(self, x: Tensor) -> dict[int, Tensor]:
        answers: dict[int, Tensor] = {}
        for group in self._groups(sorted(self.known_train_tasks_labels)):
            answers |= {task: logits for task, (logits, _) in self._read(x, group, 0)[0].items()}
        return answers

    def __deepcopy__(self, memo: dict) -> SharedURN:
        """The same answers from weights of its own (the teacher of LwF), without what a training step leaves behind."""
        twin = SharedURN(self.network.subnetwork(torch.arange(self.network.S)), self.iterations)
        twin.known_train_tasks_labels = set(self.known_train_tasks_labels)
        return twin.train(self.training)

    def _width(self, task: int) -> int:
        return len(self.network.layout.ports[self.names[task]])

    def _groups(self, tasks: Sequence[int]) -> list[list[int]]:
        """The tasks that iterate equally often, together."""
        depths = sorted({self.iterations[t] for t in tasks})
        return [[t for t in tasks if self.iterations[t] == depth] for depth in depths]

    def _read(self, x: Tensor, tasks: Sequence[int], B: int) -> tuple[dict[int, tuple[Tensor, Tensor | None]], Tensor]:
        """{task: (logits (B, D_out), early readouts (L, B, D_out) or None)} for all of x, in one pass over all of their
        ports, and the pass's activity term. B: samples in the whole batch, by which the term is divided; 0
        leaves the penalty out."""
        network, port = self.at(tasks[0]), tuple(self.names[t] for t in tasks)
        penalty = self.penalty if B and self.training else None
        done = network.training_pass(x, port, penalty or Penalty(), max(1, B))
        widths = [self._width(t) for t in tasks]
        logits = done.logits.split(widths, dim=1)
        early = [None] * len(tasks) if done.early is None else done.early.split(widths, dim=2)
        return {task: (a, b) for task, a, b in zip(tasks, logits, early, strict=True)}, done.activity
