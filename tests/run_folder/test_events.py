"""nesa.run_folder.events: lines in order, an incomplete last line dropped, damage named."""

from __future__ import annotations

import json

import pytest

from nesa.errors import RunFolderError
from nesa.run_folder.events import read_events

LINE = '{"event": "warning", "time": 1.5, "message": "m"}\n'


@pytest.fixture
def run(tmp_path):
    for name, text in (("curriculum.yaml", "name: x\n"), ("environment.json", "{}"), ("events.jsonl", "")):
        (tmp_path / name).write_text(text)
    return tmp_path


def test_events_are_read_in_order(run):
    (run / "events.jsonl").write_text(LINE + LINE.replace("warning", "other"))
    assert [event["event"] for event in read_events(run)] == ["warning", "other"]


@pytest.mark.parametrize("tail", ['{"event": "warn', "}\n", "\0\0\0\0\n", "[]\n", '{"time": 1}\n'])
def test_a_torn_last_line_is_dropped(run, tail):
    (run / "events.jsonl").write_text(LINE + tail)
    assert read_events(run) == [json.loads(LINE)]


@pytest.mark.parametrize(
    "line", ["", "{", "[1]", '"event"', '{"event": 3, "time": 1}', '{"event": "x", "time": "now"}']
)
def test_a_damaged_line_in_the_middle_is_named(run, line):
    (run / "events.jsonl").write_text(LINE + line + "\n" + LINE)
    with pytest.raises(RunFolderError, match=r"events\.jsonl:2: is not an event"):
        read_events(run)
