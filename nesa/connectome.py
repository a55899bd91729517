"""The figure of a network in space: its neurons where they lie, its synapses coloured by direction."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from mpl_toolkits.mplot3d import Axes3D
from mpl_toolkits.mplot3d.art3d import Line3DCollection
from numpy.typing import NDArray

from nesa.canvas import FAINT, INK, INPUT, array, page, task_colour

# Forward, backward, lateral: the paper's red, green and black (its fig 6), in shades that the colour-blind can tell.
COLOURS = {"forward": "#d55e00", "lateral": "#000000", "backward": "#009e73"}
DIRECTIONS = {"forward": np.greater, "lateral": np.equal, "backward": np.less}  # of (height of receiver, of sender)


def connectome(
    W: Any, positions: Any, levels: Any = None, owner: Any = None, count: int = 20_000, title: str = "connectome"
) -> Figure:
    """The live synapses in space (paper fig 6): forward red, backward green, lateral black.

    ``positions`` is (S, 3) as (x, y, z). Directions compare ``levels`` of sender and receiver where they are given,
    else z. Of more than ``count`` synapses the strongest are drawn; strength is opacity. ``owner`` (S,) colours the
    neurons: -2 input, k >= 0 task k, -3 an output port.
    """
    W, positions = array(W), array(positions).astype(np.float64)
    height = positions[:, 2] if levels is None else array(levels)
    receivers, senders = np.flatnonzero(W.any(1)), np.flatnonzero(W.any(0))
    size = np.abs(W[np.ix_(receivers, senders)])
    live = np.count_nonzero(size)
    least = np.partition(size, -count, axis=None)[-count] if live > count else 0
    rows, columns = np.nonzero((size >= least) & (size > 0))
    drawn, strengths = (receivers[rows], senders[columns]), size[rows, columns]
    figure = page(7.6, 6.8, title)
    axes = figure.add_subplot(projection="3d", computed_zorder=False)
    assert isinstance(axes, Axes3D)
    handles = []
    total = size.sum(dtype=np.float64)
    for layer, (way, compare) in enumerate(DIRECTIONS.items()):
        mask = compare(height[receivers, None], height[None, senders])
        share = size.sum(where=mask, dtype=np.float64) / total if live else 0.0
        label = f"{way} {np.count_nonzero(size[mask]):,} ({share:.0%} of |W|)"
        handles.append(Line2D([], [], color=COLOURS[way], lw=2, label=label))
        here = compare(height[drawn[0]], height[drawn[1]])
        if here.any():
            colours = np.tile(to_rgba(COLOURS[way]), (int(here.sum()), 1))
            opacity = min(0.8, 30 / np.sqrt(here.sum()))  # a crowd must not become a solid block
            colours[:, 3] = opacity * (0.1 + 0.9 * strengths[here] / strengths.max())
            ends = np.stack([positions[drawn[1][here]], positions[drawn[0][here]]], axis=1)
            axes.add_collection3d(
                Line3DCollection(ends, colors=colours, linewidths=0.6, zorder=2 + layer), autolim=False
            )
    seen = np.union1d(receivers, senders)
    _neurons(axes, positions[seen], None if owner is None else array(owner)[seen])
    _space(axes, positions)
    shown = f"{len(rows):,} strongest of {live:,} synapses" if len(rows) < live else f"{live:,} synapses"
    figure.legend(
        handles=handles, title=shown, loc="outside lower center", ncols=3, fontsize=8, title_fontsize=8, frameon=False
    )
    return figure


def _space(axes: Axes3D, positions: NDArray[Any]) -> None:
    """The box around all neurons: x and y as the image lies, y downwards, z upwards; nothing but its edges."""
    low, high = positions.min(0), positions.max(0)
    flat = high - low < 1e-9  # neurons on a line or in a plane still need a box
    low, high = low - 0.5 * flat, high + 0.5 * flat
    axes.set(xlim=(low[0], high[0]), ylim=(high[1], low[1]), zlim=(low[2], high[2]), xlabel="x", ylabel="y", zlabel="z")
    spread = high - low
    axes.set_box_aspect((spread[0], spread[1], 0.9 * max(spread[0], spread[1])), zoom=1.15)  # type: ignore[arg-type]
    axes.view_init(elev=16, azim=-58)
    axes.tick_params(labelsize=8)
    axes.zaxis.set_major_locator(MaxNLocator(integer=True))
    for axis in (axes.xaxis, axes.yaxis, axes.zaxis):
        axis.set_pane_color((1, 1, 1, 0))  # type: ignore[attr-defined]
        axis.line.set_color(FAINT)  # type: ignore[attr-defined]
    axes.grid(False)
    axes.set_rasterized(True)  # thousands of lines would make an SVG of megabytes


def _neurons(axes: Axes3D, positions: NDArray[Any], owner: NDArray[Any] | None) -> None:
    kinds = np.full(len(positions), -1) if owner is None else owner
    for kind in np.unique(kinds):
        here = positions[kinds == kind]
        colour = task_colour(int(kind)) if kind >= 0 else {-2: INPUT, -3: INK}.get(int(kind), FAINT)
        axes.scatter(
            here[:, 0],
            here[:, 1],
            here[:, 2],  # type: ignore[arg-type]
            s=9 if kind != -3 else 18,
            marker="s" if kind == -3 else "o",
            color=colour,
            edgecolors=FAINT,
            linewidths=0.2,
            depthshade=False,
            zorder=1 if kind == -2 else 6,
        )
