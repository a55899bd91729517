"""What active sets at each iteration save: CIFAR-10 as in curricula/vision.yaml, from scratch, with and without them.

    NESA_DATA=DIR PYTHONPATH=. python benchmarks/speed/active_sets.py [--epochs 30] [--every 3]

Both sides have the same network, prices, batches and compaction, and take their epochs in turns in one process. For
every third epoch: seconds of both, what a side computes at l = 1, 2, ... in the end of it, and the products of its
steps with hidden neurons as a share of those of one set for all l. No augmentation, no early readouts, no settling.
"""

from __future__ import annotations

import argparse
import math
import time
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from nesa.config.loader import load
from nesa.datasets.registry import DataDirs
from nesa.datasets.registry import load as load_task
from nesa.training.build import make_penalty
from urn.compaction import FULL_PASS_INTERVAL, ActivityTracker, compact, set_active_sets, update_full_pass
from urn.layout import Layout
from urn.network import URN
from urn.optim import Proximal

PORT, WINDOW, BATCH, LR = "cifar10", 100, 256, 1e-3


class RunGroup:
    """One network in training. sets: with active sets?"""

    def __init__(self, sets: bool, epochs: int, x: Tensor, y: Tensor):
        curriculum = load("curricula/vision.yaml", [])
        self.penalty = make_penalty(curriculum.tasks[-1].penalties)
        torch.manual_seed(0)
        layout = Layout.grid((32, 32, 3), 1, {PORT: 10})
        self.urn = URN(layout, 5, "residual_output", "linear")
        self.urn.W.data[layout.inputs] = 0
        frozen = torch.zeros(layout.S, dtype=torch.bool).index_fill(0, layout.inputs, True)
        self.urn.set_parameters(layout, self.urn.W.data, self.urn.b.data, frozen)
        self.urn.reuse_gradient_memory = True
        self.urn.tracker = ActivityTracker(self.urn)
        self.optimizer = Proximal(self.urn, "adam", LR, penalty=self.penalty)
        self.sets, self.epochs, self.x, self.y, self.steps = sets, epochs, x, y, 0

    def epoch(self, order: Tensor) -> tuple[float, float, float]:
        """Seconds, the share of products, and the loss of the last steps."""
        urn, optimizer, began, share, losses = self.urn, self.optimizer, time.perf_counter(), [], []
        total = self.epochs * (len(order) // BATCH)
        for pick in order.split(BATCH)[: len(order) // BATCH]:
            if self.sets:
                update_full_pass(urn, optimizer, self.steps)
            optimizer.ramp = min(1.0, self.steps / (0.2 * total))
            optimizer.param_groups[0]["lr"] = LR * (1 + math.cos(math.pi * self.steps / total)) / 2
            optimizer.zero_grad()
            done = urn.training_pass(self.x[pick], PORT, self.penalty)
            loss = cross_entropy(done.logits, self.y[pick])
            (loss + done.activity).backward()
            optimizer.step()
            counts = self.computed()
            every = max(1, (len(counts) - 1) * len(urn.layout.hidden) ** 2)
            share.append(sum(a * b for a, b in pairwise(counts)) / every)
            losses.append(float(loss.detach()))
            self.steps += 1
            if self.steps % WINDOW == 0:
                (set_active_sets if self.sets else compact)(urn, optimizer)
                urn.tracker = ActivityTracker(urn)
        return time.perf_counter() - began, sum(share) / len(share), sum(losses[-50:]) / len(losses[-50:])

    def computed(self) -> list[int]:
        """Hidden neurons that are computed at l = 1, 2, ..."""
        urn = self.urn
        if urn.inactive is None or urn.compute_all_now:
            return [len(urn.layout.hidden)] * (urn.iterations - 1)
        return (~urn.inactive[1:, urn.layout.hidden]).sum(1).tolist()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--every", type=int, default=3)
    args = parser.parse_args()
    found = load_task("cifar10", {}, size=(32, 32), channels=1, data=DataDirs(None))
    x = torch.tensor(np.asarray(found.train_x[:45_000])).reshape(45_000, -1).float()
    y = torch.tensor(found.train_y[:45_000])
    x = (x - x.mean()) / x.std()
    sides = [RunGroup(sets, args.epochs, x, y) for sets in (False, True)]
    generator, total = torch.Generator().manual_seed(0), [0.0, 0.0]
    print(f"{torch.get_num_threads()} thread(s); one step of {FULL_PASS_INTERVAL} computes all")
    for epoch in range(args.epochs):
        order = torch.randperm(len(x), generator=generator)
        found = [side.epoch(order) for side in sides]
        total = [a + b[0] for a, b in zip(total, found, strict=True)]
        if epoch % args.every == 0 or epoch == args.epochs - 1:
            (off, _, loss), (on, share, other) = found
            times = f"{off:5.1f} s without, {on:5.1f} s with: {off / on:4.2f} x"
            left = f"computed {len(sides[0].urn.layout.hidden)}, {sides[1].computed()}"
            print(
                f"epoch {epoch + 1:2}  {times}   products {share:4.0%}   {left}   loss {loss:.3f}, {other:.3f}",
                flush=True,
            )
    print(f"all        {total[0]:5.0f} s without, {total[1]:5.0f} s with: {total[0] / total[1]:4.2f} x")


if __name__ == "__main__":
    main()
