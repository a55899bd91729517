"""Test `nesa report` on a small real run against the run's own files, and on unfinished runs."""

from __future__ import annotations

import csv
import json
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser

import pytest
import small_run

from nesa.cli.commands import main
from nesa.experiment import task_figures
from nesa.experiment.run import run
from nesa.reports.run_report import report
from nesa.run_folder.events import read_events
from nesa.run_folder.lock import RunLock

TASKS = ("five", "six")


class Page(HTMLParser):
    """The tables of a page as rows of (text, value), and the addresses that it refers to."""

    def __init__(self, text):
        super().__init__()
        self.tables, self.targets, self.pictures, self.frames, self.inside = [], [], 0, [], False
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        self.inside = tag in ("td", "th")
        self.targets += [found[key] for key in ("src", "href") if key in found]
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif self.inside:
            self.tables[-1][-1].append(["", json.loads(found.get("data-value", "null"))])
        elif tag == "img":
            self.pictures += 1
        elif tag == "iframe":
            self.frames.append(found["srcdoc"])

    def handle_endtag(self, tag):
        self.inside = False

    def handle_data(self, data):
        if self.inside:
            self.tables[-1][-1][-1][0] += data


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    data = small_run.write_data(folder / "data")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(task_figures, "draw", lambda *_: None)  # the report draws what the run has not
        return run(small_run.curriculum(folder, tasks=TASKS), out=folder / "runs", name="<b>&small", data=data)


@pytest.fixture(scope="module")
def reported(finished, tmp_path_factory):
    out = tmp_path_factory.mktemp("out") / "new"
    text, page = report(finished, out)
    return text.read_text(), Page(page.read_text()), out


@pytest.fixture
def copy(finished, tmp_path):
    return shutil.copytree(finished, tmp_path / "copy")


def close(text, value):
    """Whether the text is the number, rounded as it shows."""
    shown = text.replace(",", "")
    digits = len(shown.partition(".")[2])
    if "e" in shown:
        return float(shown) == pytest.approx(value, rel=1e-3)
    return abs(float(shown) - value) <= 0.5 * 10**-digits * 1.0001 or float(shown) == pytest.approx(value, rel=5e-4)


def table(page, corner, columns):
    (found,) = (t for t in page.tables if [cell[0] for cell in t[0]] == [corner, *columns])
    return {row[0][0]: row[1:] for row in found[1:]}


def test_the_accuracy_table_is_accuracy_csv(finished, reported):
    rows = table(reported[1], "after", TASKS)
    with (finished / "accuracy.csv").open() as file:
        for line in csv.DictReader(file):
            for task in TASKS:
                text, value = rows[line["after"]][TASKS.index(task)]
                assert value == (float(line[task]) if line[task] else None)
                assert value is None or close(text, 100 * value)
    evaluated = [e for e in small_run.events(finished) if e["event"] == "evaluated"]
    assert len(evaluated) == 3
    assert all(rows[e["after"]][TASKS.index(e["task"])][1] == e["accuracy"] for e in evaluated)


