"""One optimiser step of a perceptron inside a URN against the same perceptron as torch layers, in turns.

    PYTHONPATH=. python benchmarks/speed/perceptron.py [--layers 2000,2000] [--B 256] [--rounds 15]

Processor time of the process, so that a busy machine says the same: it is the work that is compared. `network.layers`
of curricula/permuted_mnist_mlp.yaml makes this network.
"""

from __future__ import annotations

import argparse
import statistics
import time
from itertools import pairwise

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from urn.layout import Layout
from urn.network import URN
from urn.optim import Proximal
from urn.penalties import Penalty

D_IN, D_OUT = 784, 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", default="2000,2000")
    parser.add_argument("--B", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=15)
    args = parser.parse_args()
    widths = [int(n) for n in args.layers.split(",")]
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(args.B, D_IN, generator=generator)
    y = torch.randint(D_OUT, (args.B,), generator=generator)
    layout = Layout.feedforward(widths, D_IN, {"task": D_OUT})
    urn = URN(layout, len(widths) + 1, output_activation="linear", generator=generator)
    frozen = torch.zeros(urn.S, dtype=torch.bool)
    frozen[layout.inputs] = True
    urn.set_parameters(layout, urn.W.data, urn.b.data, frozen)
    urn.reuse_gradient_memory = True
    linear = [nn.Linear(a, b) for a, b in pairwise([D_IN, *widths, D_OUT])]
    mlp = nn.Sequential(*[module for layer in linear for module in (layer, nn.ReLU())][:-1])
    sides: dict[str, tuple[nn.Module, torch.optim.Optimizer]] = {
        "torch layers, fused Adam": (mlp, torch.optim.Adam(mlp.parameters(), 1e-4, fused=True)),
        "in a URN, Adam": (urn, Proximal(urn, "adam", 1e-4)),
        "in a URN, Adam and prox_adam": (urn, Proximal(urn, "adam", 1e-4, penalty=Penalty("prox_adam", 1e-5))),
    }

    def step(net: nn.Module, optimizer: torch.optim.Optimizer) -> float:
        began = time.process_time()
        optimizer.zero_grad()
        cross_entropy(net(x), y).backward()
        optimizer.step()
        return time.process_time() - began

    times: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(args.rounds + 1):  # the first one makes the moments
        for name, side in sides.items():
            spent = step(*side)
            times[name] += [spent] if turn else []
    least = statistics.median(times["torch layers, fused Adam"])
    print(f"layers {widths}, B = {args.B}, {torch.get_num_threads()} threads, torch {torch.__version__}")
    for name, of in times.items():
        print(f"{name:30} {1e3 * statistics.median(of):7.1f} ms  {statistics.median(of) / least:5.2f}")


if __name__ == "__main__":
    main()
