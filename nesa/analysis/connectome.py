"""Assemble the connectome of a stored run: its neurons, and for each task the synapses that it added.

It is built from the structure.npz of each task. A synapse belongs to the task that owns its receiver, because it was
trained with that task and has not changed since.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nesa.neuron_owner import FREE, INPUT, PORT


class Synapses(NamedTuple):
    """Non-zero synapses, each field (E,): sending neuron, receiving neuron, weight; the strongest first."""

    sender: NDArray[np.int64]
    receiver: NDArray[np.int64]
    weight: NDArray[np.float32]

    @staticmethod
    def of(W: NDArray[Any]) -> Synapses:
        """List the non-zero entries of W (S, S), row = receiver."""
        receiver, sender = np.nonzero(W)
        weight = W[receiver, sender]
        order = np.argsort(-np.abs(weight), kind="stable")
        return Synapses(sender[order], receiver[order], weight[order])

    def take(self, which: Any) -> Synapses:
        """Select synapses by a mask or a slice."""
        return Synapses(self.sender[which], self.receiver[which], self.weight[which])


class Connectome(NamedTuple):
    """The n neurons that K claimed tasks use, and their synapses.

    owner: (n,) codes of nesa.neuron_owner. task: (n,) the same, with the port of task k as k. levels: (n,) as measured
    by the first task that uses a neuron. grid: whether positions (n, 3) differ. layers: K lists of synapses, whose
    sender and receiver are indices into these arrays.
    """

    names: list[str]
    positions: NDArray[np.float64]
    levels: NDArray[np.int64]
    owner: NDArray[np.int64]
    task: NDArray[np.int64]
    grid: bool
    layers: list[Synapses]

    @property
    def height(self) -> NDArray[Any]:
        """Return (n,) z on a grid and else the level, which decides the direction of a synapse."""
        return self.positions[:, 2] if self.grid else self.levels


def assemble_connectome(structures: Mapping[str, Mapping[str, Any]]) -> Connectome:
    """Assemble the structures of the claimed tasks, name -> arrays of structure.npz in the order of their claims."""
    arrays = list(structures.values())
    neurons = np.unique(np.concatenate([np.zeros(0, dtype=np.int64), *(part["members"] for part in arrays)]))
    n = len(neurons)
    positions, levels = np.zeros((n, 3)), np.full(n, -1)
    owner, task = np.full(n, PORT), np.full(n, INPUT)
    layers = []
    for k, part in reversed(list(enumerate(arrays))):  # the first task that uses a neuron overwrites the others
        at = np.searchsorted(neurons, part["members"])
        positions[at], levels[at], owner[at] = part["positions"], part["levels"], part["owner"]
        own = (part["owner"] == k) | (part["owner"] == PORT)
        task[at[own]] = k
        if k == 0:
            own = own | (part["owner"] == INPUT)  # synapses into the inputs are the first task's
        rows = np.flatnonzero(own)
        found = Synapses.of(part["W"][rows])
        layers.append(Synapses(at[found.sender], at[rows[found.receiver]], found.weight))
    grid = bool(n and np.ptp(positions, axis=0).any())
    return Connectome(list(structures), positions, levels, owner, task, grid, layers[::-1])


def flow(connectome: Connectome) -> NDArray[np.float64]:
    """Sum |W| (K, K + 1) into each task's own neurons and port, by the owner of the sender.

    Column 0: the input; column 1 + k: the neurons of task k. Synapses into input neurons do not count."""
    K = len(connectome.names)
    matrix = np.zeros((K, K + 1))
    for k, layer in enumerate(connectome.layers):
        own = connectome.owner[layer.receiver] != INPUT
        column = np.maximum(connectome.owner[layer.sender], FREE) + 1
        matrix[k] = np.bincount(column[own], np.abs(layer.weight[own].astype(np.float64)), minlength=K + 1)
    return matrix


def fields(connectome: Connectome, k: int) -> NDArray[np.float32]:
    """Return the weights (n_k, D_in) from each component of the input to each neuron of task k."""
    rows = np.full(len(connectome.owner), -1)
    mine, inputs = np.flatnonzero(connectome.owner == k), np.flatnonzero(connectome.owner == INPUT)
    rows[mine], columns = np.arange(len(mine)), np.searchsorted(inputs, connectome.layers[k].sender)
    here = (connectome.owner[connectome.layers[k].sender] == INPUT) & (rows[connectome.layers[k].receiver] >= 0)
    W = np.zeros((len(mine), len(inputs)), dtype=np.float32)
    layer = connectome.layers[k].take(here)
    W[rows[layer.receiver], columns[here]] = layer.weight
    return W


__all__ = ["Connectome", "Synapses", "assemble_connectome", "fields", "flow"]
