"""Faults that a whole run meets, caused for real: what is said, and that nothing committed is lost.

docs/results/reliability.md lists every fault with its test; those of one module are tested with that module.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import small_run
from interruption import Ear, interrupt, same_result, stop_at, without_warnings

from nesa.cli.commands import main
from nesa.errors import DataError, RunFailed, RunFolderError, UserError
from nesa.experiment import task_figures
from nesa.experiment.run import resume, run
from nesa.verification.verify import verify


@pytest.fixture(autouse=True)
def no_figures(monkeypatch):
    monkeypatch.setattr(task_figures, "draw", lambda *_: None)


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A folder with data/ and the finished run whole/."""
    place = tmp_path_factory.mktemp("faults")
    small_run.train(place, "whole")
    return place


def start(place: Path, out: Path) -> Path:
    return run(small_run.curriculum(place), out=out, name="run", data=place / "data", progress=Ear())


def stopped(place: Path, out: Path, moment: str, stop: Callable[[], None] = interrupt) -> Path:
    """A run in OUT/run that was stopped at `moment`."""
    with pytest.MonkeyPatch.context() as patch:
        stop_at(patch, moment, stop)
        with pytest.raises(KeyboardInterrupt):
            start(place, out)
    return out / "run"


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name != "lock"}


# The disk -----------------------------------------------------------------------------------------------------------


class Disk:
    """A small file system of its own in memory; mounting it needs privileges, without which the test is skipped."""

    def __init__(self, folder: Path):
        self.folder = folder
        folder.mkdir()
        self._mount("size=64m")
        self._mount("remount,size=64m")  # some sandboxes can do the one and not the other

    def leave(self, count: int) -> None:
        """Fills the disk but for `count` bytes."""
        free = os.statvfs(self.folder)
        with (self.folder / "filler").open("wb") as file:
            file.write(b"\0" * (free.f_bavail * free.f_frsize - count))

    def make_room(self) -> None:
        (self.folder / "filler").unlink()

    def read_only(self, yes: bool) -> None:
        self._mount("remount,ro" if yes else "remount,rw")

    def remove(self) -> None:
        subprocess.run(["umount", "-l", str(self.folder)], capture_output=True)

    def _mount(self, options: str) -> None:
        words = ["mount", "-t", "tmpfs", "-o", options, "none", str(self.folder)]
        if shutil.which("mount") is None or subprocess.run(words, capture_output=True).returncode:
            pytest.skip("mounting a file system needs privileges that this process does not have")


@pytest.fixture
def disk(tmp_path):
    disk = Disk(tmp_path / "disk")
    yield disk
    disk.remove()


