"""Describe task sources and their parameters as text, and draw their samples as PNG."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from nesa.datasets.source import Arrays, Param, Source

COLUMNS = 12  # samples of each class on a sheet
ROWS = 20  # classes on a sheet


def describe_sources(sources: Iterable[Source]) -> str:
    """Describe each source in lines of text: name, summary, difficulty and parameters."""
    blocks = []
    for source in sources:
        lines = [source.name, f"    {source.summary}", f"    difficulty: {source.difficulty}"]
        width = max((len(p.name) for p in source.params), default=0)
        lines += [f"    {p.name:<{width}}  {_param(p)}" for p in source.params]
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks)


def _param(p: Param) -> str:
    default = "required" if p.required else f"default {str(p.default).lower() if p.type is bool else p.default}"
    limits = f", {_number(p.low)} to {_number(p.high)}" if p.low is not None and p.high is not None else ""
    return f"{p.type.__name__}, {default}{limits}: {p.help}"


def _number(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:,g}"


def draw_samples(tasks: Sequence[tuple[str, Arrays]], path: Path) -> Path:
    """Draw training samples of each (title, arrays) by class as a PNG at ``path``, and return it.

    Images as they are, vectors as rows of one matrix a class. A temporary file beside ``path`` is renamed.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = [min(len(arrays.class_names), ROWS) for _, arrays in tasks]
    height = 0.6 + 0.66 * sum(rows) + 0.3 * (len(tasks) - 1)
    figure = Figure(figsize=(1.6 + 0.62 * COLUMNS, height), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    axes = iter(figure.subplots(sum(rows), 1, squeeze=False)[:, 0])
    for (title, arrays), K in zip(tasks, rows, strict=True):
        chosen = [np.flatnonzero(arrays.train_y == k)[:COLUMNS] for k in range(K)]
        limit = float(np.abs(arrays.train_x[np.concatenate(chosen)]).max())
        for k in range(K):
            axis = next(axes)
            axis.set(xticks=[], yticks=[])
            axis.spines[:].set_visible(False)
            axis.set_ylabel(arrays.class_names[k], fontsize=7, rotation=0, ha="right", va="center", parse_math=False)
            if k == 0 and len(tasks) > 1:
                axis.set_title(title, fontsize=9, parse_math=False)
            samples = arrays.train_x[chosen[k]]
            if arrays.kind == "image":
                axis.imshow(_strip(samples), cmap="gray", vmin=0, vmax=255, interpolation="nearest")
            else:
                axis.imshow(samples, cmap="RdBu_r", vmin=-limit, vmax=limit, aspect="auto", interpolation="nearest")
    if len(tasks) == 1:
        figure.suptitle(tasks[0][0], fontsize=9, parse_math=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f".{path.name}.part")
    try:
        figure.savefig(fresh, format="png", bbox_inches="tight", pad_inches=0.05)  # whole labels
        fresh.replace(path)
    finally:
        fresh.unlink(missing_ok=True)
    return path


def _strip(samples: np.ndarray) -> np.ndarray:
    """Join images (n, H, W[, 3]) side by side, white between them and where there are fewer than COLUMNS."""
    H, W = samples.shape[1:3]
    gap = max(1, W // 16)
    strip = np.full((H, COLUMNS * (W + gap) - gap, *samples.shape[3:]), 255, np.uint8)
    for i, sample in enumerate(samples):
        strip[:, i * (W + gap) : i * (W + gap) + W] = sample
    return strip
