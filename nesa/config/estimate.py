"""What a run will want, said before it: neurons, memory and time on this machine. No torch: NumPy measures the machine.

The time of a step is that of dense training: products at the measured rate, and passes over W and its optimiser's state
at the measured bandwidth. With compaction the first steps of a task cost as much, and later ones a tenth. The constants
below come from runs of vision and quickstart (docs/results/speed.md); benchmarks/speed/estimate.py prints the estimate beside
what a run then took. How soon neurons fall silent is a matter of prices, so a factor of two is no surprise.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from nesa.config.curriculum import Curriculum, Task
from nesa.config.sizes import needed
from nesa.config.validation import source_called

# Training samples of sources that do not say them in a parameter.
PUBLISHED = {"cifar10": 50_000, "mnist": 60_000, "permuted_mnist": 60_000, "digits": 1_797}
UNKNOWN = 10_000  # samples where only the data can tell
BASE = 1.1e9  # bytes: the interpreter with torch, Avalanche, scikit-image and matplotlib, before any data
COPIES = 9  # of the trained part of W at the peak: W, gradient, two moments, lengths, masks, and settling's copies
PASSES = 14  # over W in a step: reading and writing weights, gradient and moments, and the proximal step
EVALUATIONS = 25  # passes over the validation data while settling bisects
DENSE = 1000  # steps of a task before enough neurons are silent, with compaction
LATE = 0.1  # of a dense step: what a step costs after them, and what one of healing does
CALLS = 4e-3  # seconds of a step, however small
START = 10.0  # seconds for imports, data and the first files
FIGURES = 4.0  # seconds a task for measures, figures and files


@dataclass(frozen=True)
class TaskEstimate:
    """steps: of training and healing. known: whether the number of samples is known without the data."""

    name: str
    samples: int
    known: bool
    classes: int | None
    steps: int
    seconds: float


@dataclass(frozen=True)
class Estimate:
    """inputs, hidden, outputs: neurons. needed: free neurons that a task must find (in a feedforward network so many in
    all, a tenth of each layer). bytes: at the peak. rate: products
    in floating-point operations a second; bandwidth: bytes a second."""

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
    """Of a whole curriculum. rate and bandwidth are measured unless they are given."""
    inputs, hidden = neurons(curriculum)
    rate = product_rate() if rate is None else rate
    bandwidth = memory_rate() if bandwidth is None else bandwidth
    tasks = tuple(_task(curriculum, task, inputs, hidden, rate, bandwidth) for task in curriculum.tasks)
    outputs = sum(task.classes or 10 for task in tasks)
    senders = inputs + hidden
    receivers = hidden + (inputs if curriculum.network.inputs_receive else 0)
    weights = receivers * senders * 4
    batch = 1000 * senders * 4 * (max(task.iterations for task in curriculum.tasks) + 1)  # states while measuring
    data = sum(task.samples * inputs * (1 if len(curriculum.input.size) == 2 else 4) for task in tasks)
    total = BASE + COPIES * weights + batch + data
    seconds = START + sum(t.seconds for t in tasks)
    free = sum(map(needed, curriculum.network.layers or [hidden]))
    return Estimate(inputs, hidden, outputs, free, total, seconds, tasks, rate, bandwidth)


def neurons(curriculum: Curriculum) -> tuple[int, int]:
    """Input and hidden neurons; ports stand beside a grid and beside layers, and inside `network.neurons`."""
    network, size = curriculum.network, curriculum.input.size
    if network.grid is not None:
        X, Y, Z = network.grid
        inputs = X * Y * curriculum.input.channels
        return inputs, X * Y * Z - inputs
    if network.layers is not None:
        return int(np.prod(size)) * curriculum.input.channels, sum(network.layers)
    assert network.neurons is not None
    outputs = sum(_classes(task) or 10 for task in curriculum.tasks)
    inputs = int(np.prod(size)) * curriculum.input.channels
    return inputs, network.neurons - inputs - outputs


def product_rate(B: int = 256, n: int = 1024) -> float:
    """Floating-point operations a second of float32 products (B, n) x (n, n) on all threads, when nobody else works:
    processor time is measured, not time on the wall, so that a busy machine does not look like a slow one."""
    rng = np.random.default_rng(0)
    N, W = rng.random((B, n), dtype=np.float32), rng.random((n, n), dtype=np.float32)
    return threads() * 2 * B * n * n / _best(lambda: N @ W)


def memory_rate(size: int = 8_000_000) -> float:
    """Bytes a second of a += b over arrays too large for caches (two reads and a write), on one thread."""
    a, b = np.zeros(size, np.float32), np.ones(size, np.float32)
    return 12 * size / _best(lambda: np.add(a, b, out=a))


def threads() -> int:
    """Threads that torch and NumPy's products will use: OMP_NUM_THREADS, or one for each core that is allowed."""
    told = os.environ.get("OMP_NUM_THREADS", "")
    return int(told) if told.isdecimal() and int(told) else len(os.sched_getaffinity(0))


