"""Kills a run of three tasks at random moments, resumes it each time, and compares it with a run that nobody killed.

    OMP_NUM_THREADS=1 python benchmarks/stress/kill_and_resume.py [--kills 30] [--seed 0] [--out DIR]

The curriculum is quickstart at a fraction of its size. Every life is a process of its own, ended by SIGKILL after a
random amount of processor time (so that a busy machine changes nothing); the task in hand is kept every half second at
ends of epochs and every second inside them, so that lives that short get on. When a run is finished before it has been
killed often enough, another begins. Compared are events (their times aside), both tables, and the digests of every
checkpoint and probe. Printed is where each life ended; the exit code is 1 when anything differs.
"""

from __future__ import annotations

import argparse
import importlib
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from nesa.cli.commands import main as nesa
from nesa.run_folder.checkpoint import load_checkpoint
from nesa.run_folder.digest import UNREPEATABLE, digest
from nesa.run_folder.events import read_events
from nesa.run_folder.layout import CHECKPOINT, PROBE, TRAINING

CURRICULUM = Path(__file__).parents[2] / "curricula" / "quickstart.yaml"
SMALLER = [
    "network.grid=[16, 16, 3]",
    "training.batch_size=128",
    "tasks.edges.params={train: 3000, test: 500}",
    "tasks.shapes.params={train: 3000, test: 500}",
    "tasks.edges.training.epochs=6",
    "tasks.shapes.training.epochs=6",
    "tasks.digits.training.epochs=9",
    "learner.heal_epochs=6",
]


def life(words: list[str], seconds: float | None = None) -> tuple[int, float]:
    """`nesa WORDS` in a process that is killed after `seconds` of processor time; the signal that ended it, or 0, and
    how long it lived. A process that fails by itself ends this script."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            from nesa.training.strategies import step_checkpoint

            step_checkpoint.EVERY, step_checkpoint.LONG, step_checkpoint.SHARE = 0.5, 1.0, float("inf")
            sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115, PTH123
            code = nesa(words)
        finally:
            os._exit(code)
    while True:
        done, status, used = os.wait4(child, os.WNOHANG)
        if done:
            break
        if seconds is not None and cpu(child) >= seconds:
            os.kill(child, signal.SIGKILL)
        time.sleep(0.005)
    lived = used.ru_utime + used.ru_stime
    if os.WIFEXITED(status) and os.WEXITSTATUS(status):
        sys.exit(f"nesa {' '.join(words)} left with exit code {os.WEXITSTATUS(status)}")
    return (os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0), lived


def cpu(process: int) -> float:
    """Seconds of processor time of a child that has not been waited for."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def place(folder: Path) -> str:
    """What the process was doing when it was killed, as its files tell it."""
    if not folder.exists():
        return "loading data"
    events = [event for event in read_events(folder) if event["event"] != "warning"]
    kinds = [event["event"] for event in events]
    tasks = [event["task"] for event in events if event["event"] == "task_started"]
    if not tasks or kinds[-1] == "checkpointed":
        return "between tasks"
    if kinds[-1] not in ("task_started", "epoch"):
        return "measuring and drawing"
    try:
        kept = load_checkpoint(folder, tasks[-1], TRAINING)["training"]
    except Exception:
        return "training"
    if kept["pruning"]["fine_tuning"] is not None:
        return "fine-tuning"
    return "pruning" if kinds[-1] == "epoch" and kept["log"]["steps"] >= _steps(events, tasks[-1]) else "training"


def _steps(events: list[dict], task: str) -> int:
    return max(event["step"] for event in events if event["event"] == "epoch" and event["task"] == task)


def story(folder: Path) -> dict[str, object]:
    """Everything that must not depend on interruptions, by name."""
    events = read_events(folder)
    told = {"events": [{k: v for k, v in event.items() if k not in UNREPEATABLE} for event in events]}
    for name in ("accuracy.csv", "accumulation.csv"):
        rows = [line.split(",") for line in (folder / name).read_text().splitlines()]
        columns = [at for at, key in enumerate(rows[0]) if key not in UNREPEATABLE]
        told[name] = [[row[at] for at in columns] for row in rows]
    for task in events[0]["tasks"]:
        for file in (CHECKPOINT, PROBE):
            told[f"tasks/{task}/{file}"] = digest(load_checkpoint(folder, task, file))
    return told


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    for module in (
        "nesa.experiment.run",
        "nesa.figures.run",
        "matplotlib.pyplot",
        "tensorboard.summary",
        "skimage.data",
    ):
        importlib.import_module(module)  # once: every life is a fork of this process

    rng = random.Random(args.seed)
    out = args.out or Path(tempfile.mkdtemp(prefix="kill-"))
    start = ["run", str(CURRICULUM), *SMALLER, "--quiet", "--out", str(out)]
    _, seconds = life([*start, "--name", "whole"])
    whole = story(out / "whole")
    print(
        f"{out / 'whole'}: {seconds:.0f} s of processor time, never interrupted; seed of the moments {args.seed}",
        flush=True,
    )

    killed: Counter[str] = Counter()
    differ, number = [], 0
    while sum(killed.values()) < args.kills:
        number += 1
        folder, kills = out / f"killed-{number}", 0
        while True:
            words = ["resume", str(folder), "--quiet"] if folder.exists() else [*start, "--name", folder.name]
            left = sum(killed.values()) < args.kills
            ended, lived = life(words, rng.expovariate(8 / seconds) + 0.1 if left else None)
            if not ended:
                break
            where, kills = place(folder), kills + 1
            killed[where] += 1
            print(f"{sum(killed.values()):3}  {folder.name} killed after {lived:4.1f} s: {where}", flush=True)
        found = story(folder)
        differ += [f"{folder.name}/{key}" for key in whole if found[key] != whole[key]]
        print(f"     {folder.name} finished after {kills} kills", flush=True)
    total = ", ".join(f"{count} {where}" for where, count in killed.most_common())
    print(f"{sum(killed.values())} SIGKILLs ({total}) in {number} run(s)")
    print(f"DIFFERENT: {', '.join(differ)}" if differ else "final weights, events and tables: identical")
    return 1 if differ else 0


if __name__ == "__main__":
    sys.exit(main())
