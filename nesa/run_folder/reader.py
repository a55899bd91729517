"""Open a stored run for reading: events, tables, curriculum, environment, structures and checkpoints.

    run = StoredRun("runs/vision-20250101-120000")
    run.status             # finished, running or stopped
    run.rows               # the rows of accumulation.csv
    run.R                  # (K, K) test accuracies of the tasks run.names

Nothing is written and no lock is taken. Only `read_state` and `read_probe` import torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from nesa.errors import RunFolderError
from nesa.run_folder import tables
from nesa.run_folder.checkpoint import load_checkpoint
from nesa.run_folder.digest import digest
from nesa.run_folder.environment import read_environment
from nesa.run_folder.events import Event, checkpoint_events, finish_event, read_events, start_event
from nesa.run_folder.layout import CHECKPOINT, CURRICULUM, FORMAT, PROBE, STRUCTURE, check_run, task_folder
from nesa.run_folder.lock import is_held


class StoredRun:
    """One run folder, finished or not. RunFolderError where it is no run or an event is damaged.

    folder: its path. events: all complete events, in order. start: `start_event` of them, empty where the run has not
    begun. end: `finish_event` of them, or None.
    """

    def __init__(self, folder: str | Path):
        self.folder = check_run(folder)
        self.events = read_events(self.folder)
        self.start: Event = start_event(self.events) or {}
        self.end: Event | None = finish_event(self.events)

    @property
    def status(self) -> str:
        """Return "finished", "running" (a process holds the lock) or "stopped"."""
        return "finished" if self.end is not None else "running" if is_held(self.folder) else "stopped"

    @cached_property
    def curriculum_text(self) -> str:
        """Read curriculum.yaml."""
        return (self.folder / CURRICULUM).read_text("utf-8", errors="replace")

    @cached_property
    def curriculum(self) -> dict[str, Any]:
        """Parse the resolved curriculum with which the run began or was last extended."""
        return yaml.safe_load(self.start.get("curriculum") or self.curriculum_text)

    @cached_property
    def environment(self) -> dict[str, Any]:
        """Read environment.json."""
        return read_environment(self.folder)

    @property
    def tasks(self) -> list[str]:
        """List the names of all tasks of the curriculum, trained or not."""
        return list(self.start.get("tasks", ()))

    @property
    def seed(self) -> int | None:
        """Return the seed of the run; None where it has not begun."""
        return self.start.get("seed")

    @cached_property
    def accuracy(self) -> tuple[list[str], NDArray[np.float64]]:
        """Compute `tables.accuracy` of the events: names of the K evaluated tasks, and R (K, K)."""
        return tables.accuracy(self.events)

    @property
    def names(self) -> list[str]:
        """List the K tasks that have been evaluated, in order."""
        return self.accuracy[0]

    @property
    def R(self) -> NDArray[np.float64]:
        """Return (K, K) test accuracies: row i after task i, column j on task j, NaN where not measured."""
        return self.accuracy[1]

    @cached_property
    def rows(self) -> list[tables.Row]:
        """List the rows of accumulation.csv, one for each claimed task."""
        return tables.accumulation(self.events)

    @property
    def claimed(self) -> list[str]:
        """List the names of the claimed tasks."""
        return [row["task"] for row in self.rows]

    @property
    def checkpoints(self) -> list[Event]:
        """List the events of the finished tasks' checkpoints, in order."""
        return checkpoint_events(self.events)

    def structure(self, task: str) -> dict[str, Any]:
        """Load the arrays of a claimed task's structure.npz, without a comparison with their digest."""
        return load_structure(self.folder, task)


def load_structure(folder: str | Path, task: str) -> dict[str, Any]:
    """Load the NumPy arrays of tasks/TASK/structure.npz by name; RunFolderError if missing or damaged."""
    import zipfile

    path = task_folder(folder, task) / STRUCTURE
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            return dict(arrays)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise RunFolderError(f"{path}: is missing or damaged ({error})") from error


def read_structure(folder: str | Path, event: Event) -> dict[str, Any]:
    """Load structure.npz of a task and compare it with the digest in the event of the task's checkpoint."""
    arrays = load_structure(folder, event["task"])
    _check_digest(task_folder(folder, event["task"]) / STRUCTURE, arrays, event, "structure")
    return arrays


def read_state(folder: str | Path, event: Event) -> dict[str, Any]:
    """Load the checkpoint that `event` announced and compare it with the digest in the event.

    RunFolderError when it is missing, damaged or of another version; torch alone does not notice a flipped bit."""
    return _read(folder, event, "checkpoint", CHECKPOINT)


def read_probe(folder: str | Path, event: Event) -> dict[str, Any]:
    """Load tasks/NAME/probe.pt and compare it with its digest.

    `x` (n, D_in): raw test samples. `logits` (n, D_out): the task's own right after its claim. `machine`: where."""
    return _read(folder, event, "probe", PROBE)


def _read(folder: str | Path, event: Event, key: str, file: str) -> dict[str, Any]:
    state = load_checkpoint(folder, event["task"], file)
    path = task_folder(folder, event["task"]) / file
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise RunFolderError(f"{path}: is not of this version of nesa; use the version in environment.json")
    _check_digest(path, state, event, key)
    return state


def _check_digest(path: Path, value: Any, event: Mapping[str, Any], key: str) -> None:
    try:
        found = digest(value)
    except TypeError as error:
        raise RunFolderError(f"{path}: is not what the run wrote ({error})") from error
    if found != event.get(key):
        raise RunFolderError(f"{path}: is not what the run wrote: its digest is {found}, not {event.get(key)}")


__all__ = ["StoredRun", "load_structure", "read_probe", "read_state", "read_structure"]
