"""Mutate the shipped curricula, as text and as trees, and load them: each must load or be refused with a sentence.

    python benchmarks/stress/fuzz_curricula.py [--count 20000] [--seconds S] [--seed 0]

For every mutant: nothing but UserError is raised, within 2 seconds of processor time (and 60 on the clock); no file is
written, made, moved or removed, no process is started, no connection is opened, no module that a curriculum names is
imported; a sentence is shorter than 1000 characters; what loads is written by `dump` and loads again as the same
curriculum. Mutant N of a seed is always the same text: a failure prints it and the exit code is 1.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from nesa.config.loader import dump, load
from nesa.errors import CurriculumError, UserError

CURRICULA = Path(__file__).parents[2] / "curricula"
CPU, CLOCK = 2.0, 60.0  # seconds for one mutant
LONGEST = 1000  # characters of one sentence
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
FORBIDDEN = ("os.", "shutil.", "subprocess.", "socket.", "tempfile.", "ctypes.", "pickle.")
HARMLESS = ("os.listdir", "os.scandir", "os.walk", "os.fwalk", "socket.gethostname", "os.getxattr", "os.listxattr")

TOKENS = [
    *"[]{}:,-?&*!|>'\"%@`#\t\n \0é\U0001f600\ufeff\u2028",
    *(
        "<<: *a",
        "&a ",
        "*a",
        "&a [*a]",
        "${",
        "${name}",
        "${tasks}",
        "${oc.env:HOME}",
        "!!python/object/apply:os.system ",
    ),
    *("!!int ", "!!binary ", "1e999", "-1", ".nan", ".inf", "-.inf", "0x", "0o17", "1_000", "1:2:3", "---\n", "...\n"),
    *("? ", "[[", "\\ud800", '"\\UFFFFFFFF"', "extends: base.yaml\n", "extends: self.yaml\n", "~", "9" * 30, "null"),
    *("true", "no", "2001-01-01", "trap:load", "trap.load", "os:system", "../../x", "/dev/zero", "/dev/stdin", "%s%n"),
]
VALUES: list[Any] = [
    *(None, True, False, 0, 1, -1, 2, 3, 7, 10**3, 10**6, 10**9, 10**18, 2**63, 10**40, -(10**12)),
    *(
        0.5,
        -0.5,
        1e-30,
        1e30,
        float("nan"),
        float("inf"),
        -float("inf"),
        "",
        " ",
        "x",
        "no",
        "1",
        "1e3",
        "edges",
        "ewc",
    ),
    *("trap:load", "trap.load", "os:system", "../../etc/passwd", "/dev/zero", "con", "x" * 5000, "${name}", "${seed}"),
    *("name\nname", "\u202egnp", "\0", "é", "???", "naive", "prox_adam", "plain", "adam", "sgd"),
    *([], [[]], [1], [1, 2], [16, 16], [10**9, 10**9, 10**9], [0, 0, 0], [-1, 2, 3], [None], ["a"], list(range(3000))),
    *({}, {"a": {}}, {"name": "x"}, {"train": 10**12}, {"path": "/dev/zero"}, {"classes": 3}, {"": ""}, {1: 2}),
]
KEYS = [
    "name",
    "seed",
    "extends",
    "source",
    "params",
    "fallback",
    "grid",
    "neurons",
    "iterations",
    "",
    "x",
    "<<",
    "nmae",
]


class Hang(BaseException):
    """The time for one mutant is over; no `except Exception` on the way may swallow it."""


class ForbiddenActions:
    """An audit hook that notes what must not happen while it is armed."""

    def __init__(self):
        self.armed = False
        self.seen: list[str] = []
        sys.addaudithook(self._on_event)

    def _on_event(self, event: str, args: tuple[Any, ...]) -> None:
        if not self.armed:
            return
        bad = event.startswith(FORBIDDEN) and event not in HARMLESS
        if event == "open":
            bad = bool(isinstance(args[2], int) and args[2] & WRITES)
        if event == "import":
            bad = args[0] == "trap"
        if bad:
            self.seen.append(f"{event} {args}"[:200])

    @contextmanager
    def arm(self) -> Iterator[None]:
        self.armed, self.seen = True, []
        try:
            yield
        finally:
            self.armed = False


def text_mutant(text: str, rng: random.Random) -> str:
    """Delete, repeat, move and replace characters, tokens, lines and blocks."""
    for _ in range(rng.choice([1, 1, 2, 3, 6, 20])):
        kind = rng.randrange(6)
        i = rng.randrange(len(text) + 1)
        j = min(len(text), i + rng.choice([0, 1, 1, 2, 5, 20, 200]))
        if kind == 0:
            text = text[:i] + rng.choice(TOKENS) + text[j:]
        elif kind == 1:
            text = text[:i] + text[j:]
        elif kind == 2:
            text = text[:i] + text[i:j] * rng.choice([2, 3, 50]) + text[j:]
        elif kind == 3:
            text = text[:i] + chr(rng.choice([rng.randrange(256), rng.randrange(0x3000)])) + text[j:]
        else:
            lines = text.split("\n")
            a, b = rng.randrange(len(lines)), rng.randrange(len(lines))
            if kind == 4:
                lines[a], lines[b] = lines[b], lines[a]
            else:
                lines[a : a + 1] = [lines[a], rng.choice(["", " ", "  ", "- "]) + lines[b]]
            text = "\n".join(lines)
    return text


def places(tree: Any, path: tuple = ()) -> Iterator[tuple]:
    """Iterate over the paths of all values inside `tree`."""
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, child in items:
        yield (*path, key)
        yield from places(child, (*path, key))


def tree_mutant(text: str, rng: random.Random) -> str:
    """Remove, rename and add keys; exchange, nest and repeat values, and replace them by hostile ones."""
    tree = yaml.safe_load(text)
    for _ in range(rng.choice([1, 1, 2, 3, 8])):
        known = list(places(tree))
        if not known:
            break
        path, other = rng.choice(known), rng.choice(known)
        parent = _at(tree, path[:-1])
        kind = rng.randrange(7)
        if kind == 0:
            del parent[path[-1]]
        elif kind == 1 and isinstance(parent, dict):
            parent[rng.choice(KEYS)] = parent.pop(path[-1])
        elif kind == 2:
            parent[path[-1]] = _copy(_at(tree, other))
        elif kind == 3 and isinstance(parent, list):
            parent[:] = (_copy(parent) * rng.choice([2, 3, 400]))[:1500]
        elif kind == 4 and isinstance(parent, dict):
            parent[rng.choice(KEYS)] = _copy(rng.choice(VALUES))
        elif kind == 5:
            value = parent[path[-1]]
            for _ in range(rng.choice([1, 3, 30])):
                value = rng.choice([[value], {"x": value}])
            parent[path[-1]] = value
        else:
            parent[path[-1]] = _copy(rng.choice(VALUES))
    return yaml.safe_dump(tree, sort_keys=rng.random() < 0.5, allow_unicode=rng.random() < 0.5)


def _at(tree: Any, path: tuple) -> Any:
    for key in path:
        tree = tree[key]
    return tree


def _copy(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _copy(item) for key, item in value.items()}
    return [_copy(item) for item in value] if isinstance(value, list) else value


def mutant(texts: list[str], seed: int, number: int) -> tuple[bytes, list[str]]:
    """Make mutant `number` of `seed`: the bytes of the file, and the overrides of the command line."""
    rng = random.Random(f"{seed} {number}")
    text = rng.choice(texts)
    try:
        tree = rng.random() < 0.5
        if tree:
            text = tree_mutant(text, rng)
        if not tree or rng.random() < 0.5:
            text = text_mutant(text, rng)
    except RecursionError:
        pass
    data = text.encode("utf-8", "surrogatepass")
    if rng.random() < 0.03:
        at = rng.randrange(len(data) + 1)
        data = data[:at] + rng.randbytes(rng.choice([1, 4, 1000])) + data[at:]
    overrides = []
    if rng.random() < 0.2:
        key = rng.choice(["seed", "tasks[0].name", "tasks.edges.source", "network.grid", "training.lr", "", "a.b[9].c"])
        overrides = [text_mutant(f"{key}={rng.choice(TOKENS)}", rng)]
    return data, overrides


def outcome(path: Path, overrides: list[str]) -> str:
    """Return "loaded" or "refused"; anything else that happens is raised."""
    try:
        curriculum = load(path, overrides)
    except CurriculumError as error:
        longest = max(len(str(problem)) for problem in error.problems)
    except UserError as error:
        longest = len(str(error))
    else:
        return "loaded" if curriculum else "nothing"
    assert 0 < longest <= LONGEST + len(str(path)), f"a sentence of {longest} characters"
    return "refused"


def attempt(folder: Path, data: bytes, overrides: list[str], watch: ForbiddenActions) -> tuple[str, str]:
    """Load one mutant; returns what happened, and why it is a failure ("" when it is none)."""
    path = folder / "self.yaml"
    path.write_bytes(data)
    signal.setitimer(signal.ITIMER_PROF, CPU)
    signal.setitimer(signal.ITIMER_REAL, CLOCK)
    try:
        with watch.arm():
            what = outcome(path, overrides)
    except Hang:
        return "hang", f"not done within {CPU:g} s of processor time, or {CLOCK:g} s"
    except BaseException:
        return "traceback", traceback.format_exc(limit=-6)
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
    if watch.seen:
        return "touched", f"must not happen: {watch.seen[:3]}"
    if what == "loaded":
        curriculum = load(path, overrides)
        path.write_text(dump(curriculum), encoding="utf-8")
        try:
            again = load(path)
        except UserError as error:
            return "dump", f"what was dumped is refused: {error}"
        if again != curriculum:
            return "dump", "what was dumped is another curriculum"
    return what, ""


def main() -> int:
    """Run the mutants of the command line and report failures; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=20_000)
    parser.add_argument("--seconds", type=float, default=float("inf"), help="stop after this long")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="begin with this mutant")
    args = parser.parse_args()

    def hang(signum: int, frame: Any) -> None:
        raise Hang

    signal.signal(signal.SIGPROF, hang)
    signal.signal(signal.SIGALRM, hang)
    texts = [path.read_text(encoding="utf-8") for path in sorted(CURRICULA.glob("*.yaml"))]
    watch, results, slowest, began = ForbiddenActions(), Counter[str](), 0.0, time.perf_counter()
    failures = 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "base.yaml").write_text(texts[0], encoding="utf-8")
        (folder / "trap.py").write_text("raise SystemExit('imported')\n")
        os.chdir(folder)
        sys.path.insert(0, str(folder))
        before = sorted(folder.iterdir())
        for number in range(args.first, args.first + args.count):
            if time.perf_counter() - began > args.seconds:
                break
            data, overrides = mutant(texts, args.seed, number)
            start = time.process_time()
            what, why = attempt(folder, data, overrides, watch)
            slowest = max(slowest, time.process_time() - start)
            results[what] += 1
            if why:
                failures += 1
                print(
                    f"mutant {number} of seed {args.seed}, overrides {overrides}: {why}\n{data[:2000]!r}\n", flush=True
                )
        left = [path.name for path in sorted(folder.iterdir()) if path not in before and path.name != "self.yaml"]
        if left:
            failures += 1
            print(f"files that were not there before: {left}")
        os.chdir("/")
    told = ", ".join(f"{count} {what}" for what, count in results.most_common())
    print(f"{sum(results.values())} mutants ({told}), slowest {slowest:.2f} s of processor time: {failures} failures")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
