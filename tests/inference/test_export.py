"""nesa.inference.export: the file's logits are the run's, without this project, for any batch."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import small_run
import torch

from nesa.cli import commands
from nesa.inference import export

LOADED = """
import sys
sys.modules["nesa"] = sys.modules["urn"] = None  # importing either fails, installed or not
import torch
x, logits = torch.load(sys.argv[2], weights_only=True)
program = torch.export.load(sys.argv[1])
module = program.module()
for n in (len(x), 1, 7):
    print(float((module(x[:n]) - logits[:n]).abs().max()))
"""


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    return small_run.train(tmp_path_factory.mktemp("trained"), "run", seed=1, tasks=("five", "six"))


def probe(folder: Path, task: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Raw samples (n, 1, 8, 8), and the logits that the run itself gave for them right after the claim."""
    state = torch.load(folder / "tasks" / task / "probe.pt", weights_only=True)
    return state["x"].float().reshape(-1, 1, 8, 8), state["logits"]


@pytest.mark.parametrize("task", ["five", "six"])
def test_the_file_alone_gives_the_logits_of_the_run(trained, tmp_path, task, capsys):
    file = tmp_path / "deep" / f"{task}.pt2"
    assert commands.main(["export", str(trained), "--task", task, "--to", str(file)]) == 0
    classes = small_run.CLASSES[task]
    told = f"wrote {file}: torch.export, float32 (B, 1, 8, 8) raw samples in, (B, {classes}) logits out\n"
    assert capsys.readouterr().out == told
    x, logits = probe(trained, task)
    assert logits.shape == (120, classes) and float(logits.std()) > 0.01
    torch.save([x, logits], tmp_path / "probe.pt")
    done = subprocess.run(
        [sys.executable, "-c", LOADED, str(file), str(tmp_path / "probe.pt")],
        capture_output=True, text=True, cwd=tmp_path, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert max(map(float, done.stdout.split())) <= 1e-5


def test_onnx_gives_the_logits_of_the_run(trained, tmp_path):
    missing = [name for name in ("onnx", "onnxscript", "onnxruntime") if importlib.util.find_spec(name) is None]
    if missing:
        pytest.skip(f"ONNX is an extra, and {', '.join(missing)} is not installed: pip install 'nesa[onnx]'")
    file = tmp_path / "six.onnx"
    code = (
        "import sys; from nesa.cli.commands import main; sys.exit(main(sys.argv[1:]))"  # others' warnings stay outside
    )
    words = ["export", str(trained), "--task", "six", "--to", str(file)]
    done = subprocess.run(
        [sys.executable, "-c", code, *words],
        capture_output=True, text=True, timeout=300, cwd=Path(__file__).parents[2],
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    x, logits = probe(trained, "six")
    check = (
        "import sys, numpy, onnxruntime; a = numpy.load(sys.argv[2]); "
        "session = onnxruntime.InferenceSession(sys.argv[1], providers=['CPUExecutionProvider']); "
        "print(max(float(abs(session.run(None, {'x': a['x'][:n]})[0] - a['y'][:n]).max()) for n in (120, 1, 7)))"
    )
    np.savez(tmp_path / "probe.npz", x=x.numpy(), y=logits.numpy())
    done = subprocess.run(
        [sys.executable, "-c", check, str(file), str(tmp_path / "probe.npz")],
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) <= 1e-5


@pytest.mark.parametrize(
    ("task", "to", "sentence"),
    [
        ("seven", "x.pt2", "has no finished task 'seven'; there are five, six"),
        ("six", "x.pt", "the name must end in .pt2 or .onnx"),
    ],
)
def test_wrong_words_are_one_sentence(trained, tmp_path, capsys, task, to, sentence):
    assert commands.main(["export", str(trained), "--task", task, "--to", str(tmp_path / to)]) == 2
    assert sentence in capsys.readouterr().err and not (tmp_path / to).exists()


def test_without_the_packages_onnx_is_refused_by_name(trained, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("nesa.inference.export.EXTRA", ("onnx_is_not_here",))
    assert commands.main(["export", str(trained), "--task", "six", "--to", str(tmp_path / "x.onnx")]) == 2
    assert "ONNX needs onnx_is_not_here: pip install 'nesa[onnx]'" in capsys.readouterr().err


def test_a_network_with_other_logits_is_not_written(trained, tmp_path, capsys, monkeypatch):
    honest = export.read_probe

    def other(folder, event):
        state = honest(folder, event)
        return state | {"logits": state["logits"] + 1e-3}

    monkeypatch.setattr(export, "read_probe", other)
    assert commands.main(["export", str(trained), "--task", "six", "--to", str(tmp_path / "x.pt2")]) == 1
    assert "differ from the run's by 0.001, not written" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
