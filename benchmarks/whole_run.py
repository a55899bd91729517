"""The paper's smallest experiment as a whole: two 10-d shells, S = 5,000, I = 4, 4,000 samples, 200 epochs.

    python benchmarks/whole_run.py [--S 5000] [--epochs 200] [--steps 6] [--seed 0] [--rule plain]
    python benchmarks/whole_run.py --S 1000 --sides ours,off,literal --seeds 0,1,2,3,4

Both sides: the paper's penalties (subgradient, c_W = 5e-7, c_N = 2e-5 summed over the batch), Adam 7e-4, batch 128,
linear outputs, shells at radii 1 and 3. The literal reference charges the activity of all neurons at all l, as eq 5
does; ours that of hidden neurons at l < I. The reference is timed for `--steps` steps, before and after our run, and
projected; ours runs in full. Prints the ratio, the test accuracy and the active neurons (hidden ones that fire on test
data at some l = 1..I-1).

With --sides every side runs in full, for the spread over seeds: ours, ours with compaction off, the literal reference.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch
from literal import LiteralURN, literal_loss

from nesa.tasks import load
from urn.compaction import Watch, keep_only
from urn.geometry import Layout
from urn.network import URN
from urn.optim import Proximal
from urn.penalties import Penalty

D, B, I, LR = 10, 128, 4, 7e-4
PENALTY = Penalty("subgradient", 5e-7, 2e-5, "sum")


def literal_seconds(S: int, x: torch.Tensor, y: torch.Tensor, steps: int, residual_output: bool) -> list[float]:
    model = LiteralURN(S, D, 2, I, residual_output, linear_output=True)
    adam = torch.optim.Adam(model.parameters(), lr=LR)
    times = []
    for k in range(steps + 1):
        began = time.perf_counter()
        adam.zero_grad()
        literal_loss(model, x[k * B : (k + 1) * B], y[k * B : (k + 1) * B], PENALTY.weight, PENALTY.activity).backward()
        adam.step()
        times.append(time.perf_counter() - began)
    return times[1:]  # the first one allocates


def spheres(seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """x (4000, D), y, and 2,000 test samples with theirs."""
    params = {"dimension": D, "shells": 2, "train": 4000, "test": 2000, "spacing": 2.0}
    data = load("spheres", params, size=(D,), seed=seed)
    x, test_x = torch.tensor(data.train_x), torch.tensor(data.test_x)
    mean, std = x.mean(), x.std()
    return (x - mean) / std, torch.tensor(data.train_y), (test_x - mean) / std, torch.tensor(data.test_y)


@torch.no_grad()
def judge(urn: URN, x: torch.Tensor, y: torch.Tensor) -> tuple[float, int]:
    """Accuracy, and the hidden neurons that fire on some sample at some l = 1..I-1."""
    fires = torch.stack([N.amax(0) > 0 for N in urn.states(x)[1:I]])
    return float((urn(x).argmax(1) == y).double().mean()), int(fires.any(0)[urn.layout.hidden].sum())


@torch.no_grad()
def judge_literal(model: LiteralURN, x: torch.Tensor, y: torch.Tensor) -> tuple[float, int]:
    logits, states = model(x)
    fires = torch.stack([N.amax(0) > 0 for N in states[: I - 1]]).any(0)
    return float((logits.argmax(1) == y).double().mean()), int(fires[D:-2].sum())


def train(
    urn: URN, x: torch.Tensor, y: torch.Tensor, epochs: int, compact: bool, seed: int, quiet: bool = False
) -> None:
    optimizer = Proximal(urn, "adam", LR, penalty=PENALTY)
    urn.recycle_gradient = True
    costs = PENALTY.activity_costs(I, B)
    generator = torch.Generator().manual_seed(seed)
    for epoch in range(epochs):
        urn.watch = Watch(urn) if compact else None
        right = 0
        for pick in torch.randperm(len(x), generator=generator).split(B):
            optimizer.zero_grad()
            logits, activity = urn.forward_with_activity(x[pick], "shells", costs)
            (torch.nn.functional.cross_entropy(logits, y[pick]) + activity).backward()
            optimizer.step()
            right += int((logits.argmax(1) == y[pick]).sum())
        if compact:
            keep = urn.watch.awake()
            keep[urn.layout.inputs] = keep[urn.layout.ports["shells"]] = True
            if not bool(keep.all()):
                keep_only(urn, keep.nonzero().flatten(), optimizer)
        if epoch % 20 == 19 and not quiet:
            print(
                f"  epoch {epoch + 1}: accuracy {right / len(x):.4f}, {len(urn.layout.hidden)} neurons left", flush=True
            )


def literal_run(S: int, x: torch.Tensor, y: torch.Tensor, epochs: int, seed: int, residual_output: bool) -> LiteralURN:
    model = LiteralURN(S, D, 2, I, residual_output, seed, linear_output=True)
    adam = torch.optim.Adam(model.parameters(), lr=LR)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(epochs):
        for pick in torch.randperm(len(x), generator=generator).split(B):
            adam.zero_grad()
            literal_loss(model, x[pick], y[pick], PENALTY.weight, PENALTY.activity).backward()
            adam.step()
    return model


def sides(args: argparse.Namespace) -> None:
    """Every side in full for every seed: accuracy and active neurons, one line each."""
    residual = args.rule == "residual_output"
    counts: dict[str, list[int]] = {}
    for seed in map(int, args.seeds.split(",")):
        x, y, test_x, test_y = spheres(seed)
        for side in args.sides.split(","):
            began = time.perf_counter()
            if side == "literal":
                model = literal_run(args.S, x, y, args.epochs, seed, residual)
                accuracy, active = judge_literal(model, test_x, test_y)
            else:
                torch.manual_seed(seed)
                urn = URN(Layout.flat(args.S, D, {"shells": 2}), I, args.rule, args.output)
                train(urn, x, y, args.epochs, side == "ours", seed, quiet=True)
                accuracy, active = judge(urn, test_x, test_y)
            counts.setdefault(side, []).append(active)
            seconds = time.perf_counter() - began
            print(f"S {args.S} seed {seed} {side}: test {accuracy:.4f}, {active} active, {seconds:.0f} s", flush=True)
    for side, values in counts.items():
        spread = statistics.stdev(values) if len(values) > 1 else 0.0
        print(f"{side}: {statistics.mean(values):.1f} +- {spread:.1f} active, {min(values)} to {max(values)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--S", type=int, default=5000)
    parser.add_argument("--epochs", type=int, default=200)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--sides", help="ours, off, literal: each in full, for each of --seeds")
    parser.add_argument("--seeds", default="0,1,2,3,4")
    parser.add_argument("--rule", default="plain", choices=("plain", "residual_output"))
    parser.add_argument("--output", default="linear", choices=("relu", "linear"))
    args = parser.parse_args()
    if args.sides:
        sides(args)
        return
    x, y, test_x, test_y = spheres(args.seed)
    residual = args.rule == "residual_output"
    literal = literal_seconds(args.S, x, y, args.steps, residual)
    torch.manual_seed(args.seed)
    urn = URN(Layout.flat(args.S, D, {"shells": 2}), I, args.rule, args.output)
    began = time.perf_counter()
    train(urn, x, y, args.epochs, True, args.seed)
    ours = time.perf_counter() - began
    literal += literal_seconds(args.S, x, y, args.steps, residual)

    steps = args.epochs * -(-len(x) // B)
    projected = statistics.median(literal) * steps
    accuracy, active = judge(urn, test_x, test_y)
    print(
        f"S {args.S}, I {I}, B {B}, {args.epochs} epochs, {steps} steps, rule {args.rule}, "
        f"{torch.get_num_threads()} threads"
    )
    print(f"literal step {statistics.median(literal) * 1e3:.0f} ms: {projected / 60:.1f} min projected")
    print(f"ours {ours / 60:.2f} min: {projected / ours:.1f} x faster")
    print(f"test accuracy {accuracy:.4f}, active hidden neurons {active}")


if __name__ == "__main__":
    main()
