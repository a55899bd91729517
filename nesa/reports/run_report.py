"""`nesa report RUN`: what one run has come to, as report.md and as one self-contained report.html.

Everything is read from the run folder (events, structures, figures): nothing is measured again and torch is not
imported. Numbers are those of events.jsonl; the page keeps each in full beside the rounded one (``data-value``).
A run that is not finished gets a report of what there is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nesa.errors import RunFolderError
from nesa.reports.document import Block, Code, Frame, Picture, Section, Table, Text, markdown, page
from nesa.run_folder import tables
from nesa.run_folder.events import began, finished, read_events
from nesa.run_folder.layout import (
    CURRICULUM,
    failed,
    file_name,
    load_structure,
    read_environment,
    task_folder,
    write_whole,
)
from nesa.run_folder.lock import is_held

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from nesa.analysis.connectome import Connectome

MOST = 14_000_000  # bytes of report.html
SHORT = (
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
OF_A_TASK = {
    "connectome": "synapses in space: forward red, lateral black, backward green",
    "weights": "weight matrix, sorted by level",
    "activities": "mean activity, sorted by level",
    "receptive_fields": "what the new neurons read of the input",
    "evolution": "the structure while it was trained",
}


def report(folder: str | Path, out: str | Path | None = None) -> tuple[Path, Path]:
    """Writes report.md (with its pictures in report/) and report.html into ``out``, by default the run's own folder;
    returns both paths. RunFolderError for what is no run or is damaged, RunFailed when ``out`` cannot be written."""
    folder = Path(folder)
    out = folder if out is None else Path(out)
    run = _Run(folder, out)
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
        raise failed(out, error) from error
    for name, content in run.files.items():
        write_whole(out / "report" / name, content)
    text, html = out / "report.md", out / "report.html"
    write_whole(text, markdown(title, sections).encode())
    write_whole(html, page(title, sections).encode())
    return text, html


class _Run:
    """What a report says of one run, section by section; ``files`` collects the pictures of report.md."""

    def __init__(self, folder: Path, out: Path):
        self.folder, self.out = folder, out
        self.events = read_events(folder)
        self.facts = read_environment(folder)
        self.curriculum = (folder / CURRICULUM).read_text("utf-8", errors="replace")
        self.rows = tables.accumulation(self.events)
        self.claimed = [row["task"] for row in self.rows]
        self.start: Mapping[str, Any] = began(self.events) or {}
        self.end = finished(self.events)
        self.name = folder.resolve().name
        self.files: dict[str, bytes] = {}
        self.weight = 0  # of the pictures so far
        self.structures, self.web = self._wiring()

    def result(self) -> list[Block]:
        names, R = tables.accuracy(self.events)
        blocks: list[Block] = [Text(self._status())]
        blocks += [Text(f"Warning: {e['message']}") for e in self.events if e["event"] == "warning"]
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
        if not self.rows:
            return [Text("No task has been claimed.")]
        from nesa.figures.run import depth_over_tasks, neurons_by_level

        keys = [key for key in tables.ACCUMULATION if key != "task"]
        whole = [[key, *(row[key] for row in self.rows)] for key in keys]
        few = [[key.replace("_", " "), *(row[key] for row in self.rows)] for key in SHORT]
        bars, depth = neurons_by_level(self.rows), depth_over_tasks(self.rows, self.start.get("iterations"))
        return [
            Table(("measure", *self.claimed), few, _number),
            Table(
                ("measure", *self.claimed), whole, _number, folded="every measure (docs/method.md says what each is)"
            ),
            self._drawn("neurons_by_level", "neurons by level and owner after each task", bars),
            self._drawn("depth", "depth over tasks", depth),
        ]

    def structure(self) -> list[Block]:
        web = self.web
        if web is None or not web.names:
            return [Text("No structure has been stored.")]
        from nesa.analysis.connectome import flow
        from nesa.figures.connectome_page import scene
        from nesa.figures.run import owner_flow

        matrix = flow(web)
        total = matrix.sum(1, keepdims=True)
        shares = matrix / (total + (total == 0))
        rows = [[name, *map(float, row)] for name, row in zip(web.names, shares, strict=True)]
        content = scene(web, title=f"{self.name}: connectome")
        self.weight += len(content)
        self.files["connectome.html"] = content.encode()
        return [
            Text("Share of each task's incoming |W|, in percent, by the owner of the sending neuron."),
            Table(("task", "input", *web.names), rows, _percent),
            self._drawn("owner_flow", "what each task reads", owner_flow(matrix, web.names)),
            Frame("the connectome, one layer for each task", content, "report/connectome.html"),
        ]

    def task(self, name: str) -> list[Block]:
        row = next(row for row in self.rows if row["task"] == name)
        words = Text(
            f"{row['neurons_claimed']:,} new neurons, {row['synapses']:,} synapses in the network that answers it, "
            f"{row['neurons_reused']:,} neurons of earlier tasks read."
            if None not in (row["neurons_claimed"], row["synapses"], row["neurons_reused"])
            else "Not all of its measures are stored."
        )
        found = [self._stored(name, kind, f"{name}: {caption}") for kind, caption in OF_A_TASK.items()]
        return [words, *(block for block in found if block is not None)]

    def training(self) -> list[Block]:
        from nesa.figures.training import training_curves

        caption = "at the end of each epoch; dotted: training accuracy; dot: validation accuracy after settling"
        return [self._drawn("training", caption, training_curves(self.events))]

    def environment(self) -> list[tuple[str, str]]:
        flat: dict[str, Any] = {}
        for key, value in self.facts.items():
            flat |= {f"{key}.{k}": v for k, v in value.items()} if isinstance(value, dict) else {key: value}
        return [(key, str(value)) for key, value in flat.items()]

    def _status(self) -> str:
        done = (
            f"{len(self.claimed) or len(tables.accuracy(self.events)[0])} of {len(self.start.get('tasks', ()))} tasks"
        )
        seed = f"seed {self.start['seed']}, " if "seed" in self.start else ""
        if self.end is not None:
            return f"This run is finished: {seed}{done}."
        if is_held(self.folder):
            return f"This run is still going: {seed}{done} so far. What follows will change."
        return f"This run has stopped before its end: {seed}{done}. `nesa resume` goes on with it."

    def _wiring(self) -> tuple[dict[str, Any], Connectome | None]:
        from nesa.analysis.connectome import assemble_connectome

        found: dict[str, Any] = {}
        for name in self.claimed:
            try:
                found[name] = load_structure(self.folder, name)
            except RunFolderError:  # the run is between two files, or somebody has removed one
                break
        return found, assemble_connectome(found) if found else None

    def _drawn(self, name: str, caption: str, figure: Figure) -> Picture:
        from nesa.figures.style import render

        files = render(figure)
        self.files[f"{name}.png"] = files["png"]
        self.weight += len(files["svg"])
        return Picture(caption, "svg", files["svg"], f"report/{name}.png")

    def _stored(self, task: str, name: str, caption: str) -> Block | None:
        """A figure that the run drew, or one that is drawn now because it has none."""
        folder = task_folder(self.folder, task)
        kind = next((kind for kind in ("gif", "png") if (folder / f"{name}.{kind}").is_file()), None)
        if kind is not None:
            content = (folder / f"{name}.{kind}").read_bytes()
        elif (figure := self._missing(task, name)) is not None:
            from nesa.figures.style import render

            kind, content = "png", render(figure)["png"]
        else:
            return None
        if self.weight + 4 * len(content) // 3 > MOST:
            return Text(f"{caption}: left out, or this page would be too large; it lies in tasks/{file_name(task)}/.")
        self.weight += 4 * len(content) // 3
        link = f"{file_name(task)}-{name}.{kind}"
        self.files[link] = content
        return Picture(caption, kind, content, f"report/{link.replace('%', '%25').replace(' ', '%20')}")

    def _missing(self, task: str, name: str) -> Figure | None:
        if task not in self.structures or self.web is None:
            return None
        from nesa.analysis.connectome import fields
        from nesa.figures import run

        part, web = self.structures[task], self.web
        draw: dict[str, Callable[[], Figure]] = {
            "connectome": lambda: run.connectome(
                part["W"], part["positions"], None if web.grid else part["levels"], part["owner"]
            ),
            "weights": lambda: run.weight_matrix(part["W"], None, part["levels"]),
            "activities": lambda: run.activities(part["strength"], part["levels"]),
        }
        *channels, height, width = [1, *part["shape"].tolist()][-3:] if len(part["shape"]) > 1 else (1, 1, 0)
        if width:
            W_in = fields(web, web.names.index(task))
            draw["receptive_fields"] = lambda: run.receptive_fields(W_in, (height, width), channels=channels[0])
        return draw[name]() if name in draw else None


def _percent(value: Any) -> str:
    return f"{100 * value:.2f}"


def _number(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    return ", ".join(map(_number, value)) if isinstance(value, Sequence) else f"{value:,}"


__all__ = ["report"]
