"""nesa.verification.structure_proof: the proof of a stored run's structure, by command, on networks of a real run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import small_run
import torch
from torch import nn

from nesa import load
from nesa.cli import commands
from nesa.errors import RunFolderError, UserError
from nesa.run_folder.reader import load_structure
from nesa.verification import structure_proof
from nesa.verification.structure_proof import prove


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A folder with data/ and the finished run small/, of three tasks with 120 test samples each."""
    place = tmp_path_factory.mktemp("evidence")
    small_run.train(place, "small")
    return place


def test_every_task_of_a_run_is_proved_on_all_of_its_test_data(place):
    found = list(prove(place / "small", data=place / "data"))
    assert [e.task for e in found] == list(small_run.CLASSES)
    for e in found:
        W = load_structure(place / "small", e.task)["W"]
        assert e.holds and e.samples == "120 test samples" and e.named.samples == 120
        assert e.named.nonzero == (W != 0).sum() and len(W) == e.S
        assert e.blocks.kept <= e.named.kept <= e.named.nonzero and e.blocks.named == ()


def test_one_task_without_its_data_is_proved_on_what_the_run_stored(place):
    (found,) = prove(place / "small", "six", place / "nowhere")
    assert found.task == "six" and found.holds
    assert found.samples.startswith("120 stored test samples (the data of arrays are not on this machine")


def test_what_is_kept_computes_what_the_stored_task_answers(place):
    """The blocks once more by hand, from the network that `nesa.load` opens: levels, zeros, outputs."""
    task = load(place / "small").task("ten")
    network = task.network.double()
    x = torch.from_numpy(small_run_test(place, "ten")).flatten(1).float()
    x = ((x - task.mean) / task.std).double()
    states = network.states(x, "ten")
    tolerance = 1e-6 * max(float(N.abs().max()) for N in states[1:])
    varies = torch.stack([N.amax(0) - N.amin(0) > tolerance for N in states])
    level = torch.where(varies.any(0), varies.int().argmax(0), -1)
    port = network.layout.ports["ten"]
    W = network.W.data.clone()
    level[port] = int(level[(W[port] != 0).any(0) & (level >= 0)].max()) + 1
    W[level[:, None] != level[None, :] + 1] = 0
    W[:, level < 0] = 0
    copy = network.subnetwork(torch.arange(network.S))
    copy.set_parameters(network.layout, W, network.b.data)
    right = int((copy(x, "ten").argmax(1) == network(x, "ten").argmax(1)).sum())
    (found,) = prove(place / "small", "ten", place / "data")
    assert found.blocks.same_predictions == right


def small_run_test(place: Path, name: str):
    import numpy as np

    with np.load(place / "data" / f"{name}.npz") as arrays:
        return arrays["test_x"]


def test_a_structure_that_does_not_compute_fails(place, monkeypatch, capsys):
    class Shifted(nn.Module):
        def forward(self, x):
            return torch.full((len(x), 5), 1e-4, dtype=x.dtype)

    (sound,) = prove(place / "small", "five", place / "data")
    assert not replace(sound, named=replace(sound.named, same_predictions=119)).holds
    assert not replace(sound, named=replace(sound.named, max_difference=2e-5)).holds
    assert replace(sound, blocks=replace(sound.blocks, same_predictions=0)).holds  # then it is no MLP, that is all
    words = ["prove", str(place / "small"), "--task", "five", "--data", str(place / "data")]
    assert commands.main(words) == 0 and "FAIL" not in capsys.readouterr().out
    monkeypatch.setattr(structure_proof, "extract", lambda *_: Shifted())
    assert commands.main(words) == 1 and "FAIL  extracted module" in capsys.readouterr().out


def test_errors_say_what_there_is(place, tmp_path):
    with pytest.raises(UserError, match="has no finished task 'seven'; there are five, six, ten"):
        list(prove(place / "small", "seven"))
    with pytest.raises(RunFolderError):
        list(prove(tmp_path))
