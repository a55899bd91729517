"""Verify a stored run: its files, that later tasks left earlier answers unchanged, and its reported accuracies.

| check | what is done |
|---|---|
| events | the digests in events.jsonl: nothing that came before them was edited |
| curriculum | curriculum.yaml is what the run began with or was extended to |
| tables | accuracy.csv, accumulation.csv and the last event equal what events.jsonl gives |
| files TASK | checkpoint, structure and probe load as data, are what the run wrote, and agree with each other |
| one way, weights, answers, recorded TASK | see nesa.verification.checks; only the stored probe is needed, no data |
| data TASK, accuracy TASK, row TASK | R and the row of accumulation.csv, measured again on the run's own data |

Nothing is written. A check that cannot be made has "skipped" in its name.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from nesa.config.curriculum import Curriculum
from nesa.config.loader import load
from nesa.errors import NesaError, RunFolderError
from nesa.inference.saved_run import accumulation_of, read_accumulation
from nesa.run_folder import metrics, tables
from nesa.run_folder.digest import event_digest
from nesa.run_folder.environment import environment, machine, read_environment
from nesa.run_folder.events import Event, new_event
from nesa.run_folder.layout import (
    ACCUMULATION_TABLE,
    ACCURACY_TABLE,
    CHECKPOINT,
    CURRICULUM,
    check_run,
    task_folder,
)
from nesa.run_folder.reader import StoredRun, read_probe, read_state, read_structure
from nesa.run_folder.resume_state import check_curriculum
from nesa.training.accumulation import Accumulation
from nesa.training.build import make_accumulation
from nesa.training.task_data import TaskData
from nesa.verification import checks
from nesa.verification.checks import Check
from nesa.verification.stored_data import stored_data


def verify(folder: str | Path, data: str | Path | None = None) -> list[Check]:
    """Make all checks of the run in `folder`; `data` is the folder of data sets, as for `nesa run`.

    A damaged run gives checks that are not ok. Raises RunFolderError only where there is no run at all."""
    return list(_Verification(check_run(folder), None if data is None else Path(data)).checks())


class _Verification:
    """One pass over the tasks; only the last accumulation and that of the task being checked are in memory."""

    def __init__(self, folder: Path, data: Path | None):
        self.folder, self.data = folder, data
        self.run: StoredRun | None = None  # None while its events cannot be read
        self.curriculum: Curriculum | None = None
        self.here: dict[str, Any] = {}  # `nesa.run_folder.environment.machine` of this process
        self.last: Accumulation | None = None  # of the last checkpoint that can be read
        self.own: Accumulation | None = None  # of the checkpoint right after the task being checked
        self.probe: dict[str, Any] = {}

    def checks(self) -> Iterator[Check]:
        with _threads(self.folder):
            self.here = machine(environment(0))
            yield from _guarded("events", self._events)
            run = self.run
            if run is None:
                return
            yield from _guarded("curriculum", lambda: self._curriculum(run))
            yield from _guarded("tables", lambda: self._tables(run))
            if not run.checkpoints:
                yield Check("tasks", False, "no task is finished yet, so there is nothing to verify")
            self.last = self._last(run)
            for event in run.checkpoints:
                task, self.own = str(event.get("task")), None
                yield from _guarded(f"files {task}", lambda event=event: self._files(event))
                if self.own is not None:
                    yield from _guarded(f"claim {task}", lambda task=task: self._claim(task))
                    yield from _guarded(f"data {task}", lambda task=task: self._measured(run, task))
                elif self._claims_nothing():
                    yield from _guarded(f"accuracy after {task}", lambda event=event: self._scores(run, event))

    def _claims_nothing(self) -> bool:
        """Return whether this is a run of a baseline learner."""
        return self.curriculum is not None and not self.curriculum.learner.claims_neurons

    def _last(self, run: StoredRun) -> Accumulation | None:
        for event in reversed(run.checkpoints):
            with contextlib.suppress(Exception):  # its own `files` check reports what is wrong with it
                return read_accumulation(self.folder, event)
        return None

    # --- files ---------------------------------------------------------------------------------------------------

    def _events(self) -> Iterator[Check]:
        run = StoredRun(self.folder)
        events = run.events
        if not events or events[0]["event"] != "run_started":
            yield Check("events", False, "events.jsonl does not begin with run_started: the run has not begun")
            return
        self.run = run
        for at, event in enumerate(events):
            if event["event"] == "checkpointed" and event_digest(events[:at]) != event["events"]:
                yield Check("events", False, f"an event before line {at + 1} of events.jsonl was edited or lost")
                return
        done = [event["task"] for event in run.checkpoints]
        left = ", ".join(name for name in run.tasks if name not in done) or "the last event"
        rest = "" if run.end is not None else f"; not finished: {left} to come with `nesa resume`"
        yield Check("events", True, f"{len(events)} events, {len(done)} of {len(run.tasks)} tasks{rest}")

    def _curriculum(self, run: StoredRun) -> Iterator[Check]:
        self.curriculum = load(self.folder / CURRICULUM)
        check_curriculum(self.folder, run.events)
        times = sum(event["event"] == "extended" for event in run.events)
        yield Check("curriculum", True, f"as the run was last extended, {times} x" if times else "as the run began")

    def _tables(self, run: StoredRun) -> Iterator[Check]:
        expected = {
            ACCURACY_TABLE: tables.accuracy_csv(run.names, run.R),
            ACCUMULATION_TABLE: tables.accumulation_csv(run.rows),
        }
        for file, text in expected.items():
            path = self.folder / file
            found = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
            if found != text:
                lines, other = text.splitlines(), found.splitlines()
                at = next((i for i, pair in enumerate(zip(lines, other, strict=False)) if pair[0] != pair[1]), None)
                place = f"line {at + 1}" if at is not None else f"{len(other)} lines instead of {len(lines)}"
                yield Check("tables", False, f"{file} is not what events.jsonl says: {place}")
                return
        scores = {
            "acc": metrics.average_accuracy,
            "bwt": metrics.backward_transfer,
            "forgetting": metrics.forgetting,
        }
        for at, event in enumerate(run.events):
            if event["event"] != "run_finished":  # one at the end, and one before each extension
                continue
            _, then = tables.accuracy(run.events[:at])
            for key, score in scores.items():
                if event[key] != new_event("", {key: score(then)}, [])[key]:
                    detail = f"line {at + 1} of events.jsonl says {key} {event[key]}, R gives {score(then)}"
                    yield Check("tables", False, detail)
                    return
        yield Check(
            "tables", True, f"accuracy.csv ({len(run.names)} x {len(run.names)}) and accumulation.csv equal the events"
        )

    def _files(self, event: Event) -> Iterator[Check]:
        task = event["task"]
        state = read_state(self.folder, event)
        if self._claims_nothing():
            yield Check(f"files {task}", True, "the checkpoint loads as data, and is what the run wrote")
            return
        accumulation = accumulation_of(state, task_folder(self.folder, task) / CHECKPOINT)
        structure, probe = read_structure(self.folder, event), read_probe(self.folder, event)
        entry, network = accumulation.claims[-1], accumulation.network(task)
        pairs = {
            "members": entry.members,
            "owner": accumulation.owner[entry.members],
            "W": network.W.data,
            "b": network.b.data,
        }
        other = [key for key, value in pairs.items() if not torch.equal(torch.from_numpy(structure[key]), value)]
        if entry.name != task or other:
            yield Check(
                f"files {task}", False, f"structure.npz and checkpoint.pt differ in {', '.join(other) or 'task'}"
            )
            return
        self.own, self.probe = accumulation, probe
        yield Check(f"files {task}", True, "checkpoint, structure and probe are what the run wrote, and agree")

    # --- claims --------------------------------------------------------------------------------------------------

    def _claim(self, task: str) -> Iterator[Check]:
        assert self.own is not None and self.last is not None
        yield checks.one_way(task, self.own)
        yield checks.weights(task, self.own, self.last)
        yield checks.answers(task, self.own, self.last, self.probe["x"])
        yield checks.recorded(task, self.own, self.probe, self.here)

    def _measured(self, run: StoredRun, task: str) -> Iterator[Check]:
        assert self.own is not None and self.last is not None and self.curriculum is not None
        data = self._data(run, task)
        if isinstance(data, str):
            yield Check(f"skipped: accuracy {task}", True, f"NOT measured again: {data}")
            yield Check(f"skipped: row {task}", True, f"NOT measured again: {data}")
            return
        parts = " + ".join(str(len(part)) for part in (data.train, data.val, data.test))
        yield Check(f"data {task}", True, f"{parts} samples, as in the run")
        same = self.probe["machine"] == self.here
        yield checks.accuracy(data, self.last, run.events, same)
        yield checks.row(data, self.own, run.events, self.curriculum, same)

    def _scores(self, run: StoredRun, event: Event) -> Iterator[Check]:
        """Measure the scores of a baseline learner after one task again, on its checkpoint."""
        from nesa.training.strategies.learner import make_learner

        assert self.curriculum is not None
        after, names = event["task"], run.tasks
        data = [self._data(run, name) for name in names]
        if missing := [found for found in data if isinstance(found, str)]:
            yield Check(f"skipped: accuracy after {after}", True, f"NOT measured again: {missing[0]}")
            return
        tasks = [found for found in data if not isinstance(found, str)]
        empty = make_accumulation(self.curriculum, tasks)
        learner = make_learner(self.curriculum, tasks, empty, torch.device("cpu"), lambda name, fields: None)
        learner.load_state_dict(read_state(self.folder, event)["learner"])
        same = machine(run.environment) == self.here
        yield checks.scores(after, tasks[: names.index(after) + 1], learner.accuracy, run.events, same)

    def _data(self, run: StoredRun, task: str) -> TaskData | str:
        if self.curriculum is None:
            return "the curriculum cannot be used"
        return stored_data(run, self.curriculum, task, self.data)


def _guarded(name: str, part: Callable[[], Iterator[Check]]) -> Iterator[Check]:
    """Make the checks of one part; an error that a damaged file raises becomes a check that is not ok."""
    try:
        yield from part()
    except NesaError as error:
        yield Check(name, False, str(error))
    except Exception as error:
        yield Check(name, False, f"cannot be checked, what is stored makes no sense ({type(error).__name__}: {error})")


@contextlib.contextmanager
def _threads(folder: Path) -> Iterator[None]:
    """Use as many threads as the run had, because float sums depend on it."""
    before = torch.get_num_threads()
    with contextlib.suppress(RunFolderError):
        threads = read_environment(folder).get("threads")
        if isinstance(threads, int) and 0 < threads <= 1024:
            torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


__all__ = ["Check", "verify"]
