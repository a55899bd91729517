"""Rows of a study that survive interruptions: one CSV file, written whole after every row, and committed with the code.

    rows = Rows.of("spheres")  # docs/results/rows/spheres.csv
    key = {"rule": "plain", "S": 5000, "seed": 0}
    if not rows.has(**key):
        rows.add(**key, accuracy=0.9985, widths=(115, 4, 3), seconds=78.1)

The first row fixes the columns; `commit` comes first and is filled in here. A script that asks `has` before it
computes goes on where it was stopped, on any machine: a key holds only what says which row it is (sizes, prices,
names, the seed), never a time, a path or a host.
"""

from __future__ import annotations

import argparse
import csv
import fcntl
import io
import math
import os
import subprocess
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from nesa.files import write_atomically

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "docs" / "results" / "rows"
CODE = ("urn", "nesa", "benchmarks", "curricula")  # what a row depends on


class Rows:
    """The rows of the study in the CSV file `path`, read when made; `rows` holds them as text, column by column."""

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self.rows = self._read()
        self._commit = commit()  # of the code that was loaded, whatever is committed while it runs

    @classmethod
    def of(cls, name: str) -> Rows:
        """docs/results/rows/NAME.csv of this repository."""
        return cls(FOLDER / f"{name}.csv")

    def has(self, **key: Any) -> bool:
        """Is there a row with these values by now, whoever added it? Raises KeyError for what is no column."""
        self.rows = self._read()
        return bool(self.where(**key))

    def where(self, **key: Any) -> list[dict[str, str]]:
        """The rows with these values, in the order in which they were added."""
        wanted = {name: text(value) for name, value in key.items()}
        if self.rows and (unknown := wanted.keys() - self.rows[0].keys()):
            raise KeyError(f"{self.path}: no column {', '.join(sorted(unknown))}; there are {', '.join(self.rows[0])}")
        return [row for row in self.rows if all(row[name] == value for name, value in wanted.items())]

    def add(self, **row: Any) -> None:
        """Appends a row and writes the file whole. Rows that another process has added since are kept.

        Raises ValueError when seed or seconds is missing, or the columns are not those of the file."""
        if missing := {"seed", "seconds"} - row.keys():
            raise ValueError(f"{self.path}: a row says {' and '.join(sorted(missing))}")
        new = {"commit": self._commit} | {name: text(value) for name, value in row.items()}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self._alone():
            self.rows = self._read()
            columns = list(self.rows[0] if self.rows else new)
            if new.keys() != set(columns):
                extra, absent = sorted(new.keys() - set(columns)), sorted(set(columns) - new.keys())
                raise ValueError(f"{self.path}: columns are fixed by the first row; new: {extra}, missing: {absent}")
            self.rows.append({name: new[name] for name in columns})
            lines = io.StringIO()
            writer = csv.DictWriter(lines, columns, lineterminator="\n")
            writer.writeheader()
            writer.writerows(self.rows)
            write_atomically(self.path, lines.getvalue().encode())

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """No other process adds a row to a file of this folder meanwhile."""
        folder = os.open(self.path.parent, os.O_RDONLY)
        try:
            fcntl.flock(folder, fcntl.LOCK_EX)
            yield
        finally:
            os.close(folder)

    def _read(self) -> list[dict[str, str]]:
        if not self.path.exists():
            return []
        with self.path.open(newline="", encoding="utf-8") as file:
            return list(csv.DictReader(file))


def study(
    name: str,
    doc: str | None,
    studies: Mapping[str, Callable[[], Iterable[Any]]],
    run: Callable[[Any], dict[str, Any]],
    table: Callable[[list[dict[str, str]]], None],
) -> None:
    """The command line of a study whose rows are NAME.csv: STUDY [--most N] [--table].

    studies: the settings (dataclasses, the key of a row) of each study in the order in which they are run. run: the
    other columns of a setting's row. table: prints the rows that are there."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", choices=studies)
    parser.add_argument("--most", type=int, default=1000)
    parser.add_argument("--table", action="store_true")
    args = parser.parse_args()
    rows, settings = Rows.of(name), list(studies[args.study]())
    if args.table:
        table([row for setting in settings for row in rows.where(**asdict(setting))])
        return
    left = args.most
    for setting in settings:
        if not left:
            break
        if rows.has(**asdict(setting)):  # asked anew each time, as another process may be at it, too
            continue
        left -= 1
        found = run(setting)
        rows.add(**asdict(setting), **found)
        print(setting, found, flush=True)


def text(value: Any) -> str:
    """How a value stands in the file: six digits, nothing for None and NaN, spaces between the parts of a tuple."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, (tuple, list)):
        return " ".join(text(part) for part in value)
    return str(value)


def commit() -> str:
    """The commit of this code, with a + where tracked files of `CODE` differ from it; empty outside of git."""

    def git(*words: str) -> str:
        command = ["git", "-C", str(ROOT), *words]
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()

    try:
        changed = git("status", "--porcelain", "--untracked-files=no", "--", *CODE)
        return git("rev-parse", "--short=7", "HEAD") + ("+" if changed else "")
    except (OSError, subprocess.SubprocessError):
        return ""
