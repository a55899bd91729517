"""nesa extend: a finished run goes on with more tasks, as if it had been one run; and what is refused, untouched."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import small_run
import torch
import yaml
from interruption import Ear, interrupt, life, stop_at
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from nesa.analysis.comparison import WHOLE, task_values
from nesa.config.curriculum import Curriculum
from nesa.config.loader import extend_curriculum, load
from nesa.errors import CurriculumError, DataError, RunFolderError, UserError
from nesa.experiment import task_figures
from nesa.experiment.run import extend, resume, run
from nesa.inference.saved_run import load as load_run
from nesa.reports.run_report import report
from nesa.run_folder.events import finish_event, read_events, start_event
from nesa.run_folder.lock import RunLock
from nesa.run_folder.reader import StoredRun
from nesa.run_folder.tensorboard import TensorBoardWriter
from nesa.run_folder.writer import RunWriter
from nesa.verification.verify import verify

TASK = "tasks:\n  - {{name: {0}, source: arrays, params: {{path: {0}.npz}}}}\n"
BETWEEN = ("run_started", "run_finished", "extended", "checkpointed")  # what differs between one run and two


@pytest.fixture(autouse=True)
def no_figures(monkeypatch):
    monkeypatch.setattr(task_figures, "draw", lambda *_: None)


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A folder with data/ and the finished runs one/ (a task), two/ (extended from it), three/ (from two/), and
    whole/ (the three tasks in one go)."""
    place = tmp_path_factory.mktemp("extended")
    small_run.write_data(place / "data")
    for name in small_run.CLASSES:
        (place / f"{name}.yaml").write_text(TASK.format(name))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(task_figures, "draw", lambda *_: None)
        run(small_run.curriculum(place, tasks=("five",)), out=place, name="one", data=place / "data", animate=False)
        for before, task, after in (("one", "six", "two"), ("two", "ten", "three")):
            shutil.copytree(place / before, place / after)
            longer(place, place / after, task)
        run(small_run.curriculum(place), out=place, name="whole", data=place / "data", animate=False)
    return place


@pytest.fixture
def one(place, tmp_path) -> Path:
    """The run of one task, to extend."""
    return Path(shutil.copytree(place / "one", tmp_path / "run"))


def longer(place: Path, folder: Path, *tasks: str, ear: Ear | None = None, **options) -> Path:
    """Extends the run in `folder` by these tasks, one extension each."""
    for task in tasks:
        path = place / f"{task}.yaml"
        extend(folder, path, data=place / "data", animate=False, command=["nesa", "extend"], progress=ear, **options)
    return folder


def contents(folder: Path) -> dict[Path, bytes]:
    files = {path for path in folder.rglob("*") if path.is_file() and "tensorboard" not in path.parts}
    return {path: path.read_bytes() for path in files if path.name != "lock"}


def lines(folder: Path) -> list[dict]:
    """What tasks have written, without digests of what came before."""
    return [event for event in small_run.events(folder) if event["event"] not in BETWEEN]


def same_networks(a: Path, b: Path, tasks=tuple(small_run.CLASSES)) -> None:
    """Weights, biases and coordinates of the network that answers each task, to the last bit."""
    for task in tasks:
        x, y = load_run(a).task(task), load_run(b).task(task)
        assert torch.equal(x.network.W, y.network.W) and torch.equal(x.network.b, y.network.b)
        assert torch.equal(x.network.layout.positions, y.network.layout.positions)
        assert (x.mean, x.std, x.classes) == (y.mean, y.std, y.classes)


# A run goes on ------------------------------------------------------------------------------------------------------


def test_extended_twice_is_one_run_of_all_tasks(place):
    """The networks grew on the way, at other places in the order of neurons, and still agree bit for bit."""
    for folder in ("three", "whole"):
        warned = [e["message"] for e in read_events(place / folder) if e["event"] == "warning"]
        assert sum("the network grew by 64 neurons before task" in message for message in warned) == 2
    same_networks(place / "three", place / "whole")
    assert lines(place / "three") == lines(place / "whole")
    for file in ("accuracy.csv", "curriculum.yaml"):
        assert (place / "three" / file).read_text() == (place / "whole" / file).read_text()
    assert small_run.rows(place / "three") == small_run.rows(place / "whole")


