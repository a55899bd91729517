"""Several runs, sweeps and the Pareto front: grids, what is skipped, what is refused, which points nothing beats."""

from __future__ import annotations

import csv
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import stored_run
import yaml

from nesa.analysis import pareto
from nesa.cli import commands
from nesa.config.loader import dump
from nesa.errors import CurriculumError, RunFailed, UserError
from nesa.experiment.sweep import axes, plan

ROOT = Path(__file__).parents[2]
QUICKSTART = str(ROOT / "curricula" / "quickstart.yaml")


@pytest.fixture
def train(monkeypatch, tmp_path):
    """Stands for nesa.experiment.run: writes a finished run in a moment. ``fail``, ``stop``: folders not to finish."""
    monkeypatch.chdir(tmp_path)
    seen = SimpleNamespace(ran=[], resumed=[], fail=None, stop=None)

    def run(curriculum, *, out=None, name=None, seed=0, **_):
        folder = Path(out or "runs") / (name or f"{curriculum.name}-now-{seed}")
        seen.ran.append(folder.name)
        tasks = tuple(task.name for task in curriculum.tasks)
        ended = folder.name not in (seen.fail, seen.stop)
        cost = curriculum.penalties.weight
        values = {task: {"accuracy_test": 0.9 - cost * 1e3, "neurons_total": 100 - int(1e6 * cost)} for task in tasks}
        stored_run.write(folder, tasks, curriculum.seed, values=values, done=len(tasks) if ended else 1)
        (folder / "curriculum.yaml").write_text(dump(curriculum))
        if folder.name == seen.fail:
            raise RunFailed("the loss is not finite in step 3")
        if folder.name == seen.stop:
            raise KeyboardInterrupt
        return folder

    def resume(folder, **_):
        seen.resumed.append(folder.name)
        with (folder / "events.jsonl").open("a") as file:
            file.write('{"event": "run_finished", "time": 1.0, "acc": 0.5, "seconds": 1.0}\n')
        return folder

    module = ModuleType("nesa.experiment.run")
    module.run, module.resume = run, resume  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "nesa.experiment.run", module)
    return seen


def rows() -> list[dict[str, str]]:
    with Path("runs/quickstart-sweep/sweep.csv").open(newline="") as file:
        return list(csv.DictReader(file))


# Words of the command line ------------------------------------------------------------------------------------------


def test_commas_split_values_outside_of_brackets_and_quotes():
    words = ["a.b=1,2", "c=[1,2],[3,4]", "d={x: 1, y: 2},{}", "e='1,2',3", "f=[5,6]", "g=7"]
    assert axes(words) == (
        {"a.b": ["1", "2"], "c": ["[1,2]", "[3,4]"], "d": ["{x: 1, y: 2}", "{}"], "e": ["'1,2'", "3"]},
        ["f=[5,6]", "g=7"],
    )


@pytest.mark.parametrize("words", [["a"], ["a=1,"], ["=1,2"], ["a=1,1"], ["a=1,2", "a=3,4"]])
def test_wrong_words_are_refused(words):
    with pytest.raises(UserError):
        axes(words)


def test_the_grid_is_every_combination_with_every_seed(tmp_path):
    words = ["penalties.weight=1e-5,3e-5", "training.epochs=1,2", "learner.margin=0.5"]
    grid = plan(QUICKSTART, words, tmp_path, None, [4, 5])
    found = [(r.curriculum.penalties.weight, r.curriculum.training.epochs, r.curriculum.seed) for r in grid]
    assert found == [(w, e, s) for w in (1e-5, 3e-5) for e in (1, 2) for s in (4, 5)]
    assert all(r.curriculum.learner.margin == 0.5 for r in grid)
    assert len({r.folder for r in grid}) == 8 and {r.folder.parent for r in grid} == {tmp_path / "quickstart-sweep"}
    assert grid[0].folder.name == "penalties.weight=1e-5,training.epochs=1-seed4"


def test_a_grid_that_cannot_be_is_refused_before_anything_runs(tmp_path):
    with pytest.raises(UserError, match="a key with several values"):
        plan(QUICKSTART, ["training.epochs=1"], tmp_path, None, None)
    with pytest.raises(UserError, match="--seeds 0,1,2"):
        plan(QUICKSTART, ["seed=1,2"], tmp_path, None, None)
    with pytest.raises(CurriculumError, match=r"training\.epochs: must be at least 1"):
        plan(QUICKSTART, ["training.epochs=1,0"], tmp_path, None, None)
    assert plan(QUICKSTART, [], tmp_path, None, [0, 1])[1].folder.name == "quickstart-seed1"


# Sweeps -------------------------------------------------------------------------------------------------------------

SWEEP = ["sweep", QUICKSTART, "penalties.weight=1e-5,3e-5,5e-5", "--seeds", "0,1"]


