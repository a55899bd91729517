"""The paper's smallest experiment as a whole: two 10-d shells, S = 5,000, I = 4, 4,000 samples, 200 epochs.

    PYTHONPATH=.:studies python benchmarks/speed/paper_spheres.py [--S 5000] [--epochs 200] [--steps 6] [--seeds 0]
    PYTHONPATH=.:studies python benchmarks/speed/paper_spheres.py --S 1000 --sides ours,off,literal --seeds 0,1,2,3,4

All sides: the setting of studies/spheres.py, which has the paper's penalties (subgradient, c_W = 5e-7, c_N = 2e-5
summed over the batch), Adam 7e-4, batch 128, linear outputs, shells at radii 1 and 3. The literal reference charges the
activity of all neurons at all l and lets input neurons receive, as eq 2 and 5 do; ours charges hidden neurons at l < I,
and its input neurons only send. The reference is timed for `--steps` steps before and after our run, which is run in
full, and projected. Prints the ratio, the test accuracy and the active neurons: hidden ones that exceed 1e-6 of the
largest activation on some test sample at some l = 1..I-1.

With --sides every side runs in full, for the spread over seeds: ours, ours with compaction off, the literal reference.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Sequence

import torch
from literal_urn import LiteralURN, literal_loss
from spheres import PORT, D, Data, Setting, make_data, train
from torch import Tensor

from urn.network import URN


class Literal:
    """The reference, and one step of it."""

    def __init__(self, s: Setting):
        self.s = s
        self.model = LiteralURN(s.S, D, 2, s.I, s.rule == "residual_output", s.seed, linear_output=True)
        self.adam = torch.optim.Adam(self.model.parameters(), lr=s.lr)

    def step(self, x: Tensor, y: Tensor) -> None:
        self.adam.zero_grad()
        literal_loss(self.model, x, y, self.s.weight, self.s.activity).backward()
        self.adam.step()

    def timed(self, data: Data, steps: int) -> list[float]:
        """Seconds of each of `steps` steps; one before them allocates."""
        times = []
        for x, y in list(zip(data.x.split(self.s.batch), data.y.split(self.s.batch), strict=True))[: steps + 1]:
            began = time.perf_counter()
            self.step(x, y)
            times.append(time.perf_counter() - began)
        return times[1:]

    def train(self, data: Data) -> None:
        generator = torch.Generator().manual_seed(self.s.seed)
        for _ in range(self.s.epochs):
            for pick in torch.randperm(len(data.x), generator=generator).split(self.s.batch):
                self.step(data.x[pick], data.y[pick])


@torch.no_grad()
def judge(logits: Tensor, states: Sequence[Tensor], hidden: Tensor | slice, y: Tensor) -> tuple[float, int]:
    """Accuracy, and the active neurons among `hidden`. states: [N^(1), ..., N^(I)]."""
    high = torch.stack([N.amax(0) for N in states])
    fires = (high[:-1] > 1e-6 * high.max()).any(0)
    return float((logits.argmax(1) == y).double().mean()), int(fires[hidden].sum())


@torch.no_grad()
def judge_ours(urn: URN, data: Data) -> tuple[float, int]:
    return judge(urn(data.test_x, PORT), urn.states(data.test_x, PORT)[1:], urn.layout.hidden, data.test_y)


def literal(s: Setting, data: Data) -> tuple[float, int]:
    reference = Literal(s)
    reference.train(data)
    with torch.no_grad():
        return judge(*reference.model(data.test_x), slice(D, -2), data.test_y)


def in_full(settings: Sequence[Setting], sides: Sequence[str]) -> None:
    """Every side for every seed: accuracy and active neurons, one line each."""
    counts: dict[str, list[int]] = {}
    for s in settings:
        data = make_data(s)
        for side in sides:
            began = time.perf_counter()
            if side == "literal":
                accuracy, active = literal(s, data)
            else:
                accuracy, active = judge_ours(train(s, data, side == "ours")[0], data)
            counts.setdefault(side, []).append(active)
            seconds = time.perf_counter() - began
            print(f"S {s.S} seed {s.seed} {side}: test {accuracy:.4f}, {active} active, {seconds:.0f} s", flush=True)
    for side, values in counts.items():
        spread = statistics.stdev(values) if len(values) > 1 else 0.0
        print(f"{side}: {statistics.mean(values):.1f} +- {spread:.1f} active, {min(values)} to {max(values)}")


def against_the_reference(s: Setting, steps: int) -> None:
    """Our run in full, the reference projected from steps before and after it."""
    data = make_data(s)
    times = Literal(s).timed(data, steps)
    began = time.perf_counter()
    urn, left = train(s, data, True)
    seconds = time.perf_counter() - began
    times += Literal(s).timed(data, steps)
    accuracy, active = judge_ours(urn, data)
    total = s.epochs * -(-len(data.x) // s.batch)
    projected = statistics.median(times) * total
    print(f"S {s.S}, I {s.I}, B {s.batch}, {s.epochs} epochs, {total} steps, rule {s.rule}, seed {s.seed}, ", end="")
    print(f"{torch.get_num_threads()} threads; hidden neurons left after 1, 5, 20 epochs and all: ", end="")
    print(", ".join(str(left[min(k, s.epochs) - 1]) for k in (1, 5, 20, s.epochs)))
    print(f"literal step {statistics.median(times) * 1e3:.0f} ms: {projected / 60:.1f} min projected")
    print(f"ours {seconds / 60:.2f} min: {projected / seconds:.1f} x faster")
    print(f"test accuracy {accuracy:.4f}, active hidden neurons {active}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--S", type=int, default=5000)
    parser.add_argument("--epochs", type=int, default=200)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--rule", default="plain", choices=("plain", "residual_output"))
    parser.add_argument("--sides", help="ours, off, literal: each in full, for each of --seeds")
    args = parser.parse_args()
    settings = [Setting(rule=args.rule, S=args.S, epochs=args.epochs, seed=int(seed)) for seed in args.seeds.split(",")]
    if args.sides:
        in_full(settings, args.sides.split(","))
        return
    for s in settings:
        against_the_reference(s, args.steps)


if __name__ == "__main__":
    main()
