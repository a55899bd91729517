"""nesa.run_folder.tables: from events to tables, and to CSV and Markdown."""

from __future__ import annotations

import csv
import json
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


def cells(text):
    return list(csv.reader(text.splitlines()))


def test_accuracy_keeps_every_digit():
    names = ["edges", 'odd, "name"', "after"]
    R = np.tril(np.random.default_rng(0).random((3, 3)))
    R[np.triu_indices(3, 1)] = np.nan
    header, *rows = cells(tables.accuracy_csv(names, R))
    assert header == ["after", *names] and [row[0] for row in rows] == names
    np.testing.assert_array_equal([[float(cell or "nan") for cell in row[1:]] for row in rows], R)


def test_accumulation_keeps_types_and_every_digit():
    rows = [row("3", 0, source="1.5", depth_mean=1 / 3, theta=1e-17), row("b", 1, accuracy_cut=None, fallback=True)]
    rows[1]["levels_claimed"] = None
    header, *written = cells(tables.accumulation_csv(rows))
    for line, wanted in zip(written, rows, strict=True):
        found = dict(zip(header, line, strict=True))
        texts = {key: found.pop(key) for key in ("task", "source")}
        assert texts | {key: json.loads(cell or "null") for key, cell in found.items()} == wanted


def test_the_columns_are_the_contract():
    header = cells(tables.accumulation_csv([row("a", 0)]))[0]
    assert header == list(tables.ACCUMULATION)
    assert header[:4] == ["task", "index", "source", "fallback"]
    assert header[-3:] == ["theta", "weight_threshold", "seconds"]
    assert len(set(header)) == len(header) == 31


def test_accumulation_takes_the_last_claim_of_a_task():
    lines = [*events("edges"), {"event": "task_claimed", "time": 9.0, **row("edges", 0, synapses=42)}]
    (only,) = tables.accumulation(lines)
    assert only["synapses"] == 42
    assert list(only) == list(tables.ACCUMULATION)


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
