"""Stopping a run at a chosen moment, and comparing what it then becomes with a run that nobody stopped."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import small_run
import torch

from nesa.experiment.session import Session
from nesa.inference.saved_run import load
from nesa.run_folder.checkpoint import load_checkpoint
from nesa.run_folder.digest import digest
from nesa.run_folder.writer import RunWriter


class Ear:
    """A progress display that only listens."""

    def __init__(self):
        self.said: list[str] = []

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *args, **_: self.said.append(str(args[0])) if name in ("message", "warning") else None

    def __call__(self, *_) -> None:
        pass


def same_result(folder: Path, whole: Path) -> None:
    """Events and tables but for the times, and every weight to the last bit."""
    assert small_run.events(folder) == small_run.events(whole)
    assert (folder / "accuracy.csv").read_text() == (whole / "accuracy.csv").read_text()
    assert small_run.rows(folder) == small_run.rows(whole)
    for task in small_run.CLASSES:
        for file in ("checkpoint.pt", "probe.pt"):
            assert digest(load_checkpoint(folder, task, file)) == digest(load_checkpoint(whole, task, file))
    a, b = load(folder).accumulation, load(whole).accumulation
    assert torch.equal(a.W, b.W) and torch.equal(a.b, b.b) and torch.equal(a.owner, b.owner)


def stop_at(monkeypatch, moment: str, stop: Callable[[], None]) -> None:
    """Calls `stop` at `moment`: "step N" of the optimiser, "KIND N" when the N-th event of that kind is written (any
    event where KIND is "event"), or "file NAME" when that task's checkpoint is there and its event is not."""
    kind, what = moment.split()
    left = [int(what) if what.isdigit() else 1]

    def counting(inner, counts):
        def outer(self, *args, **kwargs):
            result = inner(self, *args, **kwargs)
            if counts(*args):
                left[0] -= 1
                if left[0] == 0:
                    stop()
            return result

        return outer

    if kind == "step":
        monkeypatch.setattr(Session, "_report", counting(Session._report, lambda name, fields: name == "step"))
    elif kind == "file":
        monkeypatch.setattr(
            RunWriter,
            "checkpoint",
            counting(RunWriter.checkpoint, lambda task, state, *name: task == what and not name),
        )
    else:
        monkeypatch.setattr(RunWriter, "event", counting(RunWriter.event, lambda event: kind in ("event", event)))


def interrupt() -> None:
    raise KeyboardInterrupt


def life(work: Callable[[str | None], object], moment: str | None) -> int:
    """Does `work(moment)` in a process of its own; the signal that ended it, or 0."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            work(moment)
            code = 0
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0, "the process failed by itself"
    return os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0


def without_warnings(folder: Path) -> list[dict]:
    """What training has written; a further warning changes the digests of all that came before."""
    return [event for event in small_run.events(folder) if event["event"] not in ("warning", "checkpointed")]
