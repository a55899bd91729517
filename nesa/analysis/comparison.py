"""Runs side by side, aligned by the names of their tasks: what `nesa compare` shows, as data.

A *side* is one run, or several runs of one curriculum with different seeds; its values are then means with a spread
(standard deviation over the runs, n - 1). Sides are called A, B, ... and differences are against A. Everything is read
from events.jsonl, of which accuracy.csv and accumulation.csv are views. No torch here.
"""

from __future__ import annotations

import itertools
import json
import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from nesa.analysis.similarity import Similarity, Structure, similarity
from nesa.config.diff import unlike
from nesa.errors import RunFolderError, UserError
from nesa.run_folder import metrics, tables
from nesa.run_folder.events import began, finished, read_events
from nesa.run_folder.layout import CURRICULUM, load_structure, read_environment

WHOLE = "(whole run)"  # stands where a task's name stands; no task can be called so
TEXTS = ("task", "index", "source", "fallback")
LISTS = ("levels_claimed", "levels_reused")


class Run:
    """One stored run, finished or not."""

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        self.events = read_events(self.folder)
        start = began(self.events)
        if start is None:
            raise RunFolderError(f"{self.folder}: this run has not begun; start it with `nesa resume {self.folder}`")
        text = start.get("curriculum") or (self.folder / CURRICULUM).read_text("utf-8")
        self.curriculum: dict[str, Any] = yaml.safe_load(text)
        self.start, self.seed = start, start["seed"]
        self.tasks: list[str] = list(start["tasks"])
        self.environment = read_environment(self.folder)
        self.end = finished(self.events)
        self.finished = self.end is not None
        self.names, self.R = tables.accuracy(self.events)
        self.rows = {row["task"]: row for row in tables.accumulation(self.events)}
        self.began = {event["task"]: event for event in self.events if event["event"] == "task_started"}
        self.digests = dict(zip(self.tasks, start.get("data", []), strict=False))

    @property
    def shape(self) -> list[int]:
        """Of a sample as the network sees it: [channels, rows, columns], or [D]."""
        size, grid = self.curriculum["input"]["size"], self.curriculum["network"].get("grid")
        if len(size) == 1:
            return list(size)
        return [self.curriculum["input"].get("channels", 1), *(size if grid is None else (grid[1], grid[0]))]

    def values(self, task: str) -> dict[str, float]:
        """Every number that is known about a task (or, for WHOLE, about the run), by name. `accuracy` is the test
        accuracy right after the task, `accuracy_end` the one after the last task so far."""
        if task == WHOLE:
            return self._whole()
        found: dict[str, float] = {}
        if task in self.names:
            k = self.names.index(task)
            found = {"accuracy": float(self.R[k, k]), "accuracy_end": float(self.R[-1, k])}
        for key, value in self.rows.get(task, {}).items():
            if key in LISTS:
                found |= {f"{key}_{level}": n for level, n in enumerate(value or (), start=1)}
            elif key not in TEXTS and value is not None:
                found[key] = value
        return {key: value for key, value in found.items() if not math.isnan(value)}

    def _whole(self) -> dict[str, float]:
        if self.end is None:
            return {}
        found = {"acc": metrics.acc(self.R), "bwt": metrics.bwt(self.R), "forgetting": metrics.forgetting(self.R)}
        if self.rows:
            last = list(self.rows.values())[-1]
            found |= {key: last[key] for key in ("neurons_total", "neurons_free", "claimed_share")}
        found["seconds"] = self.end["seconds"]
        return {key: value for key, value in found.items() if not math.isnan(value)}


@dataclass(frozen=True)
class Measurement:
    """One measure of one task on one side: its values run by run (None where a run has none), and the difference of
    the means to side A (None on side A itself, and where the two cannot be compared)."""

    task: str
    measure: str
    side: str
    by_run: tuple[float | None, ...]
    difference: float | None

    @property
    def values(self) -> tuple[float, ...]:
        return _known(self.by_run)

    @property
    def mean(self) -> float:
        return statistics.fmean(self.values)

    @property
    def spread(self) -> float | None:
        return statistics.stdev(self.values) if len(self.values) > 1 else None


@dataclass(frozen=True)
class RunGroup:
    """label: A, B, ... name: for people. runs: of one curriculum, each with a seed of its own."""

    label: str
    name: str
    runs: tuple[Run, ...]

    @property
    def first(self) -> Run:
        return self.runs[0]

    def by_run(self, task: str, measure: str) -> tuple[float | None, ...]:
        return tuple(run.values(task).get(measure) for run in self.runs)


