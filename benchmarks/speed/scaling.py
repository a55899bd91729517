"""How a step grows: with S, with the neurons that are left, and its memory. Prints Markdown tables.

    PYTHONPATH=. python benchmarks/speed/scaling.py [--sizes 1000,2000,4000,8000,12000] [--live 1,0.5,0.25,0.1,0.05]
        [--S 5000] [--B 128] [--I 4] [--rounds 5] [--only size,live,memory]

size: the dense step, nothing compacted, at each S; the exponent is the slope of log time against log S over all sizes,
at most 2 where a step is no worse than S^2. live: at `--S`, with a share of the neurons left after compaction; time
against the square of the share. Sizes, and shares, take turns, round by round, in one process; medians.
memory: peak of the resident set at `--S`, ours and that of the literal reference (literal.py), each in a process of
its own (Linux), less what the process had before it made the network; as multiples of the bytes of W in float32.
Activations are what a step keeps of the states, at most 2 I B S floats; they are in the peak.
"""

from __future__ import annotations

import argparse
import math
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from step import CPU, literal_step, median_of, our_step


def in_turns(steps: Sequence[Callable[[], None]], rounds: int) -> list[float]:
    """Median seconds of each, after one step that makes moments and memory."""
    for step in steps:
        step()
    times = [[median_of(step, 1, CPU) for step in steps] for _ in range(rounds)]
    return [statistics.median(column) for column in zip(*times, strict=True)]


def slope(sizes: Sequence[float], seconds: Sequence[float]) -> float:
    """The exponent p of seconds ~ sizes^p, by least squares over the logarithms."""
    return statistics.linear_regression([math.log(s) for s in sizes], [math.log(t) for t in seconds]).slope


def resident(field: str) -> int:
    """Bytes: VmRSS, now, or VmHWM, the most so far. Not ru_maxrss, with which a process inherits its parent's."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.split(f"{field}:")[1].split()[0])


def memory(side: str, S: int, B: int, I: int) -> int:
    """Bytes that three steps take at most, over what a process has after a step on 50 neurons."""
    make = {"ours": our_step, "literal": literal_step}[side]
    make(50, B, I)()
    before, step = resident("VmRSS"), make(S, B, I)
    for _ in range(3):
        step()
    return resident("VmHWM") - before


def memory_apart(side: str, S: int, B: int, I: int) -> int:
    words = [sys.executable, __file__, "--measure", side, "--S", str(S), "--B", str(B), "--I", str(I)]
    return int(subprocess.run(words, check=True, capture_output=True, text=True).stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", default="1000,2000,4000,8000,12000")
    parser.add_argument("--live", default="1,0.5,0.25,0.1,0.05")
    for name, default in (("S", 5000), ("B", 128), ("I", 4), ("rounds", 5)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--only", default="size,live,memory")
    parser.add_argument("--measure", choices=("ours", "literal"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    S, B, I = args.S, args.B, args.I
    if args.measure:
        print(memory(args.measure, S, B, I))
        return
    wanted = args.only.split(",")
    print(f"B {B}, I {I}, {torch.get_num_threads()} thread(s), torch {torch.__version__}, {args.rounds} rounds")

    if "size" in wanted:
        sizes = [int(size) for size in args.sizes.split(",")]
        seconds = in_turns([our_step(size, B, I) for size in sizes], args.rounds)
        print("\n| S | step, ms | ns for each synapse |\n|---|---|---|")
        for size, time in zip(sizes, seconds, strict=True):
            print(f"| {size:,} | {1e3 * time:.1f} | {1e9 * time / size**2:.2f} |")
        print(f"\nTime grows with S to the power {slope(sizes, seconds):.2f} (bar: at most 2).")

    if "live" in wanted:
        shares = [float(share) for share in args.live.split(",")]
        seconds = in_turns([our_step(S, B, I, share) for share in shares], args.rounds)
        print(f"\n| neurons left of {S:,} | step, ms | of the first | share squared |\n|---|---|---|---|")
        for share, time in zip(shares, seconds, strict=True):
            print(f"| {share:.0%} | {1e3 * time:.2f} | {time / seconds[0]:.4f} | {(share / shares[0]) ** 2:.4f} |")
        print(f"\nTime falls with the neurons left to the power {slope(shares, seconds):.2f} (bar: 2).")

    if "memory" in wanted:
        W, states = 4 * S**2, 2 * 4 * I * B * S
        print(f"\n| S {S:,} | peak, MB | times W | without activations |\n|---|---|---|---|")
        for side in ("ours", "literal"):
            most = memory_apart(side, S, B, I)
            print(f"| {side} | {most / 1e6:.0f} | {most / W:.2f} | {(most - states) / W:.2f} |")
        print(f"\nW has {W / 1e6:.0f} MB, activations at most {states / 1e6:.0f} MB (bar: ours 4.5 without them).")


if __name__ == "__main__":
    main()
