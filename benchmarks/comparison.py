"""`nesa compare` of ten runs, as a command: wall time of the whole process, and whether torch was imported.

    python benchmarks/comparison.py RUN RUN ... [--rounds 3]

The bar is 5 s. Prints the terminal tables alone, then with the HTML page and the CSV, and the start of a process that
only imports numpy beside them, so that a busy machine is told from a slow command.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PROBE = (
    "import sys; from nesa.cli import main; code = main(sys.argv[1:]); print('torch' in sys.modules, file=sys.stderr); "
    "sys.exit(code)"
)


def seconds(words: list[str], rounds: int) -> tuple[float, str]:
    times, told = [], ""
    for _ in range(rounds):
        began = time.perf_counter()
        done = subprocess.run([sys.executable, "-c", *words], capture_output=True, text=True, check=True)
        times.append(time.perf_counter() - began)
        told = done.stderr.strip().splitlines()[-1] if done.stderr.strip() else ""
    return statistics.median(times), told


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+")
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        files = ["--html", str(Path(place) / "c.html"), "--csv", str(Path(place) / "c.csv")]
        start, _ = seconds(["import numpy"], args.rounds)
        plain, torch = seconds([PROBE, "compare", *args.runs], args.rounds)
        whole, _ = seconds([PROBE, "compare", *args.runs, *files], args.rounds)
    print(f"{len(args.runs)} runs, median of {args.rounds}; torch imported: {torch}")
    print(f"terminal {plain:.2f} s, with HTML and CSV {whole:.2f} s; a process that imports numpy alone {start:.2f} s")


if __name__ == "__main__":
    main()