@dataclass(frozen=True)
class Comparison:
    """sides: at least one. tasks: every task of any side, in order. clashes: for a task that cannot be compared, why.
    notes: what a reader must know. unlike: key of the curriculum -> what each side says."""

    sides: tuple[RunGroup, ...]
    tasks: tuple[str, ...]
    clashes: Mapping[str, str]
    notes: tuple[str, ...]
    unlike: Mapping[str, list[str]]

    @cached_property
    def cells(self) -> dict[tuple[str, str, str], Measurement]:
        """(task, measure, side's label) -> Cell, for everything that was measured."""
        return {(cell.task, cell.measure, cell.side): cell for cell in self._cells()}

    def _cells(self) -> Iterator[Measurement]:
        for task in (*self.tasks, WHOLE):
            known = {key: None for side in self.sides for run in side.runs for key in run.values(task)}
            for measure in known:
                base = _known(self.sides[0].by_run(task, measure))
                for side in self.sides:
                    by_run = side.by_run(task, measure)
                    if not (values := _known(by_run)):
                        continue
                    compared = side is not self.sides[0] and base and not self._clash(task)
                    difference = statistics.fmean(values) - statistics.fmean(base) if compared else None
                    yield Measurement(task, measure, side.label, by_run, difference)

    def _clash(self, task: str) -> bool:
        """The whole run is comparable when all of its tasks are, and are the same."""
        if task != WHOLE:
            return task in self.clashes
        return bool(self.clashes) or any(set(side.first.tasks) != set(self.tasks) for side in self.sides)


def compare(folders: Sequence[str | Path]) -> Comparison:
    """The comparison of the runs in `folders`. Raises RunFolderError for a folder that is no run, and UserError when
    nothing in them can be compared: other inputs, no task in common, or no task that saw the same data."""
    if len({Path(folder).resolve() for folder in folders}) < len(folders):
        raise UserError("the same run is given twice; give each run once")
    sides = grouped([Run(folder) for folder in folders])
    shapes = {side.label: " x ".join(map(str, side.first.shape)) for side in sides}
    if len(set(shapes.values())) > 1:
        raise UserError(f"{_legend(sides)}: not comparable, their inputs differ: {_each(shapes)}")
    tasks = tuple(dict.fromkeys(task for side in sides for task in side.first.tasks))
    clashes = {task: why for task in tasks if (why := _clash_of(task, sides))}
    shared = [task for task in tasks if all(task in side.first.tasks for side in sides)]
    if not shared:
        names = {side.label: ", ".join(side.first.tasks) for side in sides}
        raise UserError(f"{_legend(sides)}: not comparable, no task is in all of them: {_each(names, '; ')}")
    if not set(shared) - clashes.keys():
        raise UserError(f"{_legend(sides)}: not comparable. {'; '.join(clashes.values())}")
    keys = unlike([_tree(side.first.curriculum) for side in sides])
    return Comparison(sides, tasks, clashes, tuple(_notes(sides)), {k: v for k, v in keys.items() if k != "seed"})


def together(folders: Sequence[str | Path]) -> Comparison:
    """Runs of one curriculum as the single side of a comparison with nothing."""
    runs = tuple(Run(folder) for folder in folders)
    side = RunGroup("A", _name(runs), runs)
    return Comparison((side,), tuple(runs[0].tasks), {}, tuple(_notes((side,))), {})


def grouped(runs: Sequence[Run]) -> tuple[RunGroup, ...]:
    """Runs of one curriculum and one data situation, each with another seed, are one side."""
    groups: list[tuple[str, list[Run]]] = []
    for run in runs:
        key = json.dumps([run.curriculum | {"seed": None}, run.start.get("fallbacks")], sort_keys=True, default=str)
        for other, members in groups:
            if other == key and run.seed not in [member.seed for member in members]:
                members.append(run)
                break
        else:
            groups.append((key, [run]))
    names = [_name(members) for _, members in groups]
    if len(set(names)) < len(names):
        names = [", ".join(str(run.folder) for run in members) for _, members in groups]
    return tuple(
        RunGroup(label(at), name, tuple(members))
        for at, (name, (_, members)) in enumerate(zip(names, groups, strict=True))
    )


