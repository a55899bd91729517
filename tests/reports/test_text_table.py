"""Test nesa.reports.text_table: tables and paragraphs that fit a terminal."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from nesa.reports import text_table

CELL = st.text(max_size=30)


def test_a_table_by_hand():
    shown = text_table.terminal(["task", "new"], [["edges", "7"], ["x", "1,024"]])
    assert shown == "task     new\nedges      7\nx      1,024"


def test_what_does_not_fit_goes_on_below():
    shown = text_table.terminal(["task", "one", "two"], [["edges", "1" * 9, "2" * 9]], width=20)
    assert shown.split("\n\n") == ["task         one\nedges  111111111", "task         two\nedges  222222222"]


def test_a_long_cell_is_cut_visibly():
    shown = text_table.terminal(["a" * 50, "b" * 50], [], width=30)
    assert shown == "a" * 9 + "…  " + "b" * 17 + "…"


@given(st.integers(0, 6).flatmap(lambda n: st.lists(st.lists(CELL, min_size=n + 1, max_size=n + 1), min_size=1)))
def test_no_line_is_longer_than_the_terminal_and_no_cell_is_lost(lines):
    shown = text_table.terminal(lines[0], lines[1:], width=40)
    assert max(map(len, shown.splitlines()), default=0) <= 40
    for line in lines:
        for cell in line[1:]:
            plain = "".join(letter if letter.isprintable() else "?" for letter in cell)
            assert text_table.cut(plain.strip(), 25).rstrip("…").strip() in shown


def test_paragraphs_are_wrapped_and_names_stay_whole():
    shown = text_table.wrapped("note: " + "word " * 30 + "a" * 90)
    lines = shown.splitlines()
    assert all(len(line) <= 80 for line in lines[:-1]) and lines[-1] == "  " + "a" * 90
    assert text_table.wrapped("\033[31mred") == "?[31mred"
