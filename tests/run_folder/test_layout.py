"""The run folder: names that stay inside it, files that are whole or as they were, damage that is named."""

from __future__ import annotations

import json
import resource
from datetime import datetime

import numpy as np
import pytest

from nesa.errors import RunFailed, RunFolderError
from nesa.run_folder import layout as run_folder
from nesa.run_folder.events import read_events


@pytest.fixture
def full_disk():
    """No file of this process may grow beyond 4 KiB: the nearest thing to a full disk that needs no privileges."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.fixture
def run(tmp_path):
    for name, text in (("curriculum.yaml", "name: x\n"), ("environment.json", '{"seed": 3}'), ("events.jsonl", "")):
        (tmp_path / name).write_text(text)
    return tmp_path


def files(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize(
    "name", ["../up", "/etc/passwd", "..", ".", ".hidden", "a/b", "a\\b", "nul\0byte", "ä", "%2e%2e"]
)
def test_a_name_cannot_leave_its_folder(tmp_path, name):
    path = run_folder.task_folder(tmp_path, name)
    path.mkdir(parents=True)
    assert path.resolve().parent == (tmp_path / "tasks").resolve()
    assert not path.name.startswith(".")


def test_different_names_have_different_folders():
    names = ["a/b", "a%2Fb", "a b", "a_b", ".a", "%2Ea"]
    assert len({run_folder.file_name(name) for name in names}) == len(names)


def test_plain_names_are_left_alone():
    for name in ("cifar10-v1.0_x", "vision+cifar10=scenes"):
        assert run_folder.file_name(name) == name


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


def test_write_whole_replaces(tmp_path):
    path = tmp_path / "table.csv"
    run_folder.write_whole(path, b"old")
    run_folder.write_whole(path, lambda file: file.write(b"new"))
    assert path.read_bytes() == b"new"
    assert files(tmp_path) == ["table.csv"]


def test_a_reader_sees_the_old_file_or_the_new_one_and_nothing_between(tmp_path):
    path = tmp_path / "table.csv"
    path.write_bytes(b"old")
    with path.open("rb") as reader:
        run_folder.write_whole(path, b"new and longer")
        assert reader.read() == b"old"


def test_a_failure_while_writing_leaves_the_old_file(tmp_path):
    path = tmp_path / "table.csv"
    path.write_bytes(b"old")

    def half(file):
        file.write(b"half of the new")
        file.flush()
        raise KeyError("power cut")

    with pytest.raises(KeyError):
        run_folder.write_whole(path, half)
    assert path.read_bytes() == b"old"
    assert files(tmp_path) == ["table.csv"]


def test_a_failure_before_the_rename_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "table.csv"
    path.write_bytes(b"old")

    def broken(handle):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(run_folder.os, "fsync", broken)
    with pytest.raises(RunFailed, match=r"table\.csv: cannot be written \(Input/output error\)"):
        run_folder.write_whole(path, b"new")
    assert path.read_bytes() == b"old"
    assert files(tmp_path) == ["table.csv"]


def test_a_full_disk_is_a_sentence_and_leaves_the_old_file(tmp_path, full_disk):
    path = tmp_path / "table.csv"
    path.write_bytes(b"old")
    with pytest.raises(RunFailed, match=r"table\.csv: cannot be written"):
        run_folder.write_whole(path, b"x" * 10_000)
    assert path.read_bytes() == b"old"
    assert files(tmp_path) == ["table.csv"]


def test_a_folder_that_is_not_a_run_is_told_what_it_lacks(tmp_path, run):
    assert run_folder.is_run(run)
    with pytest.raises(RunFolderError, match="no such folder"):
        run_folder.check_run(tmp_path / "nowhere")
    (run / "environment.json").unlink()
    assert not run_folder.is_run(run)
    with pytest.raises(RunFolderError, match=r"is not a run, environment\.json is missing"):
        run_folder.check_run(run)


def test_environment_round_trip(run):
    assert run_folder.read_environment(run) == {"seed": 3}
    (run / "environment.json").write_text("{")
    with pytest.raises(RunFolderError, match=r"environment\.json: cannot be read"):
        run_folder.read_environment(run)


LINE = '{"event": "warning", "time": 1.5, "message": "m"}\n'


def test_events_are_read_in_order(run):
    (run / "events.jsonl").write_text(LINE + LINE.replace("warning", "other"))
    assert [event["event"] for event in read_events(run)] == ["warning", "other"]


@pytest.mark.parametrize("tail", ['{"event": "warn', "}\n", "\0\0\0\0\n", "[]\n", '{"time": 1}\n'])
def test_a_torn_last_line_is_dropped(run, tail):
    (run / "events.jsonl").write_text(LINE + tail)
    assert read_events(run) == [json.loads(LINE)]


@pytest.mark.parametrize(
    "line", ["", "{", "[1]", '"event"', '{"event": 3, "time": 1}', '{"event": "x", "time": "now"}']
)
def test_a_damaged_line_in_the_middle_is_named(run, line):
    (run / "events.jsonl").write_text(LINE + line + "\n" + LINE)
    with pytest.raises(RunFolderError, match=r"events\.jsonl:2: is not an event"):
        read_events(run)


def test_structure_that_is_missing_damaged_or_code_is_refused(tmp_path):
    path = run_folder.task_folder(tmp_path, "edges") / "structure.npz"
    path.parent.mkdir(parents=True)
    with pytest.raises(RunFolderError, match="missing or damaged"):
        run_folder.load_structure(tmp_path, "edges")
    np.savez(path, levels=np.array([{"code": 1}], dtype=object))
    with pytest.raises(RunFolderError, match="missing or damaged"):
        run_folder.load_structure(tmp_path, "edges")
    path.write_bytes(b"PK\3\4 not a zip")
    with pytest.raises(RunFolderError, match="missing or damaged"):
        run_folder.load_structure(tmp_path, "edges")
