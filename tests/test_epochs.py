"""nesa.epochs: a run that was stopped inside a task goes on from its last epoch, to the same bits."""

from __future__ import annotations

import itertools
import os
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import small_run
import torch
from test_run import Ear, interrupt, life, stop_at, without_warnings

from nesa import epochs
from nesa.checkpoint import load_checkpoint
from nesa.config import Curriculum
from nesa.digest import digest
from nesa.events import read_events
from nesa.learner import NeuralPruning
from nesa.run import resume, run
from nesa.saved import TRAINING
from nesa.session import Session
from nesa.tables import read_accumulation


@pytest.fixture(autouse=True)
def kept_each_epoch(monkeypatch):
    monkeypatch.setattr(Session, "_draw", lambda *_: None)
    monkeypatch.setattr(epochs, "EVERY", 0.0)
    monkeypatch.setattr(epochs, "SHARE", float("inf"))
    monkeypatch.setattr("nesa.strategy.NeuralPruning", Often)


class Often(NeuralPruning):
    """Compaction looks every 31 steps, so that its windows lie across epochs of 72: step 216 is the last but one."""

    def __init__(self, *args, **options):
        super().__init__(*args, window=31, **options)


def long(place: Path) -> Curriculum:
    """Two tasks of 4 epochs of 72 steps, that need hidden neurons and silence many of them."""
    given = small_run.curriculum(place, tasks=("five", "six"))
    return replace(given, tasks=tuple(changed(task) for task in given.tasks))


