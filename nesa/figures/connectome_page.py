"""Write the connectome as an interactive 3-D HTML page with a layer for each task; it loads no other file.

Synapses are drawn by the browser's WebGL as lines whose opacity is their strength, which plotly cannot do: it took 23 s
to show 100,000 of them in headless Chromium, and minutes to rotate them (benchmarks/speed/connectome_page.py).
Coordinates and strengths are rounded to 16 bits, 16 bytes a synapse.
"""

from __future__ import annotations

import base64
import html
import json
from importlib import resources
from string import Template
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nesa.analysis.connectome import Connectome
from nesa.figures.connectome import COLOURS, DIRECTIONS, direction_shares, drawing_positions
from nesa.figures.style import INK, INPUT, task_colour
from nesa.neuron_owner import INPUT as INPUT_OWNER
from nesa.neuron_owner import PORT

COUNT = 100_000  # synapses in a page; the strongest
FINEST = 65_535  # the largest 16-bit coordinate


def connectome_page(connectome: Connectome, count: int = COUNT, title: str = "connectome") -> str:
    """Build the page from the ``count`` strongest synapses; it states how many are left out."""
    levels = None if connectome.grid else connectome.levels
    points, box = _scaled_to_box(drawing_positions(connectome.positions, levels))
    height = connectome.height
    sizes = [np.abs(layer.weight) for layer in connectome.layers]
    live = sum(len(size) for size in sizes)
    all_sizes = np.concatenate([np.zeros(0, dtype=np.float32), *sizes])
    least = np.partition(all_sizes, -count)[-count] if live > count else 0.0
    strongest = float(all_sizes.max()) if live else 1.0
    groups, lines, first = [], [], 0
    totals = {direction: np.zeros(2) for direction in DIRECTIONS}  # number, sum of |W|
    for direction, compare in DIRECTIONS.items():
        for k, (layer, size) in enumerate(zip(connectome.layers, sizes, strict=True)):
            drawn = layer.take(compare(height[layer.receiver] - height[layer.sender], 0) & (size >= least))
            ends = np.zeros((len(drawn.weight), 2, 4), dtype="<u2")
            ends[:, 0, :3], ends[:, 1, :3] = points[drawn.sender], points[drawn.receiver]
            ends[:, :, 3] = np.rint(FINEST * np.abs(drawn.weight) / strongest)[:, None]
            groups.append({"task": str(k), "way": direction, "first": first, "count": len(ends)})
            lines.append(ends.tobytes())
            first += len(ends)
    for layer, size in zip(connectome.layers, sizes, strict=True):
        for direction, (number, share) in direction_shares(layer, height).items():
            totals[direction] += number, share * size.sum(dtype=np.float64)
    order, neurons = _neuron_groups(connectome)
    planes = np.unique(points[:, 2])
    data = {
        "box": box,
        "colours": COLOURS,
        "groups": groups,
        "neurons": neurons,
        "planes": [float(plane) / FINEST for plane in planes],
    }
    vertices = np.concatenate([points[order], np.zeros((len(order), 1), dtype=points.dtype)], axis=1).astype("<u2")
    templates = resources.files("nesa.figures")
    total = sum(mass for _, mass in totals.values()) or 1.0
    return Template((templates / "connectome_page.html").read_text("utf-8")).substitute(
        title=html.escape(title),
        planes="".join(f'<span class="plane">{name}</span>' for name in _plane_names(connectome, planes)),
        live=f"{live:,}",
        drawn=first,
        left_out=f" The {live - first:,} weakest are not in this page." if first < live else "",
        tasks="".join(_task_checkbox(connectome, k) for k in range(len(connectome.names))),
        ways="".join(
            f'<label><input type="checkbox" data-way="{direction}" checked> <i class="line" style="background: '
            f'{COLOURS[direction]}"></i> {direction} {number:,.0f}<small>{mass / total:.1%} of |W|</small></label>'
            for direction, (number, mass) in totals.items()
        ),
        input=INPUT,
        ink=INK,
        opacity=round(min(0.9, max(0.06, 60 / max(1, first) ** 0.5)), 2),
        data=json.dumps(data).replace("<", "\\u003c"),
        lines=base64.b64encode(b"".join(lines)).decode(),
        points=base64.b64encode(vertices.tobytes()).decode(),
        script=(templates / "connectome_page.js").read_text("utf-8"),
    )


def _scaled_to_box(positions: NDArray[np.float64]) -> tuple[NDArray[np.uint16], list[float]]:
    """Scale positions (n, 3) to 16 bits, and return half the edges of their box.

    x and y are in proportion, z is as high as the wider of them. y points down, as in the image.
    """
    if not len(positions):
        return np.zeros((0, 3), dtype="<u2"), [1.0, 1.0, 1.0]
    low, spread = positions.min(0), np.ptp(positions, axis=0)
    scaled = np.where(spread > 0, (positions - low) / np.where(spread > 0, spread, 1), 0.5)
    scaled[:, 1] = 1 - scaled[:, 1]
    wide = max(spread[0], spread[1], 1e-9)
    return np.rint(FINEST * scaled).astype("<u2"), [float(spread[0] / wide), float(spread[1] / wide), 0.9]


def _neuron_groups(connectome: Connectome) -> tuple[NDArray[np.int64], list[dict[str, Any]]]:
    """Sort neurons by how they are drawn, and list where each group begins, its colour and size."""
    size = float(np.clip(250 / max(1, len(connectome.owner)) ** 0.5, 2, 8))
    kinds = [(connectome.owner == INPUT_OWNER, "", INPUT, 0.7 * size)]
    for k in range(len(connectome.names)):
        kinds.append((connectome.owner == k, str(k), task_colour(k), size))
        kinds.append(((connectome.owner == PORT) & (connectome.task == k), str(k), INK, 1.5 * size))
    order, groups, first = [], [], 0
    for mask, task, colour, points in kinds:
        members = np.flatnonzero(mask)
        kind = {"task": task, "colour": colour, "size": points, "round": int(colour != INK)}
        groups.append(kind | {"first": first, "count": len(members)})
        order.append(members)
        first += len(members)
    return np.concatenate(order), groups


def _plane_names(connectome: Connectome, planes: NDArray[np.uint16]) -> list[str]:
    """Name the planes of the grid, or the levels where there is none."""
    if not connectome.grid:
        return [f"level {level}" if level else "input" for level in np.unique(np.maximum(connectome.levels, 0))]
    names = np.unique(connectome.positions[:, 2])
    inputs = set(connectome.positions[connectome.owner == INPUT_OWNER, 2])
    return [f"plane {z:.0f}{' (input)' if z in inputs else ''}" for z in names][: len(planes)]


def _task_checkbox(connectome: Connectome, k: int) -> str:
    neurons, synapses = int((connectome.owner == k).sum()), len(connectome.layers[k].weight)
    return (
        f'<label><input type="checkbox" data-task="{k}" checked> <i style="background: {task_colour(k)}"></i> '
        f"{html.escape(connectome.names[k])}<small>{neurons:,} neurons, {synapses:,} synapses</small></label>"
    )
