"""Compare stored runs task by task, matched by the names of the tasks; this is the data behind `nesa compare`.

A *run group* is one run, or several runs of one curriculum with different seeds; its values are then means with a
spread (standard deviation over the runs, n - 1). Groups are called A, B, ...; differences are against A. No torch here.
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

from nesa.analysis.similarity import Similarity, Structure, similarity
from nesa.config.diff import differing_values
from nesa.errors import RunFolderError, UserError
from nesa.run_folder import metrics
from nesa.run_folder.reader import StoredRun

WHOLE = "(whole run)"  # in place of a task's name; no task can have this name
TEXTS = ("task", "index", "source", "fallback")
LISTS = ("levels_claimed", "levels_reused")


def task_values(run: StoredRun, task: str) -> dict[str, float]:
    """Collect every number about a task (or, for WHOLE, about the run) by name.

    `accuracy` is the test accuracy right after the task, `accuracy_end` the one after the last task so far."""
    if task == WHOLE:
        return _run_values(run)
    found: dict[str, float] = {}
    if task in run.names:
        k = run.names.index(task)
        found = {"accuracy": float(run.R[k, k]), "accuracy_end": float(run.R[-1, k])}
    row = next((row for row in run.rows if row["task"] == task), {})
    for key, value in row.items():
        if key in LISTS:
            found |= {f"{key}_{level}": n for level, n in enumerate(value or (), start=1)}
        elif key not in TEXTS and value is not None:
            found[key] = value
    return {key: value for key, value in found.items() if not math.isnan(value)}


def _run_values(run: StoredRun) -> dict[str, float]:
    if run.end is None:
        return {}
    R = run.R
    found = {
        "acc": metrics.average_accuracy(R),
        "bwt": metrics.backward_transfer(R),
        "forgetting": metrics.forgetting(R),
    }
    if run.rows:
        found |= {key: run.rows[-1][key] for key in ("neurons_total", "neurons_free", "claimed_share")}
    found["seconds"] = run.end["seconds"]
    return {key: value for key, value in found.items() if not math.isnan(value)}


@dataclass(frozen=True)
class Measurement:
    """One measure of one task in one group of runs.

    by_run: its values, None where a run has none. difference: of the means to group A; None in group A itself, and
    where the two cannot be compared."""

    task: str
    measure: str
    group: str
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
    """label: A, B, ... name: to show. runs: of one curriculum, each with a seed of its own."""

    label: str
    name: str
    runs: tuple[StoredRun, ...]

    @property
    def first(self) -> StoredRun:
        return self.runs[0]

    def by_run(self, task: str, measure: str) -> tuple[float | None, ...]:
        return tuple(task_values(run, task).get(measure) for run in self.runs)


@dataclass(frozen=True)
class Comparison:
    """groups: at least one. tasks: every task of any group, in order. clashes: for a task that cannot be compared, why.
    notes: warnings for the reader. unlike: key of the curriculum -> its value in each group."""

    groups: tuple[RunGroup, ...]
    tasks: tuple[str, ...]
    clashes: Mapping[str, str]
    notes: tuple[str, ...]
    unlike: Mapping[str, list[str]]

    @cached_property
    def measurements(self) -> dict[tuple[str, str, str], Measurement]:
        """Map (task, measure, label of the group) to everything that was measured."""
        return {(found.task, found.measure, found.group): found for found in self._measure()}

    def _measure(self) -> Iterator[Measurement]:
        for task in (*self.tasks, WHOLE):
            known = {key: None for group in self.groups for run in group.runs for key in task_values(run, task)}
            for measure in known:
                base = _known(self.groups[0].by_run(task, measure))
                for group in self.groups:
                    by_run = group.by_run(task, measure)
                    if not (values := _known(by_run)):
                        continue
                    compared = group is not self.groups[0] and base and not self._clash(task)
                    difference = statistics.fmean(values) - statistics.fmean(base) if compared else None
                    yield Measurement(task, measure, group.label, by_run, difference)

    def _clash(self, task: str) -> bool:
        """Return whether a task cannot be compared; the whole run can where all groups share all their tasks."""
        if task != WHOLE:
            return task in self.clashes
        return bool(self.clashes) or any(set(group.first.tasks) != set(self.tasks) for group in self.groups)


def compare(folders: Sequence[str | Path]) -> Comparison:
    """Compare the runs in `folders`; RunFolderError for a folder that is no run or has not begun.

    UserError when nothing can be compared: other inputs, no task in common, or no task with the same data."""
    if len({Path(folder).resolve() for folder in folders}) < len(folders):
        raise UserError("the same run is given twice; give each run once")
    groups = group_by_curriculum([_open(folder) for folder in folders])
    shapes = {group.label: " x ".join(map(str, _input_shape(group.first))) for group in groups}
    if len(set(shapes.values())) > 1:
        raise UserError(f"{_legend(groups)}: not comparable, their inputs differ: {_join(shapes)}")
    tasks = tuple(dict.fromkeys(task for group in groups for task in group.first.tasks))
    clashes = {task: why for task in tasks if (why := _clash_of(task, groups))}
    shared = [task for task in tasks if all(task in group.first.tasks for group in groups)]
    if not shared:
        names = {group.label: ", ".join(group.first.tasks) for group in groups}
        raise UserError(f"{_legend(groups)}: not comparable, no task is in all of them: {_join(names, '; ')}")
    if not set(shared) - clashes.keys():
        raise UserError(f"{_legend(groups)}: not comparable. {'; '.join(clashes.values())}")
    keys = differing_values([_tree(group.first.curriculum) for group in groups])
    return Comparison(groups, tasks, clashes, tuple(_notes(groups)), {k: v for k, v in keys.items() if k != "seed"})


def summarize(folders: Sequence[str | Path]) -> Comparison:
    """Put runs of one curriculum into one group, for means and spreads over their seeds."""
    runs = tuple(_open(folder) for folder in folders)
    group = RunGroup("A", _name(runs), runs)
    return Comparison((group,), tuple(runs[0].tasks), {}, tuple(_notes((group,))), {})


def group_by_curriculum(runs: Sequence[StoredRun]) -> tuple[RunGroup, ...]:
    """Group runs with different seeds of one curriculum, on the same sources and fallbacks."""
    groups: list[tuple[str, list[StoredRun]]] = []
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


def _open(folder: str | Path) -> StoredRun:
    run = StoredRun(folder)
    if not run.start:
        raise RunFolderError(f"{run.folder}: this run has not begun; start it with `nesa resume {run.folder}`")
    return run


def _input_shape(run: StoredRun) -> list[int]:
    """Return the shape of a sample as the network reads it: [channels, rows, columns], or [D]."""
    size, grid = run.curriculum["input"]["size"], run.curriculum["network"].get("grid")
    if len(size) == 1:
        return list(size)
    return [run.curriculum["input"].get("channels", 1), *(size if grid is None else (grid[1], grid[0]))]


def _data_digest(run: StoredRun, task: str) -> str | None:
    return dict(zip(run.tasks, run.start.get("data", []), strict=False)).get(task)


def label(at: int) -> str:
    """Return the label of group number `at`: A to Z, then A1 to Z1, ..."""
    return chr(ord("A") + at % 26) + (str(at // 26) if at >= 26 else "")


def _known(values: Sequence[float | None]) -> tuple[float, ...]:
    return tuple(value for value in values if value is not None)


def _name(runs: Sequence[StoredRun]) -> str:
    names = [run.folder.resolve().name for run in runs]
    if len(runs) == 1:
        return names[0]
    alike = itertools.takewhile(lambda letters: len(set(letters)) == 1, zip(*names, strict=False))
    shared = "".join(letters[0] for letters in alike).rstrip("-_0123456789")
    shared = shared.removesuffix("seed").rstrip("-_") or str(runs[0].start["name"])
    return f"{shared}, {len(runs)} seeds"


def _tree(curriculum: Mapping[str, Any]) -> dict[str, Any]:
    """Key the tasks by name, so that a moved task counts as the same one, and add their order as a key of its own."""
    tasks = {task["name"]: task for task in curriculum["tasks"]}
    return {**curriculum, "order": " ".join(tasks), "tasks": tasks}


def _clash_of(task: str, groups: Sequence[RunGroup]) -> str:
    """Explain why the groups' measures of a task are not of the same data; "" when they may be."""
    present = [group for group in groups if task in group.first.tasks]
    sources = {group.label: _source(group.first, task) for group in present}
    if len(set(sources.values())) > 1:
        return f"task {task}: other data: {_join(sources)}"
    for group in present[1:]:
        for run in group.runs:
            for other in present[0].runs:
                pair = _data_digest(other, task), _data_digest(run, task)
                if run.seed == other.seed and None not in pair and pair[0] != pair[1]:
                    return (
                        f"task {task}: {present[0].label} and {group.label} name the same source and seed, but the "
                        "samples differ (another data folder, or another version of what makes them)"
                    )
    return ""