@pytest.mark.parametrize("share", [0.1, 0.3, 0.5, 0.7, 0.9, 0.99])
def test_a_disk_that_fills_up_stops_the_run_and_with_room_it_goes_on(place, disk, share):
    size = sum(-(-len(data) // 4096) * 4096 for data in contents(place / "whole").values())
    disk.leave(int(share * size))
    with pytest.raises(RunFailed, match=r"cannot be written \(No space left on device\); what was there before is unt"):
        start(place, disk.folder)
    folder = disk.folder / "run"
    assert not list(folder.rglob("*.tmp"))
    disk.make_room()
    if not any(event["event"] == "checkpointed" for event in small_run.events(folder)):
        assert share < 0.5
    else:
        assert all(check.ok for check in verify(folder, place / "data") if not check.name.startswith("tables"))
    resume(folder, data=place / "data", progress=Ear())
    same_result(folder, place / "whole")


def test_a_disk_without_any_room_leaves_no_folder(place, disk):
    disk.leave(4096)
    with pytest.raises((RunFolderError, RunFailed), match="No space left on device"):
        start(place, disk.folder)
    assert [path.name for path in disk.folder.iterdir()] == ["filler"]


def test_a_read_only_folder_is_refused_and_untouched(place, disk):
    folder = stopped(place, disk.folder, "step 47")
    before = contents(disk.folder)
    disk.read_only(True)
    with pytest.raises(
        RunFolderError, match=r"run: cannot be written \(Read-only file system\); check the path and its p"
    ):
        resume(folder, data=place / "data", progress=Ear())
    with pytest.raises(
        RunFolderError, match=r"other: cannot be made \(Read-only file system\); check the path and the d"
    ):
        run(small_run.curriculum(place), out=disk.folder, name="other", data=place / "data", progress=Ear())
    assert all(check.ok for check in verify(folder, place / "data"))  # which only reads
    disk.read_only(False)
    assert contents(disk.folder) == before
    resume(folder, data=place / "data", progress=Ear())
    same_result(folder, place / "whole")


def test_a_file_where_the_folder_should_be(place, tmp_path):
    (tmp_path / "runs").write_text("mine")
    with pytest.raises(RunFolderError, match=r"runs/run: cannot be made \(File exists\); check the path"):
        start(place, tmp_path / "runs")
    assert (tmp_path / "runs").read_text() == "mine"


# Data that vanish ---------------------------------------------------------------------------------------------------


def test_data_that_vanish_while_the_run_trains_are_not_missed(place, tmp_path):
    data = shutil.copytree(place / "data", tmp_path / "data")
    with pytest.MonkeyPatch.context() as patch:
        stop_at(patch, "step 5", lambda: shutil.rmtree(data))
        run(small_run.curriculum(place), out=tmp_path, name="run", data=data, progress=Ear())
    assert not data.exists()
    same_result(tmp_path / "run", place / "whole")


def test_data_that_have_vanished_are_named_and_nothing_is_touched(place, tmp_path):
    folder = stopped(place, tmp_path, "step 47")
    before = contents(folder)
    with pytest.raises(DataError, match=r"five\.npz"):
        resume(folder, data=tmp_path / "gone", progress=Ear())
    assert contents(folder) == before
    resume(folder, data=place / "data", progress=Ear())
    same_result(folder, place / "whole")


# events.jsonl -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("damage", ["a torn last line", "a lost last line", "half of the lines lost", "all lines lost"])
def test_events_that_are_lost_are_made_again(place, tmp_path, damage):
    folder = stopped(place, tmp_path, "step 47")
    path = folder / "events.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    lines = {
        "a torn last line": [*lines[:-1], lines[-1][:30]],
        "a lost last line": lines[:-1],
        "half of the lines lost": lines[: len(lines) // 2],
        "all lines lost": [],
    }[damage]
    path.write_bytes(b"".join(lines))
    resume(folder, data=place / "data", progress=Ear())
    assert without_warnings(folder) == without_warnings(place / "whole")
    assert all(check.ok for check in verify(folder, place / "data"))


def test_a_damaged_event_is_named_and_nothing_is_touched(place, tmp_path, capsys):
    folder = stopped(place, tmp_path, "step 47")
    path = folder / "events.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:2], b"{" + lines[2], *lines[3:]]))
    before = contents(folder)
    assert main(["resume", str(folder), "--data", str(place / "data")]) == 2
    said = capsys.readouterr().err
    assert said == f"error: {path}:3: is not an event; the file is damaged, restore it from a copy\n"
    assert contents(folder) == before


# Two at once --------------------------------------------------------------------------------------------------------


def test_a_second_start_is_told_who_holds_the_run(place, tmp_path, capsys):
    """One process trains; `nesa run` and `nesa resume` on its folder are refused and do not disturb it."""
    ready, go = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            with pytest.MonkeyPatch.context() as patch:
                stop_at(patch, "step 5", lambda: (os.write(ready[1], b"."), os.read(go[0], 1)))
                start(place, tmp_path)
            code = 0
        finally:
            os._exit(code)
    assert os.read(ready[0], 1) == b"."
    path = small_run.write_curriculum(place)
    try:
        for words in (["run", str(path), "--out", str(tmp_path), "--name", "run"], ["resume", str(tmp_path / "run")]):
            assert main([*words, "--data", str(place / "data"), "--quiet"]) == 2
            said = capsys.readouterr().err
            assert f"{tmp_path / 'run'}: in use by process {child} on " in said
            assert "two processes never share a run" in said
    finally:
        os.write(go[1], b".")
        _, status = os.waitpid(child, 0)
    assert status == 0
    same_result(tmp_path / "run", place / "whole")
    assert main(["run", str(path), "--out", str(tmp_path), "--name", "run", "--data", str(place / "data")]) == 2
    assert "is a run already; resume it, or choose another name" in capsys.readouterr().err


# More than the machine has ------------------------------------------------------------------------------------------


def test_a_network_that_does_not_fit_is_refused_with_the_memory_that_it_needs(place, tmp_path, monkeypatch):
    monkeypatch.setattr("nesa.experiment.run._physical_memory", lambda: 10**6)  # a megabyte
    said = r"network: 256 neurons need about 1\.05 MB to train \(W, its gradient and two moments\), .* has 1 MB"
    with pytest.raises(UserError, match=said):
        start(place, tmp_path / "runs")
    assert not (tmp_path / "runs").exists()
