"""Run a grid over one curriculum: every combination of the given values, each with every seed.

    OUT/NAME/POINT-seedN/    the runs
    OUT/NAME/sweep.csv       one row a run: the values, the seed, and what came out
    OUT/NAME/front.png, .svg accuracy against size (nesa.analysis.pareto)

Both are views of the runs and are written anew after each one. The same command skips what is finished. A run that
fails (no room, divergence) is a row too, and does not stop the others; it is tried again by the same command.
"""

from __future__ import annotations

import csv
import io
import itertools
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from nesa.analysis.comparison import WHOLE, task_values
from nesa.analysis.pareto import Point, front
from nesa.config.curriculum import Curriculum
from nesa.config.loader import load
from nesa.errors import RunFailed, UserError
from nesa.experiment import multi_run
from nesa.files import file_name, write_atomically
from nesa.progress import Progress
from nesa.reports import text_table
from nesa.run_folder.reader import StoredRun

LONGEST = 120  # letters of a folder's name
MEASURES = ("acc", "bwt", "neurons_total", "claimed_share", "synapses", "seconds")


@dataclass
class Row:
    """One run of the grid. setting: key -> value as it was written. found: what came out, {} until it is finished."""

    setting: dict[str, str]
    curriculum: Curriculum
    folder: Path
    status: str = "waiting"
    fallbacks: str = ""
    found: dict[str, float] = field(default_factory=dict)

    def read(self) -> None:
        """Read the results of the finished run: MEASURES, and the accuracy of each task after the last one."""
        run = StoredRun(self.folder)
        whole, last = task_values(run, WHOLE), task_values(run, run.names[-1])
        found = {key: whole.get(key, last.get(key)) for key in MEASURES}
        found |= {f"accuracy {task}": task_values(run, task)["accuracy_end"] for task in run.names}
        self.found = {key: value for key, value in found.items() if value is not None}
        self.status, self.fallbacks = "finished", " ".join(run.start["fallbacks"])

    @property
    def point(self) -> str:
        return ", ".join(f"{key}={value}" for key, value in self.setting.items())


def axes(words: Sequence[str]) -> tuple[dict[str, list[str]], list[str]]:
    """Split key=v1,v2 words into {key: values} and the words with one value, which hold for every run.

    Commas inside brackets, braces and quotes belong to the value. Raises UserError."""
    several, single = {}, []
    for word in words:
        key, equals, text = word.partition("=")
        values = _split(text)
        if not equals or not key or "" in values:
            raise UserError(f"{word!r} is not of the form key=value1,value2, such as penalties.weight=0.1,0.3")
        if len(values) == 1:
            single.append(word)
        elif key in several or len(set(values)) < len(values):
            raise UserError(f"{word!r}: each key, and each of its values, is given once")
        else:
            several[key] = values
    return several, single


def plan(path: str | Path, words: Sequence[str], out: Path, name: str | None, seeds: Sequence[int] | None) -> list[Row]:
    """List every run of the grid, in order, checked as `nesa check` would.

    Raises CurriculumError, and UserError when no key has several values and there is one seed."""
    several, single = axes(words)
    base = load(path, single)
    seeds = list(seeds or [base.seed])
    if not several and len(seeds) < 2:
        raise UserError("a sweep needs a key with several values, such as penalties.weight=0.1,0.3,1.0, or --seeds")
    if "seed" in several or "name" in several:
        raise UserError("seeds are given as --seeds 0,1,2, and the runs are named after their values")
    place = out / (name or f"{base.name}-sweep")
    rows = []
    for values in itertools.product(*several.values()):
        setting = dict(zip(several, values, strict=True))
        curriculum = load(path, [*single, *(f"{key}={value}" for key, value in setting.items())])
        point = file_name(",".join(f"{key}={value}" for key, value in setting.items()) or base.name)
        if len(point) > LONGEST:
            raise UserError(
                f"the values {point[:LONGEST]}... are too long to name folders; write a curriculum for each"
            )
        rows += [Row(setting, replace(curriculum, seed=seed), place / f"{point}-seed{seed}") for seed in seeds]
    multi_run.check([(row.curriculum, row.folder) for row in rows])
    return rows


