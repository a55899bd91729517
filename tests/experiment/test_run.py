"""nesa.experiment.run: a whole run, interrupted anywhere and resumed, and what is refused before anything is lost."""

from __future__ import annotations

import os
import random
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import small_run
import torch
from interruption import Ear, interrupt, life, same_result, stop_at, without_warnings

from nesa.errors import DataError, RunFailed, RunFolderError, UserError
from nesa.experiment import task_figures
from nesa.experiment.run import resume, run
from nesa.inference.saved_run import load, read_accumulation
from nesa.run_folder.environment import read_environment
from nesa.run_folder.events import read_events
from nesa.run_folder.reader import StoredRun
from nesa.verification.verify import verify


@pytest.fixture(autouse=True)
def no_figures(monkeypatch):
    monkeypatch.setattr(task_figures, "draw", lambda *_: None)


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A folder with data/ and the finished run whole/."""
    place = tmp_path_factory.mktemp("runs")
    small_run.train(place, "whole")
    return place


@pytest.fixture
def start(place, tmp_path):
    """Starts the same run in a folder of its own."""

    def start(**options) -> Path:
        return run(
            small_run.curriculum(tmp_path, **options), out=tmp_path, name="run", data=place / "data", progress=Ear()
        )

    return start


# A whole run --------------------------------------------------------------------------------------------------------


def test_heads_of_5_6_and_10_classes_and_the_record_of_it(place):
    saved = load(place / "whole")
    x = torch.zeros(3, 64, dtype=torch.uint8)
    assert [tuple(saved.task(name)(x).shape) for name in saved.names] == [(3, 5), (3, 6), (3, 10)]
    events = read_events(place / "whole")
    started = [event for event in events if event["event"] == "task_started"]
    assert [(e["task"], e["classes"], e["train"], e["val"], e["test"]) for e in started] == [
        ("five", 5, 360, 40, 120),
        ("six", 6, 360, 40, 120),
        ("ten", 10, 360, 40, 120),
    ]
    names, R = StoredRun(place / "whole").accuracy
    assert names == ["five", "six", "ten"]
    assert (R[2] > [0.8, 0.8, 0.5]).all()  # chance is 0.20, 0.17 and 0.10
    assert (R[1, :2] == R[2, :2]).all() and R[0, 0] == R[2, 0]  # nothing is forgotten
    assert events[-1]["event"] == "run_finished" and events[-1]["bwt"] == 0


def test_each_row_of_the_table_says_what_was_claimed(place):
    rows = StoredRun(place / "whole").rows
    owner = load(place / "whole").accumulation.owner
    for index, row in enumerate(rows):
        assert row["neurons_claimed"] == int((owner == index).sum())
        assert sum(row["levels_claimed"]) <= row["neurons_claimed"]
        assert row["neurons_total"] == sum(r["neurons_claimed"] for r in rows[: index + 1])
    assert rows[0]["neurons_reused"] == 0 and rows[0]["accuracy_cut"] is None
    assert rows[1]["neurons_reused"] > 0 and rows[1]["accuracy_cut"] is not None


def test_the_network_grows_when_few_neurons_are_free_and_old_answers_stay(place):
    warned = [e["message"] for e in read_events(place / "whole") if e["event"] == "warning"]
    grown = [message for message in warned if "the network grew by 64 neurons before task" in message]
    assert grown
    accumulation = load(place / "whole").accumulation
    ports = sum(small_run.CLASSES.values())
    assert accumulation.layout.S == 8 * 8 * 4 + ports + 64 * len(grown)
    assert bool((accumulation.owner[8 * 8 * 4 + ports :] >= 0).any())  # and what grew is used
    checks = {check.name: check for check in verify(place / "whole", place / "data")}
    assert checks["answers five"].ok and "after 2 later tasks" in checks["answers five"].detail


def test_without_growing_the_run_stops_and_says_how_many_are_missing(start, tmp_path):
    with pytest.raises(RunFailed, match=r"task 'six': only \d+ of \d+ hidden neurons are free, \d+ too few"):
        start(grow=False)
    checks = verify(tmp_path / "run", None)
    assert all(check.ok for check in checks) and "1 of 3 tasks" in checks[0].detail


def test_one_seed_gives_one_run_and_another_seed_another(place, start, tmp_path):
    same_result(start(), place / "whole")
    other = run(small_run.curriculum(tmp_path, seed=4, tasks=("five",)), out=tmp_path, data=place / "data")
    first = read_accumulation(place / "whole", StoredRun(place / "whole").checkpoints[0])
    assert not torch.equal(load(other).task("five").network.W, first.network("five").W)


# Interrupted and resumed --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "moment",
    [
        "run_started 1",  # nothing but the start is written
        "step 5",  # in the first epoch of the first task
        "task_claimed 1",  # the first task has no checkpoint yet
        "step 40",  # while it heals
        "file six",  # its checkpoint is whole, but no event says so
        "file ten",
        "checkpointed 3",  # all is done but the last event
    ],
)
def test_interrupted_and_resumed_is_never_interrupted(place, start, tmp_path, moment):
    with pytest.MonkeyPatch.context() as patch:
        stop_at(patch, moment, interrupt)
        with pytest.raises(KeyboardInterrupt):
            start()
    left = len(small_run.events(tmp_path / "run"))
    assert 0 < left < len(small_run.events(place / "whole"))
    ear = Ear()
    resume(tmp_path / "run", data=place / "data", progress=ear)
    same_result(tmp_path / "run", place / "whole")
    assert not any("damaged" in text for text in ear.said)


def test_an_interrupted_run_says_how_to_go_on(place, tmp_path, monkeypatch):
    stop_at(monkeypatch, "step 2", interrupt)
    ear = Ear()
    with pytest.raises(KeyboardInterrupt):
        run(small_run.curriculum(tmp_path), out=tmp_path, name="run", data=place / "data", progress=ear)
    how = "stopped; what came after the last checkpoint is done again"
    assert ear.said == [f"{how}; go on with: nesa resume {tmp_path / 'run'}"]


def test_killed_again_and_again_and_resumed_is_never_interrupted(place, start, tmp_path):
    """SIGKILL at random optimiser steps and events of every life, until one life lasts to the end."""
    rng = random.Random(5)

    def work(moment: str | None) -> None:
        with pytest.MonkeyPatch.context() as patch:
            if moment is not None:
                stop_at(patch, moment, lambda: os.kill(os.getpid(), signal.SIGKILL))
            if (tmp_path / "run").exists():
                resume(tmp_path / "run", data=place / "data", progress=Ear())
            else:
                start()

    for count in range(6):
        moment = rng.choice([f"event {rng.randrange(1, 9)}", f"step {rng.randrange(1, 21)}"]) if count < 5 else None
        assert life(work, moment) == (signal.SIGKILL if moment else 0)
    same_result(tmp_path / "run", place / "whole")


@pytest.fixture(scope="module")
def stopped_once(place) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(task_figures, "draw", lambda *_: None)
        stop_at(patch, "step 47", interrupt)
        with pytest.raises(KeyboardInterrupt):
            run(small_run.curriculum(place), out=place, name="stopped", data=place / "data")
    return place / "stopped"


@pytest.fixture
def stopped(stopped_once, tmp_path) -> Path:
    """A run that was stopped in its third task."""
    assert [e["task"] for e in read_events(stopped_once) if e["event"] == "checkpointed"] == ["five", "six"]
    return Path(shutil.copytree(stopped_once, tmp_path / "run"))


@pytest.mark.parametrize(
    ("tasks", "how"), [(["six"], "cut"), (["six"], "flipped"), (["six"], "missing"), (["five", "six"], "cut")]
)
def test_a_damaged_checkpoint_is_passed_over_and_named(place, stopped, tasks, how):
    for task in tasks:
        path = stopped / "tasks" / task / "checkpoint.pt"
        data = path.read_bytes()
        if how == "missing":
            path.unlink()
        else:
            middle = len(data) // 2
            path.write_bytes(
                data[:middle] if how == "cut" else data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]
            )
    ear = Ear()
    resume(stopped, data=place / "data", progress=ear)
    warned = [text for text in ear.said if "going back to the checkpoint before it" in text]
    assert len(warned) == len(tasks) and all(f"tasks/{task}/checkpoint.pt" in "".join(warned) for task in tasks)
    kept = [e["message"] for e in read_events(stopped) if e["event"] == "warning"]
    assert set(warned) <= set(kept)
    assert without_warnings(stopped) == without_warnings(place / "whole")
    a, b = load(stopped).accumulation, load(place / "whole").accumulation
    assert torch.equal(a.W, b.W) and torch.equal(a.b, b.b)
    assert all(check.ok for check in verify(stopped, place / "data"))


def test_an_edited_curriculum_is_refused_with_the_difference(place, stopped):
    path = stopped / "curriculum.yaml"
    text = path.read_text()
    before = (stopped / "events.jsonl").read_bytes()
    path.write_text(text.replace("epochs: 2", "epochs: 3").replace("name: ten", "name: eleven"))
    with pytest.raises(RunFolderError, match="was changed after the run began") as caught:
        resume(stopped, data=place / "data")
    assert "training.epochs: 2 became 3" in str(caught.value)
    assert "tasks[2].name: ten became eleven" in str(caught.value)
    assert (stopped / "events.jsonl").read_bytes() == before
    path.write_text("# a note\n" + text)  # comments may change
    resume(stopped, data=place / "data")
    same_result(stopped, place / "whole")


def test_other_data_are_refused(place, stopped, tmp_path):
    before = (stopped / "events.jsonl").read_bytes()
    other = small_run.write_data(tmp_path / "other", seed=1)
    for task in ("five", "six"):
        shutil.copy(place / "data" / f"{task}.npz", other)
    with pytest.raises(RunFolderError, match="the data of ten are not those that this run began with"):
        resume(stopped, data=other)
    with pytest.raises(DataError, match=r"five\.npz"):
        resume(stopped, data=tmp_path / "nowhere")
    assert (stopped / "events.jsonl").read_bytes() == before


def test_other_versions_are_a_warning_that_stays_in_the_record(place, stopped):
    path = stopped / "environment.json"
    version = read_environment(stopped)["versions"]["torch"]
    path.write_text(path.read_text().replace(f'"torch": "{version}"', '"torch": "1.0"'))
    ear = Ear()
    resume(stopped, data=place / "data", progress=ear)
    message = f"resumed although torch is {version}, was 1.0"
    assert message in ear.said
    assert message in [e["message"] for e in read_events(stopped) if e["event"] == "warning"]
    assert without_warnings(stopped) == without_warnings(place / "whole")


def test_a_finished_run_is_left_as_it_is(place):
    before = {path: path.read_bytes() for path in (place / "whole").rglob("*") if path.is_file()}
    ear = Ear()
    resume(place / "whole", progress=ear)
    assert ear.said == [f"{place / 'whole'}: this run is finished; nothing to resume"]
    assert {path: path.read_bytes() for path in (place / "whole").rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("learner", ["naive", "replay"])
def test_a_rival_is_resumed_to_the_same_result_and_verified(place, tmp_path, learner):
    given = small_run.curriculum(tmp_path, tasks=("five", "six"))
    params = {"memory": 30} if learner == "replay" else {}
    given = replace(given, learner=replace(given.learner, name=learner, params=params))
    whole = run(given, out=tmp_path, name="whole", data=place / "data")
    with pytest.MonkeyPatch.context() as patch:
        stop_at(patch, "step 20", interrupt)
        with pytest.raises(KeyboardInterrupt):
            run(given, out=tmp_path, name="run", data=place / "data")
    resume(tmp_path / "run", data=place / "data")
    assert small_run.events(tmp_path / "run") == small_run.events(whole)
    checks = verify(whole, place / "data")
    assert all(check.ok for check in checks) and "accuracy after six" in [check.name for check in checks]
    path = whole / "tasks" / "six" / "checkpoint.pt"
    path.write_bytes(path.read_bytes()[:-100])
    assert "files six" in [check.name for check in verify(whole, place / "data") if not check.ok]


# Refused, before anything is lost -----------------------------------------------------------------------------------


def test_a_folder_that_is_somebody_elses_is_left_alone(place, tmp_path):
    thesis = tmp_path / "run" / "thesis.tex"
    thesis.parent.mkdir()
    thesis.write_text("mine")
    with pytest.raises(RunFolderError, match="is not empty; a new run needs a folder of its own"):
        run(small_run.curriculum(tmp_path), out=tmp_path, name="run", data=place / "data")
    for command in (resume, verify):
        with pytest.raises(RunFolderError, match=r"is not a run, curriculum\.yaml is missing"):
            command(thesis.parent)
        with pytest.raises(RunFolderError, match="there is no such folder"):
            command(tmp_path / "nothing")
    assert thesis.read_text() == "mine" and [*thesis.parent.iterdir()] == [thesis]


@pytest.mark.parametrize("source", ["cifar10", "arrays"])
def test_missing_data_stop_the_run_before_any_training(place, tmp_path, monkeypatch, source):
    def offline(*_):
        raise DataError("there is no network")

    monkeypatch.setattr("nesa.datasets.download.fetch", offline)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("NESA_DATA", raising=False)
    monkeypatch.setattr(
        "nesa.training.strategies.pruning_learner.PruningLearner.train",
        lambda *_: pytest.fail("trained without all the data"),
    )
    given = small_run.curriculum(tmp_path)
    missing = replace(
        given.tasks[2], source=source, params={"path": "lost.npz", "classes": 0} if source == "arrays" else {}
    )
    with pytest.raises(DataError) as caught:
        run(replace(given, tasks=(*given.tasks[:2], missing)), out=tmp_path / "runs", data=place / "data")
    wanted = ["lost.npz"] if source == "arrays" else ["data_batch_1", "cifar10/train/CLASS", "--data DIR", "$NESA_DATA"]
    assert all(words in str(caught.value) for words in [*wanted, str(place / "data")])
    assert not (tmp_path / "runs").exists()


def test_a_fallback_is_in_the_runs_name_in_every_event_and_needed_again(place, tmp_path, monkeypatch):
    def offline(*_):
        raise DataError("there is no network")

    monkeypatch.setattr("nesa.datasets.download.fetch", offline)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("NESA_DATA", raising=False)
    given = small_run.curriculum(tmp_path, tasks=("five",))
    task = replace(given.tasks[0], source="mnist", params={}, fallback="digits", fallback_params={"test": 360})
    ear = Ear()
    folder = run(replace(given, tasks=(task,)), out=tmp_path, data=place / "data", progress=ear)
    assert folder.name.startswith("small+five=digits-")
    assert any("'mnist' cannot be had" in text for text in ear.said)
    events = read_events(folder)
    assert any("'mnist' cannot be had" in e["message"] for e in events if e["event"] == "warning")
    (row,) = StoredRun(folder).rows
    assert row["source"] == "digits" and row["fallback"] is True
    checks = verify(folder, place / "data")
    assert all(check.ok for check in checks) and "row five" in [check.name for check in checks]


@pytest.mark.parametrize(
    ("device", "words"), [("cuda", "has no CUDA device"), ("cuda:1", "has no CUDA device"), ("abacus", "not a device")]
)
def test_a_device_that_is_not_there_is_refused(place, tmp_path, monkeypatch, device, words):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match=f"--device {device}.*{words}"):
        run(small_run.curriculum(tmp_path), out=tmp_path / "runs", data=place / "data", device=device)
    with pytest.raises(UserError, match=words):
        resume(place / "whole", device=device)
    assert not (tmp_path / "runs").exists()


def test_divergence_stops_the_task_and_leaves_the_earlier_ones(place, tmp_path):
    given = small_run.curriculum(tmp_path)
    wild = replace(given.tasks[2], training=replace(given.tasks[2].training, optimizer="sgd", lr=1e30))
    with pytest.raises(RunFailed, match="Earlier tasks are unharmed"):
        run(replace(given, tasks=(*given.tasks[:2], wild)), out=tmp_path, name="run", data=place / "data")
    checks = verify(tmp_path / "run", place / "data")
    assert all(check.ok for check in checks) and "2 of 3 tasks" in checks[0].detail
    a, b = load(tmp_path / "run"), load(place / "whole")
    x = torch.arange(256).remainder(251).reshape(4, 64).to(torch.uint8)
    assert all(torch.equal(a.task(name)(x), b.task(name)(x)) for name in ("five", "six"))
