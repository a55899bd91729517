"""Measure what a task reads of earlier tasks' neurons ("each task builds on the structures already there").

owner: (S,), k >= 0 for a hidden neuron that task k claimed, negative for free, input and output neurons. A task's own
neurons are those that it claimed and its output port (D_out,).
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from urn.measures.graph import Synapses


@dataclass(frozen=True)
class Reuse:
    """What a task reads of earlier ones. neurons: (n,) ascending, the earlier tasks' hidden neurons that it reads.
    share: the part of its incoming sum |W| that comes from them."""

    neurons: Tensor
    share: float


def reuse(W: Tensor | Synapses, owner: Tensor, task: int, port: Tensor) -> Reuse:
    """Measure what task number `task` reads of the hidden neurons of earlier tasks."""
    owner = owner.cpu()
    edges = Synapses.of(W, receivers=_own(owner, task, port))
    earlier = ((owner >= 0) & (owner < task))[edges.sender]
    total = float(edges.mass.sum())
    return Reuse(edges.sender[earlier].unique(), float(edges.mass[earlier].sum()) / total if total else 0.0)


def cut_reuse(W: Tensor, owner: Tensor, task: int, port: Tensor) -> Tensor:
    """Copy W (S, S) without the synapses that `reuse` counts, for the ablation."""
    owner = owner.cpu()
    rows = _own(owner, task, port).nonzero().flatten().to(W.device)
    columns = ((owner >= 0) & (owner < task)).nonzero().flatten().to(W.device)
    cut = W.detach().clone()
    cut[rows[:, None], columns] = 0
    return cut


def _own(owner: Tensor, task: int, port: Tensor) -> Tensor:
    """(S,) bool: the neurons that task `task` claimed, and its output port."""
    own = owner == task
    own[port.cpu()] = True
    return own
