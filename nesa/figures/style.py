"""Define the style of figures and render them: one palette everywhere, small files, the same bytes for the same figure.

Figures are made without pyplot, so they need no display and leave no state behind. Colours can be told apart by people
with colour-blindness: tasks by Petroff's ten (arXiv 2107.02270), signs by red and blue through white, amounts by one
hue that darkens.
"""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from numpy.typing import NDArray

TASKS = (
    "#3f90da",
    "#ffa90e",
    "#bd1f01",
    "#832db6",
    "#92dadd",
    "#a96b59",
    "#e76300",
    "#b9ac70",
    "#717581",
    "#94a4a2",
)
HATCHES = ("", "///", "...", "xxx")
INPUT = "#d8d8d8"
INK = "#262626"
FAINT = "#8c8c8c"
SIGNED = "RdBu_r"
WARM, COLD = "#b2182b", "#2166ac"  # the red and the blue of SIGNED
AMOUNT = "YlGnBu"
DPI = 110
SIZE = 300_000  # bytes; larger files are reduced to fewer colours


def task_colour(index: int) -> str:
    """Return the colour of a task by its index, the same in every figure; `task_hatch` tells the 11th from the 1st."""
    return TASKS[index % len(TASKS)]


def task_hatch(index: int) -> str:
    """Return the hatch of a task by its index: it changes after each round of colours."""
    return HATCHES[index // len(TASKS) % len(HATCHES)]


def ink_on(colour: str) -> str:
    """Return black or white, whichever is easier to read on this colour."""
    red, green, blue = to_rgb(colour)
    return INK if 0.299 * red + 0.587 * green + 0.114 * blue > 0.45 else "white"


def page(width: float, height: float, title: str = "") -> Figure:
    """Make an empty figure, its size in inches."""
    figure = Figure(figsize=(width, height), dpi=DPI, layout="compressed", facecolor="white")
    if title:
        figure.suptitle(title, fontsize=11, color=INK)
    return figure


def tidy(axes: Axes, title: str = "", x: str = "", y: str = "") -> Axes:
    """Set the titles of the axes, and draw only thin left and bottom lines."""
    axes.set_title(title, fontsize=9, color=INK)
    axes.set_xlabel(x, fontsize=9, color=INK)
    axes.set_ylabel(y, fontsize=9, color=INK)
    axes.tick_params(labelsize=8, color=FAINT, labelcolor=INK)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(FAINT)
    return axes


def note(figure: Figure, text: str) -> Figure:
    """Write a sentence in the middle of a figure that has nothing to show."""
    axes = figure.add_subplot()
    axes.set_axis_off()
    axes.text(0.5, 0.5, text, ha="center", va="center", fontsize=10, color=FAINT, transform=axes.transAxes)
    return figure


def short(names: Sequence[str], length: int = 14) -> list[str]:
    """Cut names so that they fit under a bar."""
    return [name if len(name) <= length else name[: length - 1] + "…" for name in names]


def array(values: Any) -> NDArray[Any]:
    """Convert a tensor on any device, an array or a list to a NumPy array."""
    return np.asarray(values.detach().cpu().numpy() if hasattr(values, "detach") else values)


def render(figure: Figure) -> dict[str, bytes]:
    """Render a figure as {"png": bytes, "svg": bytes}, the same bytes for the same figure.

    Files larger than SIZE are reduced to 256 colours, to about a third.
    """
    png, svg = io.BytesIO(), io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "nesa", "svg.fonttype": "none"}):
        figure.savefig(png, format="png", dpi=DPI, metadata={"Software": None})
        figure.savefig(svg, format="svg", dpi=DPI, metadata={"Date": None, "Creator": None})
    files = {"png": png.getvalue(), "svg": svg.getvalue()}
    if len(files["png"]) > SIZE:
        files["png"] = _reduced(files["png"])
    if len(files["svg"]) > SIZE:
        files["svg"] = re.sub(rb"(?<=data:image/png;base64,)[^\"']+", _reduced_inside, files["svg"])
    return files


def _reduced(png: bytes) -> bytes:
    """Quantise a picture to 256 colours."""
    from PIL import Image

    reduced = io.BytesIO()
    image = Image.open(io.BytesIO(png)).convert("RGBA")
    if image.getchannel("A").getextrema() == (255, 255):
        image = image.convert("RGB").quantize(256)
    else:  # the one method that keeps transparency
        image = image.quantize(256, method=Image.Quantize.FASTOCTREE)
    image.save(reduced, format="png", optimize=True)
    return reduced.getvalue()


def _reduced_inside(match: re.Match[bytes]) -> bytes:
    return base64.b64encode(_reduced(base64.b64decode(match.group())))
