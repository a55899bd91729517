"""Draw loss, accuracy, live neurons and live synapses over the training steps of all tasks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from nesa.figures.style import FAINT, INK, note, page, short, task_colour, tidy

PANELS = {
    "loss": ("loss", None),
    "accuracy": ("val_accuracy", (0, 1)),
    "live neurons": ("live_neurons", None),
    "live synapses": ("live_synapses", None),
}

Event = Mapping[str, Any]


def training_curves(events: Sequence[Event], title: str = "training") -> Figure:
    """Draw loss, accuracy (training accuracy dotted), live neurons and synapses at the end of each epoch.

    Tasks follow one another along the optimiser steps, each in its colour; a dot is validation accuracy after pruning.
    """
    epochs: dict[str, list[Event]] = {}
    for event in events:
        if event["event"] == "epoch":
            epochs.setdefault(event["task"], []).append(event)
    if not epochs:
        return note(page(6.4, 3, title), "no epoch has ended yet")
    pruned = {event["task"]: event["accuracy_val"] for event in events if event["event"] == "task_claimed"}
    order = {event["task"]: event["index"] for event in events if event["event"] == "task_started"}
    figure = page(9.5, 5.4, title)
    panels = dict(zip(PANELS, figure.subplots(2, 2, sharex=True).flat, strict=True))
    first_step, centres = 0, []
    for at, (task, rows) in enumerate(epochs.items()):
        colour = task_colour(order.get(task, at))
        x = first_step + np.array([row["step"] for row in rows])
        for name, (key, _) in PANELS.items():
            panels[name].plot(x, _values(rows, key), color=colour, marker=".", ms=3, lw=1.3)
            panels[name].axvline(x[-1], color=FAINT, lw=0.5)
        panels["accuracy"].plot(x, _values(rows, "train_accuracy"), color=colour, ls=":", lw=1)
        if pruned.get(task) is not None:
            panels["accuracy"].plot(x[-1], pruned[task], "o", color=colour, mec=INK, mew=0.6, ms=5)
        centres.append((first_step + x[-1]) / 2)
        first_step = int(x[-1])
    for name, axes in panels.items():
        tidy(axes, name, "optimiser step" if name.startswith("live") else "")
        axes.set_xlim(0, first_step)
        axes.set_ylim(PANELS[name][1] or (0, None))
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:,.6g}")
        if len(epochs) <= 8:
            above = axes.get_xaxis_transform()
            for centre, task in zip(centres, short(list(epochs), 12), strict=True):
                axes.text(centre, 1.0, task, transform=above, ha="center", va="bottom", fontsize=7, color=INK)
        axes.title.set_position((0.5, 1.06))
    return figure


def _values(rows: Sequence[Event], key: str) -> np.ndarray[Any, Any]:
    """Read one measure of each epoch, NaN where it is missing."""
    return np.array([np.nan if row.get(key) is None else row[key] for row in rows], dtype=float)
