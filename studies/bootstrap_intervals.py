"""How sure the depths of main are (docs/results/nesa.md): bootstrap intervals of their rise from task to task.

    NESA_DATA=DIR PYTHONPATH=. python studies/bootstrap_intervals.py --keep DIR [--seeds 0,1,2] [--resamples 1000]

--keep holds what `study.py main --keep DIR` has learned. Readout and mean depth are measured on validation images; each
resample draws as many of them anew, of each task by itself, and measures again. Graph depth depends on no image.
A row of docs/results/rows/depth.csv for each seed, step and measure; the line of seed "all" draws the seeds anew, too.
"""

from __future__ import annotations

import argparse
import time
from itertools import pairwise
from pathlib import Path

import torch
from continual import Study
from result_rows import Rows
from torch import Tensor

from nesa.training.accumulation import Accumulation
from nesa.training.evaluation import BATCH
from nesa.training.task_data import TaskData
from urn.measures import structure
from urn.measures.activity import Activity, levels
from urn.measures.graph import Synapses, graph_depth, live

MEASURES = ("readout", "mean", "graph")
SURE = (0.025, 0.975)  # quantiles: an interval of 95 per cent


@torch.no_grad()
def depths(accumulation: Accumulation, data: TaskData, margin: float, draws: Tensor) -> Tensor:
    """(R, 3): the depths of a claimed task by `MEASURES`, on its validation images as often as draws (R, n) says."""
    network = accumulation.network(data.name)
    port, W = network.layout.ports[data.name], network.W.data
    senders = Synapses.of(W, receivers=port).sender.unique()
    seen, right, sizes = Activity(), [], []
    for first in range(0, len(data.val), BATCH):
        states = network.states(data.prepare(data.val.x[first : first + BATCH]), data.name)
        seen.update(states)
        y = data.val.y[first : first + BATCH]
        right.append(torch.stack([N[:, port].argmax(1) == y for N in states[1:]], 1))
        sizes.append(torch.stack([N[:, senders].abs() for N in states[:-1]], 1))
    n = draws.sum(1, keepdim=True)
    scores = draws @ torch.cat(right).double() / n
    mean = (draws @ torch.cat(sizes).double().flatten(1) / n).unflatten(1, (-1, len(senders)))  # (R, I, senders)
    strength = torch.zeros(len(draws), network.S, dtype=torch.float64)
    strength[:, senders] = (mean * seen.varies[:-1, senders]).amax(1)
    way = live(Synapses.of(W), seen.varies, port, network.update.residual_output)
    level, graph = levels(seen, network.layout.inputs), graph_depth(way, network.layout.inputs, port)
    rows = [
        (structure.readout_depth(s.tolist(), margin), structure.mean_depth(way, a, level, port), graph)
        for s, a in zip(scores, strength, strict=True)
    ]
    return torch.tensor(rows, dtype=torch.float64)


def counts(n: int, resamples: int, generator: torch.Generator) -> Tensor:
    """(1 + R, n): how often each of n samples is drawn; once each in the first row."""
    drawn = torch.randint(n, (resamples, n), generator=generator)
    often = torch.zeros(resamples, n).scatter_add_(1, drawn, torch.ones(resamples, n))
    return torch.cat([torch.ones(1, n), often])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keep", type=Path, required=True)
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--resamples", type=int, default=1000)
    parser.add_argument("--data", type=Path)
    args = parser.parse_args()
    rows, generator, began = Rows.of("depth"), torch.Generator().manual_seed(0), time.perf_counter()
    found: dict[str, list[Tensor]] = {}  # by seed: (1 + R, 3) for each task
    for seed in args.seeds.split(","):
        study = Study(rows, int(seed), (), args.keep, args.data)
        whole, margin = study.before(len(study.tasks)), study.curriculum.learner.margin
        found[seed] = [
            depths(whole, data, margin, counts(len(data.val), args.resamples, generator).double())
            for data in study.tasks
        ]
        names = [data.name for data in study.tasks]
    rises = {s: torch.stack([b - a for a, b in pairwise(tasks)]) for s, tasks in found.items()}  # (steps, 1 + R, 3)
    stacked = torch.stack(list(rises.values()))
    picks = torch.randint(len(stacked), (args.resamples, len(stacked)), generator=generator)
    drawn = stacked[picks, :, 1 + torch.arange(args.resamples)[:, None]].mean(1)  # (R, steps, 3)
    rises["all"] = torch.cat([stacked[:, :, :1].mean(0), drawn.transpose(0, 1)], 1)
    for seed, rise in rises.items():
        for (before, after), step in zip(pairwise(names), rise, strict=True):
            for name, values in zip(MEASURES, step.T, strict=True):
                low, high = torch.quantile(values[1:], torch.tensor(SURE, dtype=torch.float64)).tolist()
                row = {"step": f"{before} to {after}", "depth": name, "rise": float(values[0])}
                print(f"seed {seed:4} {row['step']:18} {name:8} {row['rise']:+.3f}  {low:+.3f} to {high:+.3f}")
                seconds = time.perf_counter() - began
                rows.add(seed=seed, **row, low=low, high=high, resamples=args.resamples, seconds=seconds)


if __name__ == "__main__":
    main()
