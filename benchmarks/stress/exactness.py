"""Old answers under load: five tasks, then a sixth that diverges, for every optimiser, rule, compaction and seed.

    OMP_NUM_THREADS=1 python benchmarks/stress/exactness.py [--seeds 0 1 2 3 4]

Each of the 6 x 4 x 2 x (number of seeds) combinations learns five tasks of 3 to 7 classes with NeuralPruning inside
Avalanche's Naive strategy, and then a sixth at a learning rate of 1e37. After every task, and after the sixth was
stopped with weights at inf or NaN in its free neurons, the logits of all earlier tasks must be `torch.equal` to those
right after their claims. Printed is a matrix of combinations that hold; the exit code is 1 when one does not.
"""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Callable

import torch
from avalanche_run import experiences, naive

from nesa.errors import RunFailed
from nesa.training.accumulation import Accumulation, Dynamics
from nesa.training.strategies.models import GrowingURN
from nesa.training.strategies.neural_pruning import NeuralPruning
from urn.layout import Layout
from urn.optim import Proximal
from urn.penalties import Penalty
from urn.update_rules import UPDATES

CLASSES = [3, 4, 5, 6, 7, 4]  # the last task is the one that diverges
NAMES = [f"task{k}" for k in range(len(CLASSES))]
S, D_IN, I, N, B, EPOCHS = 60, 8, 3, 28, 14, 2
GROWTH = 12  # neurons before each later task
WILD = 1e37  # learning rate of the last task; Adam divides it by 0.1 at its first step, and 1e39 is no float32

OPTIMIZERS: dict[str, Callable[[GrowingURN, float], torch.optim.Optimizer]] = {
    "sgd": lambda model, lr: torch.optim.SGD(model.parameters(), 3 * lr),
    "momentum": lambda model, lr: torch.optim.SGD(model.parameters(), lr, momentum=0.9),
    "decay": lambda model, lr: torch.optim.SGD(model.parameters(), lr, momentum=0.9, weight_decay=0.01),
    "adam": lambda model, lr: torch.optim.Adam(model.parameters(), lr, weight_decay=0.01),
    "adamw": lambda model, lr: torch.optim.AdamW(model.parameters(), lr, weight_decay=0.1),
    "proximal": lambda model, lr: Proximal(model.task_network, "adam", lr, weight_decay=0.01),
}


def clouds(k: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """N samples of task k: two opposite clouds a class around a common point off the origin."""
    generator = torch.Generator().manual_seed(1000 * seed + k)
    y = torch.arange(N) % CLASSES[k]
    sign = 1.0 - 2 * (torch.arange(N) // CLASSES[k] % 2)
    centres = torch.randn(CLASSES[k], D_IN, generator=generator)
    return 2 + centres[y] * sign[:, None] + 0.2 * torch.randn(N, D_IN, generator=generator), y


@torch.no_grad()
def answers(model: GrowingURN, x: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Task k's logits through the model that is being trained, and through its stored network."""
    return model(x, k), model.accumulation.network(k)(x)


def combination(optimizer: str, update: str, compaction: bool, seed: int) -> list[str]:
    """What is wrong after the five tasks and the diverging sixth; empty when every promise holds."""
    torch.manual_seed(seed)  # Avalanche's loader shuffles with the global generator
    tasks, wrong = [clouds(k, seed) for k in range(len(CLASSES))], []
    layout = Layout.flat(S, D_IN, dict(zip(NAMES, CLASSES, strict=True)))
    model = GrowingURN(Accumulation(layout), Dynamics(I, update, "linear"))
    plugin = NeuralPruning(
        Penalty(weight=0.05, activity=0.01),
        seed=seed,
        margin=-1.0,  # settling drops what is idle and nothing else, so that much is claimed and reused
        heal_epochs=1,
        window=2,
        compaction=compaction,
        validation=lambda experience: tasks[experience.current_experience],
        on_event=lambda name, fields: None,
    )
    train = naive(model, [plugin], OPTIMIZERS[optimizer](model, 0.01), B, EPOCHS)
    probes, references = [x[:17] for x, _ in tasks], []

    def compare(when: str) -> None:
        for j, reference in enumerate(references):
            for found in answers(model, probes[j], j):
                if not torch.equal(found, reference):
                    wrong.append(f"{NAMES[j]} after {when}")

    *stream, last = experiences(tasks, [(k,) for k in range(len(tasks))])
    for k, experience in enumerate(stream):
        if k:
            model.accumulation.grow(GROWTH)
        train.train(experience)
        if not bool((model.accumulation.owner == k).any()):
            wrong.append(f"{NAMES[k]} claims nothing, so nothing is shown")
        references.append(answers(model, probes[k], k)[0])
        compare(NAMES[k])
    model.accumulation.grow(GROWTH)
    stored = model.accumulation.full()[0]
    wild = naive(model, [plugin], OPTIMIZERS[optimizer](model, WILD), B, EPOCHS)
    try:
        wild.train(last)
        wrong.append("the sixth task did not diverge")
    except RunFailed:
        free = ~model.task_network.frozen
        if bool(torch.isfinite(model.task_network.W.data[free]).all()):
            wrong.append("no free neuron is at inf or NaN, so nothing is shown")
    compare("the divergence")
    if not torch.equal(model.accumulation.full()[0], stored):
        wrong.append("the stored weights moved")
    return wrong


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    args = parser.parse_args()
    width = max(map(len, UPDATES)) + 4
    print(" " * 10 + "".join(f"{update + (' +c' if c else ''):>{width}}" for update in UPDATES for c in (False, True)))
    failed = 0
    for optimizer in OPTIMIZERS:
        cells = []
        for update, compaction in itertools.product(UPDATES, (False, True)):
            found = {seed: combination(optimizer, update, compaction, seed) for seed in args.seeds}
            bad = {seed: wrong for seed, wrong in found.items() if wrong}
            for seed, wrong in bad.items():
                print(f"{optimizer}, {update}, compaction {compaction}, seed {seed}: {'; '.join(wrong)}")
            failed += len(bad)
            cells.append(f"{len(args.seeds) - len(bad)}/{len(args.seeds)}")
        print(f"{optimizer:10}" + "".join(f"{cell:>{width}}" for cell in cells), flush=True)
    count = len(OPTIMIZERS) * len(UPDATES) * 2 * len(args.seeds)
    print(f"{count - failed} of {count} combinations: every earlier logit torch.equal (+c: with compaction)")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
