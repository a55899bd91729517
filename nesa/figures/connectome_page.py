"""The connectome that can be turned: one HTML page that needs nothing else, with a layer for each task.

Synapses are drawn by the browser's WebGL as lines whose opacity is their strength, which plotly cannot do: it took 23 s
to show 100,000 of them in headless Chromium, and minutes to turn them (benchmarks/speed/connectome_page.py measures both).
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

from nesa.analysis.connectome import INPUT as INPUT_OWNER
from nesa.analysis.connectome import PORT, Connectome
from nesa.figures.connectome import COLOURS, DIRECTIONS, places, shares
from nesa.figures.style import INK, INPUT, task_colour

COUNT = 100_000  # synapses in a page; the strongest
FINEST = 65_535


def scene(web: Connectome, count: int = COUNT, title: str = "connectome") -> str:
    """The page. Of more than ``count`` synapses the strongest are in it, and it says how many are left out."""
    points, box = _boxed(places(web.positions, None if web.grid else web.levels))
    height = web.height
    sizes = [np.abs(layer.weight) for layer in web.layers]
    live = sum(len(size) for size in sizes)
    every = np.concatenate([np.zeros(0, dtype=np.float32), *sizes])
    least = np.partition(every, -count)[-count] if live > count else 0.0
    strongest = float(every.max()) if live else 1.0
    groups, lines, first = [], [], 0
    ways = {way: np.zeros(2) for way in DIRECTIONS}
    for way, compare in DIRECTIONS.items():
        for k, (layer, size) in enumerate(zip(web.layers, sizes, strict=True)):
            drawn = layer.take(compare(height[layer.receiver] - height[layer.sender], 0) & (size >= least))
            ends = np.zeros((len(drawn.weight), 2, 4), dtype="<u2")
            ends[:, 0, :3], ends[:, 1, :3] = points[drawn.sender], points[drawn.receiver]
            ends[:, :, 3] = np.rint(FINEST * np.abs(drawn.weight) / strongest)[:, None]
            groups.append({"task": str(k), "way": way, "first": first, "count": len(ends)})
            lines.append(ends.tobytes())
            first += len(ends)
    for layer, size in zip(web.layers, sizes, strict=True):
        for way, (number, share) in shares(layer, height).items():
            ways[way] += number, share * size.sum(dtype=np.float64)
    order, neurons = _neurons(web)
    planes = np.unique(points[:, 2])
    data = {
        "box": box,
        "colours": COLOURS,
        "groups": groups,
        "neurons": neurons,
        "planes": [float(plane) / FINEST for plane in planes],
    }
    spots = np.concatenate([points[order], np.zeros((len(order), 1), dtype=points.dtype)], axis=1).astype("<u2")
    here = resources.files("nesa.figures")
    total = sum(mass for _, mass in ways.values()) or 1.0
    return Template((here / "connectome_page.html").read_text("utf-8")).substitute(
        title=html.escape(title),
        planes="".join(f'<span class="plane">{text}</span>' for text in _planes(web, planes)),
        live=f"{live:,}",
        drawn=first,
        left_out=f" The {live - first:,} weakest are not in this page." if first < live else "",
        tasks="".join(_task(web, k) for k in range(len(web.names))),
        ways="".join(
            f'<label><input type="checkbox" data-way="{way}" checked> <i class="line" style="background: '
            f'{COLOURS[way]}"></i> {way} {number:,.0f}<small>{mass / total:.1%} of |W|</small></label>'
            for way, (number, mass) in ways.items()
        ),
        input=INPUT,
        ink=INK,
        opacity=round(min(0.9, max(0.06, 60 / max(1, first) ** 0.5)), 2),
        data=json.dumps(data).replace("<", "\\u003c"),
        lines=base64.b64encode(b"".join(lines)).decode(),
        points=base64.b64encode(spots.tobytes()).decode(),
        script=(here / "connectome_page.js").read_text("utf-8"),
    )


def _boxed(positions: NDArray[np.float64]) -> tuple[NDArray[np.uint16], list[float]]:
    """Positions (n, 3) in 16 bits each, and half the sides of their box: x and y true to one another, z as high as the
    wider of them. y points down, as in the image."""
    if not len(positions):
        return np.zeros((0, 3), dtype="<u2"), [1.0, 1.0, 1.0]
    low, spread = positions.min(0), np.ptp(positions, axis=0)
    spots = np.where(spread > 0, (positions - low) / np.where(spread > 0, spread, 1), 0.5)
    spots[:, 1] = 1 - spots[:, 1]
    wide = max(spread[0], spread[1], 1e-9)
    return np.rint(FINEST * spots).astype("<u2"), [float(spread[0] / wide), float(spread[1] / wide), 0.9]


def _neurons(web: Connectome) -> tuple[NDArray[np.int64], list[dict[str, Any]]]:
    """Neurons in the order of what they are drawn as, and where each of those groups begins."""
    size = float(np.clip(250 / max(1, len(web.owner)) ** 0.5, 2, 8))
    kinds = [(web.owner == INPUT_OWNER, "", INPUT, 0.7 * size)]
    for k in range(len(web.names)):
        kinds.append((web.owner == k, str(k), task_colour(k), size))
        kinds.append(((web.owner == PORT) & (web.task == k), str(k), INK, 1.5 * size))
    order, groups, first = [], [], 0
    for mask, task, colour, points in kinds:
        here = np.flatnonzero(mask)
        kind = {"task": task, "colour": colour, "size": points, "round": int(colour != INK)}
        groups.append(kind | {"first": first, "count": len(here)})
        order.append(here)
        first += len(here)
    return np.concatenate(order), groups


def _planes(web: Connectome, planes: NDArray[np.uint16]) -> list[str]:
    """What is written beside each height."""
    if not web.grid:
        return [f"level {level}" if level else "input" for level in np.unique(np.maximum(web.levels, 0))]
    names = np.unique(web.positions[:, 2])
    inputs = set(web.positions[web.owner == INPUT_OWNER, 2])
    return [f"plane {z:.0f}{' (input)' if z in inputs else ''}" for z in names][: len(planes)]


def _task(web: Connectome, k: int) -> str:
    neurons, synapses = int((web.owner == k).sum()), len(web.layers[k].weight)
    return (
        f'<label><input type="checkbox" data-task="{k}" checked> <i style="background: {task_colour(k)}"></i> '
        f"{html.escape(web.names[k])}<small>{neurons:,} neurons, {synapses:,} synapses</small></label>"
    )
