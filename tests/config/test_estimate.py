"""nesa.config.estimate: neurons and steps are those of the run, and the rest grows as it must, without timing."""

from __future__ import annotations

from pathlib import Path

import pytest

from nesa.cli import commands
from nesa.config.estimate import estimate, memory_rate, product_rate
from nesa.config.loader import load
from nesa.config.sizes import neurons

CURRICULA = Path(__file__).parents[2] / "curricula"


@pytest.mark.parametrize("name", ["quickstart", "vision", "spheres"])
def test_neurons_are_those_of_the_layout(name):
    from urn.layout import Layout

    curriculum = load(CURRICULA / f"{name}.yaml")
    found = estimate(curriculum, rate=1e11, bandwidth=1e10)
    ports = {task.name: task.classes or 10 for task in found.tasks}
    if curriculum.network.grid is not None:
        layout = Layout.grid(curriculum.network.grid, curriculum.input.channels, ports)
    else:
        layout = Layout.flat(curriculum.network.neurons, *curriculum.input.size, ports)
    assert neurons(curriculum) == (len(layout.inputs), len(layout.hidden))
    assert found.inputs + found.hidden + found.outputs == layout.S


def test_steps_by_hand():
    """edges: 10,000 patches, 9,000 to train on in batches of 256, 6 epochs and 2 of healing."""
    curriculum = load(CURRICULA / "quickstart.yaml")
    edges, shapes, digits = estimate(curriculum, rate=1e11, bandwidth=1e10).tasks
    assert (edges.steps, shapes.steps) == (35 * 8, 52 * 14)
    assert (digits.samples, digits.steps) == (1437, (1293 // 64) * 14)
    assert all(task.known for task in (edges, shapes, digits))


def test_more_work_takes_longer_and_a_faster_machine_is_faster():
    path = CURRICULA / "quickstart.yaml"
    base = estimate(load(path), rate=1e11, bandwidth=1e10)
    assert estimate(load(path, ["training.epochs=12"]), 1e11, 1e10).seconds > base.seconds
    assert estimate(load(path), 2e11, 2e10).seconds < base.seconds
    larger = estimate(load(path, ["network.grid=[16,16,9]"]), 1e11, 1e10)
    assert larger.bytes > base.bytes and larger.seconds > 2 * base.seconds


def test_what_only_the_data_can_tell_is_said(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # the first line says the path
    Path("own.yaml").write_text(
        "name: own\ninput: {size: [8, 8]}\nnetwork: {grid: [8, 8, 2]}\n"
        "tasks: [{name: mine, source: arrays, params: {path: x.npz}}]\n"
    )
    assert commands.main(["check", "own.yaml", "--estimate"]) == 0
    out = capsys.readouterr().out
    assert "note: only the data tell how many samples mine has; 10,000 assumed" in out
    assert "64 input, 64 hidden" in out and "GB at the peak" in out and max(map(len, out.splitlines())) <= 120


def test_the_machine_is_measured():
    assert product_rate(8, 64) > 1e6 and memory_rate(100_000) > 1e6
