"""Draw the weight matrix, activities and receptive fields of one network.

W is (S, S), row = receiving neuron, column = sending neuron. ``levels`` is an integer a neuron, (S,): 0 for inputs,
1 to I for the first iteration at which it varies, negative for an inactive neuron. Scales are fixed, not fitted, so
that figures of two tasks or two runs are comparable.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from numpy.typing import NDArray

from nesa.analysis.connectome import Synapses
from nesa.figures.style import AMOUNT, FAINT, INPUT, SIGNED, array, note, page, tidy

CELLS = 500  # of an axis; an image of more cells shows nothing more and takes ten times as long
LEAST_WIDTH = 0.06  # of a level, as a share of the axis; else three neurons beside a thousand would be invisible


class LevelAxis(NamedTuple):
    """Neurons, sorted by level, laid out along an axis from 0 to 1."""

    starts: NDArray[np.int64]  # (C,) the first neuron of each cell
    edges: NDArray[np.float64]  # (C + 1,) borders of the cells
    borders: list[float]  # between levels
    centres: list[float]  # one a level
    levels: list[int]
    counts: list[int]  # neurons at each level


def level_order(levels: Any) -> NDArray[np.int64]:
    """Sort neurons by level, inactive ones last; within a level by index."""
    levels = array(levels).astype(np.int64)
    return np.argsort(np.where(levels < 0, np.iinfo(np.int64).max, levels), kind="stable")


def level_axis(levels: NDArray[Any], cells: int = CELLS) -> LevelAxis:
    """Lay out neurons that are sorted by level, given as their levels (n,), in at most about ``cells`` cells."""
    values, first, counts = np.unique(levels, return_index=True, return_counts=True)
    widths = np.maximum(counts / counts.sum(), LEAST_WIDTH)
    ends = np.cumsum(widths / widths.sum())
    starts, edges = [], [np.zeros(1)]
    for begin, count, low, high in zip(first, counts, [0, *ends[:-1]], ends, strict=True):
        inside = min(int(count), max(1, round(cells * (high - low))))
        at = np.linspace(0, count, inside, endpoint=False).astype(np.int64)
        starts.append(begin + at)
        edges.append(low + (high - low) * np.append(at[1:], count) / count)
    centres = [(low + high) / 2 for low, high in zip([0, *ends[:-1]], ends, strict=True)]
    return LevelAxis(
        np.concatenate(starts), np.concatenate(edges), list(ends[:-1]), centres, values.tolist(), counts.tolist()
    )


def strongest_in_blocks(synapses: Synapses, rows: NDArray[Any], columns: NDArray[Any]) -> NDArray[np.float32]:
    """Reduce W to blocks that begin at ``rows`` and ``columns``: the entry of largest size, with its sign."""
    image = np.zeros((len(rows), len(columns)), dtype=np.float32)
    row = np.searchsorted(rows, synapses.receiver, side="right") - 1
    column = np.searchsorted(columns, synapses.sender, side="right") - 1
    cells, first = np.unique(row * len(columns) + column, return_index=True)  # synapses come strongest first
    image.flat[cells] = synapses.weight[first]
    return image


def weight_matrix(W: Any, order: Any, levels: Any, title: str = "weights", limit: float = 0.25) -> Figure:
    """Draw W sorted by level (paper figs 3 and 4): all neurons on the left, the live ones on the right.

    ``order`` is a permutation of the neurons, by default (None) `level_order`. A synapse is live when it is not zero
    and both its neurons are; colours end at +- ``limit``.
    """
    synapses, levels = Synapses.of(array(W)), array(levels)
    order = level_order(levels) if order is None else array(order)
    S, levels = len(order), levels[order]
    rank = np.argsort(order)
    synapses = Synapses(rank[synapses.sender], rank[synapses.receiver], synapses.weight)
    figure = page(10.5, 5.8, title)
    figure.set_layout_engine("constrained")  # only one of the two panels is square
    whole, live = figure.subplots(1, 2, width_ratios=(1, 1.7))
    cells = np.linspace(0, S, min(S, CELLS), endpoint=False).astype(np.int64)
    image = whole.imshow(
        strongest_in_blocks(synapses, cells, cells),
        cmap=SIGNED,
        vmin=-limit,
        vmax=limit,
        extent=(0, S, S, 0),
        interpolation="nearest",
    )
    tidy(whole, f"all {S:,} neurons, {int((levels < 0).sum()):,} of them inactive", "sender", "receiver")
    alive = synapses.take((levels[synapses.sender] >= 0) & (levels[synapses.receiver] >= 0))
    rows, receiver = np.unique(alive.receiver, return_inverse=True)
    columns, sender = np.unique(alive.sender, return_inverse=True)
    tidy(
        live,
        f"live: {len(alive.weight):,} synapses from {len(columns):,} to {len(rows):,} neurons",
        "senders by level and their number",
        "receivers by level (and their number)",
    )
    if len(rows):
        y, x = level_axis(levels[rows]), level_axis(levels[columns])
        mesh = strongest_in_blocks(Synapses(sender, receiver, alive.weight), y.starts, x.starts)
        live.pcolormesh(x.edges, y.edges, mesh, cmap=SIGNED, vmin=-limit, vmax=limit, rasterized=True)
        _mark(live, x, y)
    live.set(xlim=(0, 1), ylim=(1, 0))
    if not len(rows):
        live.set(xticks=[], yticks=[])
        live.text(0.5, 0.5, "no live synapses", ha="center", color=FAINT)
    figure.colorbar(image, ax=[whole, live], shrink=0.75, extend="both").set_label("weight", fontsize=9)
    whole.set_anchor("N")
    return figure


def activities(
    means: Any, levels: Any, title: str = "activities", limits: tuple[float, float] = (1e-3, 10.0)
) -> Figure:
    """Draw the mean |N| of each active neuron after each iteration (paper figs 3 and 4), sorted by level.

    ``means`` is (I + 1, S), from l = 0 on. White is zero; colours run from ``limits[0]`` to ``limits[1]`` in
    logarithmic steps.
    """
    means, levels = np.abs(array(means)), array(levels)
    figure = page(9, 0.36 * len(means) + 1.7, title)
    order = level_order(levels)[: int((levels >= 0).sum())]
    if not len(order):
        return note(figure, "no neuron is active")
    x = level_axis(levels[order])
    cells = np.maximum.reduceat(means[:, order], x.starts, axis=1)
    axes = tidy(
        figure.add_subplot(),
        "",
        "level (the first iteration at which a neuron varies) and number of neurons",
        "iteration",
    )
    colours = LogNorm(*limits)
    shown = np.ma.masked_less_equal(cells, 0).clip(limits[0], None)
    mesh = axes.pcolormesh(x.edges, np.arange(len(means) + 1) - 0.5, shown, cmap=AMOUNT, norm=colours, rasterized=True)
    _mark(axes, x)
    axes.set(xlim=(0, 1), ylim=(len(means) - 0.5, -0.5), yticks=range(len(means)))
    figure.colorbar(mesh, ax=axes, extend="both", pad=0.02).set_label("mean |N|", fontsize=9)
    return figure


def receptive_fields(
    W_in: Any, size: Sequence[int], count: int = 64, channels: int = 1, title: str = "receptive fields"
) -> Figure:
    """Draw the input weights of the ``count`` neurons that read most of the input, strongest first.

    ``W_in`` is (n, D_in), one row a neuron, with D_in = channels * H * W for size [H, W] or D for size [D]. Each field
    is divided by its own largest weight; three channels are shown as red, green and blue around grey.
    """
    W_in = array(W_in)
    height, width = (1, *size) if len(size) == 1 else size
    if W_in.ndim != 2 or W_in.shape[1] != channels * height * width:
        raise ValueError(f"W_in is (n, {channels} * {height} * {width}), not {W_in.shape}")
    strength = np.linalg.norm(W_in, axis=1)
    chosen = np.argsort(-strength, kind="stable")[: min(count, int((strength > 0).sum()))]
    if not len(chosen):
        return note(page(6.4, 3, title), "no new neuron reads the input")
    across = 1 if height == 1 else int(np.ceil(np.sqrt(len(chosen))))
    down = int(np.ceil(len(chosen) / across))
    gap = 0 if height == 1 else max(1, width // 16)
    sheet = np.full((down * (height + gap) + gap, across * (width + gap) + gap, channels), np.nan)
    for place, neuron in enumerate(chosen):
        top, left = gap + place // across * (height + gap), gap + place % across * (width + gap)
        field = W_in[neuron].reshape(channels, height, width).transpose(1, 2, 0)
        sheet[top : top + height, left : left + width] = field / np.abs(field).max()
    figure = page(6.9, 6.2, title)
    axes = tidy(figure.add_subplot(), f"{len(chosen):,} strongest of {int((strength > 0).sum()):,} that read the input")
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)
    if channels == 3:
        axes.imshow(np.where(np.isnan(sheet), 1.0, 0.5 + sheet / 2), interpolation="nearest")
        return figure
    shape = "auto" if height == 1 else "equal"
    image = axes.imshow(sheet.sum(2), cmap=SIGNED, vmin=-1, vmax=1, interpolation="nearest", aspect=shape)
    if height == 1:
        tidy(axes, axes.get_title(), "input", "neuron").set(xticks=range(width))
    axes.set_facecolor(INPUT)
    figure.colorbar(image, ax=axes, shrink=0.7).set_label("weight / largest weight of the neuron", fontsize=9)
    return figure


def _mark(axes: Axes, x: LevelAxis, y: LevelAxis | None = None) -> None:
    """Draw lines between levels, and name each level with its number of neurons."""
    axes.set_xticks(x.centres, [f"{level}\n{count:,}" for level, count in zip(x.levels, x.counts, strict=True)])
    for border in x.borders:
        axes.axvline(border, color=FAINT, lw=0.5)
    if y is not None:
        axes.set_yticks(y.centres, [f"{level} ({count:,})" for level, count in zip(y.levels, y.counts, strict=True)])
        for border in y.borders:
            axes.axhline(border, color=FAINT, lw=0.5)
