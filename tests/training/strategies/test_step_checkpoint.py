"""A run that was stopped inside a task goes on from the last step that was saved, to the same bits."""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import signal
import tempfile
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import small_run
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from interruption import Ear, interrupt, life, stop_at, without_warnings

from nesa.cli.commands import main
from nesa.config.curriculum import Curriculum
from nesa.errors import RunFailed
from nesa.experiment import task_figures
from nesa.experiment.run import resume, run
from nesa.experiment.session import Session
from nesa.run_folder.checkpoint import load_checkpoint
from nesa.run_folder.digest import digest
from nesa.run_folder.events import read_events
from nesa.run_folder.layout import ANIMATION, EARLIER, TRAINING
from nesa.run_folder.reader import StoredRun
from nesa.training.sparse_tensors import unpack
from nesa.training.strategies import step_checkpoint
from nesa.training.strategies.neural_pruning import NeuralPruning


@pytest.fixture(autouse=True)
def kept_twice_an_epoch(monkeypatch):
    """After every 36th step, whatever the clock says."""
    inner = step_checkpoint.StepCheckpointPlugin.after_training_iteration

    def save(self, strategy, **kwargs) -> None:
        steps = self.parts["log"].steps
        self.cost, self.last = 0.0, -float("inf") if steps % 36 == 0 else float("inf")
        inner(self, strategy, **kwargs)

    monkeypatch.setattr(task_figures, "draw", lambda *_: None)
    monkeypatch.setattr(step_checkpoint.StepCheckpointPlugin, "after_training_iteration", save)
    monkeypatch.setattr("nesa.training.strategies.pruning_learner.NeuralPruning", Often)


class Often(NeuralPruning):
    """Compaction looks every 31 steps, so that its windows lie across epochs of 72: step 216 is the last but one."""

    def __init__(self, *args, **options):
        super().__init__(*args, window=31, **options)


def long(place: Path, *overrides: str) -> Curriculum:
    """Two tasks of 4 epochs of 72 steps, that need hidden neurons and deactivate many of them; factored moments."""
    given = small_run.curriculum(place, *overrides, tasks=("five", "six"))
    return replace(given, tasks=tuple(changed(task) for task in given.tasks))


