"""Test run, stop, resume and verify as commands, with figures and exit codes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import small_run
import torch

from nesa.cli import commands
from nesa.run_folder.environment import read_environment

ROOT = Path(__file__).parents[2]
TASKS = ("five", "six")


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A folder with data/, small.yaml and nothing else."""
    place = tmp_path_factory.mktemp("commands")
    small_run.write_data(place / "data")
    small_run.write_curriculum(place, tasks=TASKS)
    return place


@pytest.fixture(scope="module")
def whole(place) -> Path:
    command = ["run", str(place / "small.yaml"), "--out", str(place), "--name", "whole", "--data", str(place / "data")]
    assert commands.main(command) == 0
    return place / "whole"


def nesa(place: Path, *words: str) -> subprocess.Popen[str]:
    environment = os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads()), "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [sys.executable, "-u", "-m", "nesa", *words, "--data", str(place / "data")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=place,
        env=environment,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a test in the background would ignore it
    )


def test_a_run_leaves_everything_that_the_contract_lists(whole):
    names = {path.relative_to(whole).as_posix() for path in whole.rglob("*") if path.is_file()}
    files = ("checkpoint.pt", "structure.npz", "probe.pt", "weights.png", "weights.svg", "neurons_by_level.png")
    tables = ("curriculum.yaml", "environment.json", "events.jsonl", "accuracy.csv", "accumulation.csv")
    assert {*tables, *(f"tasks/{task}/{file}" for task in TASKS for file in files)} <= names
    assert any(name.startswith("tensorboard/events.out.tfevents") for name in names)
    assert not any(name.endswith(".tmp") for name in names)
    assert read_environment(whole)["command"].startswith("nesa run ")


def test_verify_prints_each_check_and_leaves_with_0_or_1(place, whole, capsys):
    assert commands.main(["verify", str(whole), "--data", str(place / "data")]) == 0
    out = capsys.readouterr().out
    assert "ok    answers five" in out and out.rstrip().endswith("checks, 0 failed") and "FAIL" not in out
    table = whole / "accuracy.csv"
    text = table.read_text()
    try:
        table.write_text(text.replace("five,", "five,0", 1))
        assert commands.main(["verify", str(whole), "--data", str(place / "data")]) == 1
        assert "FAIL  tables" in capsys.readouterr().out
    finally:
        table.write_text(text)


def test_resume_of_a_finished_run_says_so(whole, capsys):
    before = (whole / "events.jsonl").read_bytes()
    assert commands.main(["resume", str(whole)]) == 0
    assert "this run is finished; nothing to resume" in capsys.readouterr().err
    assert (whole / "events.jsonl").read_bytes() == before


@pytest.mark.parametrize(
    ("number", "code", "word"), [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")]
)
def test_a_stopped_run_says_how_to_go_on_and_does(place, whole, number, code, word):
    """Stopped inside the second task by a real signal; resumed, it ends as the unbroken run."""
    with nesa(place, "run", "small.yaml", "--out", ".", "--name", word) as process:
        assert process.stderr is not None and process.stdout is not None
        said = []
        for line in process.stderr:
            said.append(line)
            if line.startswith("[2/2] six: epoch 1/2"):
                process.send_signal(number)
                break
        rest, out = process.stderr.read(), process.stdout.read()
        assert process.wait() == code, "".join(said) + rest
    *_, how, last = rest.splitlines()
    assert how.startswith("stopped") and how.endswith(f"; go on with: nesa resume {word}")
    assert last == word
    assert out == "" and "Traceback" not in rest
    assert commands.main(["resume", str(place / word), "--data", str(place / "data")]) == 0
    assert small_run.events(place / word) == small_run.events(whole)
    assert small_run.rows(place / word) == small_run.rows(whole)
    assert commands.main(["verify", str(place / word), "--data", str(place / "data")]) == 0


def test_two_processes_never_share_a_run(place, whole, capsys):
    from nesa.run_folder.writer import RunWriter

    with RunWriter.open(whole):
        assert commands.main(["resume", str(whole)]) == 2
    assert f"in use by process {os.getpid()}" in capsys.readouterr().err


def test_mistakes_of_the_user_leave_with_2_and_one_sentence(place, whole, tmp_path, capsys):
    run = ["run", str(place / "small.yaml"), "--data", str(place / "data")]
    for words, sentence in [
        ([*run, "--out", str(place), "--name", "whole"], "is a run already; resume it, or choose another name"),
        ([*run[:2], "--data", str(tmp_path), "--out", str(tmp_path)], "five.npz"),
        ([*run, "--out", str(tmp_path), "--device", "cuda:99"], "--device cuda:99: this machine has"),
        (["resume", str(tmp_path)], "is not a run, curriculum.yaml is missing"),
        (["verify", str(tmp_path / "x")], "there is no such folder"),
    ]:
        assert commands.main(words) == 2, words
        err = capsys.readouterr().err
        assert sentence in err and err.startswith("error: ") and "Traceback" not in err
    assert list(tmp_path.iterdir()) == []
