"""`nesa compare` of ten runs, as a command: wall and processor time of its process, and whether torch was imported.

    python benchmarks/speed/compare_command.py RUN RUN ... [--rounds 3]

The bar is 5 s. Prints the terminal tables alone, then with the HTML page and the CSV, and the start of a process that
only imports numpy beside them, so that a busy machine is told from a slow command.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PROBE = (
    "import sys; from nesa.cli.commands import main; code = main(sys.argv[1:]); "
    "print('torch' in sys.modules, file=sys.stderr); "
    "sys.exit(code)"
)


def seconds(words: list[str], rounds: int) -> tuple[str, str]:
    """The median of wall and of processor seconds, in words, and the last line on stderr."""
    walls, processors, told = [], [], ""
    for _ in range(rounds):
        began, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run([sys.executable, "-c", *words], capture_output=True, text=True, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        walls.append(time.perf_counter() - began)
        processors.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
        told = done.stderr.strip().splitlines()[-1] if done.stderr.strip() else ""
    return f"{statistics.median(walls):.2f} s ({statistics.median(processors):.2f} s of processor)", told


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
    print(f"terminal {plain}, with HTML and CSV {whole}; a process that imports numpy alone {start}")


if __name__ == "__main__":
    main()