def changed(task):
    training = replace(task.training, epochs=4, batch_size=5, factored_moments=True)
    return replace(task, training=training, penalties=replace(task.penalties, activity=0.02))


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A folder with data/ and the finished run whole/, in which nothing was ever kept inside a task."""
    place = tmp_path_factory.mktemp("epochs")
    small_run.write_data(place / "data", negatives=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(task_figures, "draw", lambda *_: None)
        patch.setattr("nesa.training.strategies.pruning_learner.NeuralPruning", Often)
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


def resumed(place: Path, folder: Path, ear: Ear | None = None) -> int:
    """Resumes, and counts the optimiser steps that it took."""
    steps = []
    with pytest.MonkeyPatch.context() as patch:
        report = Session._report
        patch.setattr(
            Session, "_report", lambda self, name, f: (steps.append(name == "step"), report(self, name, f))[1]
        )
        resume(folder, data=place / "data", progress=ear or Ear())
    return sum(steps)


def same(folder: Path, whole: Path) -> None:
    assert small_run.events(folder) == small_run.events(whole)
    assert small_run.rows(folder) == small_run.rows(whole)
    for task in ("five", "six"):
        assert digest(load_checkpoint(folder, task)) == digest(load_checkpoint(whole, task))
        assert not {TRAINING, EARLIER, ANIMATION} & {path.name for path in (folder / "tasks" / task).iterdir()}


TASK = 5 * 72  # optimiser steps of a task: four epochs and one of healing


@pytest.mark.parametrize(
    ("moment", "steps"),
    [
        ("step 20", 2 * TASK),  # nothing was kept yet
        ("step 72", 2 * TASK - 36),  # the last step of an epoch
        ("epoch 1", 2 * TASK - 72),  # that epoch is in the record, and what was kept comes before it
        ("step 130", 2 * TASK - 108),
        ("step 290", 2 * TASK - 288),  # while the first task heals: kept was the last step of its training
        ("step 350", 2 * TASK - 324),  # kept was a step of healing
        ("task_claimed 1", TASK),
        ("task_started 2", TASK),
        (f"step {TASK + 200}", TASK - 180),
        ("evaluated 3", 0),
    ],
)
def test_it_goes_on_from_what_was_kept_to_the_same_bits(place, tmp_path, moment, steps):
    folder = stopped(place, tmp_path / "run", moment)
    assert resumed(place, folder) == steps
    same(folder, place / "whole")


def test_a_feedforward_network_goes_on_to_the_same_bits(place, tmp_path):
    """Its moments condense layer by layer; synapses that may not exist take no part."""
    layered = long(place, "network.grid=null", "network.layers=[30, 20]")
    run(layered, out=tmp_path, name="whole", data=place / "data")
    with pytest.MonkeyPatch.context() as patch:
        stop_at(patch, "step 150", interrupt)  # two epochs are done and condensed, and kept was step 144
        with pytest.raises(KeyboardInterrupt):
            run(layered, out=tmp_path, name="run", data=place / "data", progress=Ear())
    assert resumed(place, tmp_path / "run") == 2 * TASK - 144
    same(tmp_path / "run", tmp_path / "whole")


def test_weights_that_wait_for_their_steps_go_on_to_the_same_bits(place, tmp_path):
    """Where input neurons never receive, synapses out of the gradient's reach take twenty steps together: kept was step
    252, compaction had last looked after 248."""
    still = long(place, "network.inputs_receive=false", "network.iterations=5", "network.update=plain")
    run(still, out=tmp_path, name="whole", data=place / "data")
    for name, forget in (("run", False), ("forgetful", True)):
        with pytest.MonkeyPatch.context() as patch:
            stop_at(patch, "step 253", interrupt)
            with pytest.raises(KeyboardInterrupt):
                run(still, out=tmp_path, name=name, data=place / "data", progress=Ear())
        path = tmp_path / name / "tasks" / "five" / TRAINING
        state = torch.load(path, weights_only=True)
        waiting = state["training"]["task_network"]["optimizer"]["W"]
        assert waiting["deferred"][1] == 4 and len(waiting["deferred"][0]) > 1
        if forget:
            del state["digest"], waiting["deferred"]
            torch.save(state | {"digest": digest(state)}, path)
        assert resumed(place, tmp_path / name) == 2 * TASK - 252
    same(tmp_path / "run", tmp_path / "whole")
    assert digest(load_checkpoint(tmp_path / "forgetful", "six")) != digest(load_checkpoint(tmp_path / "whole", "six"))


def test_compaction_has_dropped_neurons_and_its_window_was_open(place, tmp_path):
    """Without this the tests above would not show that the working set and who has fired are kept."""
    folder = stopped(place, tmp_path / "run", "step 250")
    kept = load_checkpoint(folder, "five", TRAINING)["training"]
    steps = [kept["schedule"]["steps"], kept["pruning"]["steps"], kept["log"]["steps"]]
    assert kept["batches"] == {"epoch": 2, "position": 72} and steps == [216, 216, 216]
    network = kept["task_network"]
    n, active = len(network["index"]), unpack(network["active"])
    assert n < 8 * 8 * 4 + 5 and active.shape == (3, n) and bool(active.any())
    assert unpack(network["inactive"]).shape == (3, n) and bool(unpack(network["inactive"]).any())
    assert any(row["neurons_claimed"] > 10 for row in StoredRun(place / "whole").rows)
    W, moments = unpack(network["W"]), network["optimizer"]["W"]
    left = int((W != 0).sum())
    assert W.shape == (n, n) and left < 0.9 * n * n
    first, second = moments["exp_avg"], moments["exp_avg_sq"]
    assert len(first["of_nonzero"]) == left == len(second["of_nonzero"])  # zero weights have none of theirs
    assert first["outer"] is None and [len(part) for part in second["outer"]] == [n, n]
    folder = stopped(place, tmp_path / "inside", "step 253")
    inside = load_checkpoint(folder, "five", TRAINING)["training"]["task_network"]
    assert unpack(inside["optimizer"]["W"]["exp_avg"]).shape == unpack(inside["W"]).shape  # but inside an epoch they do


@pytest.mark.parametrize(
    ("step", "change"),
    [
        (253, lambda kept: kept["task_network"]["optimizer"]["W"]["exp_avg"]["values"].zero_()),
        (253, lambda kept: kept["task_network"]["active"]["values"].zero_()),
        (253, lambda kept: kept["task_network"].update(inactive=None)),
        (253, lambda kept: kept["task_network"]["index"].copy_(kept["task_network"]["index"].flip(0))),
        (253, lambda kept: kept["pruning"].update(steps=0)),
        (253, lambda kept: kept["batches"].update(epoch=2)),
        (253, lambda kept: kept["batches"].update(position=18)),
        (217, lambda kept: kept["task_network"]["optimizer"]["W"]["exp_avg"]["of_nonzero"].zero_()),
        (217, lambda kept: kept["task_network"]["optimizer"]["W"]["exp_avg_sq"]["outer"][0].mul_(2)),
    ],
    ids=[
        "moments",
        "active",
        "inactive",
        "neurons",
        "steps",
        "order",
        "place in the epoch",
        "factored",
        "rows and columns",
    ],
)
def test_each_part_of_what_is_kept_matters(place, tmp_path, step, change):
    folder = stopped(place, tmp_path / "run", f"step {step}")
    path = folder / "tasks" / "five" / TRAINING
    state = torch.load(path, weights_only=True)
    del state["digest"]
    change(state["training"])
    torch.save(state | {"digest": digest(state)}, path)
    resume(folder, data=place / "data")
    assert digest(load_checkpoint(folder, "six")) != digest(load_checkpoint(place / "whole", "six"))


@pytest.mark.parametrize(("lost", "frames"), [(False, 4), (True, 3)])
def test_the_animation_goes_on_too(place, tmp_path, lost, frames):
    """Kept was step 144, before the second epoch was told; without film.pt, which is said, what follows is filmed."""
    folder = stopped(place, tmp_path / "run", "step 150")
    film, ear, films = folder / "tasks" / "five" / ANIMATION, Ear(), []
    if lost:
        film.write_bytes(film.read_bytes()[:1000])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(task_figures, "draw", lambda *given: films.append(given[-1]))
        assert resumed(place, folder, ear) == 2 * TASK - 144
    assert [frame.label for frame in films[0].frames] == [f"epoch {k}" for k in range(1, 5)][-frames:]
    assert any(f"{ANIMATION}: " in text and text.endswith("begins where it goes on") for text in ear.said) == lost
    assert without_warnings(folder) == without_warnings(place / "whole") and not film.exists()


def test_killed_in_every_task_and_epoch_it_is_still_the_same(place, tmp_path):
    folder = tmp_path / "run"

    def work(moment: str | None) -> None:
        with pytest.MonkeyPatch.context() as patch:
            if moment is not None:
                stop_at(patch, moment, lambda: os.kill(os.getpid(), signal.SIGKILL))
            resume(folder, data=place / "data", progress=Ear()) if folder.exists() else start(place, folder)

    first = ("step 80", "step 73", "epoch 2", "step 30", "step 50", "task_claimed 1")
    for moment in (*first, "step 100", "epoch 1", "step 200", "evaluated 1"):
        assert life(work, moment) == signal.SIGKILL
    assert life(work, None) == 0
    same(folder, place / "whole")


@pytest.mark.parametrize(
    ("files", "steps"), [((TRAINING,), TASK - 144), ((EARLIER,), TASK - 180), ((TRAINING, EARLIER), TASK)]
)
def test_what_is_damaged_is_named_and_its_predecessor_is_taken(place, tmp_path, files, steps):
    folder = stopped(place, tmp_path / "run", f"step {TASK + 200}")
    for file in files:
        path = folder / "tasks" / "six" / file
        data = path.read_bytes()
        path.write_bytes(data[: len(data) // 2] + bytes([data[len(data) // 2] ^ 1]) + data[len(data) // 2 + 1 :])
    ear = Ear()
    assert resumed(place, folder, ear) == steps
    said = [text for text in ear.said if "going back to what was kept before it" in text]
    named = [file for file in files if any(f"tasks/six/{file}: " in text for text in said)]
    assert named == [file for file in files if steps != TASK - 180]  # what is not needed is not looked at
    assert set(said) <= {event["message"] for event in read_events(folder) if event["event"] == "warning"}
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


@pytest.mark.parametrize("step", [30, 72, 290, 360, TASK + 100])
def test_ctrl_c_and_sigterm_finish_the_step_and_save_it(place, tmp_path, monkeypatch, capsys, step):
    signum, code = (signal.SIGTERM, 143) if step in (72, 360) else (signal.SIGINT, 130)
    monkeypatch.setattr("nesa.config.loader.load", lambda path, overrides: long(place))
    words = ["--data", str(place / "data"), "--quiet"]
    with pytest.MonkeyPatch.context() as patch:
        stop_at(patch, f"step {step}", lambda: os.kill(os.getpid(), signum))
        assert main(["run", "small.yaml", "--out", str(tmp_path), "--name", "run", *words]) == code
    folder = tmp_path / "run"
    lines = capsys.readouterr().err.splitlines()
    assert lines[-2].endswith(f"go on with: nesa resume {folder}")
    assert lines[-1] == ("interrupted" if code == 130 else "terminated")
    monkeypatch.undo()
    monkeypatch.setattr(task_figures, "draw", lambda *_: None)
    monkeypatch.setattr("nesa.training.strategies.pruning_learner.NeuralPruning", Often)
    assert lines[-2].startswith("stopped and saved")
    assert resumed(place, folder) == 2 * TASK - step  # not one step is lost
    same(folder, place / "whole")


@settings(max_examples=5, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(st.lists(st.integers(1, 2 * TASK), min_size=1, max_size=3), st.booleans())
def test_stopped_at_any_steps_it_goes_on_to_the_same_bits(place, steps, saved):
    """Each life is stopped after so many steps of its own: by a signal, which saves, or without a warning."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "run"
        for step in steps:
            with pytest.MonkeyPatch.context() as patch:
                stop_at(patch, f"step {step}", (lambda: os.kill(os.getpid(), signal.SIGINT)) if saved else interrupt)
                with contextlib.suppress(KeyboardInterrupt):
                    resume(folder, data=place / "data", progress=Ear()) if folder.exists() else start(place, folder)
        resume(folder, data=place / "data", progress=Ear())
        same(folder, place / "whole")


