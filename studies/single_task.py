"""One task of a curriculum by itself, from scratch: the control for transfer, and the bench for calibration.

    python studies/single_task.py curricula/vision.yaml cifar10 [key=value ...] [--out DIR]

Runs it as a curriculum of one task with everything else unchanged, and prints what its settling cost.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path

from nesa.config.loader import load
from nesa.experiment.run import run
from nesa.progress import Progress
from nesa.run_folder.events import read_events

SHOWN = (
    "accuracy_val_before",
    "accuracy_test_before",
    "accuracy_val",
    "accuracy_test",
    "neurons_claimed",
    "claimed_share",
    "levels_claimed",
    "readout_scores",
    "depth_readout",
    "depth_mean",
    "depth_graph",
    "synapses",
    "locality",
    "seconds",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("curriculum", type=Path)
    parser.add_argument("task")
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    parser.add_argument("--out", type=Path, default=Path("runs"))
    args = parser.parse_args()
    whole = load(args.curriculum, args.overrides)
    only = tuple(task for task in whole.tasks if task.name == args.task)
    if not only:
        sys.exit(f"{args.curriculum} has no task {args.task!r}; it has {', '.join(task.name for task in whole.tasks)}")
    curriculum = replace(whole, name=f"{whole.name}-{args.task}-alone", tasks=only)
    with Progress() as progress:
        folder = run(curriculum, out=args.out, command=sys.argv, progress=progress)
    row = next(event for event in read_events(folder) if event["event"] == "task_claimed")
    for key in SHOWN:
        print(f"{key:22} {row[key]}")


if __name__ == "__main__":
    main()