def _best(work: Callable[[], object], seconds: float = 0.6) -> float:
    """Seconds of the quickest of many goes, counted as processor seconds of all threads: on the wall where the machine
    is idle, by the processor's clock where others use it too."""
    best, ends, many = float("inf"), time.perf_counter() + seconds, threads()
    while best == float("inf") or time.perf_counter() < ends:
        wall, processor = time.perf_counter(), time.process_time()
        work()
        best = min(best, max(many * (time.perf_counter() - wall), 1e-6), max(time.process_time() - processor, 1e-6))
    return best


def lines(found: Estimate) -> list[str]:
    """For people."""
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
    text += [f"note: only the data tell how many samples {', '.join(guessed)} has; {UNKNOWN:,} assumed"] * bool(guessed)
    return text


def duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _task(curriculum: Curriculum, task: Task, inputs: int, hidden: int, rate: float, bandwidth: float) -> TaskEstimate:
    samples, known = _samples(task)
    kept = max(1, round(0.9 * samples))
    B = min(task.training.batch_size, kept)
    pruning = curriculum.learner.name == "neural_pruning"
    heal = curriculum.learner.heal_epochs if pruning else 0
    training, healing = (kept // B) * task.training.epochs, (kept // B) * heal
    receivers = hidden + (inputs if curriculum.network.inputs_receive else 0)
    forward = 2.0 * (receivers * inputs + max(task.iterations - 2, 0) * receivers * receivers)  # a sample
    weights = receivers * (inputs + hidden) * 4
    if (layers := curriculum.network.layers) is not None:
        blocks = sum(before * now for before, now in pairwise((inputs, *layers)))
        forward, weights = 2.0 * blocks, blocks * 4
    step = 3 * B * forward / rate + PASSES * weights / bandwidth
    dense = min(training, DENSE) if pruning and curriculum.learner.compaction else training
    evaluations = (samples - kept) * forward * (task.training.epochs + EVALUATIONS) / rate
    steps = (dense + LATE * (training - dense + healing)) * step + CALLS * (training + healing)
    seconds = steps + evaluations + FIGURES
    return TaskEstimate(task.name, samples, known, _classes(task), training + healing, seconds)


def _samples(task: Task) -> tuple[int, bool]:
    """Training samples before the split, and whether they are known without the data."""
    source = source_called(task.source)
    params = source.complete(task.params) if source is not None else task.params
    if isinstance(params.get("train"), int) and params["train"] > 0:
        return params["train"], True
    if task.source in PUBLISHED:
        return PUBLISHED[task.source] - (params.get("test") or 0) * (task.source == "digits"), True
    return UNKNOWN, False


def _classes(task: Task) -> int | None:
    source = source_called(task.source)
    return source.classes(source.complete(task.params)) if source is not None else None