def test_what_has_diverged_is_not_kept(place, tmp_path):
    """NaN in the weights after a step: what was kept before it is the last good state, and stays."""
    folder = tmp_path / "run"
    report = Session._report

    def spoil(self, name, fields) -> None:
        report(self, name, fields)
        spoil.steps += name == "step"
        if spoil.steps == 100:
            self.learner.model.task_network.W.data[-1, 0] = float("nan")

    spoil.steps = 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Session, "_report", spoil)
        with pytest.raises(RunFailed, match=r"task 'five': the loss is nan, since step 101 \(epoch 1\)"):
            start(place, folder)
    kept = load_checkpoint(folder, "five", TRAINING)["training"]
    assert kept["log"]["steps"] == 72 and bool(torch.isfinite(unpack(kept["task_network"]["W"])).all())
    assert resumed(place, folder) == 2 * TASK - 72
    same(folder, place / "whole")


class Clock:
    """Stands for time.perf_counter; a checkpoint takes `cost` seconds."""

    def __init__(self, cost: float):
        self.now, self.cost, self.saved = 0.0, cost, []

    def save(self, state) -> None:
        self.saved.append(self.now)
        self.now += self.cost

    def steps(self, count: int, optimizer=None) -> list[float]:
        """The times at which a plugin saves in so many steps of a second."""
        network = SimpleNamespace(W=torch.zeros(10, 10), b=torch.zeros(10))
        strategy = SimpleNamespace(model=SimpleNamespace(task_network=network), optimizer=optimizer)
        plugin = step_checkpoint.StepCheckpointPlugin(self.save)
        plugin.before_training_exp(strategy)
        for _ in range(count):
            self.now += 1.0
            plugin.after_training_iteration(strategy)
        return self.saved