def test_the_accumulation_tables_are_the_events_and_accumulation_csv(finished, reported):
    found = [t for t in reported[1].tables if [cell[0] for cell in t[0]] == ["measure", *TASKS]]
    few, whole = ({row[0][0]: row[1:] for row in t[1:]} for t in found)
    claimed = [e for e in read_events(finished) if e["event"] == "task_claimed"]
    with (finished / "accumulation.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert set(whole) == set(lines[0]) - {"task"}
    for k in range(2):
        for key, cells in whole.items():
            text, value = cells[k]
            expected = claimed[k][key]
            assert (text if isinstance(expected, str) else value) == expected
            stored = lines[k][key]
            assert stored == (
                "" if expected is None else expected if isinstance(expected, str) else json.dumps(expected)
            )
            if isinstance(value, int | float) and not isinstance(value, bool):
                assert close(text, value), (key, text, value)
        for key, cells in few.items():
            assert cells[k] == whole[key.replace(" ", "_")][k]


def test_markdown_shows_the_same_cells(reported):
    text, page, _ = reported
    rows = [
        [re.sub(r"\\(.)", r"\1", cell.strip()) for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        for line in text.splitlines()
        if line.startswith("|") and "---" not in line
    ]
    assert rows == [[cell[0] for cell in row] for t in page.tables for row in t]


def test_the_flow_is_the_reuse_that_the_run_measured(finished, reported):
    rows = table(reported[1], "task", ["input", *TASKS])
    claimed = [e for e in small_run.events(finished) if e["event"] == "task_claimed"]
    assert rows["six"][1][1] == pytest.approx(claimed[1]["reuse_share"], abs=1e-6)
    assert claimed[1]["reuse_share"] > 0
    for cells in rows.values():
        assert sum(value for _, value in cells) == pytest.approx(1)


def test_the_page_is_whole_by_itself_and_small(finished, reported):
    text, page, out = reported
    assert not [target for target in page.targets if not target.startswith(("data:", "#"))]
    assert page.pictures == 5 + 4 * len(TASKS)
    assert "<b>&" not in page.frames[0] and "data-task=" in page.frames[0]
    assert (out / "report.html").stat().st_size < 15_000_000
    assert "<b>" not in (out / "report.html").read_text().replace('<b id="shown">', "")
    links = re.findall(r"\]\(([^)]+)\)", text)
    assert len(links) == page.pictures + 1
    assert all((out / link).is_file() for link in links)
    assert not (finished / "report.html").exists(), "--out means elsewhere"
    for words in ("seed: 3", "torch", "This run is finished: seed 3, 2 of 2 tasks."):
        assert words in text


def keep_events(folder, last):
    """Remove the events after the last one of a kind."""
    lines = (folder / "events.jsonl").read_text().splitlines(keepends=True)
    end = max(n for n, line in enumerate(lines, 1) if json.loads(line)["event"] == last)
    (folder / "events.jsonl").write_text("".join(lines[:end]))


def test_a_run_in_the_middle_is_reported_as_far_as_it_is(copy):
    keep_events(copy, "task_started")
    shutil.rmtree(copy / "tasks" / "six")
    assert main(["report", str(copy)]) == 0
    text = (copy / "report.md").read_text()
    assert "This run has stopped before its end: seed 3, 1 of 2 tasks." in text
    assert "## Task five" in text and "## Task six" not in text
    with RunLock(copy):
        report(copy)
    assert "This run is still going: seed 3, 1 of 2 tasks so far." in (copy / "report.md").read_text()


@pytest.mark.parametrize("events", ["run_started", None])
def test_a_run_that_has_only_begun_has_a_report(copy, events):
    if events:
        keep_events(copy, events)
    else:
        (copy / "events.jsonl").write_text("")
    shutil.rmtree(copy / "tasks")
    text, _ = report(copy)
    assert "No task has been claimed." in text.read_text()
    assert "No structure has been stored." in text.read_text()


def test_a_run_that_lost_a_structure_is_reported_without_it(copy):
    (copy / "tasks" / "six" / "structure.npz").unlink()
    text, _ = report(copy)
    assert "## Task six" in text.read_text()


def test_figures_of_the_run_are_taken_as_they_are(copy):
    (copy / "tasks" / "five" / "weights.png").write_bytes(b"\x89PNG mine")
    (copy / "tasks" / "five" / "evolution.gif").write_bytes(b"GIF89a mine")
    _, page = report(copy)
    assert (copy / "report" / "five-weights.png").read_bytes() == b"\x89PNG mine"
    assert "data:image/gif;base64," in page.read_text()


def test_what_is_no_run_is_said_so(tmp_path, capsys):
    assert main(["report", str(tmp_path / "none")]) == 2
    assert "there is no such folder" in capsys.readouterr().err


def test_a_report_needs_no_torch(finished, tmp_path):
    script = (
        "import sys\nfrom nesa.cli.commands import main\nassert main(['report', *sys.argv[1:]]) == 0\n"
        "print([m for m in ('torch', 'avalanche', 'tensorboard') if m in sys.modules])"
    )
    command = [sys.executable, "-c", script, str(finished), "--out", str(tmp_path)]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[-1] == "[]"
