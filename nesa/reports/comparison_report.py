"""A comparison for people: the terminal's tables, the same in Markdown, every number as CSV, and one HTML page.

    text(comparison, pairs)      at most 80 columns
    markdown(comparison, pairs)
    csv_text(comparison)         one row for each task, measure and side, numbers in full
    page(comparison, pairs)      self-contained: no script, nothing is loaded from elsewhere, curves as inline SVG

``pairs`` is nesa.analysis.comparison.likenesses. Percentages are of 100, spreads stand behind a +-, differences carry their sign.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Sequence
from html import escape

from nesa.analysis.comparison import WHOLE, Comparison, Measurement
from nesa.analysis.similarity import Similarity
from nesa.reports import text_table

Pairs = Sequence[tuple[str, str, Similarity]]
Table = tuple[list[str], list[list[str]]]
Writer = Callable[[Sequence[str], text_table.Rows], str]

SHARE, COUNT, STEPS, DECIMAL = "share", "count", "steps", "decimal"
TASK = (  # measure, heading, kind
    ("accuracy", "test %", SHARE),
    ("accuracy_end", "end %", SHARE),
    ("accuracy_cut", "cut %", SHARE),
    ("neurons_claimed", "new", COUNT),
    ("neurons_reused", "reused", COUNT),
    ("reuse_share", "share %", SHARE),
    ("depth_readout", "readout", STEPS),
    ("depth_mean", "mean", DECIMAL),
    ("depth_graph", "graph", STEPS),
    ("synapses", "synapses", COUNT),
)
ROOM = ("neurons_free", "free", COUNT)
RUN = (
    ("acc", "mean test %", SHARE),
    ("bwt", "BWT", SHARE),
    ("neurons_total", "claimed", COUNT),
    ("neurons_free", "free", COUNT),
    ("claimed_share", "claimed %", SHARE),
    ("seconds", "seconds", COUNT),
)
KEY = (
    "test %: test accuracy right after the task, end %: after the last task, cut %: without what it reuses; new, "
    "reused: hidden neurons; share %: of its incoming weight that comes from reused neurons; readout, mean, graph: "
    "three depths. docs/method.md defines each."
)
LIKENESS_KEY = (
    "0 is unlike, 1 the same. widths: neurons by level; fields: what matched neurons read of the input; support: "
    "synapses that both have; chance: the same under a random matching."
)
STYLE = """body{font:15px/1.5 system-ui,sans-serif;color:#262626;background:#fff;max-width:62rem;margin:2rem auto;
padding:0 1rem}table{border-collapse:collapse;margin:.6rem 0 1.4rem;display:block;overflow-x:auto}
th,td{padding:.2rem .7rem;text-align:right;border-bottom:1px solid #e2e2e2;font-variant-numeric:tabular-nums}
th:first-child,td:first-child{text-align:left}th{font-weight:600}svg{max-width:100%;height:auto}
.note{background:#fff4d6;padding:.4rem .8rem;border-left:4px solid #ffa90e}.quiet{color:#5a5a5a;font-size:.9em}
.dot{display:inline-block;width:.8em;height:.8em;border-radius:50%;margin-right:.4em}"""


def text(comparison: Comparison, pairs: Pairs = ()) -> str:
    """For a terminal of 80 columns."""
    blocks = [text_table.terminal(*legend(comparison))]
    blocks += [text_table.wrapped(f"note: {note}") for note in (*comparison.notes, *comparison.clashes.values())]
    blocks += [text_table.terminal(*table) for table in _tables(comparison, pairs)]
    return (
        "\n\n".join([*blocks, text_table.wrapped(KEY), *([text_table.wrapped(LIKENESS_KEY)] if pairs else ())]) + "\n"
    )


def markdown(comparison: Comparison, pairs: Pairs = ()) -> str:
    blocks = [f"# {_title(comparison)}", text_table.markdown(*legend(comparison))]
    blocks += [f"**Note:** {note}" for note in (*comparison.notes, *comparison.clashes.values())]
    blocks += [text_table.markdown(*table) for table in _tables(comparison, pairs)]
    return "\n\n".join([*blocks, KEY, *([LIKENESS_KEY] if pairs else ())]) + "\n"


def csv_text(comparison: Comparison) -> str:
    """Columns task, measure, side, runs, n, mean, spread, difference, values; lists as JSON, floats in full."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["task", "measure", "side", "runs", "n", "mean", "spread", "difference", "values"])
    runs = {side.label: json.dumps([str(run.folder) for run in side.runs]) for side in comparison.sides}
    for cell in comparison.cells.values():
        numbers = ("" if value is None else json.dumps(value) for value in (cell.mean, cell.spread, cell.difference))
        values = json.dumps(list(cell.by_run))
        writer.writerow([cell.task, cell.measure, cell.side, runs[cell.side], len(cell.values), *numbers, values])
    return out.getvalue()


def page(comparison: Comparison, pairs: Pairs = ()) -> str:
    """One HTML file. Every name in it is escaped."""
    from nesa.figures.comparison import comparison_figures, svg
    from nesa.figures.style import task_colour

    header, rows = legend(comparison)
    dots = {
        side.label: f'<span class="dot" style="background:{task_colour(at)}"></span>'
        for at, side in enumerate(comparison.sides)
    }
    parts = [f"<h1>{escape(_title(comparison))}</h1>", _html(header, rows, dots)]
    notes = (*comparison.notes, *comparison.clashes.values())
    parts += [f'<p class="note">{escape(note)}</p>' for note in notes]
    parts += [_html(*table) for table in _tables(comparison, pairs)]
    parts += [f'<p class="quiet">{escape(words)}</p>' for words in (KEY, *((LIKENESS_KEY,) if pairs else ()))]
    sides = " &nbsp; ".join(f"{dots[side.label]}{escape(side.label)}" for side in comparison.sides)
    for title, figure in comparison_figures(comparison):
        parts.append(f"<h2>{escape(title)}</h2>\n<p>{sides}</p>\n{svg(figure)}")
    parts.append(f"<details><summary>Every number</summary>{_html(*everything(comparison))}</details>")
    head = f'<meta charset="utf-8"><title>{escape(_title(comparison))}</title><style>{STYLE}</style>'
    return f"<!doctype html>\n<html lang=en><head>{head}</head><body>\n" + "\n".join(parts) + "\n</body></html>\n"


def summary(comparison: Comparison, width: int = text_table.WIDTH) -> str:
    """What a run, or several seeds of one curriculum, came to: one line a task, means and spreads over the seeds."""
    side, cells = comparison.sides[0], comparison.cells
    tasks = [task for task in comparison.tasks if (task, "accuracy", side.label) in cells]
    wanted = [m for m in (*TASK, ROOM) if m[0] != "synapses"]  # one block of 80 columns for one run
    shown = [m for m in wanted if any((task, m[0], side.label) in cells for task in tasks)]
    if all(_unchanged(comparison, task) for task in tasks):
        shown = [m for m in shown if m[0] != "accuracy_end"]
    rows = [[task, *(value(cells.get((task, m[0], side.label)), m[2]) for m in shown)] for task in tasks]
    return text_table.terminal(["task", *(m[1] for m in shown)], rows, width)


def board_names(comparison: Comparison) -> list[tuple[str, str]]:
    """(name, folder) of each run, for TensorBoard to lay the runs over one another under the names that are used
    here: A, or A-0, A-1 for the seeds of one side."""
    return [
        (f"{side.label}-{run.seed}" if len(side.runs) > 1 else side.label, str(run.folder))
        for side in comparison.sides
        for run in side.runs
    ]


def legend(comparison: Comparison) -> Table:
    rows = []
    for side in comparison.sides:
        seeds = ", ".join(str(run.seed) for run in side.runs)
        learner = str(side.first.start.get("learner", ""))
        rows.append([f"{side.label} = {side.name}", str(side.first.start["name"]), learner, seeds])
    return ["run", "curriculum", "learner", "seeds"], rows


def everything(comparison: Comparison) -> Table:
    """All measures of all tasks, a row each, a column for each side and each difference."""
    labels = [side.label for side in comparison.sides]
    rows = []
    for task, measure in dict.fromkeys((cell.task, cell.measure) for cell in comparison.cells.values()):
        cells = [comparison.cells.get((task, measure, label)) for label in labels]
        values = [value(cell, "") for cell in cells]
        rows.append([f"{task} {measure}", *values, *(difference(cell, "") for cell in cells[1:])])
    return ["", *labels, *(f"{label} - {labels[0]}" for label in labels[1:])], rows


def value(cell: Measurement | None, kind: str) -> str:
    """The mean, with its spread where there are several runs; '' for nothing."""
    if cell is None:
        return ""
    spread = "" if cell.spread is None else f"±{_number(cell.spread, kind, len(cell.values) > 1)}"
    return _number(cell.mean, kind, len(cell.values) > 1) + spread


def difference(cell: Measurement | None, kind: str) -> str:
    if cell is None or cell.difference is None:
        return ""
    shown = _number(abs(cell.difference), kind, len(cell.values) > 1)
    return shown if not cell.difference else f"{'+' if cell.difference > 0 else '-'}{shown}"


def _number(number: float, kind: str, mean: bool) -> str:
    if kind == SHARE:
        return f"{100 * number:.1f}"
    if kind == COUNT:
        return f"{number:,.0f}"
    if kind == STEPS:
        return f"{number:.1f}" if mean else f"{number:.0f}"
    if kind == DECIMAL:
        return f"{number:.2f}"
    return f"{number:.6g}"


def _tables(comparison: Comparison, pairs: Pairs) -> list[Table]:
    found = []
    if comparison.unlike:
        rows = [[key, *values] for key, values in comparison.unlike.items()]
        found.append((["curricula differ", *(side.label for side in comparison.sides)], rows))
    for task in comparison.tasks:
        found += _task_table(comparison, task, task, TASK)
    found += _task_table(comparison, WHOLE, "whole run", RUN)
    if pairs:
        rows = [[f"{task}  {pair}", *_likeness(found_)] for task, pair, found_ in pairs]
        found.append((["likeness", "widths", "fields", "support", "chance", "neurons"], rows))
    return found


def _task_table(comparison: Comparison, task: str, name: str, measures: Sequence[tuple[str, str, str]]) -> list[Table]:
    """No table where nothing was measured; no column that is empty, or that repeats the one before it (end %)."""
    cells, labels = comparison.cells, [side.label for side in comparison.sides]
    shown = [m for m in measures if any((task, m[0], label) in cells for label in labels)]
    shown = [m for m in shown if m[0] != "accuracy_end" or not _unchanged(comparison, task)]
    if not shown:
        return []
    rows = [[label, *(value(cells.get((task, m[0], label)), m[2]) for m in shown)] for label in labels]
    for label in labels[1:]:
        row = [difference(cells.get((task, m[0], label)), m[2]) for m in shown]
        if any(row):
            rows.append([f"{label} - {labels[0]}", *row])
    return [([name, *(m[1] for m in shown)], [row for row in rows if any(row[1:])])]


def _unchanged(comparison: Comparison, task: str) -> bool:
    """Whether the task scores after the last task what it scored right after its own, on every side."""
    cells, labels = comparison.cells, [side.label for side in comparison.sides]
    pairs = [(cells.get((task, "accuracy", label)), cells.get((task, "accuracy_end", label))) for label in labels]
    return all(a is None or b is None or a.by_run == b.by_run for a, b in pairs)


def _likeness(found: Similarity) -> list[str]:
    shares = (found.widths, found.fields, found.support, found.chance)
    return [*("" if share is None else f"{share:.2f}" for share in shares), f"{found.matched:,}"]


def _title(comparison: Comparison) -> str:
    return " and ".join(side.name for side in comparison.sides) if len(comparison.sides) < 4 else "Runs side by side"


def _html(header: Sequence[str], rows: text_table.Rows, marks: dict[str, str] | None = None) -> str:
    def line(tag: str, cells: Sequence[str]) -> str:
        mark = (marks or {}).get(cells[0].partition(" ")[0], "")
        return f"<tr>{''.join(f'<{tag}>{mark * (not at)}{escape(cell)}</{tag}>' for at, cell in enumerate(cells))}</tr>"

    return f"<table>{line('th', header)}{''.join(line('td', row) for row in rows)}</table>"