def test_without_a_grid_it_is_one_run_too(place, tmp_path):
    """`neurons` counts the output ports, so extending makes it larger by those of the new task."""

    def given(neurons: int, *tasks: str) -> Curriculum:
        whole = small_run.curriculum(tmp_path, tasks=tasks)
        return replace(whole, network=replace(whole.network, grid=None, neurons=neurons))

    options = {"out": tmp_path, "data": place / "data", "animate": False}
    run(given(150, "five"), name="grown", **options)
    longer(place, tmp_path / "grown", "six")
    run(given(156, "five", "six"), name="once", **options)
    assert load(tmp_path / "grown" / "curriculum.yaml").network.neurons == 156
    same_networks(tmp_path / "grown", tmp_path / "once", ("five", "six"))
    assert lines(tmp_path / "grown") == lines(tmp_path / "once")


def test_answers_of_earlier_tasks_are_the_same_bit_for_bit_and_new_ones_are_learned(place):
    x = torch.randint(0, 256, (50, 64), generator=torch.Generator().manual_seed(1)).to(torch.uint8)
    runs = [load_run(place / name) for name in ("one", "two", "three")]
    for task, first in (("five", 0), ("six", 1)):
        assert all(torch.equal(runs[first].task(task)(x), later.task(task)(x)) for later in runs[first:])
    R = StoredRun(place / "three").R
    assert (R[2] > [0.8, 0.8, 0.5]).all()
    claimed = [len(run.accumulation.claimed) for run in runs]
    assert claimed[0] < claimed[1] < claimed[2]


def test_every_promise_is_checked_on_the_extended_run(place):
    checks = {check.name: check for check in verify(place / "three", place / "data")}
    assert all(check.ok for check in checks.values()), [check for check in checks.values() if not check.ok]
    assert "after 2 later tasks" in checks["answers five"].detail
    assert {f"{part} {task}" for part in ("row", "accuracy", "recorded") for task in small_run.CLASSES} <= checks.keys()
    assert "3 of 3 tasks" in checks["events"].detail and "not finished" not in checks["events"].detail
    assert checks["curriculum"].detail == "as the run was last extended, 2 x"


def test_the_record_is_only_added_to(place):
    before, after = read_events(place / "one"), read_events(place / "three")
    assert after[: len(before)] == before
    assert [e["event"] for e in after].count("run_finished") == 3
    last = start_event(after)
    assert last is not None and last["tasks"] == ["five", "six", "ten"] and last["command"] == "nesa extend"
    assert last["curriculum"] == (place / "three" / "curriculum.yaml").read_text()
    for file in ("checkpoint.pt", "probe.pt", "structure.npz"):
        old, new = (place / name / "tasks" / "five" / file for name in ("one", "three"))
        assert old.read_bytes() == new.read_bytes()


def test_readers_take_the_last_end(place):
    """tables, TensorBoard, compare and report."""
    found = StoredRun(place / "three")
    assert found.tasks == found.names == ["five", "six", "ten"] and found.status == "finished"
    ends = [e for e in read_events(place / "three") if e["event"] == "run_finished"]
    values = task_values(found, WHOLE)
    assert values["acc"] == ends[-1]["acc"] != ends[0]["acc"] and values["seconds"] == ends[-1]["seconds"]
    assert ends[0]["seconds"] < ends[1]["seconds"] < ends[2]["seconds"]  # of the whole run so far
    board = EventAccumulator(str(place / "three" / "tensorboard")).Reload()
    assert [e.step for e in board.Scalars("accumulation/neurons_claimed")] == [0, 1, 2]
    assert [e.step for e in board.Scalars("accuracy/five")] == [0, 1, 2]
    assert "ten.npz" in board.Tensors("curriculum")[0].tensor_proto.string_val[0].decode()
    hyper = board.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    assert b"five > six > ten" in hyper
    text, _ = report(place / "three")
    assert "This run is finished: seed 3, 3 of 3 tasks." in text.read_text()


