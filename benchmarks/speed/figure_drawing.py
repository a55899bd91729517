"""How long pictures take: each figure of one network, drawn and saved as PNG and SVG, the page that can be turned, and
what an animation adds to an epoch of training.

    python benchmarks/speed/figure_drawing.py [--neurons 100 5000 20000] [--synapses 100000]

Prints seconds of the processor (a shared machine stretches those of the clock), bytes, and for the animation the share
of the training step that a snapshot costs when an epoch has --steps of them.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import torch

from nesa.analysis.connectome import Connectome, Synapses
from nesa.figures.animation import Animation, snapshot
from nesa.figures.connectome import connectome
from nesa.figures.connectome_page import connectome_page
from nesa.figures.network import activities, receptive_fields, weight_matrix
from nesa.figures.run import depth_over_tasks
from nesa.figures.style import render
from urn.layout import Layout
from urn.network import URN


def network(S: int, synapses: int):
    """W (S, S), positions, levels and owners of a net on five planes, with random synapses from lower to any plane."""
    generator = np.random.default_rng(0)
    side = max(2, int((S / 5) ** 0.5))
    number = np.arange(S)
    positions = np.stack([number % side, number // side % side, np.minimum(number // side**2, 4)], 1).astype(np.float64)
    levels = positions[:, 2].astype(np.int64)
    W = np.zeros((S, S), dtype=np.float32)
    hidden = np.flatnonzero(levels > 0)
    rows, columns = generator.choice(hidden, synapses), generator.integers(0, S, synapses)
    W[rows, columns] = generator.normal(0, 0.1, synapses)
    return W, positions, levels, np.where(levels == 0, -2, number % 3)


def drawings(S: int, synapses: int) -> None:
    W, positions, levels, owner = network(S, min(synapses, S * S // 10))
    states = np.random.default_rng(1).lognormal(-2, 1, (6, S))
    fields = W[owner >= 0][:, owner == -2]
    side = int(fields.shape[1] ** 0.5)
    draw = {
        "weights": lambda: weight_matrix(W, None, levels),
        "activities": lambda: activities(states, levels),
        "connectome": lambda: connectome(W, positions, None, owner),
        "receptive_fields": lambda: receptive_fields(fields[:, : side * side], (side, side)),
    }
    for name, make in draw.items():
        began = time.process_time()
        files = render(make())
        seconds = time.process_time() - began
        print(
            f"{S:>6} neurons  {name:<17} {seconds:6.2f} s   " + ", ".join(f"{k} {len(v):,}" for k, v in files.items())
        )
    began = time.process_time()
    web = Connectome(["a"], positions, levels, owner, owner, True, [Synapses.of(W)])
    page = connectome_page(web)
    print(f"{S:>6} neurons  {'page':<17} {time.process_time() - began:6.2f} s   html {len(page):,}")


def film(S: int, steps: int, batch: int) -> None:
    layout = Layout.flat(S, 10, {"t": 2})
    net = URN(layout, 4)
    optimizer = torch.optim.Adam(net.parameters())
    x, index = torch.randn(batch, 10), torch.arange(S)
    began, rounds = time.process_time(), 3
    for _ in range(rounds):
        optimizer.zero_grad()
        net(x).sum().backward()
        optimizer.step()
    step = (time.process_time() - began) / rounds
    began = time.process_time()
    for _ in range(rounds):
        snapshot(net.W.data, index, "epoch", S)
    shot = (time.process_time() - began) / rounds
    share = shot / steps / step
    print(f"{S:>6} neurons  snapshot {1000 * shot:.0f} ms, step {1000 * step:.0f} ms: {share:.2%} of training")
    whole = Animation()
    for epoch in range(20):
        whole.add(net.W.data, index, f"epoch {epoch}", S)
    began = time.process_time()
    gif = whole.gif("t", whole.frames[-1], layout.positions, layout.inputs, dict.fromkeys(range(S), 1))
    print(f"{S:>6} neurons  animation of 21 frames {time.process_time() - began:.2f} s, {len(gif):,} bytes")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--neurons", type=int, nargs="+", default=[100, 5000, 20_000])
    parser.add_argument("--synapses", type=int, default=100_000)
    parser.add_argument("--steps", type=int, default=70, help="steps in an epoch (vision's edges have 70)")
    parser.add_argument("--batch", type=int, default=256)
    args = parser.parse_args()
    render(depth_over_tasks([]))  # fonts and modules
    for S in args.neurons:
        drawings(S, args.synapses)
    for S in (1000, 3000):
        film(S, args.steps, args.batch)


if __name__ == "__main__":
    main()
