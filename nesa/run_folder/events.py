"""Make and read the events of a run, one JSON object a line of events.jsonl.

Every event has "event" and "time" (seconds since 1970) and otherwise flat keys. No torch here.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nesa.errors import RunFolderError
from nesa.run_folder import tables
from nesa.run_folder.layout import EVENTS, check_run
from nesa.run_folder.tables import Event

# The keys that the tables and TensorBoard need; an event may have more keys, and there are other events.
REQUIRED = {
    "run_started": ("name", "seed", "tasks"),
    "extended": ("name", "seed", "tasks", "curriculum", "command"),
    "task_started": ("task", "index"),
    "epoch": ("task", "epoch", "step"),
    "task_claimed": tables.ACCUMULATION,
    "forecast": ("task", "index", "tasks_more"),
    "evaluated": ("after", "task", "accuracy"),
    "figure": ("name", "step", "file"),
    "histogram": ("name", "step", "edges", "counts"),
    "warning": ("message",),
}

STARTS = ("run_started", "extended")


def start_event(events: Sequence[Event]) -> Event | None:
    """Find the event that lists all tasks of the run: `run_started`, or the last `extended`, which has the same keys.

    None when the run was stopped before it began.
    """
    return next((event for event in reversed(events) if event["event"] in STARTS), None)


def finish_event(events: Sequence[Event]) -> Event | None:
    """Find the last `run_finished`; None while tasks remain to be trained, also those of an extension."""
    turns = (event for event in reversed(events) if event["event"] in (*STARTS, "run_finished"))
    last = next(turns, None)
    return last if last is not None and last["event"] == "run_finished" else None


def checkpoint_events(events: Sequence[Event]) -> list[Event]:
    """List the events of the finished tasks' checkpoints, in order of tasks."""
    return [event for event in events if event["event"] == "checkpointed"]


def new_event(event: str, values: Mapping[str, Any], events: Sequence[Event]) -> dict[str, Any]:
    """Make the event that will be written after ``events``: flat, finite and complete.

    TypeError for a value that is not flat, ValueError for a key that is missing or reserved, or for a score on a task
    that has not started.
    """
    line: dict[str, Any] = {"event": event, "time": round(time.time(), 3)}
    for key, value in values.items():
        if key in ("event", "time"):
            raise ValueError(f"event {event!r}: the key {key!r} is reserved")
        line[key] = _flat(f"{event}.{key}", value)
    missing = [key for key in REQUIRED.get(event, ()) if key not in line]
    if missing:
        raise ValueError(f"event {event!r} lacks {', '.join(missing)}")
    if event == "evaluated":
        unknown = {line["after"], line["task"]} - tables.task_indices(events).keys()
        if unknown:
            raise ValueError(f"event 'evaluated' names {min(unknown, key=str)!r}, a task that has not started")
    return line


def read_events(folder: str | Path) -> list[dict[str, Any]]:
    """Read the complete events of a run, in order; RunFolderError if it is no run or a line is damaged."""
    return complete_events(check_run(folder))[0]


def complete_events(folder: Path) -> tuple[list[dict[str, Any]], int]:
    """Read the complete events and their length in bytes; what follows is at most an event that a crash cut short."""
    events: list[dict[str, Any]] = []
    data = (folder / EVENTS).read_bytes()
    size = data.rfind(b"\n") + 1
    lines = data[:size].split(b"\n")[:-1]
    for number, line in enumerate(lines, start=1):
        try:
            event = json.loads(line)
            if not isinstance(event["event"], str) or not isinstance(event["time"], int | float):
                raise ValueError("not an event")
        except (ValueError, TypeError, KeyError) as error:
            if number == len(lines) and size == len(data):  # blocks can reach the disk out of order: a torn last line
                return events, size - len(line) - 1
            raise RunFolderError(
                f"{folder / EVENTS}:{number}: is not an event; the file is damaged, restore it from a copy"
            ) from error
        events.append(event)
    return events, size


def _flat(key: str, value: Any) -> Any:
    """Convert ``value`` to what JSON can store: a scalar or a list of scalars, NaN and infinities as None."""
    if hasattr(value, "tolist"):  # numpy and torch, without importing either
        value = value.tolist()
    if isinstance(value, list | tuple):
        if any(isinstance(item, list | tuple) or getattr(item, "ndim", 0) for item in value):
            raise TypeError(f"{key} is nested; events are flat, give it several keys")
        return [_flat(key, item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, str | bool | int):
        return value
    raise TypeError(f"{key} is a {type(value).__name__}; events hold text, numbers, booleans, None and lists of them")
