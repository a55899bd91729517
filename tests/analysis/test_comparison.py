"""nesa.analysis.comparison and nesa.reports.comparison_report.

Figures equal those of the run's own files, and what cannot be compared is named.
"""

from __future__ import annotations

import csv
import io
import json
import re
import statistics
import subprocess
import sys
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from pathlib import Path

import pytest
import small_run
import stored_run

from nesa.analysis.comparison import WHOLE, compare, similarities
from nesa.cli import commands
from nesa.errors import RunFolderError, UserError
from nesa.reports import comparison_report

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """Four real runs: two curricula, each with the seeds 1 and 2."""
    place = tmp_path_factory.mktemp("trained")
    for name, tasks in (("all", ("five", "six")), ("one", ("six",))):
        for seed in (1, 2):
            small_run.train(place, f"{name}-seed{seed}", seed=seed, tasks=tasks)
    return place


def table(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


# Round trip ---------------------------------------------------------------------------------------------------------


def test_every_number_is_that_of_the_events_and_of_the_tables(trained):
    """Read here with json and csv alone."""
    folders = [trained / f"{name}-seed{seed}" for name in ("all", "one") for seed in (1, 2)]
    rows = table(comparison_report.csv_text(compare(folders)))
    checked = {"events": 0, "accuracy": 0, "accumulation": 0}
    for row in rows:
        runs = [Path(name) for name in json.loads(row["runs"])]
        values = json.loads(row["values"])
        assert [run.name for run in runs] == [f"{'all' if row['side'] == 'A' else 'one'}-seed{seed}" for seed in (1, 2)]
        known = [value for value in values if value is not None]
        assert float(row["mean"]) == statistics.fmean(known) and int(row["n"]) == len(known)
        assert row["spread"] == ("" if len(known) < 2 else json.dumps(statistics.stdev(known)))
        for run, value in zip(runs, values, strict=True):
            if value is None:
                continue
            events = [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]
            if row["task"] == WHOLE:
                finished = next(e for e in events if e["event"] == "run_finished")
                if row["measure"] in finished:
                    assert value == finished[row["measure"]]
                    checked["events"] += 1
                continue
            R = table((run / "accuracy.csv").read_text())
            after = {"accuracy": row["task"], "accuracy_end": R[-1]["after"]}.get(row["measure"])
            if after:
                assert value == float(next(line for line in R if line["after"] == after)[row["task"]])
                told = [
                    e for e in events if e["event"] == "evaluated" and (e["after"], e["task"]) == (after, row["task"])
                ]
                assert value == told[-1]["accuracy"]
                checked["accuracy"] += 1
                continue
            claimed = next(e for e in events if e["event"] == "task_claimed" and e["task"] == row["task"])
            line = next(r for r in table((run / "accumulation.csv").read_text()) if r["task"] == row["task"])
            name, at = re.fullmatch(r"(levels_\w+)_(\d+)|(.*)", row["measure"]).group(1, 2)
            if name:
                assert value == claimed[name][int(at) - 1] == json.loads(line[name])[int(at) - 1]
            else:
                assert value == claimed[row["measure"]] == json.loads(line[row["measure"]])
            checked["accumulation"] += 1
    assert all(count > 10 for count in checked.values()), checked
    columns = {key for row in table((trained / "all-seed1" / "accumulation.csv").read_text()) for key in row}
    numeric = columns - {"task", "index", "source", "fallback", "levels_claimed", "levels_reused"}
    assert numeric <= {row["measure"] for row in rows}, "no column is left out"


def test_the_tables_show_those_numbers(trained):
    folders = [trained / "all-seed1", trained / "one-seed1"]
    comparison = compare(folders)
    a, b = (
        next(r for r in table((folder / "accumulation.csv").read_text()) if r["task"] == "six") for folder in folders
    )
    cells = [
        [cell.strip() for cell in line.split("|")[1:-1]] for line in comparison_report.markdown(comparison).splitlines()
    ]
    at = next(i for i, line in enumerate(cells) if line and line[0] == "six")
    A, B, D = (dict(zip(cells[at], cells[at + i], strict=True)) for i in (2, 3, 4))
    for row, shown in ((a, A), (b, B)):
        assert shown["new"] == row["neurons_claimed"] and shown["synapses"].replace(",", "") == row["synapses"]
        assert shown["share %"] == f"{100 * float(row['reuse_share']):.1f}"
        assert shown["mean"] == f"{float(row['depth_mean']):.2f}"
    assert D["six"] == "B - A" and D["new"] == f"{int(b['neurons_claimed']) - int(a['neurons_claimed']):+d}"
    assert D["cut %"] == "" and A["cut %"] != "", "the first task has nothing to cut"
    lines = comparison_report.text(comparison).splitlines()
    for row in cells[at + 2 : at + 5]:
        assert any(line.split() == " ".join(row).split() for line in lines), row


def test_likeness_compares_the_runs_with_the_first(trained):
    comparison = compare([trained / f"{name}-seed{seed}" for name in ("all", "one") for seed in (1, 2)])
    found = similarities(comparison)
    assert [(task, pair) for task, pair, _ in found if task == "six"] == [
        ("six", "A seed 1 - A seed 2"),
        ("six", "A seed 1 - B seed 1"),
        ("six", "A seed 1 - B seed 2"),
    ]
    assert {task for task, _, _ in found} == {"six"}
    assert {task for task, _, _ in similarities(comparison, most=4)} == {"six"}
    assert all(0 <= similarity.widths <= 1 and similarity.matched > 0 for _, pair, similarity in found if "B" in pair)


# Sides --------------------------------------------------------------------------------------------------------------


def test_seeds_of_one_curriculum_are_one_side(tmp_path):
    folders = [stored_run.write(tmp_path / f"long-seed{s}", seed=s, training={"epochs": 9}) for s in (0, 1, 2)]
    folders += [stored_run.write(tmp_path / f"short-seed{s}", seed=s, training={"epochs": 3}) for s in (0, 1)]
    folders += [stored_run.write(tmp_path / "short-again", seed=1, training={"epochs": 3})]
    comparison = compare(folders)
    assert [side.name for side in comparison.groups] == ["long, 3 seeds", "short, 2 seeds", "short-again"]
    assert comparison.unlike == {"training.epochs": ["9", "3", "3"]}
    assert f"seed{0}, {1}" not in comparison_report.text(comparison)
    cell = comparison.measurements["hard", "accuracy_test", "B"]
    values = [
        json.loads(f.joinpath("events.jsonl").read_text().splitlines()[-4])["accuracy_test"] for f in folders[3:5]
    ]
    assert list(cell.values) == values
    first = comparison.measurements["hard", "accuracy_test", "A"]
    assert cell.difference == statistics.fmean(values) - statistics.fmean(first.values) and first.difference is None
    assert f"{100 * cell.mean:.1f}±{100 * cell.spread:.1f}" not in comparison_report.text(comparison)  # accuracy is R's
    shown = comparison.measurements["hard", "depth_mean", "B"]
    assert f"{shown.mean:.2f}±{shown.spread:.2f}" in comparison_report.text(comparison)


def test_tasks_are_aligned_by_name_whatever_their_place(tmp_path):
    values = {"hard": {"neurons_claimed": 70}}
    a = stored_run.write(tmp_path / "a", ("easy", "hard"), values=values)
    b = stored_run.write(tmp_path / "b", ("hard", "other"), values={"hard": {"neurons_claimed": 50}})
    comparison = compare([a, b])
    assert comparison.tasks == ("easy", "hard", "other")
    assert comparison.measurements["hard", "neurons_claimed", "B"].difference == -20
    assert ("easy", "neurons_claimed", "B") not in comparison.measurements
    assert comparison.measurements["other", "neurons_claimed", "B"].difference is None
    assert comparison.measurements[WHOLE, "acc", "B"].difference is None, "other tasks, another mean"
    assert comparison.unlike["order"] == ["easy hard", "hard other"]
    assert "tasks.hard.source" not in comparison.unlike and comparison.unlike["tasks.easy.source"] == [
        "easy-source",
        "-",
    ]


def test_a_learner_that_claims_nothing_is_compared_by_accuracy(tmp_path):
    a = stored_run.write(tmp_path / "a", values={"hard": {"accuracy_test": 0.75}})
    b = stored_run.write(tmp_path / "b", values={"hard": {"accuracy_test": 0.5}}, claims=False, structures=False)
    comparison = compare([a, b])
    assert comparison.measurements["hard", "accuracy", "B"].difference == -0.25
    assert ("hard", "neurons_claimed", "B") not in comparison.measurements and similarities(comparison) == []
    assert "-25.0" in comparison_report.text(comparison)


# What cannot be compared --------------------------------------------------------------------------------------------


def test_a_fallback_is_never_taken_for_the_real_thing(tmp_path, capsys):
    a = stored_run.write(tmp_path / "a")
    b = stored_run.write(tmp_path / "b", fallback={"hard": "scenes"})
    comparison = compare([a, b])
    assert comparison.clashes == {"hard": "task hard: other data: A hard-source, B the fallback scenes"}
    assert all(
        (cell.difference is None) == (cell.group == "A" or cell.task in ("hard", WHOLE))
        for cell in comparison.measurements.values()
    )
    assert {task for task, _, _ in similarities(comparison)} == {"easy"}
    assert commands.main(["compare", str(a), str(b)]) == 0
    out = capsys.readouterr().out
    assert "note: B: b used a fallback: hard=scenes" in out and "note: task hard: other data" in out


@pytest.mark.parametrize(
    ("first", "second", "sentence"),
    [
        ({}, {"input": {"size": [8, 8]}, "network": {"grid": [8, 8, 3]}}, r"their inputs differ: A 1 x 4 x 4, B 1 x 8"),
        ({}, {"input__channels": 3}, r"their inputs differ: A 1 x 4 x 4, B 3 x 4 x 4"),
        ({"tasks": ("a", "b")}, {"tasks": ("c",)}, r"no task is in all of them: A a, b; B c"),
        (
            {"tasks": ("a",)},
            {"tasks": ("a",), "fallback": {"a": "s"}},
            r"not comparable. task a: other data: A a-source",
        ),
        ({"digests": ["1", "2"]}, {"digests": ["3", "4"]}, r"same source and seed, but the samples differ"),
    ],
)
def test_what_is_not_comparable_is_refused_with_the_reason(tmp_path, capsys, first, second, sentence):
    a, b = stored_run.write(tmp_path / "a", **first), stored_run.write(tmp_path / "b", **second)
    with pytest.raises(UserError, match=sentence):
        compare([a, b])
    assert commands.main(["compare", str(a), str(b)]) == 2
    assert "A = a, B = b: not comparable" in capsys.readouterr().err


def test_other_seeds_have_other_samples_and_that_is_fine(tmp_path):
    a = stored_run.write(tmp_path / "a", seed=0, digests=["1", "2"])
    b = stored_run.write(tmp_path / "b", seed=1, digests=["3", "4"], penalties={"weight": 7.0})
    assert compare([a, b]).clashes == {}


def test_what_a_reader_must_know_is_noted(tmp_path):
    a = stored_run.write(tmp_path / "a", environment={"commit": "a" * 40})
    b = stored_run.write(tmp_path / "b", done=1, environment={"commit": "b" * 40, "changed": True, "device": "cuda:1"})
    assert compare([a, b]).notes == (
        "B: b is not finished, 1 of 2 tasks done",
        "made with other code (commit): A aaaaaaaa, B bbbbbbbb with changes",
        "made with other device: A cpu, B cuda",
    )


def test_wrong_folders(tmp_path, capsys):
    a = stored_run.write(tmp_path / "a")
    with pytest.raises(UserError, match="the same run is given twice"):
        compare([a, tmp_path / "." / "a"])
    with pytest.raises(RunFolderError, match="there is no such folder"):
        compare([a, tmp_path / "none"])
    (tmp_path / "b").mkdir()
    for name in ("curriculum.yaml", "environment.json", "events.jsonl"):
        (tmp_path / "b" / name).write_text("{}" if name == "environment.json" else "")
    with pytest.raises(RunFolderError, match="has not begun; start it with `nesa resume"):
        compare([a, tmp_path / "b"])
    assert commands.main(["compare", str(a)]) == 2
    assert "takes two runs or more" in capsys.readouterr().err


# What is written ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [2, 5, 30])
def test_the_terminal_never_needs_more_than_80_columns(tmp_path, count):
    folders = [
        stored_run.write(
            tmp_path / f"{'a-very-long-name-of-a-run' * 3}-{i}", ("t" * 60, "hard"), penalties={"weight": i}
        )
        for i in range(count)
    ]
    shown = comparison_report.text(compare(folders))
    assert max(map(len, shown.splitlines())) <= 80
    assert f"{['A', 'B', 'C', 'D', 'E'][min(count, 5) - 1]} - A" in shown


def test_names_are_escaped_and_the_page_stands_alone(tmp_path, capsys):
    evil = '<script>alert("x")&</script>'
    a, b = (stored_run.write(tmp_path / f"{i} $x^$ {evil.replace('/', '')}", name=evil) for i in (1, 2))
    files = [tmp_path / "out" / f"c.{kind}" for kind in ("html", "md", "csv")]
    words = ["compare", str(a), str(b), "--html", str(files[0]), "--markdown", str(files[1]), "--csv", str(files[2])]
    assert commands.main(words) == 0
    out = capsys.readouterr().out
    assert all(f"wrote {file}" in out for file in files)
    assert out.splitlines()[-4].startswith("see: tensorboard") or "see: tensorboard" in out
    page = files[0].read_text()
    tags: list[tuple[str, dict[str, str | None]]] = []

    class Reader(HTMLParser):
        def handle_starttag(self, tag, attrs):
            tags.append((tag, dict(attrs)))

    Reader().feed(page)
    assert {tag for tag, _ in tags} & {"script", "img", "link", "iframe", "object"} == set()
    targets = [v for _, attrs in tags for key, v in attrs.items() if key in ("src", "href", "xlink:href") and v]
    assert all(target.startswith("#") for target in targets)
    assert not re.search(r"url\((?!#)", page)
    drawings = re.findall(r"<svg.*?</svg>", page, flags=re.S)
    assert len(drawings) == 2
    for drawing in drawings:
        ET.fromstring(drawing)
    assert f"{stored_run.__name__}" not in page and "<td>easy neurons_claimed</td>" in page
    assert files[1].read_text().startswith("# 1 $x^$") and table(files[2].read_text())


def test_a_file_that_cannot_be_written_is_one_sentence(tmp_path, capsys):
    a, b = stored_run.write(tmp_path / "a"), stored_run.write(tmp_path / "b")
    (tmp_path / "file").write_text("")
    assert commands.main(["compare", str(a), str(b), "--csv", str(tmp_path / "file" / "c.csv")]) == 2
    assert "c.csv: cannot be written" in capsys.readouterr().err


def test_torch_is_never_imported(tmp_path):
    a, b = (str(stored_run.write(tmp_path / name)) for name in "ab")
    code = (
        "import sys; from nesa.cli.commands import main; code = main(sys.argv[1:]); "
        "print(code, sorted({'torch', 'tensorboard', 'avalanche', 'torchvision'} & set(sys.modules)))"
    )
    words = ["compare", a, b, "--html", str(tmp_path / "c.html"), "--csv", str(tmp_path / "c.csv")]
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, cwd=ROOT, timeout=60)
    assert done.stdout.splitlines()[-1] == "0 []", done.stderr
