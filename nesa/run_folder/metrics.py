"""Scores of a curriculum, as pure functions of R.

``R[i, j]`` is the test score on task j, measured (never copied) after training task i; both indices run over the K
tasks in training order, so R is (K, K). What was not measured is NaN, and a score that would need it is NaN as well:
a gap is never averaged away. Scores are fractions of 1, so 0.01 is one point.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray


def _square(R: ArrayLike) -> NDArray[np.float64]:
    R = np.asarray(R, dtype=np.float64)
    if R.ndim != 2 or R.shape[0] != R.shape[1] or R.shape[0] == 0:
        raise ValueError(f"R is (K, K) with K >= 1, not {R.shape}")
    return R


def acc(R: ArrayLike) -> float:
    """ACC = mean_j R[K, j]: the mean score over all tasks when the last one is done."""
    return float(_square(R)[-1].mean())


def bwt(R: ArrayLike) -> float:
    """BWT = mean_{j < K} (R[K, j] - R[j, j]): what later tasks did to earlier ones; NaN for a single task."""
    R = _square(R)
    if len(R) == 1:
        return float("nan")
    return float((R[-1] - R.diagonal())[:-1].mean())


def forgetting(R: ArrayLike) -> float:
    """Mean over j < K of max_i R[i, j] - R[K, j]: how far the tasks fell below their best; NaN for a single task.

    The maximum is over the rows i >= j: a score from before a task was trained cannot be forgotten.
    """
    R = _square(R)
    if len(R) == 1:
        return float("nan")
    learnt = np.tril(np.ones_like(R, dtype=bool))
    return float((np.where(learnt, R, -np.inf).max(axis=0) - R[-1])[:-1].mean())


def transfer(R: ArrayLike, alone: ArrayLike) -> NDArray[np.float64]:
    """R[j, j] - alone[j] for each task j, (K,): what the curriculum gave it over the same task from scratch."""
    R = _square(R)
    scratch = np.asarray(alone, dtype=np.float64)
    if scratch.shape != (len(R),):
        raise ValueError(f"alone holds one score a task: ({len(R)},), not {scratch.shape}")
    return R.diagonal() - scratch


def pruning_cost(before: ArrayLike, after: ArrayLike) -> NDArray[np.float64]:
    """Score before minus after settling, task by task, (K,): reported by itself, never as forgetting."""
    first, last = np.asarray(before, dtype=np.float64), np.asarray(after, dtype=np.float64)
    if first.shape != last.shape or first.ndim != 1:
        raise ValueError(f"before and after hold one score a task each, not {first.shape} and {last.shape}")
    return first - last