def test_a_sweep_that_was_stopped_goes_on_and_skips_what_is_finished(train, capsys):
    train.stop = "penalties.weight=3e-5-seed0"
    assert commands.main(SWEEP) == 130
    assert [row["status"] for row in rows()] == ["finished", "finished", *["waiting"] * 4]
    assert len(train.ran) == 3
    train.stop = None
    assert commands.main(SWEEP) == 0
    assert train.resumed == ["penalties.weight=3e-5-seed0"] and len(train.ran) == 6
    assert "run 1 of 6: penalties.weight=1e-5, seed 0: finished before, skipped" in capsys.readouterr().err
    assert commands.main(SWEEP) == 0
    assert len(train.ran) == 6 and len(train.resumed) == 1, "nothing is trained twice"
    table = rows()
    assert [row["status"] for row in table] == ["finished"] * 6
    assert [row["penalties.weight"] for row in table] == ["1e-5", "1e-5", "3e-5", "3e-5", "5e-5", "5e-5"]
    assert float(table[0]["neurons_total"]) == 90 and float(table[0]["accuracy digits"]) == pytest.approx(0.89)
    place = Path("runs/quickstart-sweep")
    assert (place / "front.png").read_bytes().startswith(b"\x89PNG") and "<svg" in (place / "front.svg").read_text()


def test_a_failed_run_is_a_row_and_is_tried_again(train, capsys):
    train.fail = "penalties.weight=3e-5-seed0"
    assert commands.main(SWEEP) == 1
    seen = capsys.readouterr()
    assert "warning: the loss is not finite in step 3" in seen.err
    assert "penalties.weight=3e-5-seed0: failed: the loss is not finite" in seen.out
    assert [row["status"] for row in rows()].count("finished") == 5
    assert commands.main(SWEEP) == 0 and train.resumed == ["penalties.weight=3e-5-seed0"]


def test_the_table_has_means_and_spreads_and_marks_the_front(train, capsys):
    assert commands.main([*SWEEP, "--quiet"]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines[0][:3] == ["weight", "runs", "mean"]
    assert [line[:4] for line in lines[1:4]] == [
        ["1e-5", "2", "89.0±0.0", "90±0"],
        ["3e-5", "2", "87.0±0.0", "70±0"],
        ["5e-5", "2", "85.0±0.0", "50±0"],
    ]
    assert all(line[-1] == "*" for line in lines[1:4]), "each is smaller and worse than the one before"


def test_another_curriculum_in_the_same_place_is_refused(train, capsys):
    assert commands.main(SWEEP) == 0
    assert commands.main([*SWEEP, "training.epochs=9"]) == 2
    assert "is a run of another curriculum: training.epochs: 6 became 9" in capsys.readouterr().err
    assert len(train.ran) == 6


# Seeds --------------------------------------------------------------------------------------------------------------

SEEDS = ["run", QUICKSTART, "--name", "x", "--seeds"]


def test_seeds_are_skipped_when_they_are_finished_and_resumed_when_they_are_not(train, capsys):
    train.stop = "x-seed5"
    assert commands.main([*SEEDS, "3,5"]) == 130
    train.stop = None
    assert commands.main([*SEEDS, "3,5,7"]) == 0
    assert train.ran == ["x-seed3", "x-seed5", "x-seed7"] and train.resumed == ["x-seed5"]
    seen = capsys.readouterr()
    assert "finished before, skipped" in seen.err and "89.0" not in seen.out
    assert [line for line in seen.out.splitlines() if line.startswith("run: ")] == [
        "run: runs/x-seed3",
        "run: runs/x-seed5",
        "run: runs/x-seed7",
    ]
    assert "±" in seen.out and max(map(len, seen.out.splitlines())) <= 80


def test_seeds_of_another_curriculum_are_refused_before_training(train, capsys):
    assert commands.main([*SEEDS, "0,1"]) == 0
    assert commands.main([*SEEDS, "2,1", "training.epochs=9"]) == 2
    assert "runs/x-seed1: is a run of another curriculum" in capsys.readouterr().err
    assert train.ran == ["x-seed0", "x-seed1"], "seed 2 has not begun"


def test_seeds_without_a_name_are_new_runs(train):
    assert commands.main(["run", QUICKSTART, "--seeds", "0,1"]) == 0
    assert train.ran == ["quickstart-now-0", "quickstart-now-1"]
    text = yaml.safe_load(Path("runs/quickstart-now-1/curriculum.yaml").read_text())
    assert text["seed"] == 1


# The front ----------------------------------------------------------------------------------------------------------


def test_the_front_by_hand():
    sizes, scores = [10, 20, 20, 30, 5, 10], [0.5, 0.7, 0.6, 0.7, 0.5, 0.9]
    assert pareto.front(sizes, scores) == [False, False, False, False, True, True]
    assert pareto.front([1, 1], [0.5, 0.5]) == [True, True] and pareto.front([], []) == []
