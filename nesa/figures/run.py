"""Draw a whole run from its tables: neurons by level, depth, accuracy matrix, and which task reads which.

Each function takes numbers and returns a matplotlib Figure: nothing is read, shown or saved. ``rows`` are rows of the
accumulation table (nesa.run_folder.tables), in the order of the tasks.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from nesa.figures.style import INK, INPUT, array, ink_on, note, page, short, task_colour, task_hatch, tidy

DEPTHS = {"depth_readout": ("o", "-", "#3f90da"), "depth_mean": ("s", "--", "#e76300"), "depth_graph": ("^", ":", INK)}
ACROSS = 5  # panels side by side

Rows = Sequence[Mapping[str, Any]]


def neurons_by_level(rows: Rows, title: str = "neurons by level and owner", limit: int | None = None) -> Figure:
    """Draw neurons by level after each task, a panel each, stacked by the task that owns the neurons.

    All panels have the same axes; ``limit`` fixes their height (by default the least of 1, 2, 5 * 10^n that fits).
    """
    if not rows:
        return note(page(6.4, 3, title), "no task has been claimed yet")
    depth = max(1, *(len(row["levels_claimed"] or ()) for row in rows))
    claimed = np.zeros((len(rows), depth))
    for at, row in enumerate(rows):
        levels = row["levels_claimed"] or ()
        claimed[at, : len(levels)] = [count or 0 for count in levels]
    across = min(len(rows), ACROSS)
    down = -(-len(rows) // across)
    figure = page(max(5.0, 1.2 + 2.2 * across), 0.9 + 2.5 * down, title)
    panels = figure.subplots(down, across, sharex=True, sharey=True, squeeze=False)
    top = limit or _ceiling(claimed.sum(0).max())
    for at, axes in enumerate(panels.flat):
        if at >= len(rows):
            axes.set_axis_off()
            continue
        lowest = at + across >= len(rows)
        tidy(
            axes,
            f"after {short([rows[at]['task']], 18)[0]}",
            "level" if lowest else "",
            "neurons" if at % across == 0 else "",
        )
        axes.tick_params(labelbottom=lowest)
        floor = np.zeros(depth)
        for owner in range(at + 1):
            index = rows[owner]["index"]
            axes.bar(
                np.arange(1, depth + 1),
                claimed[owner],
                bottom=floor,
                width=0.8,
                color=task_colour(index),
                hatch=task_hatch(index),
                edgecolor="white",
                linewidth=0.4,
            )
            floor += claimed[owner]
        for level, total in enumerate(floor, start=1):
            if total:
                axes.text(level, total, f" {total:.0f}", ha="center", va="bottom", fontsize=7, color=INK)
        axes.set(xlim=(0.4, depth + 0.6), ylim=(0, top * 1.08), xticks=range(1, depth + 1))
        axes.yaxis.set_major_locator(MaxNLocator(5, integer=True, steps=[1, 2, 5, 10]))
    keys = _task_keys([row["index"] for row in rows], [row["task"] for row in rows])
    figure.legend(handles=keys, loc="outside lower center", ncols=min(5, len(keys)), fontsize=8, frameon=False)
    return figure


def depth_over_tasks(rows: Rows, iterations: int | None = None, title: str = "depth over tasks") -> Figure:
    """Draw readout, mean and graph depth of each task's network, from 0 to ``iterations`` at least."""
    if not rows:
        return note(page(6.4, 3, title), "no task has been claimed yet")
    figure = page(max(5.0, 2.6 + 0.8 * len(rows)), 3.6, title)
    axes = tidy(figure.add_subplot(), "", "", "depth (iterations)")
    x = np.arange(len(rows))
    highest = 1.0
    for key, (marker, dashes, colour) in DEPTHS.items():
        values = np.array([np.nan if row[key] is None else row[key] for row in rows], dtype=float)
        axes.plot(x, values, marker=marker, ls=dashes, color=colour, label=key.removeprefix("depth_"), ms=6, lw=1.6)
        highest = max(highest, np.nan_to_num(values).max())
    axes.set(xlim=(-0.4, len(rows) - 0.6), ylim=(0, max(iterations or 0, int(np.ceil(highest))) + 0.4))
    axes.set_xticks(x, short([row["task"] for row in rows]), rotation=30 if len(rows) > 6 else 0)
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(axis="y", color="#e6e6e6", lw=0.7)
    axes.set_axisbelow(True)
    figure.legend(loc="outside lower center", ncols=3, fontsize=8, frameon=False)
    return figure


