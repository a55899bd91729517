"""nesa.run_folder.writer: what is written, that it survives damage, and that tables and events never disagree."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
from collections import OrderedDict

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image

from nesa.errors import RunFailed, RunFolderError
from nesa.figures.style import render
from nesa.run_folder import tables
from nesa.run_folder.checkpoint import load_checkpoint
from nesa.run_folder.environment import environment, read_environment
from nesa.run_folder.events import read_events
from nesa.run_folder.reader import StoredRun, load_structure
from nesa.run_folder.writer import RunWriter

CURRICULUM = "name: trial\nseed: 3\ntasks:\n  - {name: edges, source: edges}\n  - {name: shapes, source: shapes}\n"


def claim(record, task, index, **values):
    row = dict.fromkeys(tables.ACCUMULATION, 0.5) | {"task": task, "index": index, "source": task, "fallback": False}
    return record.event("task_claimed", **row | {"levels_claimed": [4, 2], "levels_reused": [0, 1]} | values)


def tell(record, *tasks):
    """A short run: start, and for each task start, one epoch, claim and evaluations."""
    record.event("run_started", name="trial", seed=3, tasks=list(tasks), neurons=100, iterations=2)
    for index, task in enumerate(tasks):
        record.event("task_started", task=task, index=index, source=task)
        record.event("epoch", task=task, epoch=1, step=10, loss=0.7 / (index + 1))
        claim(record, task, index)
        for done, earlier in enumerate(tasks[: index + 1]):
            record.event("evaluated", after=task, task=earlier, accuracy=0.9 - 0.1 * done)


@pytest.fixture
def record(tmp_path):
    with RunWriter.create(tmp_path / "runs" / "trial-1", CURRICULUM, {"seed": 3}) as record:
        yield record


def test_a_new_run_holds_curriculum_environment_and_no_events(record):
    names = sorted(path.name for path in record.folder.iterdir())
    assert names == ["curriculum.yaml", "environment.json", "events.jsonl", "lock"]
    assert (record.folder / "curriculum.yaml").read_text() == CURRICULUM
    assert read_environment(record.folder) == {"seed": 3}
    assert read_events(record.folder) == record.events == []


def test_an_empty_folder_becomes_a_run(tmp_path):
    (tmp_path / "empty").mkdir()
    with RunWriter.create(tmp_path / "empty", CURRICULUM, {}) as record:
        record.event("warning", message="still here")
    assert len(read_events(tmp_path / "empty")) == 1


@pytest.mark.parametrize("kind", ["thesis", "run", "file"])
def test_a_folder_in_use_is_refused_and_left_alone(tmp_path, kind):
    folder = tmp_path / "taken"
    if kind == "file":
        folder.write_text("mine")
    else:
        folder.mkdir()
        for name in ("curriculum.yaml", "environment.json", "events.jsonl") if kind == "run" else ("thesis.tex",):
            (folder / name).write_text("mine")
    before = {path: path.read_text() for path in tmp_path.rglob("*") if path.is_file()}
    reason = {"run": "is a run already; resume it", "file": "is a file", "thesis": "is not empty"}[kind]
    with pytest.raises(RunFolderError, match=reason):
        RunWriter.create(folder, CURRICULUM, {})
    assert {path: path.read_text() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_a_failed_creation_leaves_nothing(tmp_path):
    with pytest.raises(TypeError):
        RunWriter.create(tmp_path / "runs" / "x", CURRICULUM, {"device": object()})
    assert list((tmp_path / "runs").iterdir()) == []


def test_two_creations_of_one_folder_make_one_run(tmp_path):
    with RunWriter.create(tmp_path / "x", CURRICULUM, {}), pytest.raises(RunFolderError, match="in use by process"):
        RunWriter.create(tmp_path / "x", CURRICULUM, {})
    with pytest.raises(RunFolderError, match="is a run already"):
        RunWriter.create(tmp_path / "x", CURRICULUM, {})


def test_a_run_in_use_cannot_be_opened(record):
    with pytest.raises(RunFolderError, match=f"in use by process {os.getpid()} "):
        RunWriter.open(record.folder)
    record.event("warning", message="the holder goes on")


def test_a_folder_that_is_no_run_cannot_be_opened_and_gets_no_lock_file(tmp_path):
    with pytest.raises(RunFolderError, match=r"is not a run, curriculum\.yaml is missing"):
        RunWriter.open(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_events_are_flat_lines_in_order(record):
    record.event("note", number=np.float32(0.5), count=torch.tensor(3), flag=np.bool_(True), levels=np.array([4, 0, 1]))
    record.event("note", nothing=None, words=["a", "b"], text="a\nline, ünïcode")
    lines = (record.folder / "events.jsonl").read_text().splitlines()
    first, second = map(json.loads, lines)
    assert [*first] == ["event", "time", "number", "count", "flag", "levels"]
    assert first | {"time": 0} == {
        "event": "note",
        "time": 0,
        "number": 0.5,
        "count": 3,
        "flag": True,
        "levels": [4, 0, 1],
    }
    assert second["words"] == ["a", "b"]
    assert second["text"] == "a\nline, ünïcode"
    assert record.events == [first, second]


def test_what_is_not_finite_becomes_null(record):
    line = record.event(
        "note", nan=float("nan"), inf=np.inf, some=[1.0, float("-inf")], tensor=torch.tensor(float("nan"))
    )
    assert [line["nan"], line["inf"], line["some"], line["tensor"]] == [None, None, [1.0, None], None]
    assert "NaN" not in (record.folder / "events.jsonl").read_text()


@pytest.mark.parametrize("value", [{"a": 1}, [[1]], np.zeros((2, 2)), object(), torch.nn.ReLU(), {1, 2}, [{"a": 1}]])
def test_what_is_not_flat_is_refused_before_it_is_written(record, value):
    with pytest.raises(TypeError, match=r"note\.thing"):
        record.event("note", thing=value)
    assert read_events(record.folder) == record.events == []


def test_keys_of_the_record_and_missing_keys_are_refused(record):
    with pytest.raises(ValueError, match="'time' is reserved"):
        record.event("note", time=3)
    with pytest.raises(ValueError, match="lacks epoch, step"):
        record.event("epoch", task="edges")
    with pytest.raises(ValueError, match="lacks source, fallback"):
        record.event("task_claimed", task="edges", index=0)
    with pytest.raises(ValueError, match="'edges', a task that has not started"):
        record.event("evaluated", after="edges", task="edges", accuracy=1.0)
    assert record.events == []


def test_tables_follow_the_events(record):
    tell(record, "edges", "shapes")
    run = StoredRun(record.folder)
    assert run.names == run.claimed == ["edges", "shapes"]
    np.testing.assert_array_equal(run.R, [[0.9, np.nan], [0.9, 0.8]])
    assert (record.folder / "accuracy.csv").read_text() == tables.accuracy_csv(run.names, run.R)
    assert (record.folder / "accumulation.csv").read_text() == tables.accumulation_csv(run.rows)


def test_rewind_forgets_events_and_what_they_had_put_into_the_tables(record):
    tell(record, "edges")
    kept = list(record.events)
    table = {name: (record.folder / name).read_bytes() for name in ("accuracy.csv", "accumulation.csv")}
    bytes_kept = (record.folder / "events.jsonl").read_bytes()
    record.event("task_started", task="shapes", index=1, source="shapes")
    claim(record, "shapes", 1)
    record.event("evaluated", after="shapes", task="edges", accuracy=0.1)
    record.rewind(len(kept))
    assert record.events == kept
    assert (record.folder / "events.jsonl").read_bytes() == bytes_kept
    assert {name: (record.folder / name).read_bytes() for name in table} == table
    record.event("warning", message="goes on behind the cut")
    assert read_events(record.folder) == [*kept, record.events[-1]]


def test_rewind_to_the_beginning_leaves_no_tables(record):
    tell(record, "edges")
    record.rewind(0)
    assert read_events(record.folder) == []
    assert not (record.folder / "accuracy.csv").exists()
    assert not (record.folder / "accumulation.csv").exists()


@pytest.mark.parametrize("count", [-1, 6])
def test_rewind_to_events_that_are_not_there_is_an_error(record, count):
    tell(record, "edges")
    with pytest.raises(RunFolderError, match=rf"holds 5 whole events where the checkpoint counts {count}"):
        record.rewind(count)
    assert len(read_events(record.folder)) == 5


def test_a_closed_run_can_be_opened_and_continued(record):
    tell(record, "edges")
    record.close()
    record.close()
    with pytest.raises(RuntimeError, match="is closed"):
        record.event("warning", message="too late")
    with RunWriter.open(record.folder) as again:
        assert again.events == record.events
        again.event("task_started", task="shapes", index=1)
        again.event("evaluated", after="shapes", task="edges", accuracy=0.25)
    assert (record.folder / "accuracy.csv").read_text() == "after,edges,shapes\nedges,0.9,\nshapes,0.25,\n"


def test_opening_clears_what_a_crash_left(record):
    record.event("warning", message="whole")
    record.close()
    (record.folder / "tasks" / "edges").mkdir(parents=True)
    (record.folder / "tasks" / "edges" / ".checkpoint.pt.0badcafe.tmp").write_bytes(b"half")
    with (record.folder / "events.jsonl").open("a") as file:
        file.write('{"event": "epo')
    with RunWriter.open(record.folder) as again:
        assert [event["event"] for event in again.events] == ["warning"]
        again.event("warning", message="next")
    assert [event["message"] for event in read_events(record.folder)] == ["whole", "next"]
    assert list((record.folder / "tasks" / "edges").iterdir()) == []


def test_a_damaged_run_is_refused_and_stays_unlocked(record):
    record.close()
    (record.folder / "events.jsonl").write_text("garbage\n" * 3)
    for _ in range(2):
        with pytest.raises(RunFolderError, match=r"events\.jsonl:1: is not an event"):
            RunWriter.open(record.folder)
    assert (record.folder / "events.jsonl").read_text() == "garbage\n" * 3


def test_a_killed_run_keeps_every_event_that_was_reported(tmp_path):
    script = (
        "import sys\nfrom nesa.run_folder.writer import RunWriter\n"
        "record = RunWriter.create(sys.argv[1], 'name: x\\n', {})\n"
        "for n in range(10**6):\n record.event('warning', message=str(n)); print(n, flush=True)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", script, str(tmp_path / "x")], stdout=subprocess.PIPE, text=True)
    for line in process.stdout:
        if int(line) >= 50:
            os.kill(process.pid, signal.SIGKILL)
            break
    process.wait(timeout=30)
    process.stdout.close()
    with RunWriter.open(tmp_path / "x") as record:
        assert len(record.events) >= 51
        assert [event["message"] for event in record.events] == [str(n) for n in range(len(record.events))]


def test_a_full_disk_is_a_sentence_and_leaves_no_half_event(record):
    record.event("warning", message="fits")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        with pytest.raises(
            RunFailed, match=r"events\.jsonl: cannot be written \((File too large|No space left).*resume"
        ):
            record.event("warning", message="x" * 8000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    record.event("warning", message="there is room again")
    assert [event["message"] for event in read_events(record.folder)] == ["fits", "there is room again"]


def state():
    generator = torch.Generator().manual_seed(0)
    return {
        "events": 7,
        "name": "edges",
        "owner": torch.tensor([-2, -1, 0], dtype=torch.int16),
        "W": torch.nn.Parameter(torch.randn(3, 3, generator=generator)),
        "optimiser": {"state": {0: {"exp_avg": torch.zeros(2, dtype=torch.float64)}}, "param_groups": [{"lr": 1e-3}]},
        "generator": generator.get_state(),
        "modules": OrderedDict(weight=torch.ones(2)),
        "rest": (None, True, 1.5, [b"bytes"]),
    }


def same(a, b):
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b) and a.dtype == b.dtype
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


def test_a_checkpoint_comes_back_bit_for_bit(record):
    path = record.checkpoint("edges", state())
    assert path == record.folder / "tasks" / "edges" / "checkpoint.pt"
    loaded = load_checkpoint(record.folder, "edges")
    assert same(state(), loaded)
    assert not loaded["W"].requires_grad


def test_a_view_does_not_take_its_storage_along(record):
    big = torch.zeros(1_000_000)
    path = record.checkpoint("edges", {"part": big[:10], "row": big.view(1000, 1000)[3]})
    assert path.stat().st_size < 20_000
    assert load_checkpoint(record.folder, "edges")["row"].shape == (1000,)


@pytest.mark.parametrize("thing", [np.float64(1.0), np.zeros(3), {1, 2}, torch.nn.ReLU(), lambda: None, {(1, 2): 3}])
def test_a_checkpoint_holds_data_only_and_a_refusal_leaves_the_old_one(record, thing):
    record.checkpoint("edges", {"good": 1})
    with pytest.raises(TypeError, match=r"checkpoint\.pt\.deep\[0\]"):
        record.checkpoint("edges", {"deep": [thing]})
    assert load_checkpoint(record.folder, "edges") == {"good": 1}
    assert len(list((record.folder / "tasks" / "edges").iterdir())) == 1


def test_a_full_disk_leaves_the_old_checkpoint(record):
    record.checkpoint("edges", {"good": 1})
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(RunFailed, match=r"checkpoint\.pt: cannot be written"):
            record.checkpoint("edges", {"W": torch.zeros(1_000_000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert load_checkpoint(record.folder, "edges") == {"good": 1}
    assert len(list((record.folder / "tasks" / "edges").iterdir())) == 1


@pytest.mark.parametrize("damage", ["cut", "noise", "code", "missing"])
def test_a_damaged_checkpoint_is_named_and_never_run(record, damage, tmp_path):
    path = record.checkpoint("edges", state())
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-200])
    elif damage == "noise":
        path.write_bytes(b"noise" * 100)
    elif damage == "missing":
        path.unlink()
    else:
        torch.save({"model": torch.nn.ReLU()}, path)
    with pytest.raises(RunFolderError, match=r"checkpoint\.pt: is (damaged|missing)"):
        load_checkpoint(record.folder, "edges")


def test_structure_round_trip(record):
    record.structure("edges", levels=torch.tensor([0, 1, -1]), W=np.eye(3, dtype=np.float32), names=["a", "b"])
    loaded = load_structure(record.folder, "edges")
    assert loaded["levels"].tolist() == [0, 1, -1]
    assert loaded["W"].dtype == np.float32
    assert loaded["names"].tolist() == ["a", "b"]
    with pytest.raises(TypeError, match="holds objects"):
        record.structure("edges", bad=[{"a": 1}])
    assert load_structure(record.folder, "edges")["levels"].tolist() == [0, 1, -1]


def picture():
    figure = Figure(figsize=(2, 1))
    figure.add_subplot().plot([0, 1], [1, 0])
    return render(figure)


def test_a_figure_is_saved_as_png_and_svg_beside_its_task(record):
    tell(record, "edges", "shapes")
    path = record.figure("weights", picture(), task="shapes")
    assert path == record.folder / "tasks" / "shapes" / "weights.png"
    with Image.open(path) as image:
        assert image.size == (220, 110)
    assert b"<svg" in path.with_suffix(".svg").read_bytes()
    event = read_events(record.folder)[-1]
    assert event | {"time": 0} == {
        "event": "figure",
        "time": 0,
        "name": "weights",
        "task": "shapes",
        "step": 1,
        "file": "tasks/shapes/weights.png",
    }


def test_a_figure_of_the_run_lies_beside_the_tasks_and_needs_a_step(record):
    assert record.figure("depth", picture(), step=2) == record.folder / "figures" / "depth.png"
    with pytest.raises(ValueError, match="needs a step"):
        record.figure("depth", picture())
    with pytest.raises(ValueError, match="'ghost', a task that has not started"):
        record.figure("depth", picture(), task="ghost")


def test_names_cannot_lead_out_of_the_folder(record):
    record.event("task_started", task="../../evil", index=0)
    made = [
        record.checkpoint("../../evil", {"a": 1}),
        record.structure("../../evil", a=[1]),
        record.figure("../../evil", picture(), task="../../evil"),
    ]
    for path in made:
        assert path.resolve().parent == (record.folder / "tasks" / "%2E.%2F..%2Fevil").resolve()


def test_a_run_can_be_extended(record):
    before = record.event("run_started", name="trial", seed=3, tasks=["edges"])
    longer = CURRICULUM + "  - {name: more, source: digits}\n"
    record.extend(name="trial", seed=3, tasks=["edges", "more"], curriculum=longer, command="nesa extend")
    assert (record.folder / "curriculum.yaml").read_text() == longer
    first, second = read_events(record.folder)
    assert first == before and (second["event"], second["tasks"]) == ("extended", ["edges", "more"])
    record.event("task_started", task="more", index=1)
    (board,) = (record.folder / "tensorboard").glob("events.out.tfevents.*")
    assert b"name: more" in board.read_bytes()  # the curriculum as it is by now
    with pytest.raises(ValueError, match="lacks curriculum, command"):
        record.extend(name="trial", seed=3, tasks=["edges", "more"])


def test_the_environment_says_how_to_repeat_the_run():
    found = environment(seed=5, command=["/somewhere/bin/nesa", "run", "my file.yaml"])
    assert found["command"] == "nesa run 'my file.yaml'"
    assert found["seed"] == 5
    assert found["threads"] == torch.get_num_threads()
    assert found["versions"]["numpy"] == np.__version__
    assert (
        found["versions"]["torch"] == torch.__version__.partition("+")[0]
        or found["versions"]["torch"] == torch.__version__
    )
    assert found["device"] == "cpu"
    assert found["cuda"] is None
    json.dumps(found, allow_nan=False)


def test_opening_imports_neither_torch_nor_tensorboard(record):
    record.close()
    script = (
        "import sys\nfrom nesa.run_folder.writer import RunWriter\nRunWriter.open(sys.argv[1]).close()\n"
        "print([m for m in ('torch', 'tensorboard', 'matplotlib') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(record.folder)], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
