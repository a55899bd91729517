"""A run that an earlier version has written can still be read, verified, resumed and extended.

tests/fixtures/run_of_822fa7f: two tasks of `small_run`, made by `nesa run` at commit 822fa7f; its figures and
TensorBoard files are left out. The data are made again here.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import small_run
import torch

import nesa
from nesa.analysis.comparison import compare
from nesa.experiment.run import extend, resume
from nesa.reports.run_report import report
from nesa.run_folder.reader import StoredRun, read_probe
from nesa.verification.verify import verify

FIXTURE = Path(__file__).parents[1] / "fixtures" / "run_of_822fa7f"


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return small_run.write_data(tmp_path_factory.mktemp("data"), negatives=True)


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """A copy of the run; figures of further tasks are not drawn."""
    monkeypatch.setattr("nesa.experiment.task_figures.draw", lambda *_: None)
    return Path(shutil.copytree(FIXTURE, tmp_path / "old"))


@pytest.fixture(autouse=True)
def threads():
    """As many as the run had, so that its logits can be repeated to the bit on the same machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def all_checks_hold(folder: Path, data: Path) -> bool:
    checks = verify(folder, data)
    assert not [check for check in checks if not check.ok or check.name.startswith("skipped")]
    return len(checks) > 10


def test_it_opens_and_answers_as_it_recorded(folder):
    saved = nesa.load(folder)
    assert saved.names == ["five", "six"] and saved.run.status == "finished"
    for event in saved.run.checkpoints:
        probe = read_probe(folder, event)
        assert torch.allclose(saved.task(event["task"])(probe["x"]), probe["logits"], rtol=1e-4, atol=1e-4)


def test_every_check_holds(folder, data):
    assert all_checks_hold(folder, data)


def test_it_can_be_extended(folder, data):
    more = small_run.write_curriculum(folder.parent, tasks=("ten",))
    more.write_text("tasks:" + more.read_text().partition("tasks:")[2])
    before = StoredRun(folder)
    extend(folder, more, data=data)
    after = StoredRun(folder)
    assert after.status == "finished" and after.names == ["five", "six", "ten"]
    assert list(after.R[2, :2]) == list(before.R[1]), "earlier answers changed"
    assert all_checks_hold(folder, data)


def test_it_resumes_at_the_task_that_is_missing(folder, data):
    lines = (folder / "events.jsonl").read_text().splitlines(keepends=True)
    first = next(at for at, line in enumerate(lines) if json.loads(line)["event"] == "checkpointed")
    (folder / "events.jsonl").write_text("".join(lines[: first + 1]))
    shutil.rmtree(folder / "tasks" / "six")
    resume(folder, data=data)
    run = StoredRun(folder)
    assert run.status == "finished" and run.names == ["five", "six"]
    assert run.R[1, 0] == StoredRun(FIXTURE).R[1, 0], "the first task's answers changed"
    assert all_checks_hold(folder, data)


def test_it_is_reported_and_compared(folder):
    text, page = report(folder)
    assert "This run is finished: seed 3, 2 of 2 tasks." in text.read_text() and page.stat().st_size > 10_000
    other = Path(shutil.copytree(FIXTURE, folder.parent / "other"))
    comparison = compare([folder, other])
    assert comparison.tasks == ("five", "six") and comparison.measurements["six", "accuracy", "B"].difference == 0