def test_while_an_extension_is_under_way_no_reader_says_finished(place, one, monkeypatch):
    stop_at(monkeypatch, "task_claimed 1", interrupt)
    ear = Ear()
    with pytest.raises(KeyboardInterrupt):
        longer(place, one, "six", ear=ear)
    assert any(f"go on with: nesa resume {one}" in text for text in ear.said)
    assert finish_event(read_events(one)) is None and not task_values(StoredRun(one), WHOLE)
    assert "This run has stopped before its end: seed 3, 2 of 2 tasks" in report(one)[0].read_text()
    checks = verify(one, place / "data")
    assert "not finished: six" in checks[0].detail and [c.name for c in checks if not c.ok] == []
    TensorBoardWriter.rebuilt(one, (one / "curriculum.yaml").read_text(), read_events(one)).close()
    tags = EventAccumulator(str(one / "tensorboard")).Reload().Tags()["tensors"]
    assert "_hparams_/session_end_info" not in tags and "_hparams_/session_start_info" in tags
    with pytest.raises(RunFolderError, match=r"is not finished; go on with `nesa resume .*` first"):
        longer(place, one, "ten")


# Interrupted --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("moment", ["extended 1", "step 5", "file six", "checkpointed 1"])
def test_an_interrupted_extension_is_resumed_to_the_same_result(place, one, monkeypatch, moment):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(task_figures, "draw", lambda *_: None)
        stop_at(patch, moment, interrupt)
        with pytest.raises(KeyboardInterrupt):
            longer(place, one, "six")
    ear = Ear()
    resume(one, data=place / "data", animate=False, progress=ear)
    assert small_run.events(one) == small_run.events(place / "two")
    same_networks(one, place / "two", ("five", "six"))
    assert not any("damaged" in text or "finished" in text for text in ear.said)
    assert all(check.ok for check in verify(one, place / "data"))


def test_killed_between_the_event_and_the_curriculum(place, one):
    """The two files cannot be written at once: what the event says is true, and resuming mends the other one."""

    def work(_: str | None) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(RunWriter, "put_curriculum", lambda *_: os.kill(os.getpid(), signal.SIGKILL))
            longer(place, one, "six")

    assert life(work, None) == signal.SIGKILL
    assert (one / "curriculum.yaml").read_text() == (place / "one" / "curriculum.yaml").read_text()
    assert read_events(one)[-1]["event"] == "extended"
    assert [check.name for check in verify(one) if not check.ok] == ["curriculum"]
    resume(one, data=place / "data", animate=False)
    assert small_run.events(one) == small_run.events(place / "two")
    assert (one / "curriculum.yaml").read_text() == (place / "two" / "curriculum.yaml").read_text()


