"""Measure how similar the structures are that two runs learned for one task (defined in docs/method.md).

    widths    overlap of the hidden neurons by level: sum_l min(a_l, b_l) / sum_l max(a_l, b_l), as a Jaccard index
    fields    mean cosine of the receptive fields of neurons that are matched one to one so that their sum is largest
    support   share of synapses that both have, among those that either has, between matched neurons
    chance    the same under a random matching, for structures of this density

Neurons of two runs have no common names, so they are matched by what they read of the input
(`scipy.optimize.linear_sum_assignment`, Crouse 2016, doi:10.1109/TAES.2016.140952). No torch here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nesa.neuron_owner import INPUT

Array = NDArray[Any]


@dataclass(frozen=True)
class Similarity:
    """Each from 0 to 1 (fields from -1); None where there is nothing to compare. matched: pairs of neurons."""

    widths: float | None
    fields: float | None
    support: float | None
    chance: float | None
    matched: int


@dataclass(frozen=True)
class Structure:
    """One task's own network of n hidden neurons. levels: (n,). fields: (n, D_in) what each reads of the input, of
    length 1 or 0. inputs, among: (n, D_in) and (n, n) bool, which synapses exist; row = receiver."""

    levels: Array
    fields: Array
    inputs: Array
    among: Array

    @classmethod
    def of(cls, arrays: Mapping[str, Array]) -> Structure:
        """Select the hidden neurons of the arrays of structure.npz: `owner` and `levels` (m,), `W` (m, m)."""
        owner, W = arrays["owner"], arrays["W"]
        hidden, inputs = np.flatnonzero(owner >= 0), np.flatnonzero(owner == INPUT)
        rows, levels = W[hidden], arrays["levels"][hidden]
        W_in, W = rows[:, inputs], rows[:, hidden]
        return cls(levels, _fields(W_in, W, int(levels.max(initial=1))), W_in != 0, W != 0)


def similarity(a: Structure, b: Structure) -> Similarity:
    """Compute the similarity of two structures; symmetric up to ties between matchings.

    Raises ValueError when the inputs differ in size."""
    if a.inputs.shape[1] != b.inputs.shape[1]:
        raise ValueError(f"inputs of {a.inputs.shape[1]} and of {b.inputs.shape[1]} neurons cannot be compared")
    alike = overlap(_widths(a.levels), _widths(b.levels))
    n = min(len(a.levels), len(b.levels))
    if n == 0:
        return Similarity(alike, None, None, None, 0)
    from scipy.optimize import linear_sum_assignment

    cosines = a.fields @ b.fields.T
    left, right = linear_sum_assignment(cosines, maximize=True)
    rng = np.random.default_rng(0)
    some, others = (rng.permutation(len(x.levels))[:n] for x in (a, b))
    return Similarity(
        alike,
        float(cosines[left, right].mean()),
        shared_synapses(a, b, left, right),
        shared_synapses(a, b, some, others),
        n,
    )


def overlap(a: Array | Sequence[float], b: Array | Sequence[float]) -> float | None:
    """Compute sum min / sum max of two non-negative lists, padded with zeros; None when both are zero."""
    length = max(len(a), len(b))
    A, B = (np.pad(np.asarray(x, dtype=np.float64), (0, length - len(x))) for x in (a, b))
    most = np.maximum(A, B).sum()
    return float(np.minimum(A, B).sum() / most) if most else None


def shared_synapses(a: Structure, b: Structure, left: Array, right: Array) -> float | None:
    """Compute the Jaccard index of the synapses of matched neurons, left[i] of a with right[i] of b.

    Those from the input and those among the matched neurons count; None when neither has any."""
    both = either = 0
    for A, B in ((a.inputs[left], b.inputs[right]), (a.among[left[:, None], left], b.among[right[:, None], right])):
        both += int(np.count_nonzero(A & B))
        either += int(np.count_nonzero(A | B))
    return both / either if either else None


def _fields(W_in: Array, W: Array, deepest: int) -> Array:
    """Return what each neuron reads of the input directly, or else through the neurons that it reads, normalised."""
    found = _unit(W_in)
    for _ in range(deepest):
        empty = ~found.any(1)
        if not empty.any():
            break
        found[empty] = _unit(W[empty] @ found)
    return found


def _widths(levels: Array) -> Array:
    """Count the neurons at level 1, 2, ...; inactive ones (level < 1) do not count."""
    return np.bincount(levels[levels > 0].astype(np.int64), minlength=1)[1:]


def _unit(rows: Array) -> Array:
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.divide(rows, length, out=np.zeros_like(rows), where=length > 0)
