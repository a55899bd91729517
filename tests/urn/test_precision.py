"""urn.precision: bfloat16 where the device has matrix units for it, or where it is asked for."""

from __future__ import annotations

import pytest
import small_run
import torch

from urn.precision import multiply_in, pays

CPU = torch.device("cpu")


@pytest.mark.parametrize("tiles", [True, False])
def test_auto_asks_the_processor(monkeypatch, tiles):
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: tiles)
    assert pays(CPU) is tiles
    assert multiply_in("auto", CPU) is (torch.bfloat16 if tiles else None)


@pytest.mark.parametrize(("capability", "good"), [((7, 5), False), ((8, 0), True), ((9, 0), True)])
def test_auto_asks_the_gpu(monkeypatch, capability, good):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert multiply_in("auto", torch.device("cuda", 0)) is (torch.bfloat16 if good else None)


def test_it_can_be_switched():
    assert multiply_in("float32", CPU) is None and multiply_in("bfloat16", CPU) is torch.bfloat16
    with pytest.raises(ValueError, match="float32, bfloat16, auto, not 'half'"):
        multiply_in("half", CPU)


@pytest.mark.parametrize("learner", ["neural_pruning", "naive"])
def test_a_run_learns_as_well_in_bfloat16(tmp_path, learner):
    """The same two tasks: as accurate, with other weights; and the run folder names the precision."""
    scores, checkpoints = [], []
    for precision in ("float32", "bfloat16"):
        overrides = (f"learner.name={learner}", f"training.precision={precision}", "training.epochs=8")
        folder = small_run.train(tmp_path, precision, *overrides, tasks=("five", "six"))
        last = [event for event in small_run.events(folder) if event["event"] == "checkpointed"][-1]
        final = [event for event in small_run.events(folder) if event["event"] == "evaluated"][-2:]
        scores.append([event["accuracy"] for event in final])
        checkpoints.append(last["checkpoint"])
        assert f"precision: {precision}" in (folder / "curriculum.yaml").read_text()
    assert scores[0][1] > 0.8, scores
    assert all(abs(a - b) < 0.1 for a, b in zip(*scores, strict=True)), scores
    assert checkpoints[0] != checkpoints[1]
