"""What Avalanche's loop costs a step, against a bare loop over the same batches, network, penalties and optimiser.

    OMP_NUM_THREADS=1 python benchmarks/speed/training_loop.py [--S 40] [--B 32] [--steps 100] [--rounds 20]

The network is tiny, so that a step is mostly loop. The loops take turns, round by round, in one process; timed is from
one step to the next, on the clock and on the processor (on a busy machine only the latter tells), without set-up.
Printed are medians over all steps, the excess over the bare loop, and the ratio. `naive` is the training loop of every
learner (nesa.training.strategies.template with all plugins);
`stock` is Avalanche's Naive with its own data loader, without
schedule, activity term and observer.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import time
import warnings
from typing import Any

import numpy as np
import torch
from torch import nn

from nesa.config.curriculum import Curriculum, Input, Learner, Network, Penalties, Task, Training
from nesa.datasets.registry import Arrays
from nesa.training.accumulation import Accumulation
from nesa.training.batches import Batches
from nesa.training.build import make_optimizer, make_penalty
from nesa.training.strategies.baselines import BaselineLearner
from nesa.training.strategies.template import experiences
from nesa.training.task_data import TaskData, from_arrays
from urn.layout import Layout

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from avalanche.core import SupervisedPlugin
    from avalanche.training.plugins import EvaluationPlugin
    from avalanche.training.supervised import Naive

D_IN, CLASSES, I = 8, 4, 3


class Stopwatch(SupervisedPlugin):
    """Notes the clock and the processor time at the end of each step."""

    def __init__(self):
        super().__init__()
        self.marks: list[tuple[float, float]] = []

    def tick(self, *_: object) -> None:
        self.marks.append((time.perf_counter(), time.process_time()))

    def after_training_iteration(self, strategy, **kwargs) -> None:
        self.tick()

    def seconds(self) -> list[tuple[float, float]]:
        """(clock, processor) from each step to the next."""
        return [(b[0] - a[0], b[1] - a[1]) for a, b in itertools.pairwise(self.marks)]


def clouds(n: int) -> TaskData:
    draw = np.random.default_rng(0)
    y = np.arange(n) % CLASSES
    x = (draw.normal(size=(CLASSES, D_IN))[y] + draw.normal(size=(n, D_IN))).astype(np.float32)
    arrays = Arrays(x, y, x[:CLASSES], y[:CLASSES], tuple("abcd"), kind="vector", origin="drawn")
    return from_arrays("clouds", 0, arrays, seed=0)


def learner(data: TaskData, S: int, B: int, stopwatch: Stopwatch) -> BaselineLearner:
    shared = {"penalties": Penalties(), "training": Training(batch_size=B, epochs=1)}
    curriculum = Curriculum(
        name="loop",
        input=Input((D_IN,)),
        network=Network(neurons=S, iterations=I),
        learner=Learner(name="naive"),
        tasks=(Task(name="clouds", source="arrays", iterations=I, **shared),),
        **shared,
    )
    layout = Layout.flat(S, D_IN, {"clouds": CLASSES})

    def report(name: str, fields: dict[str, Any]) -> None:
        if name == "step":
            stopwatch.tick()

    return BaselineLearner(curriculum, [data], Accumulation(layout), torch.device("cpu"), report)


def bare(made: BaselineLearner, data: TaskData, B: int, stopwatch: Stopwatch) -> None:
    urn, criterion, penalty = (
        made.model.network,
        nn.CrossEntropyLoss(),
        make_penalty(made.curriculum.tasks[0].penalties),
    )
    optimizer = make_optimizer(made.curriculum.tasks[0], urn)
    for x, y, _ in Batches(data, data.train, B, 0):
        optimizer.zero_grad()
        done = urn.training_pass(x, data.name, penalty)
        (criterion(done.logits, y) + done.activity).backward()
        optimizer.step()
        stopwatch.tick()


def naive(made: BaselineLearner, data: TaskData, B: int, stopwatch: Stopwatch) -> None:
    made.train(0)


def stock(made: BaselineLearner, data: TaskData, B: int, stopwatch: Stopwatch) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        strategy = Naive(
            model=made.model,
            optimizer=make_optimizer(made.curriculum.tasks[0], made.model.network),
            criterion=nn.CrossEntropyLoss(),
            train_mb_size=B,
            plugins=[stopwatch],
            evaluator=EvaluationPlugin(),
        )
    strategy.train(experiences([data])[0], eval_streams=[], drop_last=True)


LOOPS = {"bare": bare, "naive": naive, "stock": stock}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--S", type=int, default=40)
    parser.add_argument("--B", type=int, default=32)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=20)
    args = parser.parse_args()
    data = clouds(round(args.steps * args.B / 0.9))

    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in LOOPS}
    for _ in range(args.rounds):
        for name, loop in LOOPS.items():
            stopwatch = Stopwatch()
            loop(learner(data, args.S, args.B, stopwatch), data, args.B, stopwatch)
            seconds[name] += stopwatch.seconds()
    threads, counted = torch.get_num_threads(), len(seconds["bare"])
    print(f"S = {args.S}, B = {args.B}, I = {I}, {threads} thread(s), medians of {counted} steps each")
    for at, kind in enumerate(("clock", "processor")):
        each = {name: 1e3 * statistics.median(times[at] for times in all_) for name, all_ in seconds.items()}
        for name, ms in each.items():
            excess, ratio = ms - each["bare"], ms / each["bare"]
            print(f"{kind:9} {name:5} {ms:6.3f} ms a step   {excess:+6.3f} ms   {ratio:4.2f} times the bare loop")


if __name__ == "__main__":
    main()