def accuracy_matrix(R: Any, names: Sequence[str], title: str = "test accuracy (%)") -> Figure:
    """Draw R (K, K) as a heat map: a row after each task, a column for each task measured; NaN is blank."""
    R = array(R).astype(np.float64)
    if R.shape != (len(names), len(names)):
        raise ValueError(f"R is ({len(names)}, {len(names)}) for {len(names)} names, not {R.shape}")
    if not len(names):
        return note(page(6.4, 3, title), "no task has been evaluated yet")
    side = 1.8 + 0.62 * len(names)
    figure = page(max(4.2, side + 1), max(3.2, side), title)
    axes = tidy(figure.add_subplot(), "", "measured on", "after training")
    image = axes.imshow(np.ma.masked_invalid(R), cmap="cividis", vmin=0, vmax=1)
    for (i, j), value in np.ndenumerate(R):
        if not np.isnan(value):
            colour = INK if value > 0.55 else "white"
            axes.text(j, i, f"{100 * value:.1f}", ha="center", va="center", fontsize=8, color=colour)
    axes.set_xticks(range(len(names)), short(names), rotation=40, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(names)), short(names))
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    bar = figure.colorbar(image, ax=axes, shrink=0.8, ticks=[0, 0.25, 0.5, 0.75, 1])
    bar.ax.set_yticklabels(["0", "25", "50", "75", "100"], fontsize=8)
    return figure


def owner_flow(matrix: Any, names: Sequence[str], title: str = "what each task reads") -> Figure:
    """Draw the share of each task's incoming |W| from the input and from the neurons of each task.

    ``matrix`` is (K, K + 1), row = the task that reads, column 0 = input, column 1 + k = neurons of task k; any unit,
    rows are divided by their sums.
    """
    matrix = np.abs(array(matrix).astype(np.float64))
    if matrix.shape != (len(names), len(names) + 1):
        raise ValueError(f"matrix is ({len(names)}, {len(names) + 1}) for {len(names)} names, not {matrix.shape}")
    if not len(names):
        return note(page(6.4, 3, title), "no task has been claimed yet")
    total = matrix.sum(1, keepdims=True)
    shares = np.divide(matrix, total, out=np.zeros_like(matrix), where=total > 0)
    figure = page(7.2, 1.6 + 0.42 * len(names), title)
    axes = tidy(figure.add_subplot(), "", "share of incoming |W| (%)", "")
    left = np.zeros(len(names))
    for source, share in enumerate(shares.T):
        colour = INPUT if source == 0 else task_colour(source - 1)
        hatch = "" if source == 0 else task_hatch(source - 1)
        axes.barh(range(len(names)), 100 * share, left=left, color=colour, hatch=hatch, edgecolor="white", height=0.7)
        for row, value in enumerate(share):
            if value >= 0.06:
                axes.text(
                    left[row] + 50 * value,
                    row,
                    f"{100 * value:.0f}",
                    ha="center",
                    va="center",
                    fontsize=8,
                    color=ink_on(colour),
                )
        left += 100 * share
    axes.set(xlim=(0, 100), ylim=(len(names) - 0.4, -0.6))
    axes.set_yticks(range(len(names)), short(names))
    keys = [Patch(facecolor=INPUT, label="input"), *_task_keys(range(len(names)), names)]
    figure.legend(handles=keys, loc="outside lower center", ncols=min(5, len(keys)), fontsize=8, frameon=False)
    return figure


def _task_keys(indices: Iterable[int], names: Sequence[str]) -> list[Patch]:
    """Make the entries of a legend of tasks."""
    return [
        Patch(facecolor=task_colour(index), hatch=task_hatch(index), edgecolor="white", label=name)
        for index, name in zip(indices, short(names), strict=True)
    ]


def _ceiling(value: float) -> int:
    """Find the least of 1, 2, 5, 10, 20, ... that is not below ``value``: runs of similar size get the same axes."""
    unit = 1
    while True:
        for step in (1, 2, 5):
            if step * unit >= value:
                return step * unit
        unit *= 10
