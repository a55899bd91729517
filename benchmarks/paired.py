"""Two conditions of the study (benchmarks/study.py) compared seed by seed: mean difference +- its standard error.

    PYTHONPATH=. python benchmarks/paired.py "main" "alone-cifar10 penalties.activity=3e-3" [--rows FILE]

Each argument is a condition, with the keys that its rows were made with. For each task and seed that both have:
accuracy on test data in points and newly claimed neurons, the first condition's less the second's.
"""

from __future__ import annotations

import argparse
import math
import statistics
from collections.abc import Sequence
from pathlib import Path

from rows import Rows

MEASURES = {"accuracy_test": 100.0, "neurons_claimed": 1.0}


def differences(rows: Rows, first: str, second: str) -> dict[tuple[str, str], dict[str, float]]:
    """For each (task, measure) that both conditions have: seed -> first less second."""

    def values(words: str) -> dict[tuple[str, str, str], float]:
        condition, _, keys = words.partition(" ")
        return {
            (row["task"], measure, row["seed"]): unit * float(row[measure])
            for row in rows.where(condition=condition, keys=keys)
            for measure, unit in MEASURES.items()
            if row[measure]
        }

    a, b = values(first), values(second)
    found: dict[tuple[str, str], dict[str, float]] = {}
    for task, measure, seed in a.keys() & b.keys():
        found.setdefault((task, measure), {})[seed] = a[task, measure, seed] - b[task, measure, seed]
    return {key: dict(sorted(of.items())) for key, of in sorted(found.items())}


def mean_and_error(values: Sequence[float]) -> tuple[float, float]:
    """The mean and its standard error, NaN for a single value."""
    error = statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else math.nan
    return statistics.mean(values), error


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("first")
    parser.add_argument("second")
    parser.add_argument("--rows", type=Path, help="another file than docs/results/rows/nesa.csv")
    args = parser.parse_args()
    found = differences(Rows(args.rows) if args.rows else Rows.of("nesa"), args.first, args.second)
    if not found:
        parser.error("no task and seed that both conditions have rows of")
    print(f"{args.first} less {args.second}")
    for (task, measure), of in found.items():
        mean, error = mean_and_error(list(of.values()))
        spread = "" if math.isnan(error) else f"+- {error:.2f}"
        each = ", ".join(f"{value:+.2f}" for value in of.values())
        print(f"{task:10} {measure:16} {mean:+8.2f} {spread:9} seeds {', '.join(of)}: {each}")


if __name__ == "__main__":
    main()
