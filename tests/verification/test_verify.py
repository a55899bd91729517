"""nesa.verification.verify: a sound run passes, and every kind of damage is found by the check that it concerns.

Forgeries come in two strengths: files that were changed, which the digests show, and files that were changed together
with all digests, which only the promises themselves can show.
"""

from __future__ import annotations

import json
import os
import random
import shutil
from pathlib import Path

import numpy as np
import pytest
import small_run
import torch

from nesa.errors import RunFolderError
from nesa.run_folder import tables
from nesa.run_folder.digest import digest, event_digest
from nesa.run_folder.reader import load_structure
from nesa.training.accumulation import Accumulation
from nesa.verification.verify import Check, verify

PROMISES = ("files", "one way", "weights", "answers", "recorded", "data", "accuracy", "row")


@pytest.fixture(scope="module")
def sound(tmp_path_factory) -> Path:
    """A folder with data/ and the finished run small/."""
    place = tmp_path_factory.mktemp("sound")
    small_run.train(place, "small")
    return place


@pytest.fixture
def place(sound, tmp_path) -> Path:
    """A copy of it to damage."""
    shutil.copytree(sound, tmp_path / "copy")
    return tmp_path / "copy"


def failed(place: Path, *, measure: bool = False) -> list[Check]:
    """The checks that are not ok; with `measure`, figures are measured again on the data too."""
    checks = verify(place / "small", place / "data" if measure else place / "nowhere")
    return [check for check in checks if not check.ok]


def failures(place: Path, *, measure: bool = False) -> list[str]:
    return [check.name for check in failed(place, measure=measure)]


def details(place: Path) -> str:
    return "\n".join(check.detail for check in failed(place))


# Changing things ----------------------------------------------------------------------------------------------------


def checkpoint(place: Path, task: str) -> Path:
    return place / "small" / "tasks" / task / "checkpoint.pt"


def flip(path: Path, at: float) -> None:
    """Turns one bit of a file, at a share of its length."""
    data = bytearray(path.read_bytes())
    data[int(at * len(data))] ^= 0x10
    path.write_bytes(data)


def read_events(place: Path) -> list[dict]:
    return [json.loads(line) for line in (place / "small" / "events.jsonl").read_text().splitlines()]


