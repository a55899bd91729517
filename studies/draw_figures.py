"""The figures of docs/results, drawn from the rows that are there.

    PYTHONPATH=. python studies/draw_figures.py [NAME ...]

    sizes    active neurons and depth against S and I, with small first weights too
    phase    neurons, depth and accuracy over the prices of weight and activity
    length   accuracy, neurons, depth, direction and locality against the price of length
    gain     what the length term wins, what its controls and other ways against overfitting win, and on which grid
    plain    the same with plain lengths and dearer activity
    claim    NESA's claim: accuracy with and without what is reused, depth, neurons, for every seed; the last task after
             the curriculum, from scratch, and after random structure

Each is a PNG in docs/results, under 300 KB. A figure whose rows are not there yet is left out, and said.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, replace
from typing import Any

import geometry
import numpy as np
import spheres
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from result_rows import FOLDER, Rows

Found = list[dict[str, str]]


def found(name: str, settings: Iterable[Any]) -> Found:
    """The rows that are there of these settings."""
    rows = Rows.of(name)
    return [row for s in settings for row in rows.where(**asdict(s))]


def column(rows: Found, name: str) -> np.ndarray:
    """(n,) numbers; NaN where there is none."""
    return np.array([float(row[name] or "nan") for row in rows])


def sizes() -> Figure | None:
    size, iterations = found("spheres", spheres.size()), found("spheres", spheres.iterations())
    size += found("spheres", spheres.paper())
    if not iterations and not size:
        return None
    small = found("spheres", (replace(spheres.SMALL_START, I=I) for I in (4, *spheres.SWEPT)))
    series = (
        ("plain", "tab:blue", [row for row in size + iterations if row["rule"] == "plain"]),
        ("residual output", "tab:orange", [row for row in size + iterations if row["rule"] == "residual_output"]),
        ("residual output, small first weights", "tab:green", small),
    )
    figure = Figure((9, 6), layout="constrained")
    axes = figure.subplots(2, 2, sharey="row", squeeze=False)
    panels = (
        ("S", "neurons S, I = 4", {"I": "4", "seed": "0"}),
        ("I", "iterations I, S = 500", {"S": "500", "seed": "0"}),
    )
    for at, (key, what, frozen) in enumerate(panels):
        for label, colour, rows in series:
            of = sorted((row for row in rows if frozen.items() <= row.items()), key=lambda row: float(row[key]))
            if len(of) < 2:
                continue
            x = column(of, key)
            axes[0, at].plot(x, column(of, "active"), "o-", color=colour, label=label)
            axes[1, at].plot(x, column(of, "readout_1pt"), "o-", color=colour, label=label)
        axes[1, at].set_xlabel(what)
    axes[0, 0].set(ylabel="active hidden neurons", ylim=(0, None))
    axes[1, 1].plot([2, 8], [2, 8], ":", color="grey", label="all that I allows")
    axes[1, 0].set(ylabel="readout depth (to one point)", ylim=(0, 8.5))
    axes[0, 1].legend(fontsize="small")
    axes[1, 1].legend(fontsize="small", loc="upper left")
    for ax in axes.flat:
        ax.grid(alpha=0.3)
    return figure


def phase() -> Figure | None:
    rows = found("spheres", spheres.phase())
    if not rows:
        return None
    weights, activities = (sorted({float(row[key]) for row in rows}) for key in ("weight", "activity"))
    figure = Figure((11, 3.4), layout="constrained")
    shown = (("active", "active hidden neurons"), ("mean_depth", "mean depth"), ("accuracy_test", "test accuracy"))
    for ax, (name, title) in zip(figure.subplots(1, 3), shown, strict=True):
        grid = np.full((len(weights), len(activities)), np.nan)
        for row in rows:
            grid[weights.index(float(row["weight"])), activities.index(float(row["activity"]))] = float(row[name])
        image = ax.imshow(grid, origin="lower", cmap="viridis", aspect="auto")
        for (i, j), value in np.ndenumerate(grid):
            if np.isfinite(value):
                ink = "black" if image.norm(value) > 0.6 else "white"
                ax.text(j, i, f"{value:.3g}", ha="center", va="center", color=ink, fontsize=8)
        ax.set_xticks(range(len(activities)), [f"{value:g}" for value in activities])
        ax.set_yticks(range(len(weights)), [f"{value:g}" for value in weights])
        ax.set(title=title, xlabel="price of activity", ylabel="price of weight")
        figure.colorbar(image, ax=ax)
    return figure


def length() -> Figure | None:
    lengths = (replace(geometry.WITH, length=length) for length in (0.0, 3e-6, 1e-5, 3e-5, 1e-4))
    rows = found("geometry", lengths)
    if not rows:
        return None
    x = column(rows, "length")
    figure = Figure((9, 6), layout="constrained")
    panels: Sequence[tuple[str, tuple[str, ...]]] = (
        ("accuracy", ("accuracy_val", "accuracy_test", "accuracy_train")),
        ("active hidden neurons", ("neurons",)),
        ("length / shuffled, shares", ("locality", "forward", "lateral", "backward")),
        ("depth", ("readout", "mean_depth", "graph_depth")),
    )
    colours = {"forward": "red", "lateral": "black", "backward": "green"}  # as in the paper's figure 6
    for ax, (label, names) in zip(figure.subplots(2, 2).flat, panels, strict=True):
        for name in names:
            ax.plot(x, column(rows, name), "o-", label=name.replace("_", " "), color=colours.get(name))
        ax.set_xscale("symlog", linthresh=3e-6)
        ax.set(xlabel="price of length", ylabel=label, ylim=(0, None))
        ax.grid(alpha=0.3)
        ax.legend(fontsize="small")
    return figure


def gain() -> Figure | None:
    """Test accuracy of each seed, one column for each condition; then by the size of the grid."""
    start = geometry.LOCAL
    _, neither, weights = geometry.contrast(start)
    mlp, local = geometry.nets(neither, hidden=geometry.LIVE_LOCAL)
    figure = Figure((14, 4.2), layout="constrained")
    of_local, by_grid = figure.subplots(1, 2, sharey=True, width_ratios=(13, 4))
    scatter(of_local, {
        "length\nterm": start,
        "a third\nas dear": geometry.third(start),
        "half\nthe rate": replace(start, lr=5e-4),
        "without": neither,
        "without,\nrate 1/2": replace(neither, lr=5e-4),
        "without,\nrate 1/3": replace(neither, lr=3e-4),
        "without,\n10 epochs": replace(neither, epochs=10),
        "without,\ndearer W": weights,
        "without,\ndearer N": replace(neither, activity=3e-4),
        "permuted,\nwithout": replace(neither, images="permuted"),
        "permuted,\nlength": replace(start, images="permuted"),
        "permuted,\na third": geometry.third(replace(start, images="permuted")),
        "distances\nshuffled": replace(start, metric="shuffled"),
        "shuffled,\na third": geometry.third(replace(start, metric="shuffled")),
        "MLP": mlp,
        "local": local,
    })  # fmt: skip
    of_local.set_title(title(start), fontsize=10)
    for label, colour, change in (("with", "tab:red", replace), ("without", "tab:blue", geometry.without)):
        for of in (geometry.LOCAL, geometry.LARGER, geometry.LARGEST, geometry.PAPER):
            rows = seeds(change(of))
            label_once = f"{label} the length term" if of is geometry.LOCAL else None
            y = 100 * column(rows, "accuracy_test")
            by_grid.plot([of.X] * len(rows), y, "o", color=colour, fillstyle="none", label=label_once)
    by_grid.set(xlabel="X of X x X x 4 (32) or x 6 neurons", xlim=(28, 64))
    by_grid.set_title("larger grids", fontsize=10)
    by_grid.grid(axis="y", alpha=0.3)
    by_grid.legend(fontsize="small", loc="center left")
    of_local.set_ylabel("test accuracy (%)")
    return figure if of_local.lines else None


def plain() -> Figure | None:
    """Test accuracy of each seed with plain lengths, where training converges and on a larger grid."""
    figure, starts = Figure((9, 3.8), layout="constrained"), (geometry.FULL, geometry.LARGE)
    axes = figure.subplots(1, 2, sharey=True, width_ratios=(7, 5))
    for ax, start in zip(axes, starts, strict=True):
        length, neither, weights = geometry.contrast(start)
        mlp, local = geometry.nets(start)
        scatter(ax, {
            "length\nterm": length,
            "neither": neither,
            "dearer\nweights": weights,
            "permuted,\nneither": replace(neither, images="permuted"),
            "permuted,\nlength": replace(length, images="permuted"),
            "MLP": mlp,
            "local": local,
        })  # fmt: skip
        ax.set_title(title(start), fontsize=10)
    axes[0].set_ylabel("test accuracy (%)")
    return figure if any(ax.lines for ax in axes) else None


def seeds(s: geometry.Setting) -> Found:
    """The rows that are there of s, seed by seed."""
    return found("geometry", (replace(s, seed=k) for k in range(3)))


def title(s: geometry.Setting) -> str:
    coefficients = "lengths squared, cheap activity" if s.gamma == 2 else "plain lengths"
    return f"{s.X} x {s.X} x {s.Z} neurons, {s.epochs} epochs, {coefficients}"


def scatter(ax: Axes, conditions: dict[str, geometry.Setting]) -> None:
    """A column of points, one a seed, for each condition that has rows; anchors, permuted pixels, without the term and
    with it in colours of their own."""
    rows = {label: of for label, s in conditions.items() if (of := seeds(s))}
    for x, (label, of) in enumerate(rows.items()):
        s = conditions[label]
        kind = "tab:grey" if s.model != "urn" else "tab:orange" if s.images == "permuted" else "tab:purple"
        if s.model == "urn" and s.images == "photos" and s.metric == "true":
            kind = "tab:red" if s.length else "tab:blue"
        ax.plot([x] * len(of), 100 * column(of, "accuracy_test"), "o", color=kind, fillstyle="none")
    ax.set_xticks(range(len(rows)), rows, fontsize=7.5)
    ax.set_xlim(-0.5, len(rows) - 0.5)
    ax.grid(axis="y", alpha=0.3)


def claim() -> Figure | None:
    """NESA's claim at a glance: a line or a bar a seed, task by task."""
    of_study = Rows.of("nesa")
    rows = of_study.where(condition="main", keys="") if of_study.rows else []
    if not rows:
        return None
    tasks = [row["task"] for row in sorted(rows, key=lambda row: int(row["place"])) if row["seed"] == rows[0]["seed"]]
    seeds = sorted({row["seed"] for row in rows}, key=int)
    by_seed = [[row for task in tasks for row in rows if (row["seed"], row["task"]) == (seed, task)] for seed in seeds]
    x, width = np.arange(len(tasks)), 0.8 / len(seeds)
    figure = Figure((9.6, 7), layout="constrained")
    (scores, depths), (neurons, bought) = figure.subplots(2, 2)
    for at, of in enumerate(by_seed):
        place = x + (at - (len(seeds) - 1) / 2) * width
        scores.bar(place, 100 * column(of, "accuracy_test"), 0.9 * width, color="#3f90da")
        scores.bar(place[1:], 100 * column(of[1:], "accuracy_cut"), 0.9 * width, color="#1b3a57")
        neurons.bar(place, column(of, "neurons_claimed"), 0.9 * width, color="#e76300")
        reused = column(of, "neurons_reused")
        neurons.bar(place, reused, 0.9 * width, bottom=column(of, "neurons_claimed"), color="#b9ac70")
        for name, marker, colour in (
            ("graph", "^", "black"),
            ("readout", "o", "#3f90da"),
            ("mean", "s", "#e76300"),
        ):
            values = column(of, f"depth_{name}")
            depths.plot(x, values, marker=marker, color=colour, alpha=0.7, label=None if at else f"{name} depth")
    scores.set(title="test accuracy (%); dark: synapses\nfrom earlier tasks' neurons cut", ylim=(0, 100))
    depths.set(title="depth (iterations; steps of\nthe longest path)", ylim=(0, None))
    depths.legend(fontsize="small")
    neurons.set(title="hidden neurons: newly claimed (orange),\nread from earlier tasks (sand)", ylim=(0, None))
    for ax in (scores, depths, neurons):
        ax.set_xticks(x, tasks)
    for condition, keys, colour, marker, fill, label in (
        ("main", "", "#e76300", "o", "full", "after the curriculum"),
        ("share-100", "penalties.activity=4e-4", "#e76300", "o", "none", "the same, activity cheaper"),
        ("alone-" + tasks[-1], "", "#3f90da", "s", "full", "from scratch"),
        ("alone-" + tasks[-1], "penalties.activity=3e-3", "#3f90da", "s", "none", "the same, activity dearer"),
        ("random", "", "#717581", "^", "full", "after random structure"),
    ):
        last = of_study.where(condition=condition, keys=keys, task=tasks[-1])
        cost, test = column(last, "neurons_claimed"), 100 * column(last, "accuracy_test")
        bought.plot(cost, test, marker, color=colour, fillstyle=fill, label=label if last else None, markersize=8)
    bought.set(
        title=f"{tasks[-1]}: test accuracy (%)\nagainst the new neurons it cost",
        xlim=(0, None),
        xlabel="newly claimed hidden neurons",
    )
    bought.margins(y=0.4)
    bought.legend(fontsize="small", loc="lower left")
    for ax in (scores, depths, neurons, bought):
        ax.title.set_fontsize(9.5)
        ax.grid(axis="y", alpha=0.3)
        ax.set_axisbelow(True)
    return figure


FIGURES: dict[str, tuple[str, Callable[[], Figure | None]]] = {
    "sizes": ("spheres-sizes.png", sizes),
    "phase": ("spheres-phase.png", phase),
    "length": ("geometry-length.png", length),
    "gain": ("geometry-gain.png", gain),
    "plain": ("geometry-plain.png", plain),
    "claim": ("nesa-claim.png", claim),
}


def main() -> None:
    for name in sys.argv[1:] or FIGURES:
        file, draw = FIGURES[name]
        figure = draw()
        if figure is None:
            print(f"{name}: no rows yet")
            continue
        figure.savefig(FOLDER.parent / file, dpi=90)
        print(FOLDER.parent / file)


if __name__ == "__main__":
    main()
