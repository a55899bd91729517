"""nesa.config.scalars: a spelling is read as a person reads it, or refused with its place and what to write instead."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import yaml

from nesa.config.loader import dump, load
from nesa.errors import CurriculumError

TEXT = """\
name: base
input: {size: [8, 8]}
network: {grid: [8, 8, 3]}
tasks:
  - {name: first, source: edges}
  - {name: second, source: "mine:function", params: {classes: 2, of: x}}
"""
# where a value is written, and how it is found in the curriculum
KEYS = {
    "int": ("seed", lambda c: c.seed),
    "float": ("training.lr", lambda c: c.training.lr),
    "bool": ("penalties.literal", lambda c: c.penalties.literal),
    "text": ("description", lambda c: c.description),
    "name": ("name", lambda c: c.name),
    "list": ("network.grid", lambda c: c.network.grid),
    "int param": ("tasks[0].params.train", lambda c: c.tasks[0].params["train"]),
    "float param": ("tasks[0].params.sigma", lambda c: c.tasks[0].params["sigma"]),
    "untyped": ("tasks[1].params.of", lambda c: c.tasks[1].params["of"]),
}


def read(folder: Path, kind: str, spelling: str, how: str) -> Any:
    """What is read of a spelling, in the file or on the command line; a problem as its (line, sentence)."""
    key, value_of = KEYS[kind]
    path, tree, overrides = folder / "c.yaml", TEXT, [f"{key}={spelling}"]
    if how == "file":
        overrides = []
        if kind == "untyped":
            tree = TEXT.replace("of: x", f"of: {spelling}")
        elif kind.endswith("param"):
            tree = TEXT.replace("source: edges", f"source: edges, params: {{{key.split('.')[-1]}: {spelling}}}")
        elif kind == "list":
            tree = TEXT.replace("[8, 8, 3]", spelling)
        elif kind == "name":
            tree = TEXT.replace("name: base", f"name: {spelling}")
        else:
            section, _, last = key.rpartition(".")
            tree += f"{section}:\n  {last}: {spelling}\n" if section else f"{key}: {spelling}\n"
    path.write_text(tree, encoding="utf-8")
    try:
        found = load(path, overrides)
    except CurriculumError as error:
        (problem,) = error.problems
        assert problem.key == key and (problem.file == "command line") == (how != "file")
        return problem.line, problem.message
    assert load(write(path, dump(found))) == found
    return value_of(found)


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


READ = [
    *(
        ("int", text, value)
        for text, value in [("0", 0), ("10", 10), ("+5", 5), ("0x1F", 31), ("0o17", 15), ('"3"', 3)]
    ),
    *(("int", text, 0) for text in ("-0", "+0")),
    *(
        ("float", text, value)
        for text, value in [
            *(("1e-3", 1e-3), ("1E-3", 1e-3), ("1e3", 1000.0), ("1.e3", 1000.0), ("1.5e+3", 1500.0), (".5e1", 5.0)),
            *(("1.", 1.0), (".5", 0.5), ("+.5", 0.5), ("3", 3.0), ("0.10", 0.1), ("01.5", 1.5), ("'0.5'", 0.5)),
            ("0x10", 16.0),
        ]
    ),
    *(("bool", text, True) for text in ("true", "True", "TRUE", "yes", "Yes", "YES", "on", "On", "ON", "y", "Y")),
    *(("bool", text, False) for text in ("false", "False", "FALSE", "no", "No", "NO", "off", "OFF", "n", "N", "'no'")),
    *(("text", text, text) for text in ("010", "1:30", "1_000", "yes", "no", "y", "0b1", "2001-01-01", "1e-3", ".nan")),
    *(("name", text, text) for text in ("007", "no", "0x1F", "1_000", "2001-01-01", "1e3", "true", "on")),
    *(("int param", text, value) for text, value in [("100", 100), ("0x64", 100), ("'100'", 100)]),
    *(("float param", text, value) for text, value in [("1", 1.0), ("1e0", 1.0), ("1.", 1.0)]),
    *(
        ("untyped", text, value)
        for text, value in [
            *(("1", 1), ("1e-3", 1e-3), ("true", True), ("null", None), ("~", None), ("0x1F", 31), ("0o10", 8)),
            *(("'010'", "010"), ('"yes"', "yes"), ("'1:30'", "1:30"), ("2001-01-01", "2001-01-01"), ("y", "y")),
            *(("10ms", "10ms"), ("5%", "5%"), ("1.2.3", "1.2.3"), ("0.5", 0.5), ("[1, '1_0']", [1, "1_0"])),
        ]
    ),
    ("list", "[8, 8, 0x3]", (8, 8, 3)),
]
REFUSED = [
    *(
        ("int", text, f"{text} is not read: write {instead}")
        for text, instead in [
            *(
                ("010", "10, or 8 if octal was meant"),
                ("007", "7"),
                ("08", "8"),
                ("-010", "-10, or -8 if octal was meant"),
            ),
            *(("00", "0"), ("0b101", "5"), ("0B1", "1"), ("0X1F", "31"), ("0O17", "15"), ("-0x1F", "-31")),
            *(("1_000", "1000"), ("1_0_0", "100"), ("0x1_F", "31")),
            *(("1:30", "one number; 90 if base 60 was meant"), ("1:00:01", "one number; 3601 if base 60 was meant")),
            *(("10,", "10"), ("1,000,000", "1000000"), ("1,000", "1000, or 1.000 if the comma is a decimal point")),
            *(("10ms", "a number without a unit, such as 10"), ("10k", "10000"), ("2M", "2000000"), ("5%", "0.05")),
        ]
    ),
    ("int", "１２", "'１２' is not read: write 12"),  # noqa: RUF001
    ("int", "−5", "'−5' is not read: write -5"),  # noqa: RUF001
    ("int", "'010'", "010 is not read: write 10, or 8 if octal was meant"),
    ("int", "' 7 '", "' 7 ' is not read: write 7"),
    ("int", "1e2", "must be a whole number, not 100.0: write 100"),
    ("int", "10.0", "must be a whole number, not 10.0: write 10"),
    ("int", "2.5", "must be a whole number, not 2.5"),
    ("int", "yes", "must be a whole number, not 'yes'"),
    ("int", "true", "must be a whole number, not true"),
    ("int", "2001-01-01", "must be a whole number, not '2001-01-01'"),
    ("int", "9" * 101, f"'{'9' * 57}...' is not a number that can be read"),
    ("int", str(2**63 + 1), f"'{2**63 + 1}' is not a number that can be read"),
    ("float", "1:30", "1:30 is not read: write one number; 90 if base 60 was meant"),
    ("float", "1:30.5", "1:30.5 is not read: write one number; 90.5 if base 60 was meant"),
    ("float", "0,001", "0,001 is not read: write 0.001"),
    ("float", "1_000.5", "1_000.5 is not read: write 1000.5"),
    ("float", "1_0e-3", "1_0e-3 is not read: write 10e-3"),
    ("float", "1/2", "1/2 is not read: write 0.5"),
    ("float", "0.1s", "0.1s is not read: write a number without a unit, such as 0.1"),
    ("float", ".inf", "must be a finite number, not inf"),
    ("float", "+.inf", "must be a finite number, not inf"),
    ("float", "-.INF", "must be a finite number, not -inf"),
    ("float", ".nan", "must be a finite number, not nan"),
    ("float", ".NaN", "must be a finite number, not nan"),
    ("float", "1e999", "must be a finite number, not inf"),
    ("float", "nan", "must be a number, not 'nan'"),
    ("float", "inf", "must be a number, not 'inf'"),
    ("float", "1e", "must be a number, not '1e'"),
    ("float", "1.2.3", "must be a number, not '1.2.3'"),
    ("float", "~", "must be a number, not nothing"),
    ("bool", "1", "must be true or false, not 1: write true"),
    ("bool", "0", "must be true or false, not 0: write false"),
    ("bool", "2", "must be true or false, not 2"),
    ("bool", "tRue", "must be true or false, not 'tRue': write true"),
    ("bool", "t", "must be true or false, not 't'"),
    ("list", "[010, 8, 3]", "010 is not read: write 10, or 8 if octal was meant"),
    ("list", "[8, 8, 1_0]", "1_0 is not read: write 10"),
    ("int param", "1_000", "1_000 is not read: write 1000"),
    ("int param", "0100", "0100 is not read: write 100, or 64 if octal was meant"),
    ("float param", "1:30", "1:30 is not read: write one number; 90 if base 60 was meant"),
    ("untyped", "010", "010 is not read: write 10, or 8 if octal was meant; for text write '010' in quotes"),
    ("untyped", "1_000", "1_000 is not read: write 1000; for text write '1_000' in quotes"),
    ("untyped", "1:30", "1:30 is not read: write one number; 90 if base 60 was meant; for text write '1:30' in quotes"),
    ("untyped", "no", "no is not read: write false, or 'no' in quotes for text"),
    ("untyped", "On", "On is not read: write true, or 'On' in quotes for text"),
    ("untyped", "[1, {a: 0b1}]", "0b1 is not read: write 1; for text write '0b1' in quotes"),
    ("untyped", "9" * 101, f"'{'9' * 57}...' is not a number that can be read"),
]


@pytest.mark.parametrize("how", ["file", "command line"])
@pytest.mark.parametrize(("kind", "spelling", "value"), READ)
def test_spellings_that_are_read(tmp_path, kind, spelling, value, how):
    found = read(tmp_path, kind, spelling, how)
    assert found == value and type(found) is type(value)


@pytest.mark.parametrize("how", ["file", "command line"])
@pytest.mark.parametrize(("kind", "spelling", "sentence"), REFUSED)
def test_spellings_that_are_refused(tmp_path, kind, spelling, sentence, how):
    line = {"list": 3, "int param": 5, "float param": 5, "untyped": 6, "int": 7}.get(kind, 8)
    assert read(tmp_path, kind, spelling, how) == (line if how == "file" else 1, sentence)


@pytest.mark.parametrize(
    "text", ["010", "0o10", "0x1F", "1e3", "1:30", "1_000", "0X1F", "0b1", "no", "On", "~", "", "1."]
)
def test_text_that_looks_like_a_number_is_dumped_in_quotes(tmp_path, text):
    path = write(tmp_path / "c.yaml", TEXT.replace("of: x", f"of: '{text}'"))
    curriculum = load(path)
    assert curriculum.tasks[1].params["of"] == text
    assert load(write(path, dump(curriculum))) == curriculum
    assert yaml.safe_load(dump(curriculum))["tasks"][1]["params"]["of"] == text  # and YAML 1.1 reads the same


@pytest.mark.parametrize("value", [0.0, 1e-5, 1e22, 0.1, 3e300, 5e-324])
def test_floats_are_dumped_so_that_the_core_schema_reads_them(tmp_path, value):
    curriculum = load(write(tmp_path / "c.yaml", TEXT), [f"tasks[1].params.of={value!r}"])
    again = load(write(tmp_path / "c.yaml", dump(curriculum)))
    assert again == curriculum and math.isclose(again.tasks[1].params["of"], value, rel_tol=0)


def test_a_reference_keeps_the_spelling_of_its_target(tmp_path):
    text = TEXT.replace("of: x", "of: '${name}'") + "description: ${name}\n"
    curriculum = load(write(tmp_path / "c.yaml", text), ["name='007'"])
    assert curriculum.description == curriculum.tasks[1].params["of"] == "007"
