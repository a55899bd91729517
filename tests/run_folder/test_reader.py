"""nesa.run_folder.reader: one way to open a stored run, whatever state it is in."""

from __future__ import annotations

import json

import numpy as np
import pytest
import stored_run

from nesa.errors import RunFolderError
from nesa.run_folder import tables
from nesa.run_folder.environment import read_environment
from nesa.run_folder.layout import task_folder
from nesa.run_folder.lock import RunLock
from nesa.run_folder.reader import StoredRun, load_structure


def test_a_finished_run(tmp_path):
    run = StoredRun(stored_run.write(tmp_path / "run", seed=4, environment={"device": "cuda"}))
    assert (run.status, run.seed, run.tasks, run.names, run.claimed) == ("finished", 4, *[["easy", "hard"]] * 3)
    assert run.start["name"] == "small" and run.end is not None and run.end["acc"] == 0.5
    assert run.curriculum["input"] == {"size": [4, 4], "channels": 1} and "seed: 4" in run.curriculum_text
    assert run.environment["device"] == "cuda"
    assert run.rows == tables.accumulation(run.events) and run.R.shape == (2, 2) and np.isnan(run.R[0, 1])
    assert set(run.structure("hard")) == {"owner", "levels", "W"}


def test_a_run_is_running_while_its_lock_is_held_and_stopped_otherwise(tmp_path):
    folder = stored_run.write(tmp_path / "run", done=1)
    assert StoredRun(folder).status == "stopped"
    with RunLock(folder):
        assert StoredRun(folder).status == "running"


def test_a_run_that_has_not_begun(tmp_path):
    folder = stored_run.write(tmp_path / "run")
    (folder / "events.jsonl").write_text("")
    run = StoredRun(folder)
    assert not run.start and (run.end, run.seed, run.tasks, run.names, run.rows) == (None, None, [], [], [])
    assert run.curriculum["name"] == "small"


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    with pytest.raises(RunFolderError, match="no such folder"):
        StoredRun(tmp_path / "nowhere")


def test_environment_round_trip(tmp_path):
    folder = stored_run.write(tmp_path / "run")
    path = folder / "environment.json"
    assert read_environment(folder) == json.loads(path.read_text())
    path.write_text("{")
    with pytest.raises(RunFolderError, match=r"environment\.json: cannot be read"):
        read_environment(folder)


def test_structure_that_is_missing_damaged_or_code_is_refused(tmp_path):
    path = task_folder(tmp_path, "edges") / "structure.npz"
    path.parent.mkdir(parents=True)
    with pytest.raises(RunFolderError, match="missing or damaged"):
        load_structure(tmp_path, "edges")
    np.savez(path, levels=np.array([{"code": 1}], dtype=object))
    with pytest.raises(RunFolderError, match="missing or damaged"):
        load_structure(tmp_path, "edges")
    path.write_bytes(b"PK\3\4 not a zip")
    with pytest.raises(RunFolderError, match="missing or damaged"):
        load_structure(tmp_path, "edges")
