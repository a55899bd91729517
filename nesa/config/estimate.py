"""Estimate the neurons, memory and time of a run on this machine before it starts. NumPy measures the machine.

The time of a step is that of dense training: products at the measured rate, and passes over W and its optimiser's state
at the measured bandwidth. With compaction the first steps of a task cost as much, and later ones a tenth. The constants
below come from runs of vision and quickstart (docs/results/speed.md); benchmarks/speed/estimate.py prints the estimate
beside what a run then took. How soon neurons become inactive depends on the penalties: a factor of two is no surprise.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from nesa.config.curriculum import Curriculum, Task
from nesa.config.sizes import (
    ASSUMED_CLASSES,
    ASSUMED_SAMPLES,
    classes,
    needed,
    neurons,
    training_samples,
)

BASE = 1.1e9  # bytes: the interpreter with torch, Avalanche, scikit-image and matplotlib, before any data
COPIES = 9  # of the trained part of W at the peak: W, gradient, two moments, lengths, masks, and copies for pruning
PASSES = 14  # over W in a step: reading and writing weights, gradient and moments, and the proximal step
EVALUATIONS = 25  # passes over the validation data while pruning bisects
DENSE = 1000  # steps of a task before enough neurons are inactive, with compaction
LATE = 0.1  # of a dense step: what a step costs after them, and what one of fine-tuning does
CALLS = 4e-3  # seconds of a step, however small
START = 10.0  # seconds for imports, data and the first files
FIGURES = 4.0  # seconds a task for measures, figures and files


@dataclass(frozen=True)
class TaskEstimate:
    """steps: of training and fine-tuning. known: whether the number of samples is known without the data."""

    name: str
    samples: int
    known: bool
    classes: int | None
    steps: int
    seconds: float


@dataclass(frozen=True)
class Estimate:
    """inputs, hidden, outputs: neurons. needed: free neurons that a task must find (in a feedforward network so many in
    all, a tenth of each layer). bytes: at the peak. rate: products in floating-point operations a second; bandwidth:
    bytes a second."""

    inputs: int
    hidden: int
    outputs: int
    needed: int
    bytes: float
    seconds: float
    tasks: tuple[TaskEstimate, ...]
    rate: float
    bandwidth: float


def estimate(curriculum: Curriculum, rate: float | None = None, bandwidth: float | None = None) -> Estimate:
    """Estimate a whole curriculum; rate and bandwidth are measured unless they are given."""
    inputs, hidden = neurons(curriculum)
    rate = product_rate() if rate is None else rate
    bandwidth = memory_rate() if bandwidth is None else bandwidth
    tasks = tuple(_estimate_task(curriculum, task, inputs, hidden, rate, bandwidth) for task in curriculum.tasks)
    outputs = sum(task.classes or ASSUMED_CLASSES for task in tasks)
    senders = inputs + hidden
    receivers = hidden + (inputs if curriculum.network.inputs_receive else 0)
    weights = receivers * senders * 4
    batch = 1000 * senders * 4 * (max(task.iterations for task in curriculum.tasks) + 1)  # states while measuring
    data = sum(task.samples * inputs * (1 if len(curriculum.input.size) == 2 else 4) for task in tasks)
    total = BASE + COPIES * weights + batch + data
    seconds = START + sum(t.seconds for t in tasks)
    free = sum(map(needed, curriculum.network.layers or [hidden]))
    return Estimate(inputs, hidden, outputs, free, total, seconds, tasks, rate, bandwidth)


def product_rate(B: int = 256, n: int = 1024) -> float:
    """Measure floating-point operations a second of float32 products (B, n) x (n, n) on all threads.

    Processor time is measured, not elapsed time, so that a busy machine is not taken for a slow one."""
    rng = np.random.default_rng(0)
    N, W = rng.random((B, n), dtype=np.float32), rng.random((n, n), dtype=np.float32)
    return threads() * 2 * B * n * n / _best(lambda: N @ W)


def memory_rate(size: int = 8_000_000) -> float:
    """Measure bytes a second of a += b over arrays too large for caches (two reads and a write), on one thread."""
    a, b = np.zeros(size, np.float32), np.ones(size, np.float32)
    return 12 * size / _best(lambda: np.add(a, b, out=a))


def threads() -> int:
    """Count the threads of torch's and NumPy's products: OMP_NUM_THREADS, or one for each core that is allowed."""
    setting = os.environ.get("OMP_NUM_THREADS", "")
    return int(setting) if setting.isdecimal() and int(setting) else len(os.sched_getaffinity(0))


def _best(work: Callable[[], object], seconds: float = 0.6) -> float:
    """Return the processor seconds of all threads in the quickest of many calls of ``work``: by elapsed time where the
    machine is idle, by the processor's clock where others use it too."""
    best, end, count = float("inf"), time.perf_counter() + seconds, threads()
    while best == float("inf") or time.perf_counter() < end:
        wall, processor = time.perf_counter(), time.process_time()
        work()
        best = min(best, max(count * (time.perf_counter() - wall), 1e-6), max(time.process_time() - processor, 1e-6))
    return best


def format_estimate(found: Estimate) -> list[str]:
    """Format an estimate as lines of text."""
    guessed = [task.name for task in found.tasks if not task.known]
    text = [
        f"neurons  {found.inputs + found.hidden + found.outputs:,}: {found.inputs:,} input, {found.hidden:,} hidden, "
        f"{found.outputs:,} output; each task must find {found.needed:,} free",
        f"memory   {found.bytes / 1e9:.1f} GB at the peak",
        f"time     {duration(found.seconds)} on an idle machine "
        f"({found.rate / 1e9:.0f} GFLOP/s, {found.bandwidth / 1e9:.0f} GB/s)",
    ]
    width = max(len(task.name) for task in found.tasks)
    text += [f"  {task.name:<{width}}  {task.steps:>7,} steps  {duration(task.seconds)}" for task in found.tasks]
    text += [f"note: only the data tell how many samples {', '.join(guessed)} has; {ASSUMED_SAMPLES:,} assumed"] * bool(
        guessed
    )
    return text


def duration(seconds: float) -> str:
    """Format seconds as s, min or h."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _estimate_task(
    curriculum: Curriculum, task: Task, inputs: int, hidden: int, rate: float, bandwidth: float
) -> TaskEstimate:
    samples, known = training_samples(task)
    kept = max(1, round(0.9 * samples))
    B = min(task.training.batch_size, kept)
    pruning = curriculum.learner.claims_neurons
    tune_epochs = curriculum.learner.heal_epochs if pruning else 0
    training, tuning = (kept // B) * task.training.epochs, (kept // B) * tune_epochs
    receivers = hidden + (inputs if curriculum.network.inputs_receive else 0)
    forward = 2.0 * (receivers * inputs + max(task.iterations - 2, 0) * receivers * receivers)  # a sample
    weights = receivers * (inputs + hidden) * 4
    if (layers := curriculum.network.layers) is not None:
        blocks = sum(before * now for before, now in pairwise((inputs, *layers)))
        forward, weights = 2.0 * blocks, blocks * 4
    step = 3 * B * forward / rate + PASSES * weights / bandwidth
    dense = min(training, DENSE) if pruning and curriculum.learner.compaction else training
    evaluations = (samples - kept) * forward * (task.training.epochs + EVALUATIONS) / rate
    steps = (dense + LATE * (training - dense + tuning)) * step + CALLS * (training + tuning)
    seconds = steps + evaluations + FIGURES
    return TaskEstimate(task.name, samples, known, classes(task.source, task.params), training + tuning, seconds)
