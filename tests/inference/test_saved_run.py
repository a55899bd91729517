"""nesa.load: a stored run as plain torch modules that answer as the run recorded."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import small_run
import torch

import nesa
from nesa.errors import RunFolderError, UserError
from nesa.experiment.run import run
from nesa.run_folder.reader import StoredRun, read_probe

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A folder with data/ and the finished run small/."""
    place = tmp_path_factory.mktemp("saved")
    small_run.train(place, "small")
    return place


def test_names_and_accumulation(place):
    saved = nesa.load(place / "small")
    assert saved.names == ["five", "six", "ten"]
    assert [claim.name for claim in saved.accumulation.claims] == saved.names
    assert saved.events[0]["event"] == "run_started"
    assert repr(saved) == f"SavedRun({str(place / 'small')!r}, tasks: five, six, ten)"


def test_a_task_takes_raw_samples_and_answers_as_recorded(place):
    saved = nesa.load(str(place / "small"))
    for event in saved.run.checkpoints:
        probe = read_probe(place / "small", event)
        assert probe["x"].dtype == torch.uint8 and len(probe["x"]) == 120
        assert torch.equal(saved.task(event["task"])(probe["x"]), probe["logits"])


def test_the_reported_accuracy_is_that_of_the_module_on_the_users_own_arrays(place):
    """From the file of raw images, with no code of the pipeline in between: normalisation is the module's."""
    saved = nesa.load(place / "small")
    names, R = StoredRun(place / "small").accuracy
    for j, name in enumerate(names):
        with np.load(place / "data" / f"{name}.npz") as data:
            answers = saved.task(name)(torch.from_numpy(data["test_x"])).argmax(1)
            assert float((answers.numpy() == data["test_y"]).mean()) == R[-1, j]


def test_images_may_keep_their_shape_and_other_shapes_are_refused(place):
    task = nesa.load(place / "small").task("six")
    x = torch.randint(0, 256, (7, 64), dtype=torch.uint8)
    assert task.shape == (1, 8, 8) and task.classes == tuple(f"six-{i}" for i in range(6))
    for shape in ((7, 8, 8), (7, 1, 8, 8)):
        assert torch.equal(task(x.reshape(shape)), task(x))
    assert torch.equal(task(x.float()), task(x))
    for wrong in ((7, 63), (7, 4, 16), (7, 3, 8, 8), (7, 8, 8, 1)):
        with pytest.raises(ValueError, match=r"task 'six' takes raw samples \(B, 1, 8, 8\) or \(B, 64\), not \(7,"):
            task(torch.zeros(wrong))


def test_it_is_an_ordinary_frozen_module(place):
    task = nesa.load(place / "small").task("five")
    assert isinstance(task, torch.nn.Module) and not task.training
    assert not any(p.requires_grad for p in task.parameters())
    assert "five: " in repr(task) and "3 iterations, 5 classes" in repr(task)
    x = torch.rand(2, 64).mul(255).requires_grad_()
    task(x).sum().backward()
    assert x.grad is not None and bool((x.grad != 0).any())  # saliency maps work


def test_a_task_that_is_none_is_named(place):
    with pytest.raises(UserError, match="has no finished task 'seven'; there are five, six, ten"):
        nesa.load(place / "small").task("seven")


def test_a_run_is_opened_as_far_as_it_went(place, tmp_path):
    folder = Path(shutil.copytree(place / "small", tmp_path / "run"))
    lines = (folder / "events.jsonl").read_text().splitlines(keepends=True)
    first = next(at for at, line in enumerate(lines) if '"checkpointed"' in line)
    (folder / "events.jsonl").write_text("".join(lines[: first + 1]))
    whole, part = nesa.load(place / "small"), nesa.load(folder)
    assert part.names == ["five"]
    x = torch.randint(0, 256, (9, 64), dtype=torch.uint8)
    assert torch.equal(part.task("five")(x), whole.task("five")(x))
    (folder / "events.jsonl").write_text("".join(lines[:first]))
    with pytest.raises(RunFolderError, match="no task of this run is finished yet; go on with `nesa resume`"):
        nesa.load(folder)


@pytest.mark.parametrize("file", ["checkpoint.pt", "structure.npz"])
def test_damage_is_an_error_that_names_the_file(place, tmp_path, file):
    folder = Path(shutil.copytree(place / "small", tmp_path / "run"))
    path = folder / "tasks" / "ten" / file
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(RunFolderError, match=f"tasks/ten/{file}: is "):
        nesa.load(folder).task("ten")


def test_another_format_and_a_run_without_structure_are_refused(place, tmp_path):
    folder = Path(shutil.copytree(place / "small", tmp_path / "run"))
    path = folder / "tasks" / "ten" / "checkpoint.pt"
    torch.save({"format": 99}, path)
    with pytest.raises(RunFolderError, match="is not of this version of nesa"):
        nesa.load(folder)
    with pytest.raises(RunFolderError, match="is not a run"):
        nesa.load(tmp_path)


def test_a_run_of_a_baseline_learner_holds_no_structure(place, tmp_path):
    path = small_run.write_curriculum(tmp_path, tasks=("five",))
    path.write_text(path.read_text().replace("learner: {", "learner: {name: naive, "))
    from nesa.config.loader import load

    folder = run(load(path), out=tmp_path, name="naive", data=place / "data")
    with pytest.raises(RunFolderError, match=r"holds no accumulated structure; only runs with .*neural_pruning"):
        nesa.load(folder)


def test_opening_a_run_is_quick_to_import(place):
    code = (
        f"import sys, nesa; nesa.load({str(place / 'small')!r}).task('five'); "
        "print(sorted({'avalanche', 'matplotlib', 'tensorboard', 'torchvision', 'sklearn'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=300)
    assert done.stdout.strip() == "[]", done.stderr
