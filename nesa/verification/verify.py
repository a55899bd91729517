"""Every promise that a stored run makes, checked again in one process.

| check | what is done |
|---|---|
| events | the digests in events.jsonl: nothing that came before them was edited |
| curriculum | curriculum.yaml says what the run began with |
| tables | accuracy.csv, accumulation.csv and the last event equal what events.jsonl says |
| files TASK | checkpoint, structure and probe load as data, are what the run wrote, and agree with each other |
| one way, weights, answers, recorded TASK | see nesa.verification.checks; the stored probe is enough, no data set is needed |
| data TASK, accuracy TASK, row TASK | R and the row of accumulation.csv, measured again on the run's own data |

It only reads. A check that had to be left out says "skipped" in its name.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from nesa.config.curriculum import Curriculum
from nesa.config.loader import load
from nesa.datasets import registry
from nesa.datasets.registry import DataDirs
from nesa.errors import NesaError, RunFolderError
from nesa.inference.saved_run import accumulation_of, checkpointed, machine, read_probe, read_state, read_structure
from nesa.run_folder import metrics, tables
from nesa.run_folder.digest import data_digest, event_digest
from nesa.run_folder.environment import environment
from nesa.run_folder.events import began, finished, new_event, read_events
from nesa.run_folder.layout import CHECKPOINT, CURRICULUM, check_run, read_environment, task_folder
from nesa.run_folder.resume_state import check_curriculum
from nesa.training.accumulation import Accumulation
from nesa.training.task_data import TaskData, load_task
from nesa.verification import checks
from nesa.verification.checks import Check


def verify(folder: str | Path, data: str | Path | None = None) -> list[Check]:
    """All checks of the run in `folder`; `data` is the folder of data sets, as for `nesa run`.

    A damaged run gives checks that are not ok. Raises RunFolderError only where there is no run at all."""
    return list(_Verification(check_run(folder), None if data is None else Path(data)).checks())


class _Verification:
    """One pass over the tasks; besides the last accumulation, only that of the task in hand is in memory."""

    def __init__(self, folder: Path, data: Path | None):
        self.folder, self.data = folder, data
        self.events: list[dict[str, Any]] = []
        self.curriculum: Curriculum | None = None
        self.here: dict[str, Any] = {}  # this machine, as nesa.inference.saved_run.machine names it
        self.last: Accumulation | None = None  # of the last checkpoint that can be read
        self.own: Accumulation | None = None  # what had been accumulated right after the task in hand
        self.probe: dict[str, Any] = {}

    def checks(self) -> Iterator[Check]:
        with _threads(self.folder):
            self.here = machine(environment(0))
            yield from _guarded("events", self._events)
            if not self.events:
                return
            yield from _guarded("curriculum", self._curriculum)
            yield from _guarded("tables", self._tables)
            saved = checkpointed(self.events)
            if not saved:
                yield Check("tasks", False, "no task is finished yet, so there is nothing to verify")
            self.last = self._last(saved)
            for event in saved:
                task, self.own = str(event.get("task")), None
                yield from _guarded(f"files {task}", lambda event=event: self._files(event))
                if self.own is not None:
                    yield from _guarded(f"promises {task}", lambda task=task: self._promises(task))
                    yield from _guarded(f"data {task}", lambda task=task: self._measured(task))
                elif self._claims_nothing():
                    yield from _guarded(f"accuracy after {task}", lambda event=event: self._row_of_r(event))

    def _claims_nothing(self) -> bool:
        """Is this a run of one of the rivals?"""
        return self.curriculum is not None and self.curriculum.learner.name != "neural_pruning"

    def _last(self, saved: list[Mapping[str, Any]]) -> Accumulation | None:
        for event in reversed(saved):
            with contextlib.suppress(Exception):  # what is wrong with it is said where its files are checked
                path = task_folder(self.folder, event["task"]) / CHECKPOINT
                return accumulation_of(read_state(self.folder, event), path)
        return None

    # --- what is written -----------------------------------------------------------------------------------------

    def _events(self) -> Iterator[Check]:
        events = read_events(self.folder)
        if not events or events[0]["event"] != "run_started":
            yield Check("events", False, "events.jsonl does not begin with run_started: the run has not begun")
            return
        self.events = events
        for at, event in enumerate(events):
            if event["event"] == "checkpointed" and event_digest(events[:at]) != event["events"]:
                yield Check("events", False, f"an event before line {at + 1} of events.jsonl was edited or lost")
                return
        names, done = _start(events)["tasks"], checkpointed(events)
        left = [name for name in names if name not in [event["task"] for event in done]]
        missing = f"; not finished: {', '.join(left) or 'the last event'} to come with `nesa resume`"
        rest = "" if finished(events) else missing
        yield Check("events", True, f"{len(events)} events, {len(done)} of {len(names)} tasks{rest}")

    def _curriculum(self) -> Iterator[Check]:
        self.curriculum = load(self.folder / CURRICULUM)
        check_curriculum(self.folder, self.events)
        times = sum(event["event"] == "extended" for event in self.events)
        yield Check("curriculum", True, f"as the run was last extended, {times} x" if times else "as the run began")

    def _tables(self) -> Iterator[Check]:
        names, R = tables.accuracy(self.events)
        rows = tables.accumulation(self.events)
        wanted = {"accuracy.csv": tables.accuracy_csv(names, R) if names else ""}
        wanted["accumulation.csv"] = tables.accumulation_csv(rows) if rows else ""
        for file, text in wanted.items():
            path = self.folder / file
            found = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
            if found != text:
                lines, other = text.splitlines(), found.splitlines()
                at = next((i for i, pair in enumerate(zip(lines, other, strict=False)) if pair[0] != pair[1]), None)
                place = f"line {at + 1}" if at is not None else f"{len(other)} lines instead of {len(lines)}"
                yield Check("tables", False, f"{file} is not what events.jsonl says: {place}")
                return
        figures = {"acc": metrics.acc, "bwt": metrics.bwt, "forgetting": metrics.forgetting}
        for at, event in enumerate(self.events):
            if event["event"] != "run_finished":  # one at the end, and one before each extension
                continue
            _, then = tables.accuracy(self.events[:at])
            for key, figure in figures.items():
                if event[key] != new_event("", {key: figure(then)}, [])[key]:
                    detail = f"line {at + 1} of events.jsonl says {key} {event[key]}, R gives {figure(then)}"
                    yield Check("tables", False, detail)
                    return
        yield Check("tables", True, f"accuracy.csv ({len(names)} x {len(names)}) and accumulation.csv equal the events")

    def _files(self, event: Mapping[str, Any]) -> Iterator[Check]:
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

    # --- what is promised ----------------------------------------------------------------------------------------

    def _promises(self, task: str) -> Iterator[Check]:
        assert self.own is not None and self.last is not None
        yield checks.one_way(task, self.own)
        yield checks.weights(task, self.own, self.last)
        yield checks.answers(task, self.own, self.last, self.probe["x"])
        yield checks.recorded(task, self.own, self.probe, self.here)

    def _measured(self, task: str) -> Iterator[Check]:
        assert self.own is not None and self.last is not None and self.curriculum is not None
        data = self._data(task)
        if isinstance(data, str):
            yield Check(f"skipped: accuracy {task}", True, f"NOT measured again: {data}")
            yield Check(f"skipped: row {task}", True, f"NOT measured again: {data}")
            return
        parts = " + ".join(str(len(part)) for part in (data.train, data.val, data.test))
        yield Check(f"data {task}", True, f"{parts} samples, as in the run")
        same = self.probe["machine"] == self.here
        yield checks.accuracy(data, self.last, self.events, same)
        yield checks.row(data, self.own, self.events, self.curriculum, same)

    def _row_of_r(self, event: Mapping[str, Any]) -> Iterator[Check]:
        """For a learner that claims nothing: the scores after one task, measured again on its checkpoint."""
        from nesa.experiment.session import make_accumulation
        from nesa.training.strategies.template import make_learner

        assert self.curriculum is not None
        after, names = event["task"], _start(self.events)["tasks"]
        data = [self._data(name) for name in names]
        if missing := [found for found in data if isinstance(found, str)]:
            yield Check(f"skipped: accuracy after {after}", True, f"NOT measured again: {missing[0]}")
            return
        whole = [found for found in data if not isinstance(found, str)]
        empty = make_accumulation(self.curriculum, whole)
        learner = make_learner(self.curriculum, whole, empty, torch.device("cpu"), lambda name, fields: None)
        learner.load_state_dict(read_state(self.folder, event)["learner"])
        same = machine(read_environment(self.folder)) == self.here
        yield checks.scores(after, whole[: names.index(after) + 1], learner.accuracy, self.events, same)

    def _data(self, task: str) -> TaskData | str:
        if self.curriculum is None:
            return "the curriculum cannot be used"
        return stored_data(self.curriculum, self.events, task, self.data)


def stored_data(
    curriculum: Curriculum, events: Sequence[Mapping[str, Any]], task: str, data: Path | None
) -> TaskData | str:
    """The data that a stored run had for a task, or why they cannot be had. events: of the run. data: the folder of
    data sets, as for `nesa run`. RunFolderError when those here are others."""
    started = next(e for e in events if e["event"] == "task_started" and e["task"] == task)
    as_used, places = _as_used(curriculum, started), DataDirs(data)
    config = as_used.tasks[started["index"]]
    if registry.find(config.source).foreign:  # whoever made this folder could name any function
        return f"{config.source} is somebody's code, which is not run here"
    if not registry.available(config.source, config.params, places):
        return f"the data of {config.source} are not on this machine; name their folder with --data"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the run has said them
        found = load_task(as_used, started["index"], places)
    start = _start(events)
    if data_digest(found) != start["data"][start["tasks"].index(task)]:
        raise RunFolderError(f"the data of {task} are not those of the run, so nothing can be measured on them")
    return found


def _start(events: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    start = began(events)
    assert start is not None  # nothing is checked in a run that has not begun
    return start


def _as_used(curriculum: Curriculum, started: Mapping[str, Any]) -> Curriculum:
    """The curriculum with the source that the run used for the task, be it the fallback, and no other way out."""
    index = started["index"]
    task = replace(curriculum.tasks[index], fallback=None)
    if started["fallback"]:
        asked = curriculum.tasks[index]
        task = replace(task, source=asked.fallback or asked.source, params=asked.fallback_params)
    return replace(curriculum, tasks=(*curriculum.tasks[:index], task, *curriculum.tasks[index + 1 :]))


def _guarded(name: str, part: Callable[[], Iterator[Check]]) -> Iterator[Check]:
    """The checks of one part; whatever a damaged file makes of them is a check that is not ok, never a traceback."""
    try:
        yield from part()
    except NesaError as error:
        yield Check(name, False, str(error))
    except Exception as error:
        yield Check(name, False, f"cannot be checked, what is stored makes no sense ({type(error).__name__}: {error})")


@contextlib.contextmanager
def _threads(folder: Path) -> Iterator[None]:
    """As many threads as the run had: float sums depend on it."""
    before = torch.get_num_threads()
    with contextlib.suppress(RunFolderError):
        wanted = read_environment(folder).get("threads")
        if isinstance(wanted, int) and 0 < wanted <= 1024:
            torch.set_num_threads(wanted)
    try:
        yield
    finally:
        torch.set_num_threads(before)


__all__ = ["Check", "verify"]
