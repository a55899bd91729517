"""The claimed network of a stored run as lists: its neurons, and for each task the synapses that it added.

Put together from the structure.npz of each task (numpy alone). A synapse belongs to the task that owns its receiver:
what a task's own neurons and its port read was trained with it, and has not changed since.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nesa.figures.connectome import Synapses

INPUT, PORT = -2, -3  # as nesa.training.accumulation has them, which needs torch


class Connectome(NamedTuple):
    """The n neurons that K claimed tasks use, and their synapses.

    owner: (n,), -2 input, -3 a port, k >= 0 the k-th task. task: (n,) the same with ports given to their task.
    levels: (n,) as measured by the task that uses a neuron first. grid: whether positions (n, 3) tell neurons apart.
    layers: K lists of synapses, whose ends are places in these arrays.
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
        """(n,): what decides the direction of a synapse, z on a grid and else the level."""
        return self.positions[:, 2] if self.grid else self.levels


def assemble_connectome(structures: Mapping[str, Mapping[str, Any]]) -> Connectome:
    """``structures`` maps the claimed tasks, in the order of their claims, to what nesa.run_folder.layout.load_structure gives."""
    arrays = list(structures.values())
    neurons = np.unique(np.concatenate([np.zeros(0, dtype=np.int64), *(part["members"] for part in arrays)]))
    n = len(neurons)
    positions, levels = np.zeros((n, 3)), np.full(n, -1)
    owner, task = np.full(n, PORT), np.full(n, INPUT)
    layers = []
    for k, part in reversed(list(enumerate(arrays))):  # the first task that uses a neuron has the last word
        at = np.searchsorted(neurons, part["members"])
        positions[at], levels[at], owner[at] = part["positions"], part["levels"], part["owner"]
        own = (part["owner"] == k) | (part["owner"] == PORT)
        task[at[own]] = k
        if k == 0:
            own = own | (part["owner"] == INPUT)  # what inputs read, if they do, is the first task's
        rows = np.flatnonzero(own)
        found = Synapses.of(part["W"][rows])
        layers.append(Synapses(at[found.sender], at[rows[found.receiver]], found.weight))
    grid = bool(n and np.ptp(positions, axis=0).any())
    return Connectome(list(structures), positions, levels, owner, task, grid, layers[::-1])


def flow(web: Connectome) -> NDArray[np.float64]:
    """(K, K + 1): the sum of |W| that each task's own neurons and port read from the input (column 0) and from the
    neurons of each task (column 1 + k). What input neurons read counts for nobody."""
    K = len(web.names)
    matrix = np.zeros((K, K + 1))
    for k, layer in enumerate(web.layers):
        own = web.owner[layer.receiver] != INPUT
        column = np.maximum(web.owner[layer.sender], -1) + 1
        matrix[k] = np.bincount(column[own], np.abs(layer.weight[own].astype(np.float64)), minlength=K + 1)
    return matrix


def fields(web: Connectome, k: int) -> NDArray[np.float32]:
    """(n_k, D_in): what each neuron of task k reads of the input, in the order of the input's components."""
    rows = np.full(len(web.owner), -1)
    mine, inputs = np.flatnonzero(web.owner == k), np.flatnonzero(web.owner == INPUT)
    rows[mine], columns = np.arange(len(mine)), np.searchsorted(inputs, web.layers[k].sender)
    here = (web.owner[web.layers[k].sender] == INPUT) & (rows[web.layers[k].receiver] >= 0)
    W = np.zeros((len(mine), len(inputs)), dtype=np.float32)
    layer = web.layers[k].take(here)
    W[rows[layer.receiver], columns[here]] = layer.weight
    return W


__all__ = ["Connectome", "assemble_connectome", "fields", "flow"]
