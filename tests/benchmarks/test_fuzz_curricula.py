"""benchmarks/stress/fuzz_curricula.py: mutants can be made again, and each kind of failure is noticed."""

from __future__ import annotations

import runpy
import signal
import socket
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "stress" / "fuzz_curricula.py"


@pytest.fixture(scope="module")
def fuzz():
    made = runpy.run_path(str(SCRIPT))
    made["watch"] = made["ForbiddenActions"]()  # an audit hook stays for good: one for all tests
    return SimpleNamespace(**made)


@pytest.fixture(autouse=True)
def timers(fuzz):
    def hang(signum, frame):
        raise fuzz.Hang

    before = {signum: signal.signal(signum, hang) for signum in (signal.SIGPROF, signal.SIGALRM)}
    yield
    for signum, handler in before.items():
        signal.signal(signum, handler)


def texts(fuzz) -> list[str]:
    return [path.read_text() for path in sorted(fuzz.CURRICULA.glob("*.yaml"))]


def test_a_number_and_a_seed_name_one_mutant(fuzz):
    some = [fuzz.mutant(texts(fuzz), 3, number) for number in range(40)]
    assert some == [fuzz.mutant(texts(fuzz), 3, number) for number in range(40)]
    assert len({data for data, _ in some}) > 35 and any(overrides for _, overrides in some)


def test_sound_mutants_are_loaded_or_refused(fuzz, tmp_path):
    found = [fuzz.attempt(tmp_path, *fuzz.mutant(texts(fuzz), 1, number), fuzz.watch) for number in range(40)]
    assert {what for what, _ in found} == {"loaded", "refused"} and not any(why for _, why in found)


@pytest.mark.parametrize(
    ("what", "act"),
    [
        ("traceback", lambda path: {}["x"]),
        ("traceback", lambda path: (_ for _ in ()).throw(SystemExit)),
        ("hang", lambda path: [None for _ in iter(int, 1)]),
        ("hang", lambda path: time.sleep(60)),
        ("touched", lambda path: path.with_name("new").write_text("")),
        ("touched", lambda path: path.with_name("new").mkdir()),
        ("touched", lambda path: path.unlink()),
        ("touched", lambda path: socket.socket().close()),
    ],
)
def test_what_must_not_happen_is_noticed(fuzz, tmp_path, what, act):
    def load(path, overrides):
        act(path)
        return SimpleNamespace()

    names = fuzz.attempt.__globals__
    before = {name: names[name] for name in ("load", "CPU", "CLOCK")}
    names.update(load=load, CPU=0.05, CLOCK=0.5)
    try:
        found, why = fuzz.attempt(tmp_path, b"name: x", [], fuzz.watch)
    finally:
        names.update(before)
    assert found == what and why
