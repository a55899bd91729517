"""Print a comparison of runs as terminal tables, Markdown, CSV and one HTML page.

    text(comparison, pairs)      at most 80 columns
    markdown(comparison, pairs)
    csv_text(comparison)         one row for each task, measure and group of runs, numbers in full
    page(comparison, pairs)      self-contained: no script, no other file, curves as inline SVG

``pairs`` is nesa.analysis.comparison.similarities. Spreads follow a ±, differences carry their sign.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from typing import NamedTuple

from nesa.analysis.comparison import WHOLE, Comparison, Measurement
from nesa.analysis.similarity import Similarity
from nesa.reports import document, text_table
from nesa.reports.document import Drawing, Note, Section, Table, Text

Pairs = Sequence[tuple[str, str, Similarity]]


class Column(NamedTuple):
    """One measure in a table: its key, its heading, and its format, a key of `_number`."""

    measure: str
    heading: str
    kind: str


SHARE, COUNT, STEPS, DECIMAL, FULL = "share", "count", "steps", "decimal", "full"
TASK_COLUMNS = (
    Column("accuracy", "test %", SHARE),
    Column("accuracy_end", "end %", SHARE),
    Column("accuracy_cut", "cut %", SHARE),
    Column("neurons_claimed", "new", COUNT),
    Column("neurons_reused", "reused", COUNT),
    Column("reuse_share", "share %", SHARE),
    Column("depth_readout", "readout", STEPS),
    Column("depth_mean", "mean", DECIMAL),
    Column("depth_graph", "graph", STEPS),
    Column("synapses", "synapses", COUNT),
)
FREE_NEURONS = Column("neurons_free", "free", COUNT)
RUN_COLUMNS = (
    Column("acc", "mean test %", SHARE),
    Column("bwt", "BWT", SHARE),
    Column("neurons_total", "claimed", COUNT),
    FREE_NEURONS,
    Column("claimed_share", "claimed %", SHARE),
    Column("seconds", "seconds", COUNT),
)
KEY = (
    "test %: test accuracy right after the task, end %: after the last task, cut %: without what it reuses; new, "
    "reused: hidden neurons; share %: of its incoming weight that comes from reused neurons; readout, mean, graph: "
    "three depths. docs/method.md defines each."
)
SIMILARITY_KEY = (
    "0 is unlike, 1 the same. widths: neurons by level; fields: what matched neurons read of the input; support: "
    "synapses that both have; chance: the same under a random matching."
)


def text(comparison: Comparison, pairs: Pairs = ()) -> str:
    """Print the tables for a terminal of 80 columns."""
    tables = [_legend(comparison), *_tables(comparison, pairs)]
    legend, *shown = [text_table.terminal(table.header, table.rows) for table in tables]
    notes = [text_table.wrapped(f"note: {note}") for note in _notes(comparison)]
    return "\n\n".join([legend, *notes, *shown, *map(text_table.wrapped, _keys(pairs))]) + "\n"


def markdown(comparison: Comparison, pairs: Pairs = ()) -> str:
    """Print the tables as Markdown."""
    return document.markdown(_title(comparison), _sections(comparison, pairs))


def csv_text(comparison: Comparison) -> str:
    """Print columns task, measure, side, runs, n, mean, spread, difference, values; lists as JSON, floats in full."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["task", "measure", "side", "runs", "n", "mean", "spread", "difference", "values"])
    runs = {group.label: json.dumps([str(run.folder) for run in group.runs]) for group in comparison.groups}
    for cell in comparison.measurements.values():
        numbers = ("" if value is None else json.dumps(value) for value in (cell.mean, cell.spread, cell.difference))
        values = json.dumps(list(cell.by_run))
        writer.writerow([cell.task, cell.measure, cell.group, runs[cell.group], len(cell.values), *numbers, values])
    return out.getvalue()


def page(comparison: Comparison, pairs: Pairs = ()) -> str:
    """Print tables and curves as one HTML page. Every name in it is escaped."""
    from nesa.figures.comparison import comparison_figures, svg
    from nesa.figures.style import task_colour

    sections = _sections(comparison, pairs)
    legend = [(task_colour(at), f"{group.label} = {group.name}") for at, group in enumerate(comparison.groups)]
    for title, figure in comparison_figures(comparison):
        sections.append(Section(title, [Drawing(legend, svg(figure))]))
    return document.page(_title(comparison), [*sections, Section("Every number", [_all_measures(comparison)])])


def summary(comparison: Comparison, width: int = text_table.WIDTH) -> str:
    """Print the result of a run, or of several seeds of one curriculum: one line a task, means and spreads."""
    group, cells = comparison.groups[0], comparison.measurements
    tasks = [task for task in comparison.tasks if (task, "accuracy", group.label) in cells]
    columns = [c for c in (*TASK_COLUMNS, FREE_NEURONS) if c.measure != "synapses"]  # fits 80 columns for one run
    columns = [c for c in columns if any((task, c.measure, group.label) in cells for task in tasks)]
    if all(_unchanged(comparison, task) for task in tasks):
        columns = [c for c in columns if c.measure != "accuracy_end"]
    rows = [[task, *(_value(cells.get((task, c.measure, group.label)), c.kind) for c in columns)] for task in tasks]
    return text_table.terminal(["task", *(c.heading for c in columns)], rows, width)


def tensorboard_names(comparison: Comparison) -> list[tuple[str, str]]:
    """Name each run for TensorBoard as (name, folder): A, or A-0, A-1 for the seeds of one group."""
    return [
        (f"{group.label}-{run.seed}" if len(group.runs) > 1 else group.label, str(run.folder))
        for group in comparison.groups
        for run in group.runs
    ]