def changed(task):
    training = replace(task.training, epochs=4, batch_size=5)
    return replace(task, training=training, penalties=replace(task.penalties, activity=0.02))


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A folder with data/ and the finished run whole/, in which nothing was ever kept inside a task."""
    place = tmp_path_factory.mktemp("epochs")
    small_run.write_data(place / "data", negatives=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Session, "_draw", lambda *_: None)
        patch.setattr("nesa.strategy.NeuralPruning", Often)
        run(long(place), out=place, name="whole", data=place / "data")
    return place


def start(place: Path, folder: Path) -> None:
    run(long(place), out=folder.parent, name=folder.name, data=place / "data", progress=Ear())


def stopped(place: Path, folder: Path, moment: str) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        stop_at(patch, moment, interrupt)
        with pytest.raises(KeyboardInterrupt):
            start(place, folder)
    return folder


def resumed(place: Path, folder: Path) -> int:
    """Resumes, and counts the optimiser steps that it took."""
    steps = []
    with pytest.MonkeyPatch.context() as patch:
        report = Session._report
        patch.setattr(
            Session, "_report", lambda self, name, f: (steps.append(name == "step"), report(self, name, f))[1]
        )
        resume(folder, data=place / "data", progress=Ear())
    return sum(steps)


def same(folder: Path, whole: Path) -> None:
    assert small_run.events(folder) == small_run.events(whole)
    assert small_run.rows(folder) == small_run.rows(whole)
    for task in ("five", "six"):
        assert digest(load_checkpoint(folder, task)) == digest(load_checkpoint(whole, task))
        assert not (folder / "tasks" / task / TRAINING).exists()


TASK = 5 * 72  # optimiser steps of a task: four epochs and one of healing


@pytest.mark.parametrize(
    ("moment", "steps"),
    [
        ("step 100", 2 * TASK - 72),  # in the second epoch of the first task
        ("epoch 3", 2 * TASK - 2 * 72),  # the third epoch is in the record, and was not kept yet
        ("step 350", 2 * TASK - 4 * 72),  # while the first task heals: its four epochs are kept
        ("task_claimed 1", 2 * TASK - 4 * 72),
        ("task_started 2", TASK),
        (f"step {TASK + 200}", TASK - 2 * 72),
        ("evaluated 3", TASK - 4 * 72),
    ],
)
def test_it_goes_on_from_the_last_epoch_to_the_same_bits(place, tmp_path, moment, steps):
    folder = stopped(place, tmp_path / "run", moment)
    assert resumed(place, folder) == steps
    same(folder, place / "whole")


def test_compaction_has_dropped_neurons_and_its_window_was_open(place, tmp_path):
    """Without this the tests above would not show that the working set and who has fired are kept."""
    folder = stopped(place, tmp_path / "run", "step 250")
    kept = load_checkpoint(folder, "five", TRAINING)["training"]
    assert kept["epochs"] == 3 and kept["steps"] == [216, 216, 216]
    n = len(kept["index"])
    assert n < 8 * 8 * 4 + 5 and kept["fired"].shape == (3, n) and bool(kept["fired"].any())
    assert any(row["neurons_claimed"] > 10 for row in read_accumulation(place / "whole"))
    assert kept["W"].shape == (n, n) and kept["optimizer"]["W"]["exp_avg"].shape == (n, n)


@pytest.mark.parametrize(
    "change",
    [
        lambda kept: kept["optimizer"]["W"]["exp_avg"].zero_(),
        lambda kept: kept["fired"].zero_(),
        lambda kept: kept["steps"].__setitem__(1, 0),
        lambda kept: kept.update(epochs=2),
    ],
    ids=["moments", "fired", "steps", "order"],
)
def test_each_part_of_what_is_kept_matters(place, tmp_path, change):
    folder = stopped(place, tmp_path / "run", "step 250")
    path = folder / "tasks" / "five" / TRAINING
    state = torch.load(path, weights_only=True)
    del state["digest"]
    change(state["training"])
    torch.save(state | {"digest": digest(state)}, path)
    resume(folder, data=place / "data")
    assert digest(load_checkpoint(folder, "six")) != digest(load_checkpoint(place / "whole", "six"))


def test_killed_in_every_task_and_epoch_it_is_still_the_same(place, tmp_path):
    folder = tmp_path / "run"

    def work(moment: str | None) -> None:
        with pytest.MonkeyPatch.context() as patch:
            if moment is not None:
                stop_at(patch, moment, lambda: os.kill(os.getpid(), signal.SIGKILL))
            resume(folder, data=place / "data", progress=Ear()) if folder.exists() else start(place, folder)

    for moment in ("step 80", "step 73", "epoch 2", "step 140", "step 300", "checkpointed 1"):
        assert life(work, moment) == signal.SIGKILL
    assert life(work, None) == 0
    same(folder, place / "whole")


def test_damage_costs_the_task_and_is_named(place, tmp_path):
    folder = stopped(place, tmp_path / "run", f"step {TASK + 200}")
    path = folder / "tasks" / "six" / TRAINING
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2] + bytes([data[len(data) // 2] ^ 1]) + data[len(data) // 2 + 1 :])
    ear = Ear()
    resume(folder, data=place / "data", progress=ear)
    (said,) = [text for text in ear.said if "training the task from its start" in text]
    assert f"tasks/six/{TRAINING}" in said
    assert said in [event["message"] for event in read_events(folder) if event["event"] == "warning"]
    assert without_warnings(folder) == without_warnings(place / "whole")


def test_what_an_earlier_attempt_kept_is_not_taken_up(place, tmp_path):
    folder = stopped(place, tmp_path / "run", f"step {TASK + 200}")
    stale = (folder / "tasks" / "six" / TRAINING).read_bytes()
    other = stopped(place, tmp_path / "other", f"step {TASK + 10}")
    shutil.rmtree(folder)
    (other / "tasks" / "six").mkdir(exist_ok=True)
    (other / "tasks" / "six" / TRAINING).write_bytes(stale)
    assert resumed(place, other) == TASK
    same(other, place / "whole")


def test_keeping_costs_little_by_itself(monkeypatch):
    """Nothing within EVERY seconds; afterwards only when the last one has cost less than SHARE of what was trained."""
    monkeypatch.setattr(epochs, "EVERY", 30.0)
    monkeypatch.setattr(epochs, "SHARE", 0.02)
    now = [0.0]
    monkeypatch.setattr(epochs.time, "perf_counter", lambda: now[0])
    kept = []

    def save(state) -> None:
        kept.append(now[0])
        now[0] += 1.0  # it takes a second

    keeper = epochs.Keeper(None, None, None, save)  # type: ignore[arg-type]
    monkeypatch.setattr(keeper, "state", lambda strategy: {})
    keeper.before_training_exp(None)
    for _ in range(60):
        now[0] += 10.0
        keeper.after_training_epoch(None)
    gaps = [b - a for a, b in itertools.pairwise(kept)]
    assert kept[0] == 30.0 and min(gaps) >= 51.0 and max(gaps) <= 61.0