def label(at: int) -> str:
    """A to Z, then A1 to Z1, ..."""
    return chr(ord("A") + at % 26) + (str(at // 26) if at >= 26 else "")


def _known(values: Sequence[float | None]) -> tuple[float, ...]:
    return tuple(value for value in values if value is not None)


def _name(runs: Sequence[Run]) -> str:
    names = [run.folder.resolve().name for run in runs]
    if len(runs) == 1:
        return names[0]
    alike = itertools.takewhile(lambda letters: len(set(letters)) == 1, zip(*names, strict=False))
    shared = "".join(letters[0] for letters in alike).rstrip("-_0123456789")
    shared = shared.removesuffix("seed").rstrip("-_") or str(runs[0].start["name"])
    return f"{shared}, {len(runs)} seeds"


def _tree(curriculum: Mapping[str, Any]) -> dict[str, Any]:
    """Tasks by name, so that a task which moved is still the same task; their order by itself."""
    tasks = {task["name"]: task for task in curriculum["tasks"]}
    return {**curriculum, "order": " ".join(tasks), "tasks": tasks}


def _clash_of(task: str, sides: Sequence[RunGroup]) -> str:
    """Why the sides' figures on a task are not of the same data; '' when they may be."""
    present = [side for side in sides if task in side.first.tasks]
    sources = {side.label: _source(side.first, task) for side in present}
    if len(set(sources.values())) > 1:
        return f"task {task}: other data: {_each(sources)}"
    for side in present[1:]:
        for run in side.runs:
            for other in present[0].runs:
                pair = other.digests.get(task), run.digests.get(task)
                if run.seed == other.seed and None not in pair and pair[0] != pair[1]:
                    return (
                        f"task {task}: {present[0].label} and {side.label} name the same source and seed, but the "
                        "samples differ (another data folder, or another version of what makes them)"
                    )
    return ""


def _source(run: Run, task: str) -> str:
    """What a task was learned on, in words that are equal for equal data."""
    config = next(entry for entry in run.curriculum["tasks"] if entry["name"] == task)
    used = run.began.get(task, {})
    stand_in = used.get("fallback", any(name.startswith(f"{task}=") for name in run.start.get("fallbacks", ())))
    params = config.get("fallback_params" if stand_in else "params") or {}
    source = used.get("source_used") or config["fallback" if stand_in else "source"]
    shown = f" {{{', '.join(f'{key}: {value}' for key, value in sorted(params.items()))}}}" if params else ""
    return f"{'the fallback ' if stand_in else ''}{source}{shown}"


def _notes(sides: Sequence[RunGroup]) -> Iterator[str]:
    for side in sides:
        for run in side.runs:
            if run.start.get("fallbacks"):
                yield f"{side.label}: {run.folder.name} used a fallback: {', '.join(run.start['fallbacks'])}"
            if not run.finished:
                done = f"{len(run.names)} of {len(run.tasks)} tasks done"
                yield f"{side.label}: {run.folder.name} is not finished, {done}"
    for what, read in (("code (commit)", _commit), ("torch", _torch), ("device", _device)):
        found = {side.label: ", ".join(sorted({read(run) for run in side.runs})) for side in sides}
        if len(set(found.values())) > 1 or any("," in value for value in found.values()):
            yield f"made with other {what}: {_each(found)}"


def _commit(run: Run) -> str:
    commit = run.environment.get("commit")
    return f"{commit[:8]}{' with changes' if run.environment.get('changed') else ''}" if commit else "unknown"


def _torch(run: Run) -> str:
    return str(run.environment.get("versions", {}).get("torch"))


def _device(run: Run) -> str:
    return str(run.environment.get("device")).partition(":")[0]


def _each(values: Mapping[str, str], gap: str = ", ") -> str:
    return gap.join(f"{label} {value}" for label, value in values.items())


def _legend(sides: Sequence[RunGroup]) -> str:
    return ", ".join(f"{side.label} = {side.name}" for side in sides)


def similarities(comparison: Comparison, most: int = 12) -> list[tuple[str, str, Similarity]]:
    """(task, "A - B", likeness) of the first run's structure and each other run's, for every task that all runs have
    claimed and that can be compared; for the last of them alone when more than ``most`` structures would be read."""
    runs = [(side, run) for side in comparison.sides for run in side.runs]
    tasks = [task for task in comparison.tasks if task not in comparison.clashes]
    tasks = [task for task in tasks if all(task in run.rows for _, run in runs)]
    if len(runs) < 2 or not tasks:
        return []
    if len(runs) * len(tasks) > most:
        tasks = tasks[-1:]
    found = []
    for task in tasks:
        structures = [Structure.of(load_structure(run.folder, task)) for _, run in runs]
        names = [side.label + (f" seed {run.seed}" if len(side.runs) > 1 else "") for side, run in runs]
        found += [
            (task, f"{names[0]} - {name}", similarity(structures[0], structure))
            for name, structure in zip(names[1:], structures[1:], strict=True)
        ]
    return found
