"""The two tables: from events, to CSV, and back."""

from __future__ import annotations

import csv
import random

import numpy as np
import pytest

from nesa.errors import RunFolderError
from nesa.run_folder import tables


def row(task, index, **values):
    """An accumulation row with a different number in every column."""
    number = random.Random(f"{task} {index}").random
    filled = {key: number() for key in tables.ACCUMULATION}
    filled |= {"task": task, "index": index, "source": task, "fallback": False, "neurons_claimed": 10 + index}
    return filled | {"levels_claimed": [7, 2, 1], "levels_reused": [0, 3, 0], "classes": 5} | values


def events(*names):
    yield {"event": "run_started", "time": 0.0, "name": "x", "seed": 0, "tasks": list(names)}
    for i, after in enumerate(names):
        yield {"event": "task_claimed", "time": 1.0, **row(after, i)}
        for j, task in enumerate(names[: i + 1]):
            yield {
                "event": "evaluated",
                "time": 1.0,
                "after": after,
                "task": task,
                "accuracy": 0.1 * (i + 1) + 0.01 * j,
            }


def test_r_has_after_as_rows_and_task_as_columns():
    names, R = tables.accuracy(list(events("edges", "shapes", "cifar10")))
    assert names == ["edges", "shapes", "cifar10"]
    expected = [[0.1, np.nan, np.nan], [0.2, 0.21, np.nan], [0.3, 0.31, 0.32]]
    np.testing.assert_allclose(R, expected, equal_nan=True)


def test_r_holds_the_tasks_evaluated_so_far_and_the_later_of_two_measurements():
    lines = list(events("edges", "shapes"))[:3]
    lines.append({"event": "evaluated", "time": 2.0, "after": "edges", "task": "edges", "accuracy": 0.77})
    names, R = tables.accuracy(lines)
    assert names == ["edges"]
    assert R.tolist() == [[0.77]]


def test_the_order_is_that_of_the_index_not_of_the_alphabet():
    names, _ = tables.accuracy(list(events("zebra", "apple")))
    assert names == ["zebra", "apple"]


def test_tasks_that_were_added_later_are_found_by_their_start():
    lines = list(events("edges"))
    lines.append({"event": "task_started", "time": 3.0, "task": "more", "index": 1})
    lines.append({"event": "evaluated", "time": 3.0, "after": "more", "task": "edges", "accuracy": 0.5})
    names, R = tables.accuracy(lines)
    assert names == ["edges", "more"]
    np.testing.assert_array_equal(R, [[0.1, np.nan], [0.5, np.nan]])


def test_a_score_of_a_task_that_never_started_is_an_error():
    with pytest.raises(RunFolderError, match="'ghost' was evaluated"):
        tables.accuracy([{"event": "evaluated", "time": 0.0, "after": "ghost", "task": "ghost", "accuracy": 1.0}])


def test_accuracy_round_trip_is_exact(tmp_path):
    names = ["edges", 'odd, "name"', "after"]
    R = np.tril(np.random.default_rng(0).random((3, 3)))
    R[np.triu_indices(3, 1)] = np.nan
    (tmp_path / "accuracy.csv").write_text(tables.accuracy_csv(names, R))
    read_names, read = tables.read_accuracy(tmp_path)
    assert read_names == names
    np.testing.assert_array_equal(read, R)


def test_accumulation_round_trip_keeps_types_and_every_digit(tmp_path):
    rows = [row("3", 0, source="1.5", depth_mean=1 / 3, theta=1e-17), row("b", 1, accuracy_cut=None, fallback=True)]
    rows[1]["levels_claimed"] = None
    (tmp_path / "accumulation.csv").write_text(tables.accumulation_csv(rows))
    assert tables.read_accumulation(tmp_path) == rows


def test_the_columns_are_the_contract(tmp_path):
    header = next(csv.reader(tables.accumulation_csv([]).splitlines()))
    assert header == list(tables.ACCUMULATION)
    assert header[:4] == ["task", "index", "source", "fallback"]
    assert header[-3:] == ["theta", "weight_threshold", "seconds"]
    assert len(set(header)) == len(header) == 31


def test_accumulation_takes_the_last_claim_of_a_task():
    lines = [*events("edges"), {"event": "task_claimed", "time": 9.0, **row("edges", 0, synapses=42)}]
    (only,) = tables.accumulation(lines)
    assert only["synapses"] == 42
    assert list(only) == list(tables.ACCUMULATION)


@pytest.mark.parametrize(
    ("name", "text", "why"),
    [
        ("accuracy.csv", None, "cannot be read"),
        ("accuracy.csv", "", "not a complete table"),
        ("accuracy.csv", "after,a,b\na,0.5\n", "not a complete table"),
        ("accuracy.csv", "after,a\nb,0.5\n", "do not name the same tasks"),
        ("accuracy.csv", "after,a\na,high\n", "high"),
        ("accumulation.csv", "task,index\na,0\n", "not those of this version"),
        ("accumulation.csv", ",".join(tables.ACCUMULATION) + "\n" + ",".join(["oops"] * 31) + "\n", "Expecting value"),
    ],
)
def test_damaged_tables_are_named(tmp_path, name, text, why):
    if text is not None:
        (tmp_path / name).write_text(text)
    read = tables.read_accuracy if name == "accuracy.csv" else tables.read_accumulation
    with pytest.raises(RunFolderError, match=why) as refused:
        read(tmp_path)
    assert name in str(refused.value)


def test_markdown_shows_percent_and_escapes_bars():
    text = tables.accuracy_markdown(["a|b", "c"], np.array([[0.5, np.nan], [0.25, 1.0]]))
    assert text.splitlines() == [
        "| after | a\\|b | c |",
        "| --- | ---: | ---: |",
        "| a\\|b | 50.0 |  |",
        "| c | 25.0 | 100.0 |",
    ]


def test_markdown_of_accumulation_has_a_column_for_each_task():
    lines = tables.accumulation_markdown([row("edges", 0, fallback=True), row("shapes", 1, theta=None)]).splitlines()
    assert lines[0] == "|  | edges | shapes |"
    assert "| fallback | yes | no |" in lines
    assert "| neurons_claimed | 10 | 11 |" in lines
    assert next(line for line in lines if line.startswith("| theta")).endswith("|  |")
