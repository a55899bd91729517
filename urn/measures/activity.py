"""Measure what the neurons of a URN do on data: which are active, which vary, and from which iteration on.

Letters: B batch, S neurons, I iterations, l the iteration. Everything is measured on states [N^(0), ..., N^(I)], each
(B, S), as `URN.states` returns them. `Activity` takes a validation set batch by batch and stores (I+1, S) extremes and
means, never the states themselves.

A neuron *varies* at l when its activation differs between two samples: a bias alone makes it active, not varying. Its
*level* is the first l at which it varies, the order in which the paper sorts its figures 3 and 4, made robust against
biases. Under the plain rule a layer varies once, as the data pass through; under a residual input rule it goes on
varying; the first time is the same.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

TOLERANCE = 1e-6  # relative to the largest activation: float32 sums differ by about 1e-7 with the shape of a product
NEVER = -1  # the level of a neuron that never varies: inactive, or constant


class Activity:
    """Extremes and means of every neuron at every iteration, gathered over batches.

    tolerance: differences and activations up to tolerance * `scale` count as zero. scale_from: optional (n,) indices
    or (S,) bool, the neurons that set the scale (all by default).
    """

    def __init__(self, tolerance: float = TOLERANCE, scale_from: Tensor | None = None):
        self.tolerance = tolerance
        self.scale_from = scale_from
        self.samples = 0
        self._low: Tensor | None = None

    @torch.no_grad()
    def update(self, states: Sequence[Tensor]) -> Activity:
        """Add one batch of [N^(0), ..., N^(I)], each (B, S); returns itself.

        Raises ValueError when the number of iterations or neurons differs from the batches before."""
        shape = (len(states), states[0].shape[1])
        if len(states[0]) == 0:
            return self
        low = torch.stack([N.amin(0) for N in states]).cpu()
        high = torch.stack([N.amax(0) for N in states]).cpu()
        total = torch.stack([N.abs().sum(0, dtype=torch.float64) for N in states]).cpu()
        change = (states[-1] - states[-2]).abs().amax(0).cpu() if len(states) > 1 else high[0].abs()
        if self._low is None:
            self._low, self._high, self._total, self._change = low, high, total, change
        elif self._low.shape != shape:
            raise ValueError(f"states of shape (I+1, S) = {shape} after batches of {tuple(self._low.shape)}")
        else:
            self._low, self._high = torch.minimum(self._low, low), torch.maximum(self._high, high)
            self._total, self._change = self._total + total, torch.maximum(self._change, change)
        self.samples += len(states[0])
        return self

    @property
    def low(self) -> Tensor:
        """(I+1, S): the smallest activation over the data. Raises ValueError before the first batch."""
        if self._low is None:
            raise ValueError("no batch has been added yet; call update(states) first")
        return self._low

    @property
    def high(self) -> Tensor:
        """(I+1, S): the largest activation over the data."""
        _ = self.low
        return self._high

    @property
    def mean(self) -> Tensor:
        """(I+1, S) float64: the mean of |N_i^(l)| over the data."""
        _ = self.low
        return self._total / self.samples

    @property
    def iterations(self) -> int:
        """I."""
        return len(self.low) - 1

    @property
    def scale(self) -> float:
        """The largest finite |N_i^(l)| over the data at l >= 1, of the neurons in `scale_from`."""
        largest = torch.maximum(self.low.abs(), self.high.abs())[1:]
        if self.scale_from is not None:
            largest = largest[:, self.scale_from]
        largest = largest[largest.isfinite()]
        return float(largest.max()) if len(largest) else 0.0

    @property
    def varies(self) -> Tensor:
        """(I+1, S) bool: does the activation differ between samples? (What is not finite counts as varying.)"""
        return ~(self.high - self.low <= self.tolerance * self.scale)

    @property
    def active(self) -> Tensor:
        """(I+1, S) bool: is the activation other than zero on some sample?"""
        return ~(torch.maximum(self.low.abs(), self.high.abs()) <= self.tolerance * self.scale)

    @property
    def strength(self) -> Tensor:
        """(S,) float64: the mean of |N_i^(l)| at the iteration l <= I - 1 where it is largest, of those where the
        neuron varies; 0 where it never does.

        Only varying iterations count, so that one feedforward net has one value under all update rules (a layer is
        constant, at its biases, before and, without residual inputs, after the data pass); what is active at l = I
        alone reaches no neuron."""
        return (self.mean * self.varies)[:-1].amax(0)

    @property
    def changing(self) -> Tensor:
        """(S,) bool: does the activation vary at l = I and differ there from l = I - 1?"""
        _ = self.low
        return self.varies[-1] & ~(self._change <= self.tolerance * self.scale)


def measured(states: Activity | Sequence[Tensor], tolerance: float = TOLERANCE) -> Activity:
    """Return `states` if it is an Activity already, otherwise the Activity of that one batch."""
    return states if isinstance(states, Activity) else Activity(tolerance).update(states)


def active(states: Activity | Sequence[Tensor], tolerance: float = TOLERANCE) -> Tensor:
    """Return (S,) bool: the neurons whose activation is not zero on some sample at some l >= 1."""
    return measured(states, tolerance).active[1:].any(0)


def varies(states: Activity | Sequence[Tensor], tolerance: float = TOLERANCE) -> Tensor:
    """Return (I+1, S) bool: the neurons that vary over the data, at each iteration."""
    return measured(states, tolerance).varies


def levels(states: Activity | Sequence[Tensor], inputs: Tensor | None = None, tolerance: float = TOLERANCE) -> Tensor:
    """Return (S,) int64: the first l at which a neuron varies over the data, NEVER (-1) where it does not.

    inputs: (D_in,) the input port, at level 0 whatever the data (a pixel may be constant)."""
    V = measured(states, tolerance).varies
    level = torch.where(V.any(0), V.int().argmax(0), NEVER)  # argmax: the first of equal maxima
    if inputs is not None:
        level[inputs.cpu()] = 0
    return level


def layer_widths(levels: Tensor, among: Tensor, iterations: int | None = None) -> tuple[int, ...]:
    """Count those of the neurons `among` ((S,) bool or (n,) indices) that are at level 1, 2, ..., I.

    Constant and inactive ones are at none. iterations: I; by default the highest level that occurs."""
    level = levels[among]
    last = int(level.max()) if iterations is None and len(level) else iterations or 0
    counts = torch.bincount(level[(level >= 1) & (level <= last)], minlength=last + 1)
    return tuple(counts[1:].tolist())