def _source(run: StoredRun, task: str) -> str:
    """Describe the data of a task in words that are equal for equal data."""
    config = next(entry for entry in run.curriculum["tasks"] if entry["name"] == task)
    started = {event["task"]: event for event in run.events if event["event"] == "task_started"}
    used = started.get(task, {})
    stand_in = used.get("fallback", any(name.startswith(f"{task}=") for name in run.start.get("fallbacks", ())))
    params = config.get("fallback_params" if stand_in else "params") or {}
    source = used.get("source_used") or config["fallback" if stand_in else "source"]
    shown = f" {{{', '.join(f'{key}: {value}' for key, value in sorted(params.items()))}}}" if params else ""
    return f"{'the fallback ' if stand_in else ''}{source}{shown}"


def _notes(groups: Sequence[RunGroup]) -> Iterator[str]:
    for group in groups:
        for run in group.runs:
            if run.start.get("fallbacks"):
                yield f"{group.label}: {run.folder.name} used a fallback: {', '.join(run.start['fallbacks'])}"
            if run.end is None:
                done = f"{len(run.names)} of {len(run.tasks)} tasks done"
                yield f"{group.label}: {run.folder.name} is not finished, {done}"
    for what, read in (("code (commit)", _commit), ("torch", _torch), ("device", _device)):
        found = {group.label: ", ".join(sorted({read(run) for run in group.runs})) for group in groups}
        if len(set(found.values())) > 1 or any("," in value for value in found.values()):
            yield f"made with other {what}: {_join(found)}"


