"""`nesa check --estimate` beside what the run then took: time, peak memory and neurons.

    python benchmarks/speed/estimate.py CURRICULUM.yaml [key=value ...] [--data DIR] [--out DIR]

The estimate is of an idle machine, so on a busy one it is to be held against the run's processor time divided by its
threads (OMP_NUM_THREADS, for both sides). It is made before the run and once more after it. --out: keep the run there.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from nesa.config.estimate import estimate, threads
from nesa.config.loader import load


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("curriculum")
    parser.add_argument("overrides", nargs="*")
    parser.add_argument("--data")
    parser.add_argument("--out", help="keep the run in this folder")
    args = parser.parse_args()
    curriculum = load(args.curriculum, args.overrides)
    before = estimate(curriculum)
    with tempfile.TemporaryDirectory() as nowhere:
        place = args.out or nowhere
        words = ["run", args.curriculum, *args.overrides, "--out", place, "--name", "run", "--quiet"]
        words += ["--data", args.data] if args.data else []
        child = subprocess.Popen([sys.executable, "-m", "nesa", *words], stdout=subprocess.DEVNULL)
        _, status, used = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        if child.returncode:
            sys.exit(child.returncode)
        events = [json.loads(line) for line in (Path(place) / "run" / "events.jsonl").read_text().splitlines()]
    after = estimate(curriculum)
    seconds = next(e["seconds"] for e in events if e["event"] == "run_finished")
    claimed = [e for e in events if e["event"] == "task_claimed"]
    told, peak = (before.seconds + after.seconds) / 2, used.ru_maxrss * 1024
    worked = (used.ru_utime + used.ru_stime) / threads()
    print(f"{args.curriculum} {' '.join(args.overrides)}")
    print(f"time    {before.seconds:.0f} and {after.seconds:.0f} s estimated, ", end="")
    print(f"{worked:.0f} s of processor taken: {told / worked:.2f}; {seconds:.0f} s on the wall")
    print(f"memory  {before.bytes / 1e9:.2f} GB estimated, {peak / 1e9:.2f} GB taken: {before.bytes / peak:.2f}")
    if claimed:
        end, each = claimed[-1], ", ".join(str(e["neurons_claimed"]) for e in claimed)
        print(
            f"neurons {before.hidden} hidden estimated, {end['neurons_total'] + end['neurons_free']} at the end; ",
            end="",
        )
        print(f"a task must find {before.needed}, they claimed {each}")
    for task in before.tasks:
        taken = next((e["seconds"] for e in claimed if e["task"] == task.name), float("nan"))
        print(f"  {task.name}: {task.steps} steps, {task.seconds:.0f} s estimated, {taken:.0f} s taken")


if __name__ == "__main__":
    main()
