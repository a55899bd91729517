"""Compute the accuracy and accumulation tables of a run from its events, and write tables as CSV or Markdown.

    accuracy.csv       R[i, j]: one row for each ``after`` task i, one column a task j, empty where not measured
    accumulation.csv   one row a task, the columns of ACCUMULATION (defined in docs/method.md)

Numbers are written in full, None as an empty cell, lists and booleans as JSON. No torch here.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nesa.errors import RunFolderError

ACCUMULATION = (
    "task",
    "index",
    "source",
    "fallback",
    "classes",
    "accuracy_val_before",
    "accuracy_val",
    "accuracy_test_before",
    "accuracy_test",
    "neurons_claimed",
    "neurons_total",
    "neurons_free",
    "claimed_share",
    "neurons_reused",
    "reuse_share",
    "accuracy_cut",
    "depth_readout",
    "depth_mean",
    "depth_graph",
    "levels_claimed",
    "levels_reused",
    "feedforward_share",
    "lateral_share",
    "feedback_share",
    "skip_share",
    "recurrent_neurons",
    "locality",
    "synapses",
    "theta",
    "weight_threshold",
    "seconds",
)

Event = Mapping[str, Any]
Row = dict[str, Any]


def task_indices(events: Iterable[Event]) -> dict[str, int]:
    """Map the name of every task in the events to its index, in order of index."""
    indices: dict[str, int] = {}
    for event in events:
        if event["event"] in ("run_started", "extended"):
            indices.update({name: index for index, name in enumerate(event.get("tasks") or ())})
        elif event["event"] in ("task_started", "task_claimed"):
            indices[event["task"]] = event["index"]
    return dict(sorted(indices.items(), key=lambda item: item[1]))


def accuracy(events: Sequence[Event]) -> tuple[list[str], NDArray[np.float64]]:
    """Return the names of the K tasks evaluated so far and R (K, K), with NaN where nothing was measured.

    Of two measurements of one cell the later counts.
    """
    scores = {(e["after"], e["task"]): e["accuracy"] for e in events if e["event"] == "evaluated"}
    seen = {name for pair in scores for name in pair}
    indices = task_indices(events)
    unknown = sorted(seen - indices.keys())
    if unknown:
        raise RunFolderError(f"events.jsonl: {unknown[0]!r} was evaluated but no event says that this task started")
    names = [name for name in indices if name in seen]
    R = np.full((len(names), len(names)), np.nan)
    for (after, task), score in scores.items():
        R[names.index(after), names.index(task)] = np.nan if score is None else score
    return names, R


def accumulation(events: Iterable[Event]) -> list[Row]:
    """Return one row a claimed task, in order of index, with the keys of ACCUMULATION."""
    claimed = [event for event in events if event["event"] == "task_claimed"]
    rows = {event["index"]: {key: event.get(key) for key in ACCUMULATION} for event in claimed}
    return [rows[index] for index in sorted(rows)]


def accuracy_csv(names: Sequence[str], R: NDArray[np.float64]) -> str:
    """Format R as CSV, one row after each task; "" where no task was evaluated."""
    if not names:
        return ""
    rows = [[name, *(None if np.isnan(r) else float(r) for r in row)] for name, row in zip(names, R, strict=True)]
    return _csv(["after", *names], rows)


def accumulation_csv(rows: Sequence[Row]) -> str:
    """Format the accumulation table as CSV; "" where no task was claimed."""
    if not rows:
        return ""
    return _csv(ACCUMULATION, [[row[key] for key in ACCUMULATION] for row in rows])


def accuracy_markdown(names: Sequence[str], R: NDArray[np.float64]) -> str:
    """Format R in percent as Markdown: a row after each task, a column for each task measured."""
    rows = [[name, *("" if np.isnan(r) else f"{100 * r:.1f}" for r in row)] for name, row in zip(names, R, strict=True)]
    return markdown_table(["after", *names], rows)


def accumulation_markdown(rows: Sequence[Row]) -> str:
    """Format the accumulation table as Markdown, a row a measure and a column a task: thirty columns fit no page."""
    cells = [[key, *(_shown(row[key]) for row in rows)] for key in ACCUMULATION if key != "task"]
    return markdown_table(["", *(row["task"] for row in rows)], cells)


def escape_bars(text: str) -> str:
    """Return text with the character escaped that separates the cells of a Markdown table."""
    return text.replace("|", "\\|")


def markdown_table(
    header: Sequence[str], rows: Iterable[Sequence[str]], escape: Callable[[str], str] = escape_bars
) -> str:
    """Format cells of text as a Markdown table, the first column on the left and the others on the right."""
    lines = [list(map(escape, header)), ["---", *("---:" for _ in header[1:])]]
    lines += [list(map(escape, row)) for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _csv(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    for row in rows:
        writer.writerow(["" if v is None else v if isinstance(v, str) else json.dumps(v) for v in row])
    return text.getvalue()


def _shown(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
