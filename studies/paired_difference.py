"""Two conditions of a study compared seed by seed: mean difference +- its standard error. Of four, the difference of
the first two less that of the others: what of a gain is left when a control's is taken off.

    PYTHONPATH=. python studies/paired_difference.py "main" "alone-cifar10 penalties.activity=3e-3"
    PYTHONPATH=. python studies/paired_difference.py --of geometry "X=32 length=5e-6" "X=32 length=0"

Of studies/continual.py (nesa) each argument is a condition, with the keys that its rows were made with; of other
studies it is the columns that say which rows, COLUMN=VALUE. For each task and seed that both have: accuracy on test
data in points and neurons (newly claimed ones of nesa), the first condition's less the second's.
"""

from __future__ import annotations

import argparse
import math
import statistics
from collections.abc import Sequence

from result_rows import Rows, text

MEASURES = {"accuracy_test": 100.0, "neurons_claimed": 1.0, "neurons": 1.0, "active": 1.0}


def differences(rows: Rows, first: str, second: str) -> dict[tuple[str, str], dict[str, float]]:
    """For each (task, measure) that both conditions have: seed -> first less second."""

    def values(words: str) -> dict[tuple[str, str, str], float]:
        found = {}
        for row in rows.where(**selection(rows, words)):
            for measure in MEASURES.keys() & {name for name, value in row.items() if value}:
                key = (row.get("task", ""), measure, row["seed"])
                if key in found:
                    raise ValueError(f"{words!r}: more than one row of seed {row['seed']}; name more columns")
                found[key] = MEASURES[measure] * float(row[measure])
        return found

    a, b = values(first), values(second)
    found: dict[tuple[str, str], dict[str, float]] = {}
    for task, measure, seed in a.keys() & b.keys():
        found.setdefault((task, measure), {})[seed] = a[task, measure, seed] - b[task, measure, seed]
    return {key: dict(sorted(of.items())) for key, of in sorted(found.items())}


def compare(rows: Rows, first: str, second: str, *others: str) -> dict[tuple[str, str], dict[str, float]]:
    """`differences` of the first two conditions, less those of the `others` where there are two."""
    found = differences(rows, first, second)
    if not others:
        return found
    off = differences(rows, *others)
    left = {
        key: {seed: of[seed] - off[key][seed] for seed in of if seed in off[key]}
        for key, of in found.items()
        if key in off
    }
    return {key: of for key, of in left.items() if of}


def selection(rows: Rows, words: str) -> dict[str, str]:
    """Which columns of `rows` have which values in the condition that `words` name. Raises ValueError for what is not
    COLUMN=VALUE where it must be."""
    if rows.rows and "condition" in rows.rows[0]:
        condition, _, keys = words.partition(" ")
        return {"condition": condition, "keys": keys}
    pairs = [word.partition("=") for word in words.split()]
    if not all(value for _, _, value in pairs):
        raise ValueError(f"{words!r}: a condition is COLUMN=VALUE COLUMN=VALUE ...")
    return {name: _as_written(value) for name, _, value in pairs}


def _as_written(value: str) -> str:
    """A number as the file has it, 1e-5 as 1e-05."""
    try:
        return text(float(value))
    except ValueError:
        return value


def mean_and_error(values: Sequence[float]) -> tuple[float, float]:
    """The mean and its standard error, NaN for a single value."""
    error = statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else math.nan
    return statistics.mean(values), error


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("conditions", nargs="+", metavar="CONDITION", help="two or four")
    parser.add_argument("--of", default="nesa", help="whose rows: docs/results/rows/OF.csv (default: nesa)")
    args = parser.parse_args()
    if len(args.conditions) not in (2, 4):
        parser.error(f"give two conditions or four, not {len(args.conditions)}")
    try:
        found = compare(Rows.of(args.of), *args.conditions)
    except (KeyError, ValueError) as error:
        parser.error(str(error.args[0]))
    if not found:
        parser.error("no task and seed that all conditions have rows of")
    print(" less ".join(f"({a} less {b})" for a, b in zip(args.conditions[::2], args.conditions[1::2], strict=True)))
    for (task, measure), of in found.items():
        mean, error = mean_and_error(list(of.values()))
        spread = "" if math.isnan(error) else f"+- {error:.2f}"
        each = ", ".join(f"{value:+.2f}" for value in of.values())
        print(f"{task:10} {measure:16} {mean:+8.2f} {spread:9} seeds {', '.join(of)}: {each}")


if __name__ == "__main__":
    main()
