"""Draw curves of several runs over one another: measures task by task, and training epoch by epoch.

Each group of runs has one colour (`task_colour` of its place); a line is the mean over its runs, a band their spread.
"""

from __future__ import annotations

import io
from collections.abc import Sequence

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from nesa.analysis.comparison import Comparison, RunGroup
from nesa.figures.style import short, task_colour, tidy

DASHES = ("-", "--", ":", "-.")  # lines that coincide can still be told apart
PANELS = (  # measure, title, factor
    ("accuracy", "test accuracy, %", 100),
    ("neurons_claimed", "new neurons", 1),
    ("neurons_total", "neurons claimed so far", 1),
    ("reuse_share", "weight from reused neurons, %", 100),
    ("depth_readout", "depth by readout", 1),
    ("depth_mean", "mean depth", 1),
    ("depth_graph", "graph depth", 1),
    ("synapses", "synapses", 1),
)
TRAINING = (("val_accuracy", "validation accuracy, %", 100), ("live_neurons", "active neurons", 1))


def comparison_figures(comparison: Comparison) -> list[tuple[str, Figure]]:
    """Draw every figure that the runs have numbers for, as (title, figure)."""
    figures = [("Task by task", tasks(comparison))]
    shared = [
        task for task in comparison.tasks if any(_epochs(group, task, "val_accuracy") for group in comparison.groups)
    ]
    return [*figures, ("Training", training(comparison, shared))] if shared else figures


def tasks(comparison: Comparison) -> Figure:
    """Draw one panel a measure, with tasks on the horizontal axis, aligned by name."""
    cells = comparison.measurements
    available = {measure for task, measure, _ in cells if task in comparison.tasks}
    panels = [panel for panel in PANELS if panel[0] in available]
    across = min(3, len(panels)) or 1
    down = -(-len(panels) // across) or 1
    figure = _page(across, down, 2.3)
    for at, (measure, title, factor) in enumerate(panels):
        axes = tidy(figure.add_subplot(down, across, at + 1), title)
        for place, group in enumerate(comparison.groups):
            measured = [cells.get((task, measure, group.label)) for task in comparison.tasks]
            x = [i for i, cell in enumerate(measured) if cell is not None]
            mean = np.array([cell.mean for cell in measured if cell is not None]) * factor
            spread = np.array([cell.spread or 0.0 for cell in measured if cell is not None]) * factor
            _line(axes, place, x, mean, spread, marker="o")
        names = short(comparison.tasks, max(6, 36 // len(comparison.tasks)))
        axes.set_xticks(range(len(comparison.tasks)), names, parse_math=False)
        axes.set_xlim(-0.3, len(comparison.tasks) - 0.7)
        axes.margins(y=0.15)
    return figure


def training(comparison: Comparison, names: Sequence[str]) -> Figure:
    """Draw one row of panels a task, with epochs on the horizontal axis."""
    figure = _page(len(TRAINING), len(names), 2.2)
    for row, task in enumerate(names):
        for column, (measure, title, factor) in enumerate(TRAINING):
            place = row * len(TRAINING) + column + 1
            axes = tidy(figure.add_subplot(len(names), len(TRAINING), place), "", "epoch")
            axes.set_title(f"{short([task])[0]}: {title}", fontsize=9, parse_math=False)
            for at, group in enumerate(comparison.groups):
                runs = _epochs(group, task, measure)
                length = min(map(len, runs), default=0)
                if not length:
                    continue
                values = np.array([run[:length] for run in runs], dtype=float) * factor
                spread = values.std(0, ddof=1) if len(values) > 1 else np.zeros(length)
                _line(axes, at, range(1, length + 1), values.mean(0), spread)
    return figure


def svg(figure: Figure) -> str:
    """Render a figure as an <svg> element for an HTML page, the same bytes for the same figure."""
    file = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": "nesa", "svg.fonttype": "none"}):
        figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None})
    text = file.getvalue()
    return text[text.index("<svg") :]


def _page(across: int, down: int, height: float) -> Figure:
    """Make a figure with margins set by hand: automatic layout takes longer than all the drawing."""
    wide, high = 3.4 * across, height * down + 0.2
    figure = Figure(figsize=(wide, high), facecolor="white")
    figure.subplots_adjust(0.55 / wide, 0.5 / high, 1 - 0.1 / wide, 1 - 0.3 / high, wspace=0.28, hspace=0.6)
    return figure


def _epochs(group: RunGroup, task: str, measure: str) -> list[list[float]]:
    """Read a measure at the end of each epoch, run by run; runs without it are left out."""
    runs = [[e.get(measure) for e in run.events if e["event"] == "epoch" and e["task"] == task] for run in group.runs]
    return [[np.nan if v is None else v for v in run] for run in runs if any(v is not None for v in run)]


def _line(axes: Axes, place: int, x: Sequence[int], mean: np.ndarray, spread: np.ndarray, marker: str = "") -> None:
    """Draw a mean with its spread as a band."""
    colour, dashes = task_colour(place), DASHES[place % len(DASHES)]
    axes.plot(x, mean, dashes, color=colour, marker=marker, ms=4, lw=1.6)
    if spread.any():
        axes.fill_between(x, mean - spread, mean + spread, color=colour, alpha=0.2, lw=0)
