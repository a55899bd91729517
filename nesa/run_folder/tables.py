"""The two tables of a run, accuracy and accumulation, as pure functions of its events.

    accuracy.csv       R[i, j]: one row for each ``after`` task i, one column a task j, empty where not measured
    accumulation.csv   one row a task, the columns of ACCUMULATION (docs/method.md says what each measures)

Numbers are written so that reading gives the same float back; None is an empty cell, lists and booleans are JSON.
No torch here: reports and comparisons read runs with this module.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
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
_TEXT = ("task", "source")

Event = Mapping[str, Any]
Row = dict[str, Any]


def task_indices(events: Iterable[Event]) -> dict[str, int]:
    """Name -> index of every task that the events announce, in order of index."""
    indices: dict[str, int] = {}
    for event in events:
        if event["event"] in ("run_started", "extended"):
            indices.update({name: index for index, name in enumerate(event.get("tasks") or ())})
        elif event["event"] in ("task_started", "task_claimed"):
            indices[event["task"]] = event["index"]
    return dict(sorted(indices.items(), key=lambda item: item[1]))


def accuracy(events: Sequence[Event]) -> tuple[list[str], NDArray[np.float64]]:
    """Names of the K tasks that were evaluated so far, and R (K, K) with NaN where nothing was measured.

    A cell that was measured twice holds the later measurement.
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
    """One row a claimed task, in order of index, with the keys of ACCUMULATION."""
    claimed = [event for event in events if event["event"] == "task_claimed"]
    rows = {event["index"]: {key: event.get(key) for key in ACCUMULATION} for event in claimed}
    return [rows[index] for index in sorted(rows)]


def accuracy_csv(names: Sequence[str], R: NDArray[np.float64]) -> str:
    rows = [[name, *(None if np.isnan(r) else float(r) for r in row)] for name, row in zip(names, R, strict=True)]
    return _csv(["after", *names], rows)


def accumulation_csv(rows: Iterable[Row]) -> str:
    return _csv(ACCUMULATION, [[row[key] for key in ACCUMULATION] for row in rows])


def read_accuracy(folder: str | Path) -> tuple[list[str], NDArray[np.float64]]:
    """Names (K) and R (K, K) from the accuracy.csv of a run folder; RunFolderError if it is missing or damaged."""
    header, rows = _read(Path(folder) / "accuracy.csv")
    names = header[1:]
    if [row[0] for row in rows] != names:
        raise RunFolderError(f"{folder}/accuracy.csv: rows and columns do not name the same tasks")
    try:
        R = np.array([[float(cell) if cell else np.nan for cell in row[1:]] for row in rows])
    except ValueError as error:
        raise RunFolderError(f"{folder}/accuracy.csv: {error}") from error
    return names, R.reshape(len(names), len(names))


def read_accumulation(folder: str | Path) -> list[Row]:
    """Rows of the accumulation.csv of a run folder, typed; RunFolderError if it is missing or damaged."""
    header, rows = _read(Path(folder) / "accumulation.csv")
    if header != list(ACCUMULATION):
        raise RunFolderError(f"{folder}/accumulation.csv: the columns are not those of this version")
    try:
        return [{key: _value(key, cell) for key, cell in zip(header, row, strict=True)} for row in rows]
    except ValueError as error:
        raise RunFolderError(f"{folder}/accumulation.csv: {error}") from error


def accuracy_markdown(names: Sequence[str], R: NDArray[np.float64]) -> str:
    """R in percent: a row for each task just learnt, a column for each task measured."""
    rows = [[name, *("" if np.isnan(r) else f"{100 * r:.1f}" for r in row)] for name, row in zip(names, R, strict=True)]
    return _markdown(["after", *names], rows)


def accumulation_markdown(rows: Sequence[Row]) -> str:
    """One row a measure and one column a task, because thirty columns fit no page."""
    cells = [[key, *(_shown(row[key]) for row in rows)] for key in ACCUMULATION if key != "task"]
    return _markdown(["", *(row["task"] for row in rows)], cells)


def _csv(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    for row in rows:
        writer.writerow(["" if v is None else v if isinstance(v, str) else json.dumps(v) for v in row])
    return text.getvalue()


def _read(path: Path) -> tuple[list[str], list[list[str]]]:
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.reader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise RunFolderError(f"{path}: cannot be read ({error})") from error
    if not rows or any(len(row) != len(rows[0]) for row in rows):
        raise RunFolderError(f"{path}: not a complete table")
    return rows[0], rows[1:]


def _value(key: str, cell: str) -> Any:
    if cell == "":
        return None
    return cell if key in _TEXT else json.loads(cell)


def _markdown(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---", *("---:" for _ in header[1:])], *rows]
    return "\n".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines)


def _shown(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