def _commit(run: StoredRun) -> str:
    commit = run.environment.get("commit")
    return f"{commit[:8]}{' with changes' if run.environment.get('changed') else ''}" if commit else "unknown"


def _torch(run: StoredRun) -> str:
    return str(run.environment.get("versions", {}).get("torch"))


def _device(run: StoredRun) -> str:
    return str(run.environment.get("device")).partition(":")[0]


def _join(values: Mapping[str, str], gap: str = ", ") -> str:
    return gap.join(f"{label} {value}" for label, value in values.items())


def _legend(groups: Sequence[RunGroup]) -> str:
    return ", ".join(f"{group.label} = {group.name}" for group in groups)


def similarities(comparison: Comparison, most: int = 12) -> list[tuple[str, str, Similarity]]:
    """Compare the first run's structure with each other run's, as (task, "A - B", similarity).

    For every comparable task that all runs have claimed, or for the last of them alone when more than ``most``
    structures would be read."""
    runs = [(group, run) for group in comparison.groups for run in group.runs]
    tasks = [task for task in comparison.tasks if task not in comparison.clashes]
    tasks = [task for task in tasks if all(task in run.claimed for _, run in runs)]
    if len(runs) < 2 or not tasks:
        return []
    if len(runs) * len(tasks) > most:
        tasks = tasks[-1:]
    found = []
    for task in tasks:
        structures = [Structure.of(run.structure(task)) for _, run in runs]
        names = [group.label + (f" seed {run.seed}" if len(group.runs) > 1 else "") for group, run in runs]
        found += [
            (task, f"{names[0]} - {name}", similarity(structures[0], structure))
            for name, structure in zip(names[1:], structures[1:], strict=True)
        ]
    return found