def test_a_checkpoint_from_before_the_extension_that_is_damaged_is_passed_over(place, one):
    """Stopped in the extension: its own tasks and the damaged one are trained again, and all promises hold."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(task_figures, "draw", lambda *_: None)
        stop_at(patch, "checkpointed 1", interrupt)
        with pytest.raises(KeyboardInterrupt):
            longer(place, Path(shutil.copytree(place / "two", one.with_name("two"))), "ten")
    folder = one.with_name("two")
    for task in ("six", "ten"):
        path = folder / "tasks" / task / "checkpoint.pt"
        path.write_bytes(path.read_bytes()[:-100])
    resume(folder, data=place / "data", animate=False)
    same_networks(folder, place / "whole")
    assert all(check.ok for check in verify(folder, place / "data"))
    start = start_event(read_events(folder))
    assert start is not None and (start["event"], start["tasks"]) == ("extended", ["five", "six", "ten"])


# Refused, with nothing changed --------------------------------------------------------------------------------------


def unchanged(folder: Path, error: type[Exception], match: str, work: Callable[[], object]) -> None:
    before = contents(folder)
    with pytest.raises(error, match=match):
        work()
    assert contents(folder) == before


def test_a_damaged_or_edited_run_is_refused(place, one):
    path, edited = one / "tasks" / "five" / "checkpoint.pt", one / "curriculum.yaml"
    data, text = path.read_bytes(), edited.read_text()
    path.write_bytes(data[:-100])
    unchanged(one, RunFolderError, r"checkpoint\.pt: is damaged", lambda: longer(place, one, "six"))
    path.write_bytes(data)
    edited.write_text(text.replace("epochs: 2", "epochs: 3"))
    unchanged(one, RunFolderError, "was changed after the run began", lambda: longer(place, one, "six"))
    edited.write_text(text)
    with RunLock(one):
        unchanged(one, RunFolderError, "in use by process", lambda: longer(place, one, "six"))


def test_nothing_is_written_before_all_data_are_there(place, one, tmp_path):
    some = small_run.write_data(tmp_path / "some")
    (some / "six.npz").unlink()
    more = place / "six.yaml"
    unchanged(one, DataError, r"six\.npz", lambda: extend(one, more, data=some))
    small_run.write_data(some, seed=1)  # those of the first task are others
    words = "the data of five are not those that this run began with"
    unchanged(one, RunFolderError, words, lambda: extend(one, more, data=some))
    unchanged(one, UserError, "no such file", lambda: extend(one, tmp_path / "none.yaml", data=place / "data"))


def test_a_network_too_large_for_this_machine_is_refused(place, one, monkeypatch):
    monkeypatch.setattr("nesa.experiment.run._physical_memory", lambda: 4 * 4 * 260**2)  # the first task's 261 neurons
    unchanged(one, UserError, "neurons need about", lambda: longer(place, one, "six"))


def test_only_a_learner_that_claims_can_be_extended(place, tmp_path):
    given = small_run.curriculum(tmp_path, tasks=("five",))
    given = replace(given, learner=replace(given.learner, name="naive"))
    folder = run(given, out=tmp_path, data=place / "data", animate=False)
    unchanged(
        folder, RunFolderError, "is a run of naive, whose answers would change", lambda: longer(place, folder, "six")
    )


# What the file may say ----------------------------------------------------------------------------------------------


@pytest.fixture
def given(tmp_path) -> Curriculum:
    """What a run may have been trained with: the task "five" of small.yaml."""
    return small_run.curriculum(tmp_path, tasks=("five",))


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "more.yaml"
    path.write_text(text)
    return path


def test_the_new_tasks_may_be_trained_and_priced_otherwise(given, tmp_path):
    text = "name: later\ntraining: {epochs: 7}\npenalties: {weight: 0.5}\n" + TASK.format("six")
    found = extend_curriculum(written(tmp_path, text), given)
    assert (found.name, found.training, found.penalties) == (given.name, given.training, given.penalties)
    assert found.tasks[0] == given.tasks[0]
    six = found.tasks[1]
    assert (six.training.epochs, six.training.lr) == (7, given.training.lr)
    assert (six.penalties.weight, six.penalties.activity) == (0.5, given.penalties.activity)
    assert extend_curriculum(tmp_path / "more.yaml", given, ["training.epochs=9"]).tasks[1].training.epochs == 9


def test_a_whole_curriculum_that_agrees_will_do_and_the_network_may_begin_to_grow(given, tmp_path):
    fixed = replace(given, learner=replace(given.learner, grow=False))
    found = extend_curriculum(written(tmp_path, "extends: small.yaml\n" + TASK.format("new")), fixed)
    assert [task.name for task in found.tasks] == ["five", "new"] and found.learner.grow
    assert not extend_curriculum(written(tmp_path, TASK.format("new")), fixed).learner.grow


def test_what_is_written_down_gives_the_same_curriculum_again(given, tmp_path):
    from nesa.config.loader import dump

    text = "training: {epochs: 7}\npenalties: {weight: 0.5}\n" + TASK.format("six")
    found = extend_curriculum(written(tmp_path, text), given)
    path = tmp_path / "again.yaml"
    path.write_text(dump(found))
    assert load(path) == found
    assert yaml.safe_load(dump(found))["tasks"][1]["training"] == {"epochs": 7}


SIX = TASK.format("six")


@pytest.mark.parametrize(
    ("text", "problems"),
    [
        ("name: x\n", ["1:1: tasks: is missing: the tasks to add to the run"]),
        ("tasks: []\n", ["1:8: tasks: must be a list of at least one task, not empty"]),
        (TASK.format("five"), ["2:12: tasks[0].name: 'five' is a task of the run already; names must differ"]),
        (TASK.format("FIVE"), ["2:12: tasks[0].name: 'FIVE' is a task of the run already; names must differ"]),
        (SIX + SIX[7:], ["3:12: tasks[1].name: 'six' is the name of tasks[0] already; names must differ"]),
        ("seed: 4\n" + SIX, ["1:7: seed: is 3 in the run, which cannot be changed afterwards: leave it out"]),
        ("input: {size: [9, 8]}\n" + SIX, ["1:15: input.size: is [8, 8] in the run"]),
        ("input: {channels: 3}\n" + SIX, ["1:19: input.channels: is 1 in the run"]),
        (
            "network:\n  iterations: 4\n  update: plain\n  output_activation: relu\n" + SIX,
            [
                "2:15: network.iterations: is 3 in the run",
                "3:11: network.update: is 'residual_both' in the run",
                "4:22: network.output_activation: is 'linear' in the run",
            ],
        ),
        ("network: {neurons: 900}\n" + SIX, ["1:20: network.neurons: is not set in the run"]),
        ("learner: {margin: 0.5}\n" + SIX, ["1:19: learner.margin: is 0.02 in the run"]),
        ("learner: {name: ewc}\n" + SIX, ["1:17: learner.name: is 'neural_pruning' in the run"]),
        ("learner: {grow: false}\n" + SIX, ["1:17: learner.grow: is true in the run"]),
        ("epochs: 3\n" + SIX, ["1:1: epochs: unknown key (did you mean training.epochs?)"]),
        ("training: {epoch: 3}\n" + SIX, ["1:12: training.epoch: unknown key (did you mean epochs?)"]),
        ("training: {momentum: 0.5}\n" + SIX, ["1:22: training.momentum: is for sgd, but the optimizer is adam"]),
        ("tasks: [{source: arrays, params: {path: a.npz}}]\n", ["1:9: tasks[0].name: is missing"]),
        ("- 1\n", ["1:1: a curriculum is a mapping of keys"]),
    ],
)
def test_each_mistake_is_said_at_its_place(given, tmp_path, text, problems):
    path = written(tmp_path, text)
    with pytest.raises(CurriculumError) as caught:
        extend_curriculum(path, given)
    found = [line.removeprefix(f"{path}:") for line in str(caught.value).splitlines()]
    assert len(found) == len(problems)
    assert all(line.startswith(words) for line, words in zip(found, problems, strict=True)), found


def test_ports_that_do_not_fit_beside_few_neurons_come_on_top(given, tmp_path):
    """70 neurons hold the 64 inputs and one small port; the ports of further tasks are added to them."""
    flat = replace(given, network=replace(given.network, grid=None, neurons=70))
    text = SIX.replace("six.npz", "six.npz, classes: 40")
    assert len(extend_curriculum(written(tmp_path, text), flat).tasks) == 2


def test_a_thousand_tasks_are_the_most(given, tmp_path):
    many = replace(given, tasks=tuple(replace(given.tasks[0], name=f"t{i}") for i in range(1000)))
    with pytest.raises(CurriculumError, match="would make 1,001 tasks; at most 1,000 are possible"):
        extend_curriculum(written(tmp_path, SIX), many)
