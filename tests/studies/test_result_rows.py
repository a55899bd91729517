"""studies/result_rows.py: what a study has finished is not computed again, and no row is lost or half written."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from dataclasses import dataclass

import pytest
from result_rows import FOLDER, Rows, study, text


def test_a_row_is_found_again_by_its_key_in_another_process(tmp_path):
    path = tmp_path / "deep" / "study.csv"
    Rows(path).add(S=1000, c_W=5e-7, seed=0, accuracy=1 / 3, widths=(115, 4, 3), seconds=1.5)
    again = Rows(path)
    assert again.has(S=1000, c_W=5e-7, seed=0) and again.has(S="1000", seed=0)
    assert not again.has(S=1000, seed=1) and not again.has(S=100, seed=0)
    (row,) = again.where(S=1000)
    assert (row["accuracy"], row["widths"], row["c_W"]) == ("0.333333", "115 4 3", "5e-07")


def test_the_file_is_a_plain_table_that_begins_with_the_commit(tmp_path):
    rows = Rows(tmp_path / "study.csv")
    rows.add(seed=0, note='a "b", c', missing=None, nan=float("nan"), seconds=1)
    rows.add(seconds=2, seed=1, nan=0.5, missing=False, note="line\nbreak")
    with (tmp_path / "study.csv").open(newline="") as file:
        head, first, second = list(csv.reader(file))
    assert head == ["commit", "seed", "note", "missing", "nan", "seconds"]
    assert first[1:] == ["0", 'a "b", c', "", "", "1"] and second[1:] == ["1", "line\nbreak", "False", "0.5", "2"]
    assert [path.name for path in tmp_path.iterdir()] == ["study.csv"]  # no draft is left behind


def test_columns_are_fixed_by_the_first_row_and_every_row_says_its_seed_and_time(tmp_path):
    rows = Rows(tmp_path / "study.csv")
    with pytest.raises(ValueError, match="a row says seconds and seed"):
        rows.add(S=1)
    rows.add(S=1, seed=0, seconds=1)
    before = (tmp_path / "study.csv").read_bytes()
    with pytest.raises(ValueError, match=r"new: \['T'\], missing: \['S'\]"):
        rows.add(T=1, seed=0, seconds=1)
    assert (tmp_path / "study.csv").read_bytes() == before
    with pytest.raises(KeyError, match="no column s"):
        rows.has(s=1)


def test_rows_that_another_process_adds_are_kept(tmp_path):
    one, other = Rows(tmp_path / "study.csv"), Rows(tmp_path / "study.csv")
    one.add(seed=0, seconds=1)
    other.add(seed=1, seconds=1)
    assert [row["seed"] for row in Rows(tmp_path / "study.csv").rows] == ["0", "1"]
    assert other.has(seed=0) and one.has(seed=1)


def test_processes_that_add_at_once_lose_no_row(tmp_path):
    script = (
        "import sys\nfrom result_rows import Rows\n"
        "for k in range(15):\n    Rows(sys.argv[1]).add(who=sys.argv[2], seed=k, seconds=1)"
    )
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(map(str, (FOLDER.parents[2], FOLDER.parents[2] / "studies")))
    }
    words = [sys.executable, "-c", script, str(tmp_path / "study.csv")]
    running = [subprocess.Popen([*words, who], env=environment) for who in "abc"]
    assert [process.wait() for process in running] == [0, 0, 0]
    assert sorted((row["who"], int(row["seed"])) for row in Rows(tmp_path / "study.csv").rows) == [
        (who, k) for who in "abc" for k in range(15)
    ]


def test_a_study_asks_before_each_setting_whether_another_process_has_made_its_row(tmp_path, monkeypatch):
    @dataclass
    class Setting:
        seed: int

    path, made = tmp_path / "rows" / "study.csv", []

    def run(setting):
        made.append(setting.seed)
        Rows(path).add(seed=setting.seed + 1, found=0, seconds=1)  # somebody else does the next one
        return {"found": 1, "seconds": 1}

    monkeypatch.setattr("result_rows.FOLDER", path.parent)
    monkeypatch.setattr("sys.argv", ["study.py", "all", "--most", "2"])
    study("study", "", {"all": lambda: map(Setting, range(9))}, run, print)
    assert made == [0, 2] and [row["found"] for row in Rows(path).rows] == ["0", "1", "0", "1"]


@pytest.mark.parametrize("value", [None, 0, -1.5, 1e-12, True, "name", (1, 2.5)])
def test_text_is_one_for_a_value_and_for_what_is_read_back(value):
    assert text(text(value)) == text(value)


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.csv")), ids=lambda path: path.stem)
def test_committed_rows_have_a_commit_a_seed_and_a_time(path):
    rows = Rows(path).rows
    assert rows and all(row["commit"] and row["seed"] and float(row["seconds"]) >= 0 for row in rows)
    assert all(None not in row and None not in row.values() for row in rows)  # no line is shorter or longer
