"""Draw a network in space: neurons at their positions, synapses coloured by direction."""

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

from nesa.analysis.connectome import Synapses
from nesa.figures.style import FAINT, INK, INPUT, array, page, task_colour
from nesa.neuron_owner import FREE, PORT
from nesa.neuron_owner import INPUT as INPUT_OWNER

# Forward, backward, lateral: the paper's red, green and black (its fig 6), in shades that the colour-blind can tell.
COLOURS = {"forward": "#d55e00", "lateral": "#000000", "backward": "#009e73"}
DIRECTIONS = {"forward": np.greater, "lateral": np.equal, "backward": np.less}  # of height gained, against 0


def drawing_positions(positions: Any, levels: Any = None) -> NDArray[np.float64]:
    """Compute where neurons are drawn, (S, 3): their own positions on a grid.

    Without a grid (all positions equal) z is the level, and each level is a disc whose area is its number of neurons;
    inactive neurons (negative level) are drawn with the inputs.
    """
    positions = array(positions)
    if levels is None or len(positions) == 0 or np.ptp(positions, axis=0).any():
        return positions.astype(np.float64, copy=False)
    positions = positions.astype(np.float64)
    height = np.maximum(array(levels), 0)
    golden_angle = np.pi * (3 - 5**0.5)  # spreads points evenly over a disc
    for level in np.unique(height):
        at_level = height == level
        k = np.arange(int(at_level.sum()))
        radius, angle = np.sqrt(k + 0.5), k * golden_angle
        positions[at_level] = np.stack([radius * np.cos(angle), radius * np.sin(angle), np.full(len(k), level)], 1)
    return positions


def direction_shares(synapses: Synapses, height: NDArray[Any]) -> dict[str, tuple[int, float]]:
    """Count forward, lateral and backward synapses, each with its share of the sum of |W|."""
    rise = height[synapses.receiver] - height[synapses.sender]
    size = np.abs(synapses.weight.astype(np.float64))
    total = float(size.sum()) or 1.0
    masks = {direction: compare(rise, 0) for direction, compare in DIRECTIONS.items()}
    return {direction: (int(mask.sum()), float(size[mask].sum()) / total) for direction, mask in masks.items()}


def connectome(
    W: Any, positions: Any, levels: Any = None, owner: Any = None, count: int = 15_000, title: str = "connectome"
) -> Figure:
    """Draw the live synapses in space (paper fig 6): forward red, backward green, lateral black.

    ``positions`` is (S, 3) as (x, y, z), drawn at `drawing_positions`. Directions compare ``levels`` where they are
    given, else z. Of more than ``count`` synapses the strongest are drawn; strength is opacity. ``owner`` (S,) colours
    the neurons: -2 input, k >= 0 task k, -3 an output port.
    """
    given = array(positions).astype(np.float64)
    positions = drawing_positions(given, levels)
    height = positions[:, 2] if levels is None else array(levels)
    live = Synapses.of(array(W))
    drawn = live.take(slice(count))
    figure = page(7.6, 6.8, title)
    axes = figure.add_subplot(projection="3d", computed_zorder=False)
    assert isinstance(axes, Axes3D)
    handles = []
    rise = height[drawn.receiver] - height[drawn.sender]
    for layer, (direction, (number, share)) in enumerate(direction_shares(live, height).items()):
        label = f"{direction} {number:,} ({share:.0%} of |W|)"
        handles.append(Line2D([], [], color=COLOURS[direction], lw=2, label=label))
        group = drawn.take(DIRECTIONS[direction](rise, 0))
        if len(group.weight):
            colours = np.tile(to_rgba(COLOURS[direction]), (len(group.weight), 1))
            opacity = min(0.8, 30 / np.sqrt(len(group.weight)))  # many lines must not become a solid block
            colours[:, 3] = opacity * (0.1 + 0.9 * np.abs(group.weight / drawn.weight[0]))
            ends = np.stack([positions[group.sender], positions[group.receiver]], axis=1)
            axes.add_collection3d(
                Line3DCollection(ends, colors=colours, linewidths=0.6, zorder=2 + layer), autolim=False
            )
    connected = np.union1d(live.receiver, live.sender)
    _neurons(axes, positions[connected], None if owner is None else array(owner)[connected])
    _space(axes, positions, grid=positions is given)
    shown = f"{len(drawn.weight):,} strongest of " if len(drawn.weight) < len(live.weight) else ""
    figure.legend(
        handles=handles,
        title=f"{shown}{len(live.weight):,} synapses",
        loc="outside lower center",
        ncols=3,
        fontsize=8,
        title_fontsize=8,
        frameon=False,
    )
    return figure


def _space(axes: Axes3D, positions: NDArray[Any], *, grid: bool) -> None:
    """Set the box around all neurons: x and y as in the image, y downwards, z upwards.

    Without a grid only z, the level, has a meaning.
    """
    low, high = positions.min(0), positions.max(0)
    flat = high - low < 1e-9  # neurons on a line or in a plane need a box of some width
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
    if not grid:
        axes.set(xticks=[], yticks=[], xlabel="", ylabel="", zlabel="level")
    axes.grid(False)
    axes.set_rasterized(True)  # thousands of lines would make an SVG of megabytes


def _neurons(axes: Axes3D, positions: NDArray[Any], owner: NDArray[Any] | None) -> None:
    """Scatter the neurons, grouped by owner (without one all are grey)."""
    owners = np.full(len(positions), FREE) if owner is None else owner
    for kind in np.unique(owners):
        x, y, z = positions[owners == kind].T
        colour = task_colour(int(kind)) if kind >= 0 else {INPUT_OWNER: INPUT, PORT: INK}.get(int(kind), FAINT)
        axes.scatter(
            x,
            y,
            z,  # type: ignore[arg-type]
            s=9 if kind != PORT else 18,
            marker="s" if kind == PORT else "o",
            color=colour,
            edgecolors=FAINT,
            linewidths=0.2,
            depthshade=False,
            zorder=1 if kind == INPUT_OWNER else 6,
        )