def sweep(
    rows: Sequence[Row],
    *,
    device: str = "cpu",
    data: Path | None = None,
    command: Sequence[str] | None = None,
    animate: bool = True,
    quiet: bool = False,
) -> None:
    """Run every row to its end and keep sweep.csv and the Pareto front up to date."""
    for row in rows:
        if multi_run.is_finished(row.folder):
            row.read()
    for number, row in enumerate(rows, start=1):
        with Progress(quiet=quiet) as progress:
            name = f"run {number} of {len(rows)}: {row.point or row.curriculum.name}, seed {row.curriculum.seed}"
            if row.found:
                progress.message(f"{name}: finished before, skipped")
                continue
            progress.message(name)
            try:
                multi_run.ensure(
                    row.curriculum,
                    row.folder,
                    device=device,
                    data=data,
                    command=command,
                    animate=animate,
                    progress=progress,
                )
                row.read()
            except RunFailed as error:
                row.status = f"failed: {error}"
                progress.warning(str(error))
        _write(rows)
    _write(rows)


def points(rows: Sequence[Row]) -> list[tuple[Point, list[Row]]]:
    """Average each setting that has finished runs over its seeds; sizes are NaN for baseline learners."""
    found = []
    for name in dict.fromkeys(row.point for row in rows):
        members = [row for row in rows if row.point == name and row.found]
        if members:
            mean, spread = [], []
            for key in ("acc", "neurons_total", "synapses"):
                values = [row.found.get(key, float("nan")) for row in members]
                mean.append(statistics.fmean(values))
                spread.append(statistics.stdev(values) if len(values) > 1 else 0.0)
            found.append((Point(name, *mean, *spread), members))
    return found


def text(rows: Sequence[Row]) -> str:
    """Format one line a setting for a terminal of 80 columns; * marks the Pareto front of accuracy against neurons."""
    made, keys = points(rows), list(rows[0].setting)
    short = [key.rpartition(".")[2] for key in keys]
    names = short if len(set(short)) == len(short) else keys
    best = front([point.neurons for point, _ in made], [point.accuracy for point, _ in made])
    lines = []
    for (point, members), on in zip(made, best, strict=True):
        many, sized = len(members) > 1, point.neurons == point.neurons
        cells = list(members[0].setting.values()) if keys else ["-"]
        cells += [str(len(members)), _shown(100 * point.accuracy, 100 * point.accuracy_spread, 1, many)]
        cells += [_shown(point.neurons, point.neurons_spread, 0, many) if sized else ""]
        cells += [_shown(point.synapses, point.synapses_spread, 0, many) if sized else ""]
        cells += [f"{statistics.fmean(row.found['seconds'] for row in members):,.0f}", "*" if on and sized else ""]
        lines.append(cells)
    used = " ".join(sorted({row.fallbacks for row in rows} - {""}))
    notes = [text_table.wrapped(f"note: fallbacks were used: {used}")] if used else []
    notes += [text_table.wrapped(f"{row.folder.name}: {row.status}") for row in rows if row.status.startswith("failed")]
    header = [*(names or ["setting"]), "runs", "mean test %", "neurons", "synapses", "seconds", "front"]
    return "\n".join([text_table.terminal(header, lines), *notes]) + "\n"


def csv_text(rows: Sequence[Row]) -> str:
    """Format one row a run as CSV, numbers in full."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    keys = list(dict.fromkeys(key for row in rows for key in row.setting))
    found = list(dict.fromkeys([*MEASURES, *(key for row in rows for key in row.found)]))
    writer.writerow([*keys, "seed", "status", "run", "fallbacks", *found])
    for row in rows:
        values: list[Any] = [row.setting.get(key, "") for key in keys]
        values += [row.curriculum.seed, row.status, row.folder.name, row.fallbacks]
        values += [row.found.get(key, "") for key in found]
        writer.writerow(values)
    return out.getvalue()


def _write(rows: Sequence[Row]) -> None:
    place = rows[0].folder.parent
    write_atomically(place / "sweep.csv", csv_text(rows).encode())
    drawn = [point for point, _ in points(rows) if point.neurons == point.neurons]
    if drawn:
        from nesa.figures.pareto import pareto_front
        from nesa.figures.style import render

        for kind, data in render(pareto_front(drawn, place.name)).items():
            write_atomically(place / f"front.{kind}", data)


def _shown(mean: float, spread: float, digits: int, many: bool) -> str:
    return f"{mean:,.{digits}f}" + (f"±{spread:,.{digits}f}" if many else "")


def _split(text: str) -> list[str]:
    """At commas that stand outside of brackets, braces and quotes."""
    parts, depth, quote = [""], 0, ""
    for letter in text:
        if quote:
            quote = "" if letter == quote else quote
        elif letter in "\"'":
            quote = letter
        else:
            depth += (letter in "[{") - (letter in "]}")
        if letter == "," and not depth and not quote:
            parts.append("")
        else:
            parts[-1] += letter
    return [part.strip() for part in parts]