def write_events(place: Path, events: list[dict], *, forge: bool = False) -> None:
    """With `forge`, every digest is made to fit what is on the disk, and so are the tables."""
    folder = place / "small"
    if forge:
        for at, event in enumerate(events):
            if event["event"] == "checkpointed":
                state = torch.load(folder / "tasks" / event["task"] / "checkpoint.pt", weights_only=True)
                probe = torch.load(folder / "tasks" / event["task"] / "probe.pt", weights_only=True)
                event["events"] = event_digest(events[:at])
                event["checkpoint"], event["probe"] = digest(state), digest(probe)
                event["structure"] = digest(load_structure(folder, event["task"]))
        (folder / "accuracy.csv").write_text(tables.accuracy_csv(*tables.accuracy(events)))
        (folder / "accumulation.csv").write_text(tables.accumulation_csv(tables.accumulation(events)))
    (folder / "events.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))


def forge(place: Path, task: str, change) -> None:
    """Lets `change(accumulation)` alter a checkpoint, keeps the structure in step, and makes all digests fit."""
    path = checkpoint(place, task)
    state = torch.load(path, weights_only=True)
    accumulation = Accumulation.from_state_dict(state["learner"])
    change(accumulation)
    torch.save(state | {"learner": accumulation.state_dict()}, path)
    network, structure = accumulation.network(task), load_structure(place / "small", task)
    structure |= {"W": network.W.data.numpy(), "b": network.b.data.numpy()}
    np.savez_compressed(path.with_name("structure.npz"), **structure)
    write_events(place, read_events(place), forge=True)


def neurons(accumulation: Accumulation, owner: int) -> torch.Tensor:
    """Places in `stored` of the neurons with this owner."""
    return (accumulation.owner[accumulation.stored] == owner).nonzero().flatten()


# A sound run --------------------------------------------------------------------------------------------------------


def test_a_sound_run_keeps_every_promise(sound):
    checks = verify(sound / "small", sound / "data")
    assert [check for check in checks if not check.ok] == []
    names = [check.name for check in checks]
    assert names == ["events", "curriculum", "tables", *(f"{p} {t}" for t in small_run.CLASSES for p in PROMISES)]
    assert not any("skipped" in name for name in names)


def test_verifying_changes_nothing(sound):
    before = {path: path.read_bytes() for path in sound.rglob("*") if path.is_file()}
    threads = torch.get_num_threads()
    verify(sound / "small", sound / "data")
    assert {path: path.read_bytes() for path in sound.rglob("*") if path.is_file()} == before
    assert torch.get_num_threads() == threads


def test_without_the_data_figures_are_skipped_by_name_and_answers_are_still_checked(place):
    shutil.rmtree(place / "data")
    checks = {check.name: check for check in verify(place / "small")}
    assert all(check.ok for check in checks.values())
    for task in small_run.CLASSES:
        assert {f"answers {task}", f"recorded {task}", f"weights {task}", f"one way {task}"} <= checks.keys()
        assert f"accuracy {task}" not in checks and f"row {task}" not in checks
        for name in (f"skipped: accuracy {task}", f"skipped: row {task}"):
            assert "NOT measured again: the data of arrays are not on this machine" in checks[name].detail


def test_other_data_are_not_taken_for_the_runs_own(place):
    small_run.write_data(place / "data", seed=1)
    assert failures(place, measure=True) == [f"data {task}" for task in small_run.CLASSES]


def test_a_stopped_run_is_verified_as_far_as_it_went(place):
    events = read_events(place)
    second = [at for at, event in enumerate(events) if event["event"] == "checkpointed"][1]
    write_events(place, events[: second + 1])
    last = verify(place / "small", place / "data")
    assert "1 of 3 tasks" not in last[0].detail and "2 of 3 tasks; not finished: ten" in last[0].detail
    assert [check.name for check in last if not check.ok] == ["tables"]  # they already know of the third task
    write_events(place, events[: second + 1], forge=True)
    assert failures(place, measure=True) == []


def test_a_run_without_a_finished_task_does_not_pass(place):
    write_events(place, read_events(place)[:3], forge=True)
    (place / "small" / "accuracy.csv").unlink()
    (place / "small" / "accumulation.csv").unlink()
    assert failures(place) == ["tasks"]


@pytest.mark.parametrize("make", [lambda p: p / "nothing", lambda p: p], ids=["no folder", "no run"])
def test_what_is_no_run_is_an_error_of_the_user(tmp_path, make):
    with pytest.raises(RunFolderError, match="give the folder"):
        verify(make(tmp_path))


def test_somebodys_code_is_never_run(place, monkeypatch):
    """Whoever made a run folder could name any function as a source."""
    monkeypatch.chdir(place)
    (place / "trap.py").write_text("from pathlib import Path\nPath('sprung').touch()\ndef data(): pass\n")
    path = place / "small" / "curriculum.yaml"
    text = path.read_text().replace("source: arrays", "source: trap.data", 1)
    path.write_text(text.replace("path: five.npz", "", 1).replace("classes: 0", "classes: 5", 1))
    events = read_events(place)
    events[0]["curriculum"] = path.read_text()
    write_events(place, events, forge=True)
    checks = verify(place / "small", place / "data")
    assert [check.name for check in checks if not check.ok] == []
    assert "trap.data is somebody's code" in next(c.detail for c in checks if c.name == "skipped: row five")
    assert not (place / "sprung").exists()


# Files that were changed --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("file", ["checkpoint.pt", "probe.pt", "structure.npz"])
@pytest.mark.parametrize(
    "damage",
    [
        lambda path: flip(path, 0.5),
        lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(os.urandom(999)),
        lambda path: path.unlink(),
    ],
    ids=["flipped bit", "cut", "empty", "noise", "missing"],
)
def test_a_damaged_file_is_found(place, file, damage):
    damage(place / "small" / "tasks" / "ten" / file)
    assert failures(place) == ["files ten"]


def test_a_bit_of_a_weight_that_torch_would_load_is_found(place):
    """The bit is turned inside the stored values themselves: the file stays a valid checkpoint."""
    path = checkpoint(place, "ten")
    values = torch.load(path, weights_only=True)["learner"]["W"]["values"].numpy().tobytes()
    data = path.read_bytes()
    at = data.index(values)
    path.write_bytes(data[: at + 2] + bytes([data[at + 2] ^ 1]) + data[at + 3 :])
    moved = torch.load(path, weights_only=True)["learner"]["W"]["values"]
    assert (moved.numpy().tobytes() != values) and moved.isfinite().all()
    assert failures(place) == ["files ten"]
    assert "digest" in details(place)


def test_code_in_a_checkpoint_is_not_run(place):
    class Trap:
        def __reduce__(self):
            return Path.touch, (place / "sprung",)

    torch.save({"format": 1, "learner": Trap()}, checkpoint(place, "ten"))
    assert failures(place) == ["files ten"]
    assert not (place / "sprung").exists()


@pytest.mark.parametrize("table", ["accuracy.csv", "accumulation.csv"])
@pytest.mark.parametrize("how", ["edited", "cut", "missing"])
def test_a_damaged_table_is_found(place, table, how):
    path = place / "small" / table
    text = path.read_text()
    if how == "missing":
        path.unlink()
    else:
        path.write_text(text.replace("0.9", "0.8", 1) if how == "edited" else text[: text.rindex("ten")])
        assert path.read_text() != text
    assert failures(place) == ["tables"]
    assert f"{table} is not what events.jsonl says" in details(place)


def changed(event: str, key: str, value):
    def change(events):
        next(e for e in events if e["event"] == event)[key] = value

    return change


@pytest.mark.parametrize(
    ("change", "caught"),
    [
        (changed("epoch", "loss", 0.001), {"events"}),
        (changed("run_started", "seed", 4), {"events"}),
        (changed("task_claimed", "neurons_claimed", 7), {"events", "tables", "row five"}),
        (changed("evaluated", "accuracy", 0.5), {"events", "tables", "accuracy five"}),
        (changed("run_finished", "acc", 0.999), {"tables"}),
        (changed("checkpointed", "checkpoint", "0" * 32), {"events", "files five"}),
        (lambda events: events.pop(5), {"events"}),
        (lambda events: events.insert(5, events[5]), {"events"}),
    ],
    ids=["loss", "seed", "neurons", "accuracy", "acc", "digest", "removed", "repeated"],
)
def test_an_edited_event_is_found(place, change, caught):
    events = read_events(place)
    change(events)
    write_events(place, events)
    assert set(failures(place, measure=True)) == caught


@pytest.mark.parametrize("text", ["", "no json\n", '{"event": "run_started"}\n', "[]\n[]\n", "\x00\xff"])
def test_an_unreadable_record_is_a_failed_check(place, text):
    (place / "small" / "events.jsonl").write_text(text)
    assert failures(place) == ["events"]


def test_an_edited_curriculum_is_found_with_the_difference(place):
    path = place / "small" / "curriculum.yaml"
    path.write_text(path.read_text().replace("margin: 0.02", "margin: 0.5"))
    assert "curriculum" in failures(place)
    assert "learner.margin: 0.02 became 0.5" in details(place)
    path.write_text("name: [")
    assert "curriculum" in failures(place)


def test_an_unreadable_environment_is_no_reason_to_stop(place):
    (place / "small" / "environment.json").write_text("{")
    assert failures(place) == []


# Forgeries whose digests fit ----------------------------------------------------------------------------------------


def test_a_frozen_weight_that_moved_is_found_by_value_and_in_the_answers(place):
    def change(accumulation):
        row = neurons(accumulation, 0)[3]
        column = accumulation.W[row].nonzero()[0]
        accumulation.W[row, column] += 0.5

    forge(place, "ten", change)
    found = failures(place)
    assert {"weights five", "weights six"} <= set(found)
    assert {"answers five", "answers six"} & set(found)
    assert not any(name.startswith(("files", "events", "tables")) for name in found)
    assert "1 frozen weights have moved and 0 were added" in details(place)


def test_a_bias_and_a_row_of_an_input_neuron_are_frozen_too(place):
    def change(accumulation):
        accumulation.b[accumulation.owner[accumulation.stored] == -2] += 0.25

    forge(place, "ten", change)
    assert {"weights five", "weights six", "answers five"} <= set(failures(place))


def test_a_synapse_from_a_later_neuron_is_found(place):
    def change(accumulation):
        accumulation.W[neurons(accumulation, 0)[0], neurons(accumulation, 2)[0]] = 1e-30

    forge(place, "ten", change)
    assert "one way ten" in failures(place) and "weights five" in failures(place)
    assert "1 forbidden synapses, such as from neuron" in details(place)


@pytest.mark.parametrize(
    ("to", "frm"),
    [
        (lambda a: torch.searchsorted(a.stored, a.layout.inputs)[4], lambda a: neurons(a, 1)[0]),
        (lambda a: torch.searchsorted(a.stored, a.layout.ports["five"])[0], lambda a: neurons(a, 1)[0]),
        (lambda a: neurons(a, 2)[0], lambda a: torch.searchsorted(a.stored, a.layout.ports["five"])[0]),
    ],
    ids=["input neuron", "output neuron", "from an output neuron"],
)
def test_ports_are_under_the_rule_as_well(place, to, frm):
    def change(accumulation):
        accumulation.W[to(accumulation), frm(accumulation)] = 1e-30

    forge(place, "ten", change)
    assert "one way ten" in failures(place)


def test_a_neuron_that_changes_hands_is_found(place):
    def change(accumulation):
        accumulation.owner[accumulation.stored[neurons(accumulation, 0)[0]]] = 1

    forge(place, "ten", change)
    assert "weights five" in failures(place)


def test_weights_that_moved_in_every_checkpoint_are_found_by_the_recorded_logits(place):
    def change(accumulation):
        port = torch.searchsorted(accumulation.stored, accumulation.layout.ports["five"])
        accumulation.b[port[0]] += 0.125

    for task in small_run.CLASSES:
        forge(place, task, change)
    found = failures(place)
    assert "recorded five" in found and "answers five" not in found and "weights five" not in found


def test_figures_that_were_never_measured_are_found(place):
    events = read_events(place)
    for event in events:
        if event["event"] == "evaluated" and event["task"] == "ten":
            event["accuracy"] = 0.99
        if event["event"] == "task_claimed" and event["task"] == "six":
            event["depth_mean"] += 1e-6
    acc = np.mean([e["accuracy"] for e in events if e["event"] == "evaluated" and e["after"] == "ten"])
    changed("run_finished", "acc", float(acc))(events)
    write_events(place, events, forge=True)
    found = {check.name: check.detail for check in failed(place, measure=True)}
    assert [*found] == ["row six", "accuracy ten"]
    assert "depth_mean" in found["row six"] and "0.99 after ten" in found["accuracy ten"]


def test_on_another_machine_the_recorded_logits_are_information(place):
    path = place / "small" / "tasks" / "six" / "probe.pt"
    probe = torch.load(path, weights_only=True)
    probe["machine"]["processor"] = "an abacus"
    probe["logits"] = probe["logits"] * (1 + 1e-6)
    torch.save(probe, path)
    write_events(place, read_events(place), forge=True)
    checks = {check.name: check for check in verify(place / "small", place / "data")}
    assert all(check.ok for check in checks.values())
    assert checks["recorded six"].detail.startswith("for information: recorded with processor an abacus")
    assert "another machine rounds differently, so not" in checks["row six"].detail
    probe["logits"] = probe["logits"] + 1
    torch.save(probe, path)
    write_events(place, read_events(place), forge=True)
    assert failures(place) == ["recorded six"]


# Anything at all ----------------------------------------------------------------------------------------------------


def test_random_damage_never_ends_in_a_traceback(place):
    """Flips, cuts and swaps at random places of random files: verify answers, and finds most of it."""
    rng = random.Random(0)
    folder = place / "small"
    files = sorted(
        path
        for path in folder.rglob("*")
        if path.is_file() and path.suffix in (".pt", ".npz", ".csv", ".jsonl", ".yaml")
    )
    found = 0
    for _ in range(60):
        path = rng.choice(files)
        whole = path.read_bytes()
        damage = rng.randrange(3)
        if damage == 0:
            flip(path, rng.random())
        elif damage == 1:
            path.write_bytes(whole[: rng.randrange(len(whole))])
        else:
            path.write_bytes(rng.choice(files).read_bytes())
        found += bool(failures(place))
        path.write_bytes(whole)
    assert found >= 50
    assert failures(place) == []
