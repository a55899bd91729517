"""Find the Pareto front of accuracy against network size.

A point is on the *front* when no other one has at least its accuracy with at most its size, and one of the two better.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Point:
    """One setting: mean accuracy (0..1), neurons claimed and synapses, each with its spread over seeds (0 for one)."""

    name: str
    accuracy: float
    neurons: float
    synapses: float
    accuracy_spread: float = 0.0
    neurons_spread: float = 0.0
    synapses_spread: float = 0.0


def front(sizes: Sequence[float], accuracies: Sequence[float]) -> list[bool]:
    """Return for each point whether it is on the front; of two equal ones both are."""
    points = list(zip(sizes, accuracies, strict=True))
    return [
        not any(s <= size and a >= accuracy and (s, a) != (size, accuracy) for s, a in points)
        for size, accuracy in points
    ]
