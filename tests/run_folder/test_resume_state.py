"""nesa.run_folder.resume_state and nesa.config.diff: differences of two curricula in words.

What continuation refuses is tested with whole runs in test_run.
"""

from __future__ import annotations

import pytest
import yaml

from nesa.config.diff import differences, differing_values
from nesa.errors import RunFolderError
from nesa.run_folder.resume_state import SHOWN, check_curriculum, last_state

TEXT = "name: a\ntraining: {epochs: 2, lr: 0.1}\ntasks:\n- {name: x, params: {}}\n- {name: y}\n"


@pytest.mark.parametrize(
    ("now", "words"),
    [
        (TEXT, []),
        (TEXT.replace("epochs: 2", "epochs: 3"), ["training.epochs: 2 became 3"]),
        (TEXT.replace("epochs: 2", "epochs: 2.0"), ["training.epochs: 2 became 2.0"]),
        (TEXT.replace("name: a", "name: null"), ["name: a became null"]),
        (TEXT.replace(", lr: 0.1", ""), ["training.lr: 0.1 became -"]),
        (TEXT.replace("- {name: y}\n", ""), ["tasks[1].name: y became -"]),
        (TEXT + "- {name: z}\n", ["tasks[2].name: - became z"]),
        (
            TEXT.replace("params: {}", "params: {n: 1}"),
            ["tasks[0].params: {} became -", "tasks[0].params.n: - became 1"],
        ),
        (TEXT.replace("training: {epochs: 2, lr: 0.1}", "training: 5"), None),
    ],
)
def test_each_difference_is_named_with_its_key(now, words):
    found = differences(yaml.safe_load(TEXT), yaml.safe_load(now))
    if words is None:
        assert found == ["training.epochs: 2 became -", "training.lr: 0.1 became -", "training: - became 5"]
    else:
        assert found == words


def test_a_long_list_of_differences_is_cut_short(tmp_path):
    events = [{"event": "run_started", "curriculum": yaml.safe_dump({f"k{i}": 0 for i in range(SHOWN + 3)})}]
    (tmp_path / "curriculum.yaml").write_text(yaml.safe_dump({f"k{i}": 1 for i in range(SHOWN + 3)}))
    with pytest.raises(RunFolderError, match=r"k0: 0 became 1; .*; and 3 more\. Put it back to go on") as caught:
        check_curriculum(tmp_path, events)
    assert str(caught.value).count("became") == SHOWN
    check_curriculum(tmp_path, [])  # a run that had not begun has nothing to compare with


@pytest.mark.parametrize(
    ("kinds", "count"),
    [
        ("checkpointed", 1),
        ("checkpointed warning", 1),  # a warning is given again, with the task that it is about
        ("checkpointed warning run_finished", 3),
        ("checkpointed run_finished extended warning", 3),
        ("checkpointed run_finished extended warning task_started epoch", 3),
        ("checkpointed task_started epoch", 1),
    ],
)
def test_that_a_run_was_finished_and_extended_belongs_to_its_checkpoint(tmp_path, monkeypatch, kinds, count):
    monkeypatch.setattr("nesa.run_folder.resume_state.read_state", lambda folder, event: {"next": 1})
    events = [{"event": kind} for kind in kinds.split()]
    assert last_state(tmp_path, events) == (count, {"next": 1}, [])


def test_trees_are_held_against_one_another():
    trees = [{"a": 1, "b": {"c": 2}}, {"a": 1, "b": {"c": 3}}, {"a": 1, "b": {"d": True}}]
    assert differing_values(trees) == {"b.c": ["2", "3", "-"], "b.d": ["-", "-", "true"]}
    assert differing_values([{"a": 1}, {"a": 1}]) == {} and differing_values([{"a": 1}, {"a": True}]) == {
        "a": ["1", "true"]
    }
