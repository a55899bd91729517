"""What keeping a run safe costs: the time and the size of every checkpoint of a real run, at the default interval.

    OMP_NUM_THREADS=1 python benchmarks/speed/checkpoint_cost.py [curricula/vision.yaml] [key=value ...] [--tasks 1]

Printed for each file that was written: where in the task, its size, and, but for the animation's frames, the size as a
multiple of the float32 bytes of (a) the non-zero weights and (b) all non-zero numbers in it, moments included. At the
end: the share of the run's wall time that went into checkpoints (digest, packing, fsync and rename included). Figures
are not drawn.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from nesa.config.loader import load
from nesa.experiment import task_figures
from nesa.experiment.run import run
from nesa.experiment.session import Session
from nesa.progress import Progress
from nesa.run_folder.layout import ANIMATION, PROBE
from nesa.run_folder.writer import RunWriter
from nesa.training.strategies.step_checkpoint import StepCheckpointPlugin

VISION = Path(__file__).parents[2] / "curricula" / "vision.yaml"


def numbers(state: Any, keys: tuple[str, ...] = ()) -> int:
    """Non-zero floating point numbers in a checkpoint, or in the parts of it that are called one of `keys`."""
    if isinstance(state, torch.Tensor):
        return int(torch.count_nonzero(state)) if state.is_floating_point() and not keys else 0
    if isinstance(state, Mapping):
        return sum(
            numbers(value, () if key in keys else keys)
            for key, value in state.items()
            if key != "optimizer" or not keys
        )
    return sum(numbers(item, keys) for item in state) if isinstance(state, list | tuple) else 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("curriculum", nargs="?", type=Path, default=VISION)
    parser.add_argument("overrides", nargs="*")
    parser.add_argument("--tasks", type=int, default=1, help="of the curriculum, from the first")
    args = parser.parse_args()
    curriculum = load(args.curriculum, args.overrides)
    curriculum = replace(curriculum, tasks=curriculum.tasks[: args.tasks])

    spent = {"inside": 0.0, "end": 0.0}
    write, keep, save = RunWriter.checkpoint, StepCheckpointPlugin.after_training_iteration, Session._save_task

    def checkpoint(
        self: RunWriter, task: str, state: Mapping[str, Any], name: str = "checkpoint.pt", *rest: str
    ) -> Path:
        path = write(self, task, state, name, *rest)
        if name != PROBE:
            weights, every, size = numbers(state, ("W",)), numbers(state), path.stat().st_size
            where = f"{task}/{name}"
            if "training" in state:
                steps, tuning = state["training"]["log"]["steps"], state["training"]["pruning"]["fine_tuning"]
                where += f" at step {steps}{', fine-tuning' if tuning else ''}"
            counts = ((weights, "weights"), (every, "numbers"))
            ratios = [f"{size / max(4 * n, 1):5.2f} x {n:,} {what}" for n, what in counts]
            print(f"{where:48} {size / 1e6:7.2f} MB   {'   '.join(ratios) if name != ANIMATION else ''}", flush=True)
        return path

    def timed(inner: Any, key: str) -> Any:
        def outer(self: Any, *args: Any, **kwargs: Any) -> None:
            began = time.perf_counter()
            inner(self, *args, **kwargs)
            spent[key] += time.perf_counter() - began

        return outer

    RunWriter.checkpoint = checkpoint  # type: ignore[method-assign]
    StepCheckpointPlugin.after_training_iteration = timed(keep, "inside")  # type: ignore[method-assign]
    Session._save_task = timed(save, "end")  # type: ignore[method-assign]
    task_figures.draw = lambda *_: None  # type: ignore[assignment]
    with tempfile.TemporaryDirectory() as out, Progress(quiet=True) as progress:
        began = time.perf_counter()
        folder = run(curriculum, out=Path(out), name="run", progress=progress)
        whole = time.perf_counter() - began
        left = sum(path.stat().st_size for path in folder.rglob("*.pt")) / 1e6
    for key, seconds in spent.items():
        print(f"{key:7} {seconds:6.2f} s of {whole:.0f} s: {seconds / whole:.2%}")
    print(
        f"checkpoints together: {sum(spent.values()) / whole:.2%} of the run's time; {left:.2f} MB are left at the end"
    )


if __name__ == "__main__":
    main()