@pytest.mark.parametrize(
    ("cost", "factored", "first", "gap"),
    [(0.25, None, 30, 30.25), (1.0, None, 30, 51), (0.25, {}, 600, 600.25), (0.25, {"exp_avg": None}, 30, 30.25)],
    ids=["cheap", "dear", "between factored moments", "factored moments"],
)
def test_checkpoints_cost_little(monkeypatch, cost, factored, first, gap):
    """INTERVAL seconds apart at least, LONG_INTERVAL where moments are factored at other steps; and only when the last
    one has cost less than SHARE of what was trained."""
    clock = Clock(cost)
    monkeypatch.undo()
    monkeypatch.setattr(step_checkpoint.time, "perf_counter", lambda: clock.now)
    optimizer = None if factored is None else SimpleNamespace(factored_moments=True, factored=factored)
    saved = clock.steps(2000, optimizer)
    gaps = [b - a for a, b in itertools.pairwise(saved)]
    assert saved[0] == first and gaps == pytest.approx([gap] * len(gaps)) and len(gaps) > 1


def test_the_first_of_a_large_network_waits_until_it_is_cheap(monkeypatch):
    clock = Clock(0.0)
    monkeypatch.undo()
    monkeypatch.setattr(step_checkpoint.time, "perf_counter", lambda: clock.now)
    monkeypatch.setattr(step_checkpoint, "DISK_SPEED", 1200.0)  # bytes a second, for 1200 of W and its moments
    assert clock.steps(100) == [50.0, 80.0]
