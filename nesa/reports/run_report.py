"""Write the report of one run (`nesa report RUN`) as report.md and as one self-contained report.html.

Everything is read from the run folder (events, structures, figures): nothing is measured again and torch is not
imported. Numbers are those of events.jsonl; the page keeps each in full beside the rounded one (``data-value``).
An unfinished run is reported as far as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nesa.errors import RunFolderError
from nesa.files import file_name, write_atomically, write_failure
from nesa.reports.document import Block, Code, Frame, Picture, Section, Table, Text, markdown, page
from nesa.run_folder import tables
from nesa.run_folder.layout import task_folder
from nesa.run_folder.reader import StoredRun

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from nesa.analysis.connectome import Connectome

MOST_BYTES = 14_000_000  # of report.html
MAIN_MEASURES = (
    "source",
    "accuracy_test",
    "accuracy_test_before",
    "accuracy_cut",
    "neurons_claimed",
    "neurons_reused",
    "reuse_share",
    "depth_readout",
    "depth_mean",
    "depth_graph",
    "synapses",
    "seconds",
)
TASK_FIGURES = {
    "connectome": "synapses in space: forward red, lateral black, backward green",
    "weights": "weight matrix, sorted by level",
    "activities": "mean activity, sorted by level",
    "receptive_fields": "what the new neurons read of the input",
    "evolution": "the structure while it was trained",
}


def report(folder: str | Path, out: str | Path | None = None) -> tuple[Path, Path]:
    """Write report.md (with its pictures in report/) and report.html, and return both paths.

    out: by default the run's own folder. RunFolderError for what is no run or is damaged, RunFailed when ``out`` cannot
    be written.
    """
    folder = Path(folder)
    out = folder if out is None else Path(out)
    run = _RunSections(folder)
    sections = [
        Section("Result", run.result()),
        Section("Accumulation", run.accumulation()),
        Section("Structure", run.structure()),
        *(Section(f"Task {name}", run.task(name)) for name in run.claimed),
        Section("Training", run.training()),
        Section("Curriculum", [Code("curriculum.yaml", run.curriculum)]),
        Section("Environment", [Text("What environment.json says."), Table(("", ""), run.environment())]),
    ]
    title = f"{run.name}: report"
    try:
        out.mkdir(parents=True, exist_ok=True)
        (out / "report").mkdir(exist_ok=True)
    except OSError as error:
        raise write_failure(out, error) from error
    for name, content in run.files.items():
        write_atomically(out / "report" / name, content)
    text, html = out / "report.md", out / "report.html"
    write_atomically(text, markdown(title, sections).encode())
    write_atomically(html, page(title, sections).encode())
    return text, html


class _RunSections:
    """The blocks of each section. files: pictures of report.md, by name. size: bytes of the pictures in the page."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.run = run = StoredRun(folder)
        self.facts, self.curriculum = run.environment, run.curriculum_text
        self.rows, self.claimed = run.rows, run.claimed
        self.start, self.end = run.start, run.end
        self.name = folder.resolve().name
        self.files: dict[str, bytes] = {}
        self.size = 0
        self.structures, self.connectome = self._load_structures()

    def result(self) -> list[Block]:
        """Show the status, warnings, the measures of the whole run, and the accuracy matrix."""
        names, R = self.run.accuracy
        blocks: list[Block] = [Text(self._status())]
        blocks += [Text(f"Warning: {e['message']}") for e in self.run.events if e["event"] == "warning"]
        if self.start.get("fallbacks"):
            blocks.append(Text(f"Not the data that the curriculum names: {', '.join(self.start['fallbacks'])}."))
        if self.end is not None:
            found = [(key, self.end[key]) for key in ("acc", "bwt", "forgetting", "seconds") if key in self.end]
            blocks.append(Table(("measure", "value"), [pair for pair in found if pair[1] is not None], _number))
        if names:
            rows = [[name, *(None if r != r else float(r) for r in row)] for name, row in zip(names, R, strict=True)]
            blocks.append(Text("Test accuracy in percent: a row after each task, a column for each task measured."))
            blocks.append(Table(("after", *names), rows, _percent))
        from nesa.figures.run import accuracy_matrix

        return [
            *blocks,
            self._drawn("accuracy", "test accuracy of each task after each task", accuracy_matrix(R, names)),
        ]

    def accumulation(self) -> list[Block]:
        """Show the accumulation table, neurons by level, and depth over tasks."""
        if not self.rows:
            return [Text("No task has been claimed.")]
        from nesa.figures.run import depth_over_tasks, neurons_by_level

        keys = [key for key in tables.ACCUMULATION if key != "task"]
        every = [[key, *(row[key] for row in self.rows)] for key in keys]
        main = [[key.replace("_", " "), *(row[key] for row in self.rows)] for key in MAIN_MEASURES]
        bars, depth = neurons_by_level(self.rows), depth_over_tasks(self.rows, self.start.get("iterations"))
        return [
            Table(("measure", *self.claimed), main, _number),
            Table(("measure", *self.claimed), every, _number, folded="every measure (docs/method.md defines each)"),
            self._drawn("neurons_by_level", "neurons by level and owner after each task", bars),
            self._drawn("depth", "depth over tasks", depth),
        ]

    def structure(self) -> list[Block]:
        """Show which task reads which, and the connectome."""
        connectome = self.connectome
        if connectome is None or not connectome.names:
            return [Text("No structure has been stored.")]
        from nesa.analysis.connectome import flow
        from nesa.figures.connectome_page import connectome_page
        from nesa.figures.run import owner_flow

        matrix = flow(connectome)
        total = matrix.sum(1, keepdims=True)
        shares = matrix / (total + (total == 0))
        rows = [[name, *map(float, row)] for name, row in zip(connectome.names, shares, strict=True)]
        content = connectome_page(connectome, title=f"{self.name}: connectome")
        self.size += len(content)
        self.files["connectome.html"] = content.encode()
        return [
            Text("Share of each task's incoming |W|, in percent, by the owner of the sending neuron."),
            Table(("task", "input", *connectome.names), rows, _percent),
            self._drawn("owner_flow", "what each task reads", owner_flow(matrix, connectome.names)),
            Frame("the connectome, one layer for each task", content, "report/connectome.html"),
        ]

    def task(self, name: str) -> list[Block]:
        """Show the numbers and the figures of one task."""
        row = next(row for row in self.rows if row["task"] == name)
        sizes = Text(
            f"{row['neurons_claimed']:,} new neurons, {row['synapses']:,} synapses in the network that answers it, "
            f"{row['neurons_reused']:,} neurons of earlier tasks read."
            if None not in (row["neurons_claimed"], row["synapses"], row["neurons_reused"])
            else "Not all of its measures are stored."
        )
        figures = [self._stored(name, kind, f"{name}: {caption}") for kind, caption in TASK_FIGURES.items()]
        return [sizes, *(block for block in figures if block is not None)]

    def training(self) -> list[Block]:
        """Show the training curves."""
        from nesa.figures.training import training_curves

        caption = "at the end of each epoch; dotted: training accuracy; dot: validation accuracy after pruning"
        return [self._drawn("training", caption, training_curves(self.run.events))]

    def environment(self) -> list[tuple[str, str]]:
        """Flatten environment.json to rows of key and value."""
        flat: dict[str, Any] = {}
        for key, value in self.facts.items():
            flat |= {f"{key}.{k}": v for k, v in value.items()} if isinstance(value, dict) else {key: value}
        return [(key, str(value)) for key, value in flat.items()]

    def _status(self) -> str:
        done = f"{len(self.claimed) or len(self.run.names)} of {len(self.start.get('tasks', ()))} tasks"
        seed = f"seed {self.start['seed']}, " if "seed" in self.start else ""
        if self.end is not None:
            return f"This run is finished: {seed}{done}."
        if self.run.status == "running":
            return f"This run is still going: {seed}{done} so far. What follows will change."
        return f"This run has stopped before its end: {seed}{done}. `nesa resume` goes on with it."

    def _load_structures(self) -> tuple[dict[str, Any], Connectome | None]:
        from nesa.analysis.connectome import assemble_connectome

        structures: dict[str, Any] = {}
        for name in self.claimed:
            try:
                structures[name] = self.run.structure(name)
            except RunFolderError:  # a running run writes it right now, or it was removed
                break
        return structures, assemble_connectome(structures) if structures else None

    def _drawn(self, name: str, caption: str, figure: Figure) -> Picture:
        """Render a figure: SVG for the page, PNG for report.md."""
        from nesa.figures.style import render

        files = render(figure)
        self.files[f"{name}.png"] = files["png"]
        self.size += len(files["svg"])
        return Picture(caption, "svg", files["svg"], f"report/{name}.png")

    def _stored(self, task: str, name: str, caption: str) -> Block | None:
        """Take a figure that the run drew, or draw it now where there is none."""
        folder = task_folder(self.folder, task)
        kind = next((kind for kind in ("gif", "png") if (folder / f"{name}.{kind}").is_file()), None)
        if kind is not None:
            content = (folder / f"{name}.{kind}").read_bytes()
        elif (figure := self._draw_missing(task, name)) is not None:
            from nesa.figures.style import render

            kind, content = "png", render(figure)["png"]
        else:
            return None
        if self.size + 4 * len(content) // 3 > MOST_BYTES:
            return Text(f"{caption}: left out, or this page would be too large; it lies in tasks/{file_name(task)}/.")
        self.size += 4 * len(content) // 3
        link = f"{file_name(task)}-{name}.{kind}"
        self.files[link] = content
        return Picture(caption, kind, content, f"report/{link.replace('%', '%25').replace(' ', '%20')}")

    def _draw_missing(self, task: str, name: str) -> Figure | None:
        """Draw a figure of one task from its stored structure; None where that is not possible."""
        if task not in self.structures or self.connectome is None:
            return None
        from nesa.analysis.connectome import fields
        from nesa.figures import connectome, network

        arrays, grid = self.structures[task], self.connectome.grid
        draw: dict[str, Callable[[], Figure]] = {
            "connectome": lambda: connectome.connectome(
                arrays["W"], arrays["positions"], None if grid else arrays["levels"], arrays["owner"]
            ),
            "weights": lambda: network.weight_matrix(arrays["W"], None, arrays["levels"]),
            "activities": lambda: network.activities(arrays["strength"], arrays["levels"]),
        }
        *channels, height, width = [1, *arrays["shape"].tolist()][-3:] if len(arrays["shape"]) > 1 else (1, 1, 0)
        if width:
            W_in = fields(self.connectome, self.connectome.names.index(task))
            draw["receptive_fields"] = lambda: network.receptive_fields(W_in, (height, width), channels=channels[0])
        return draw[name]() if name in draw else None


def _percent(value: Any) -> str:
    return f"{100 * value:.2f}"


def _number(value: Any) -> str:
    """Format a measure: numbers in four digits, lists with commas, booleans as yes or no."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    return ", ".join(map(_number, value)) if isinstance(value, Sequence) else f"{value:,}"


__all__ = ["report"]
