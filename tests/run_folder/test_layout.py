"""nesa.run_folder.layout: names that stay inside the run folder, and folders that are no run."""

from __future__ import annotations

from datetime import datetime

import pytest

from nesa.errors import RunFolderError
from nesa.run_folder import layout as run_folder


@pytest.fixture
def run(tmp_path):
    for name, text in (("curriculum.yaml", "name: x\n"), ("environment.json", '{"seed": 3}'), ("events.jsonl", "")):
        (tmp_path / name).write_text(text)
    return tmp_path


@pytest.mark.parametrize(
    "name", ["../up", "/etc/passwd", "..", ".", ".hidden", "a/b", "a\\b", "nul\0byte", "ä", "%2e%2e"]
)
def test_a_name_cannot_leave_its_folder(tmp_path, name):
    path = run_folder.task_folder(tmp_path, name)
    path.mkdir(parents=True)
    assert path.resolve().parent == (tmp_path / "tasks").resolve()
    assert not path.name.startswith(".")


def test_new_folders_are_named_by_time_and_never_twice(tmp_path):
    now = datetime(2024, 5, 6, 7, 8, 9)
    first = run_folder.new_folder(tmp_path, "vision", now)
    assert first == tmp_path / "vision-20240506-070809"
    assert not first.exists()
    first.mkdir()
    second = run_folder.new_folder(tmp_path, "vision", now)
    assert second.name == "vision-20240506-070809-2"
    second.mkdir()
    assert run_folder.new_folder(tmp_path, "vision", now).name == "vision-20240506-070809-3"


def test_a_folder_that_is_not_a_run_is_told_what_it_lacks(tmp_path, run):
    assert run_folder.is_run(run)
    with pytest.raises(RunFolderError, match="no such folder"):
        run_folder.check_run(tmp_path / "nowhere")
    (run / "environment.json").unlink()
    assert not run_folder.is_run(run)
    with pytest.raises(RunFolderError, match=r"is not a run, environment\.json is missing"):
        run_folder.check_run(run)
