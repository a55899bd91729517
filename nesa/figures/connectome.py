"""The figure of a network in space: its neurons where they lie, its synapses coloured by direction."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from mpl_toolkits.mplot3d import Axes3D
from mpl_toolkits.mplot3d.art3d import Line3DCollection
from numpy.typing import NDArray

from nesa.figures.style import FAINT, INK, INPUT, array, page, task_colour

# Forward, backward, lateral: the paper's red, green and black (its fig 6), in shades that the colour-blind can tell.
COLOURS = {"forward": "#d55e00", "lateral": "#000000", "backward": "#009e73"}
DIRECTIONS = {"forward": np.greater, "lateral": np.equal, "backward": np.less}  # of height gained, against 0


class Synapses(NamedTuple):
    """Live synapses as a list of E: sending neuron, receiving neuron, weight; the strongest first."""

    sender: NDArray[np.int64]
    receiver: NDArray[np.int64]
    weight: NDArray[np.float32]

    @staticmethod
    def of(W: Any) -> Synapses:
        """Those of W (S, S), row = receiver."""
        W = array(W)
        receiver, sender = np.nonzero(W)
        weight = W[receiver, sender]
        order = np.argsort(-np.abs(weight), kind="stable")
        return Synapses(sender[order], receiver[order], weight[order])

    def take(self, which: Any) -> Synapses:
        """Those at a mask or a slice."""
        return Synapses(self.sender[which], self.receiver[which], self.weight[which])


def places(positions: Any, levels: Any = None) -> NDArray[np.float64]:
    """Where neurons are drawn, (S, 3): their own positions on a grid.

    Without a grid (all positions equal) z is the level, and each level is a disc whose area is its number of neurons;
    what never varies stands with the inputs.
    """
    positions = array(positions)
    if levels is None or len(positions) == 0 or np.ptp(positions, axis=0).any():
        return positions.astype(np.float64, copy=False)
    positions = positions.astype(np.float64)
    height = np.maximum(array(levels), 0)
    turn = np.pi * (3 - 5**0.5)  # the golden angle: neighbours keep their distance, as in a sunflower
    for level in np.unique(height):
        here = height == level
        k = np.arange(int(here.sum()))
        radius = np.sqrt(k + 0.5)
        positions[here] = np.stack([radius * np.cos(k * turn), radius * np.sin(k * turn), np.full(len(k), level)], 1)
    return positions


def shares(synapses: Synapses, height: NDArray[Any]) -> dict[str, tuple[int, float]]:
    """How many synapses go forward, sideways and backward, and their share of the sum of |W|."""
    rise = height[synapses.receiver] - height[synapses.sender]
    size = np.abs(synapses.weight.astype(np.float64))
    total = float(size.sum()) or 1.0
    masks = {way: compare(rise, 0) for way, compare in DIRECTIONS.items()}
    return {way: (int(mask.sum()), float(size[mask].sum()) / total) for way, mask in masks.items()}


def connectome(
    W: Any, positions: Any, levels: Any = None, owner: Any = None, count: int = 15_000, title: str = "connectome"
) -> Figure:
    """The live synapses in space (paper fig 6): forward red, backward green, lateral black.

    ``positions`` is (S, 3) as (x, y, z), placed by `places`. Directions compare ``levels`` where they are given, else
    z. Of more than ``count`` synapses the strongest are drawn; strength is opacity. ``owner`` (S,) colours the neurons:
    -2 input, k >= 0 task k, -3 an output port.
    """
    given = array(positions).astype(np.float64)
    positions = places(given, levels)
    height = positions[:, 2] if levels is None else array(levels)
    live = Synapses.of(W)
    drawn = live.take(slice(count))
    figure = page(7.6, 6.8, title)
    axes = figure.add_subplot(projection="3d", computed_zorder=False)
    assert isinstance(axes, Axes3D)
    handles = []
    rise = height[drawn.receiver] - height[drawn.sender]
    for layer, (way, (number, share)) in enumerate(shares(live, height).items()):
        label = f"{way} {number:,} ({share:.0%} of |W|)"
        handles.append(Line2D([], [], color=COLOURS[way], lw=2, label=label))
        here = drawn.take(DIRECTIONS[way](rise, 0))
        if len(here.weight):
            colours = np.tile(to_rgba(COLOURS[way]), (len(here.weight), 1))
            opacity = min(0.8, 30 / np.sqrt(len(here.weight)))  # a crowd must not become a solid block
            colours[:, 3] = opacity * (0.1 + 0.9 * np.abs(here.weight / drawn.weight[0]))
            ends = np.stack([positions[here.sender], positions[here.receiver]], axis=1)
            axes.add_collection3d(
                Line3DCollection(ends, colors=colours, linewidths=0.6, zorder=2 + layer), autolim=False
            )
    seen = np.union1d(live.receiver, live.sender)
    _neurons(axes, positions[seen], None if owner is None else array(owner)[seen])
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
    """The box around all neurons: x and y as the image lies, y downwards, z upwards; nothing but its edges. Without a
    grid only z, the level, means anything."""
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
    if not grid:
        axes.set(xticks=[], yticks=[], xlabel="", ylabel="", zlabel="level")
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
