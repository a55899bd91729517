"""Compute continual-learning metrics (ACC, BWT, forgetting) from the matrix R of accuracies.

``R[i, j]`` is the test score on task j, measured (never copied) after training task i; both indices run over the K
tasks in training order, so R is (K, K). What was not measured is NaN, and so is a metric that would need it. Scores are
fractions of 1, so 0.01 is one point.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray


def _square(R: ArrayLike) -> NDArray[np.float64]:
    R = np.asarray(R, dtype=np.float64)
    if R.ndim != 2 or R.shape[0] != R.shape[1] or R.shape[0] == 0:
        raise ValueError(f"R is (K, K) with K >= 1, not {R.shape}")
    return R


def average_accuracy(R: ArrayLike) -> float:
    """Compute ACC = mean_j R[K, j], the mean score over all tasks after the last one."""
    return float(_square(R)[-1].mean())


def backward_transfer(R: ArrayLike) -> float:
    """Compute BWT = mean_{j < K} (R[K, j] - R[j, j]), the effect of later tasks on earlier ones; NaN for one task."""
    R = _square(R)
    if len(R) == 1:
        return float("nan")
    return float((R[-1] - R.diagonal())[:-1].mean())


def forgetting(R: ArrayLike) -> float:
    """Compute the mean over j < K of max_i R[i, j] - R[K, j], the loss from each task's best; NaN for one task.

    The maximum is over the rows i >= j, because a score from before the task was trained does not count.
    """
    R = _square(R)
    if len(R) == 1:
        return float("nan")
    learnt = np.tril(np.ones_like(R, dtype=bool))
    return float((np.where(learnt, R, -np.inf).max(axis=0) - R[-1])[:-1].mean())


def transfer(R: ArrayLike, alone: ArrayLike) -> NDArray[np.float64]:
    """Compute R[j, j] - alone[j] (K,), the gain of each task over the same task trained from scratch."""
    R = _square(R)
    scratch = np.asarray(alone, dtype=np.float64)
    if scratch.shape != (len(R),):
        raise ValueError(f"alone holds one score a task: ({len(R)},), not {scratch.shape}")
    return R.diagonal() - scratch


def pruning_cost(before: ArrayLike, after: ArrayLike) -> NDArray[np.float64]:
    """Compute the score before minus after pruning, (K,); it is reported by itself, never as forgetting."""
    first, last = np.asarray(before, dtype=np.float64), np.asarray(after, dtype=np.float64)
    if first.shape != last.shape or first.ndim != 1:
        raise ValueError(f"before and after hold one score a task each, not {first.shape} and {last.shape}")
    return first - last