def _sections(comparison: Comparison, pairs: Pairs) -> list[Section]:
    """Build what Markdown and the page share."""
    return [
        Section("Runs", [_legend(comparison), *map(Note, _notes(comparison))]),
        Section("Measures", [*_tables(comparison, pairs), *map(Text, _keys(pairs))]),
    ]


def _title(comparison: Comparison) -> str:
    names = [group.name for group in comparison.groups]
    return " and ".join(names) if len(names) < 4 else "Runs side by side"


def _notes(comparison: Comparison) -> list[str]:
    return [*comparison.notes, *comparison.clashes.values()]


def _keys(pairs: Pairs) -> list[str]:
    return [KEY, SIMILARITY_KEY] if pairs else [KEY]


def _legend(comparison: Comparison) -> Table:
    """Tabulate the groups of runs: label, curriculum, learner, seeds."""
    rows = []
    for group in comparison.groups:
        seeds = ", ".join(str(run.seed) for run in group.runs)
        learner = str(group.first.start.get("learner", ""))
        rows.append([f"{group.label} = {group.name}", str(group.first.start["name"]), learner, seeds])
    return Table(["run", "curriculum", "learner", "seeds"], rows)


def _tables(comparison: Comparison, pairs: Pairs) -> list[Table]:
    """Tabulate the differences of the curricula, each task, the whole run, and the similarity of structures."""
    tables = []
    if comparison.unlike:
        header = ["curricula differ", *(group.label for group in comparison.groups)]
        tables.append(Table(header, [[key, *values] for key, values in comparison.unlike.items()]))
    for task in comparison.tasks:
        tables += _task_table(comparison, task, task, TASK_COLUMNS)
    tables += _task_table(comparison, WHOLE, "whole run", RUN_COLUMNS)
    if pairs:
        rows = [[f"{task}  {pair}", *_similarity_cells(similarity)] for task, pair, similarity in pairs]
        tables.append(Table(["similarity", "widths", "fields", "support", "chance", "neurons"], rows))
    return tables


def _task_table(comparison: Comparison, task: str, name: str, columns: Sequence[Column]) -> list[Table]:
    """Tabulate one task, unless nothing was measured; no column that is empty or repeats the one before it (end %)."""
    cells, labels = comparison.measurements, [group.label for group in comparison.groups]
    shown = [c for c in columns if any((task, c.measure, label) in cells for label in labels)]
    shown = [c for c in shown if c.measure != "accuracy_end" or not _unchanged(comparison, task)]
    if not shown:
        return []
    rows = [[label, *(_value(cells.get((task, c.measure, label)), c.kind) for c in shown)] for label in labels]
    for label in labels[1:]:
        row = [_difference(cells.get((task, c.measure, label)), c.kind) for c in shown]
        if any(row):
            rows.append([f"{label} - {labels[0]}", *row])
    return [Table([name, *(c.heading for c in shown)], [row for row in rows if any(row[1:])])]


def _all_measures(comparison: Comparison) -> Table:
    """Tabulate all measures of all tasks, a row each, a column for each group of runs and each difference."""
    labels = [group.label for group in comparison.groups]
    rows = []
    for task, measure in dict.fromkeys((cell.task, cell.measure) for cell in comparison.measurements.values()):
        cells = [comparison.measurements.get((task, measure, label)) for label in labels]
        values = [_value(cell, FULL) for cell in cells]
        rows.append([f"{task} {measure}", *values, *(_difference(cell, FULL) for cell in cells[1:])])
    return Table(["", *labels, *(f"{label} - {labels[0]}" for label in labels[1:])], rows, folded="Every number")


def _unchanged(comparison: Comparison, task: str) -> bool:
    """Whether the accuracy of a task after the last task is the one right after its own, in every run."""
    cells, labels = comparison.measurements, [group.label for group in comparison.groups]
    pairs = [(cells.get((task, "accuracy", label)), cells.get((task, "accuracy_end", label))) for label in labels]
    return all(a is None or b is None or a.by_run == b.by_run for a, b in pairs)


def _value(cell: Measurement | None, kind: str) -> str:
    """Format a mean, with its spread where there are several runs; '' for nothing."""
    if cell is None:
        return ""
    spread = "" if cell.spread is None else f"±{_number(cell.spread, kind, len(cell.values) > 1)}"
    return _number(cell.mean, kind, len(cell.values) > 1) + spread


def _difference(cell: Measurement | None, kind: str) -> str:
    """Format a difference of means with its sign; '' where there is none."""
    if cell is None or cell.difference is None:
        return ""
    shown = _number(abs(cell.difference), kind, len(cell.values) > 1)
    return shown if not cell.difference else f"{'+' if cell.difference > 0 else '-'}{shown}"


def _similarity_cells(similarity: Similarity) -> list[str]:
    shares = (similarity.widths, similarity.fields, similarity.support, similarity.chance)
    return [*("" if share is None else f"{share:.2f}" for share in shares), f"{similarity.matched:,}"]


def _number(number: float, kind: str, mean: bool) -> str:
    """Format a number as the column of this kind does; a mean of whole numbers has a digit more."""
    if kind == SHARE:
        return f"{100 * number:.1f}"
    if kind == COUNT:
        return f"{number:,.0f}"
    if kind == STEPS:
        return f"{number:.1f}" if mean else f"{number:.0f}"
    return f"{number:.2f}" if kind == DECIMAL else f"{number:.6g}"
