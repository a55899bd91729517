"""nesa run under torchrun: two processes on the CPU leave one run, and the same one as one process does."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import small_run
import torch

from nesa import distributed
from nesa.config.loader import load
from nesa.errors import RunFailed, UserError
from nesa.run_folder.reader import StoredRun
from nesa.training.accumulation import Accumulation
from nesa.training.strategies.learner import make_learner
from urn.layout import Layout

ROOT = Path(__file__).parent.parent
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "nesa")


def nesa(place: Path, name: str, *starter: str) -> subprocess.CompletedProcess:
    words = ("run", "small.yaml", "--data", "data", "--name", name, "--no-film")  # a rank has no whole to film
    return subprocess.run(
        [sys.executable, *starter, *words],
        cwd=place,
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "HOME": str(place)},
        capture_output=True,
        text=True,
        timeout=900,
    )


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    place = tmp_path_factory.mktemp("ranks")
    small_run.write_data(place / "data")
    small_run.write_curriculum(place, tasks=("five", "six"))
    return place


def test_two_processes_leave_the_run_that_one_leaves(place):
    done = [nesa(place, "two", *TORCHRUN), nesa(place, "one", "-m", "nesa")]
    assert [found.returncode for found in done] == [0, 0], done[0].stderr
    assert sorted(path.name for path in (place / "runs").iterdir()) == ["one", "two"]
    assert "Warning" not in done[0].stderr and "<class" not in done[0].stderr
    assert done[0].stdout.count("run: ") == 1 and done[0].stderr.count("epochs of") == done[1].stderr.count("epochs of")
    two, one = (small_run.events(place / "runs" / name) for name in ("two", "one"))
    assert [event["event"] for event in two] == [event["event"] for event in one]
    for a, b in zip(two, one, strict=True):
        if a["event"] == "epoch":
            assert a["loss"] == pytest.approx(b["loss"], abs=1e-4)
            assert a["penalty_weight"] == pytest.approx(b["penalty_weight"], rel=1e-3)
            assert a["live_neurons"] == b["live_neurons"]
            assert a["live_synapses"] == pytest.approx(b["live_synapses"], rel=0.01)
    rows = [StoredRun(place / "runs" / name).rows for name in ("two", "one")]
    assert len(rows[0]) == 2 and all(row["neurons_claimed"] > 0 for row in rows[0])


def test_baseline_learners_train_on_one_process(monkeypatch, place):
    given = load(place / "small.yaml", ["learner.name=naive"])
    monkeypatch.setattr(distributed, "world", lambda: 2)
    with pytest.raises(UserError, match="naive trains on one process"):
        make_learner(given, [], Accumulation(Layout.flat(9, 2, {"five": 5})), torch.device("cpu"), lambda *_: None)


@pytest.mark.parametrize("world", ["2", "1"])
def test_other_commands_refuse_to_be_several(monkeypatch, world):
    monkeypatch.setenv("WORLD_SIZE", world)
    if world == "1":
        distributed.require_single_process("resume")
        return
    with pytest.raises(UserError, match="nesa resume works on one process"):
        distributed.require_single_process("resume")
    with pytest.raises(UserError, match="use --device cuda"), distributed.process_group("cuda:1"):
        pass


def test_without_torchrun_there_is_one(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with distributed.process_group("cuda:1") as rank:
        assert (rank.device, rank.out, rank.stream, distributed.world()) == ("cuda:1", None, None, 1)
    distributed.check_agreement("a", "same")


def test_ranks_that_differ_end_the_run(monkeypatch):
    def gather(found: list[str], state: str) -> None:
        found[:] = [state, "other"]

    monkeypatch.setattr(distributed, "world", lambda: 2)
    monkeypatch.setattr(distributed.dist, "all_gather_object", gather)
    distributed.check_agreement("a", "other")
    with pytest.raises(RunFailed, match="'a': the processes have arrived at different networks"):
        distributed.check_agreement("a", "mine")
