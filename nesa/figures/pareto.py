"""Draw the Pareto front of accuracy against network size."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure

from nesa.analysis.pareto import Point, front
from nesa.figures.style import FAINT, INK, page, task_colour, tidy


def pareto_front(points: Sequence[Point], title: str) -> Figure:
    """Draw accuracy against neurons (left) and synapses (right), the Pareto front as a line."""
    drawn = page(9, 4.0 + 0.2 * len(points))
    drawn.set_layout_engine("constrained")
    drawn.suptitle(title, fontsize=11, color=INK, parse_math=False)
    for axes, size in zip(drawn.subplots(1, 2), ("neurons", "synapses"), strict=True):
        label = "hidden neurons claimed by all tasks" if size == "neurons" else "synapses of the last task's network"
        tidy(axes, "", label, "mean test accuracy after the last task, %")
        x = [getattr(point, size) for point in points]
        y = [100 * point.accuracy for point in points]
        best = sorted((x[i], y[i]) for i, on in enumerate(front(x, y)) if on)
        axes.plot(*zip(*best, strict=True), color=FAINT, lw=1, zorder=1)
        for at, point in enumerate(points):
            axes.errorbar(
                x[at],
                y[at],
                xerr=getattr(point, f"{size}_spread") or None,
                yerr=100 * point.accuracy_spread or None,
                fmt="o",
                ms=6 if (x[at], y[at]) in best else 4,
                color=task_colour(at),
                mfc=task_colour(at) if (x[at], y[at]) in best else "white",
                lw=1,
                label=f"{at + 1}",
            )
            axes.annotate(str(at + 1), (x[at], y[at]), xytext=(5, 5), textcoords="offset points", fontsize=8)
        axes.margins(0.15)
    names = [f"{at}  {point.name}" for at, point in enumerate(points, start=1)]
    handles, _ = drawn.axes[0].get_legend_handles_labels()
    legend = drawn.legend(handles, names, loc="outside lower center", fontsize=8, frameon=False)
    for entry in legend.get_texts():
        entry.set_parse_math(False)
    return drawn
