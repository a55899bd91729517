"""Measure the graph of the synapses that matter: its paths, depth and cycles.

A synapse goes from its sender j to its receiver i with weight W_ij. Measures take W itself, (S, S) with
row = receiver, or its `Synapses`, the list of the non-zero ones: at S = 20,000 a pruned network has about 1e5 of them
against 4e8 entries of W, so build the list once and pass it on.

`live` keeps the synapses through which the activation of a sender at l can affect the output at I. With the *varying*
neurons that is the graph of the data, on which depth, shares and recurrence are measured; with the *active* ones it
includes constants, which act as biases.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from urn.measures.activity import NEVER, Activity

ROWS = 1024  # of W are searched at a time, so that no copy of a large W is made


@dataclass(frozen=True)
class Synapses:
    """E non-zero synapses among S neurons, on the CPU.

    receiver, sender: (E,) int64. weight: (E,), the entries of W."""

    receiver: Tensor
    sender: Tensor
    weight: Tensor
    S: int

    @staticmethod
    def of(W: Tensor | Synapses, neurons: Tensor | None = None, receivers: Tensor | None = None) -> Synapses:
        """List the non-zero entries of W (S, S).

        With `neurons` ((n,) indices or (S,) bool) those between these neurons only, with `receivers` those into these
        only; indices stay. Raises ValueError when W is not square."""
        if isinstance(W, Tensor) and (W.dim() != 2 or W.shape[0] != W.shape[1]):
            raise ValueError(f"W has shape {tuple(W.shape)}; expected (S, S), row = receiver, column = sender")
        S = W.S if isinstance(W, Synapses) else len(W)
        inside = torch.ones(S, dtype=torch.bool) if neurons is None else index_mask(S, neurons.cpu())
        rows = inside if receivers is None else inside & index_mask(S, receivers.cpu())
        if isinstance(W, Synapses):
            return W if inside.all() and rows.all() else W.select(rows[W.receiver] & inside[W.sender])
        found = []
        for index in rows.nonzero().flatten().to(W.device).split(ROWS):
            start, stop = (int(index[0]), int(index[-1]) + 1) if len(index) else (0, 0)
            some = W.detach()[start:stop] if len(index) == stop - start else W.detach()[index]
            receiver, sender = some.nonzero(as_tuple=True)
            entries = Synapses(index[receiver].cpu(), sender.cpu(), some[receiver, sender].cpu(), S)
            found.append(entries if neurons is None else entries.select(inside[entries.sender]))
        receiver, sender, weight = (
            torch.cat([getattr(part, name) for part in found]) for name in ("receiver", "sender", "weight")
        )
        return Synapses(receiver, sender, weight, S)

    def __len__(self) -> int:
        return len(self.weight)

    def select(self, keep: Tensor) -> Synapses:
        """Select the synapses where keep (E,) bool."""
        return Synapses(self.receiver[keep], self.sender[keep], self.weight[keep], self.S)

    @property
    def mass(self) -> Tensor:
        """(E,) float64: |W_ij|."""
        return self.weight.double().abs()

    @property
    def neurons(self) -> Tensor:
        """(S,) bool: the neurons at an end of some synapse."""
        return index_mask(self.S, self.receiver) | index_mask(self.S, self.sender)

    def matrix(self) -> csr_array:
        """Return |W| as a sparse (S, S) matrix, row = receiver."""
        ends = (self.receiver.numpy(), self.sender.numpy())
        return csr_array((self.mass.numpy(), ends), shape=(self.S, self.S))


def live(W: Tensor | Synapses, carries: Tensor, port: Tensor, residual_output: bool) -> Synapses:
    """Select the synapses on a path from neurons that carry something to the output port, as read after I iterations.

    carries: (I+1, S) bool, `Activity.varies` for the graph of the data, `Activity.active` to include constants.
    port: (D_out,). residual_output: whether the port adds up its readouts (paper eq 6). Then a path may end at every
    iteration, otherwise at l = I alone.

    Synapse i <- j is live when for some l, j carries at l, i carries at l + 1, and such a path leads from i at l + 1
    to the port. So it depends on the rule only as far as the computation does.
    """
    edges = Synapses.of(W)
    carries, outside = carries.cpu(), index_mask(edges.S, port.cpu())
    keep = torch.zeros(len(edges), dtype=torch.bool)
    on_way = outside
    for level in range(len(carries) - 2, -1, -1):
        here = carries[level][edges.sender] & on_way[edges.receiver]
        keep |= here
        on_way = index_mask(edges.S, edges.sender[here])
        if residual_output:
            on_way = on_way | outside
    return edges.select(keep)


def recurrence(W: Tensor | Synapses) -> tuple[int, ...]:
    """Return the sizes of the strongly connected components with a cycle, largest first.

    A cycle has two neurons or more, or is one neuron with a synapse to itself."""
    edges = Synapses.of(W)
    component, cyclic = _components(edges)
    sizes = np.bincount(component[cyclic]) if cyclic.any() else np.zeros(0, int)
    return tuple(sorted(sizes[sizes > 0].tolist(), reverse=True))


def on_cycles(W: Tensor | Synapses) -> Tensor:
    """Return (S,) bool: the neurons on some cycle."""
    return torch.from_numpy(_components(Synapses.of(W))[1])


def unsettled(W: Tensor | Synapses, activity: Activity) -> Tensor:
    """Return (S,) bool: the neurons on a cycle that has not come to rest at l = I.

    A strongly connected component is unsettled when, at l = I, some neuron of it still varies over the data and
    still differs from l = I - 1: neither a fixed point (residual inputs) nor a pulse that has left (plain rule).
    A layer of a feedforward net is on no cycle, so it is never unsettled under any rule. An unsettled neuron has a
    level, the first l at which it varies; widths are reported with and without these neurons."""
    component, cyclic = _components(Synapses.of(W))
    changing = np.zeros(component.max() + 1, dtype=bool)
    changing[component[activity.changing.numpy() & cyclic]] = True
    return torch.from_numpy(changing[component] & cyclic)


def path_levels(W: Tensor | Synapses, inputs: Tensor) -> Tensor:
    """Return (S,) int64: the number of steps on the longest path from the input port (D_in,) to each neuron.

    Each strongly connected component is one node (the condensation); NEVER (-1) where there is no path. Layer k of an
    MLP is at k, with or without skip connections."""
    edges = Synapses.of(W)
    component, _ = _components(edges)
    count = int(component.max()) + 1
    to, frm = component[edges.receiver.numpy()], component[edges.sender.numpy()]
    between = to != frm
    to, frm = to[between], frm[between]
    order = np.argsort(frm, kind="stable")
    to, start = to[order], np.searchsorted(frm[order], np.arange(count + 1))
    in_degree = np.bincount(to, minlength=count)
    depth = np.full(count, -np.inf)
    depth[component[inputs.cpu().numpy()]] = 0
    ready = np.flatnonzero(in_degree == 0)
    while len(ready):  # Kahn's topological order, all components at a time that have no sender left
        degree = start[ready + 1] - start[ready]
        offset = np.arange(degree.sum()) - np.repeat(np.cumsum(degree) - degree, degree)
        reached = to[np.repeat(start[ready], degree) + offset]
        np.maximum.at(depth, reached, np.repeat(depth[ready], degree) + 1)
        np.subtract.at(in_degree, reached, 1)
        reached = np.unique(reached)
        ready = reached[in_degree[reached] == 0]
    return torch.from_numpy(np.where(np.isfinite(depth), depth, NEVER)[component].astype(np.int64))


def graph_depth(W: Tensor | Synapses, inputs: Tensor, port: Tensor) -> int:
    """Measure the longest path of the condensation from the input port (D_in,) to the output port (D_out,), in steps.

    0 when there is no path. An MLP of d layers of weights has depth d. Recurrence counts once; the depth of a net with
    long chains can exceed I."""
    return max(0, int(path_levels(W, inputs)[port.cpu()].max()))


def path_lengths(W: Tensor | Synapses, inputs: Tensor, port: Tensor, iterations: int) -> tuple[float, ...]:
    """Measure the |W|-weighted histogram of path lengths.

    Entry n - 1 is the share of the paths of n steps, n = 1..I, from the input port to the output port, each path
    weighted by the product of |W| along it. Cycles are followed as often as I steps allow. All zeros when no path is
    that short."""
    edges = Synapses.of(W)
    matrix, reached = edges.matrix(), np.zeros(edges.S)
    reached[inputs.cpu().numpy()] = 1.0
    weights = np.zeros(iterations)
    for n in range(iterations):
        reached = matrix @ reached
        weights[n] = reached[port.cpu().numpy()].sum()
    return tuple((weights / (weights.sum() or 1.0)).tolist())


def _components(edges: Synapses) -> tuple[np.ndarray, np.ndarray]:
    """(S,) the strongly connected component of each neuron, and (S,) bool whether that component has a cycle."""
    ends = (edges.receiver.numpy(), edges.sender.numpy())
    pattern = csr_array((np.ones(len(edges), dtype=np.int8), ends), shape=(edges.S, edges.S))
    labels: tuple[int, np.ndarray] = connected_components(pattern, connection="strong")  # type: ignore
    component = labels[1]
    cyclic = (np.bincount(component) > 1)[component]
    cyclic[ends[0][ends[0] == ends[1]]] = True
    return component, cyclic


def index_mask(S: int, index: Tensor) -> Tensor:
    """Return (S,) bool, true at `index`."""
    mask = torch.zeros(S, dtype=torch.bool)
    mask[index] = True
    return mask
