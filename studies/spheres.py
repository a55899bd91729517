"""The paper's concentric spheres (its section 2, figures 3 and 4): what emerges, how sure it is, and what moves it.

    PYTHONPATH=. python studies/spheres.py STUDY [--most N] [--table]

    choice      batch size, shells, output and what is charged, which the paper does not give, at S = 500; to be
                judged on validation
    small       plain, residual output, residual input with what was chosen, S = 500, 5 seeds
    paper       the same at the paper's S = 5,000
    iterations  I = 2 to 8, S = 500          } "neither S nor I is indicative of the final structure"
    size        S = 1,000 to 8,000           }
    hidden      residual output with smaller first weights, or a price of activity that grows with l: is there one
                hidden layer, as in the paper's figure 4? S = 500, then the paper's S
    phase       weight x activity over powers of ten, residual output, S = 500: neurons, depth, accuracy

Each finished run is a row of docs/results/rows/spheres.csv, for every study that asks for it; rows that are there are
not computed again, and `--most` stops after so many new ones. `--table` prints means and spreads of what is there and
trains nothing. Two shells in 10 dimensions, 4,000 training samples; 2,000 others are the validation and 2,000 more the
test set. Penalties act as subgradients, as in the paper. Neurons that stay silent for a whole epoch leave
(urn.compaction), and those silent at one l are left out at this l until the next tenth epoch.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace

import torch
from result_rows import study
from torch import Tensor

from nesa.datasets.registry import load
from urn.compaction import ActivityTracker
from urn.layout import Layout
from urn.measures.activity import Activity
from urn.measures.structure import layer_widths, levels, measure, proof, readout_depth
from urn.mlp_conversion import extract
from urn.network import URN
from urn.optim import Proximal
from urn.penalties import Penalty
from urn.surgery import keep_only

D, TRAIN, TEST = 10, 4000, 4000  # the test half of the data is validation and test, 2,000 each
PORT = "shells"
RENEW = 10  # epochs: all l of all neurons left are computed again, in case one that was silent at some l no longer is


@dataclass(frozen=True)
class Setting:
    """Which run a row is. Penalties: c_W and c_N as in the paper's eq 5, summed over the batch or averaged; `literal`
    charges the activity of all neurons at all l >= 1, as eq 5 does, and not that of hidden ones at l < I alone.
    `inputs_receive`: input neurons are ordinary neurons after l = 0, as in the paper. Shell s lies from
    inner + s * spacing to that + thickness; all samples are scaled to unit variance. gain: factor on the He-normal
    first weights. growth: activity costs c_N * l ** growth at l; the paper has neither."""

    rule: str = "plain"
    S: int = 5000
    I: int = 4
    weight: float = 5e-7
    activity: float = 2e-5
    reduction: str = "sum"
    batch: int = 128
    output: str = "linear"
    literal: bool = False
    inputs_receive: bool = False
    inner: float = 1.0
    spacing: float = 2.0
    thickness: float = 0.5
    gain: float = 1.0
    growth: float = 0.0
    lr: float = 7e-4
    epochs: int = 200
    seed: int = 0


@dataclass(frozen=True)
class Data:
    """x (n, D) and y (n,) for training, validation and test."""

    x: Tensor
    y: Tensor
    val_x: Tensor
    val_y: Tensor
    test_x: Tensor
    test_y: Tensor


def make_data(s: Setting) -> Data:
    params = {"dimension": D, "shells": 2, "train": TRAIN, "test": TEST}
    shells = {"inner": s.inner, "spacing": s.spacing, "thickness": s.thickness}
    found = load("spheres", params | shells, size=(D,), seed=s.seed)
    x, rest = torch.tensor(found.train_x), torch.tensor(found.test_x)
    mean, std, half = x.mean(), x.std(), TEST // 2
    x, rest, y = (x - mean) / std, (rest - mean) / std, torch.tensor(found.test_y)
    return Data(x, torch.tensor(found.train_y), rest[:half], y[:half], rest[half:], y[half:])


def train(s: Setting, data: Data, compact: bool = True) -> tuple[URN, list[int]]:
    """The network after the last epoch, all of its neurons computed, and those in its working set after each epoch.

    compact: neurons that were silent for an epoch are dropped, and those that were silent at some l are not computed
    there until the sets are made again, every RENEW epochs."""
    torch.manual_seed(s.seed)
    urn = URN(Layout.flat(s.S, D, {PORT: 2}), s.I, s.rule, s.output, gain=s.gain)
    if not s.inputs_receive:
        urn.W.data[urn.layout.inputs] = 0
        frozen = torch.zeros(urn.S, dtype=torch.bool).index_fill(0, urn.layout.inputs, True)
        urn.set_parameters(urn.layout, urn.W.data, urn.b.data, frozen)
    penalty = Penalty("subgradient", s.weight, s.activity, s.reduction, s.growth, literal=s.literal, ports=s.literal)
    optimizer = Proximal(urn, "adam", s.lr, penalty=penalty)
    urn.reuse_gradient_memory = True
    generator, left = torch.Generator().manual_seed(s.seed), []
    for epoch in range(s.epochs):
        tracker = urn.tracker = ActivityTracker(urn) if compact else None
        for pick in torch.randperm(len(data.x), generator=generator).split(s.batch):
            optimizer.zero_grad()
            done = urn.training_pass(data.x[pick], PORT, penalty)
            (torch.nn.functional.cross_entropy(done.logits, data.y[pick]) + done.activity).backward()
            optimizer.step()
        if tracker is not None:
            keep = tracker.active()
            keep[urn.layout.inputs] = keep[urn.layout.ports[PORT]] = True
            if not bool(keep.all()):
                keep_only(urn, keep.nonzero().flatten(), optimizer)
            urn.set_inactive(None if (epoch + 1) % RENEW == 0 else ~tracker.fired)  # keep_only has shrunk it, too
        left.append(len(urn.layout.hidden))
    urn.set_inactive(None)
    return urn, left


@torch.no_grad()
def describe(urn: URN, data: Data) -> dict:
    """What emerged, on test data and in float64, where what rounding does is far below every tolerance.

    A hidden neuron is active when it exceeds 1e-6 of the largest activation on some sample at some l = 1..I-1, as
    what it does at l = I is read by nobody; `active_1e3` asks for 1e-3 instead."""
    urn = urn.double()
    x, port, hidden = data.test_x.double(), urn.layout.ports[PORT], urn.layout.hidden
    states = urn.states(x, PORT)
    activity, loud = Activity().update(states), Activity(1e-3).update(states)
    logits, level = states[-1][:, port], levels(activity, urn.layout.inputs)
    fires = torch.zeros(urn.S, dtype=torch.bool)
    fires[hidden] = activity.active[1 : urn.iterations].any(0)[hidden]
    varying = torch.zeros(urn.S, dtype=torch.bool)
    varying[hidden] = activity.varies[1 : urn.iterations].any(0)[hidden]
    peak = activity.mean[1 : max(urn.iterations, 2)].argmax(0) + 1  # where a neuron is most active
    right = [float((N[:, port].argmax(1) == data.test_y).double().mean()) for N in states[1:]]
    changed = cut(urn, (level >= 2) & varying)(x, PORT).argmax(1) != logits.argmax(1)
    chain, named = proof(urn, x, PORT), proof(urn, x, PORT, skips=None)
    module = extract(urn, PORT, x)
    W, threshold = sparsest(urn, data.val_x.double())
    pruned = urn.subnetwork(torch.arange(urn.S))
    pruned.set_parameters(urn.layout, W, urn.b.data)
    clean = proof(pruned, x, PORT)
    found = measure(
        W, Activity().update(pruned.states(x, PORT)), urn.layout, PORT, residual_output=urn.update.residual_output
    )
    return {
        "accuracy_val": float((urn(data.val_x.double(), PORT).argmax(1) == data.val_y).double().mean()),
        "accuracy_test": right[-1],
        "active": int(fires.sum()),
        "active_with_ports": int(fires.sum()) + D + len(port),
        "active_1e3": int((loud.active[1 : urn.iterations].any(0) & fires).sum()),
        "constant": int((fires & ~varying).sum()),
        "widths": layer_widths(level, varying, max(urn.iterations - 1, 1)),
        "widths_peak": tuple(int((peak[varying] == level).sum()) for level in range(1, max(urn.iterations, 2))),
        "readout": readout_depth(right, 0.0),
        "readout_1pt": readout_depth(right, 0.01),
        "cut_changes": int(changed.sum()),
        "chain_kept": chain.kept,
        "chain_same": chain.same_predictions,
        "chain_difference": chain.max_difference,
        "named": " ".join(f"{a}>{b}" for a, b in named.named),
        "named_kept": named.kept,
        "named_same": named.same_predictions,
        "named_difference": named.max_difference,
        "nonzero": named.nonzero,
        "extract_difference": float((module(x) - logits).abs().max()),
        "threshold": threshold,
        "pruned_same": int((pruned(x, PORT).argmax(1) == logits.argmax(1)).sum()),
        "pruned_chain_kept": clean.kept,
        "pruned_chain_same": clean.same_predictions,
        "pruned_synapses": found.live_synapses,
        "pruned_active": found.active,
        "pruned_widths": found.widths,
        "graph_depth": found.depth_graph,
        "mean_depth": found.depth_mean,
        "skip_share": found.skip_share,
        "on_cycles": sum(found.recurrent),
        "path_lengths": found.path_lengths,
    }


def cut(urn: URN, silenced: Tensor) -> URN:
    """A copy in which the neurons `silenced` (S,) send nothing."""
    copy = urn.subnetwork(torch.arange(urn.S))
    W = urn.W.data.clone()
    W[:, silenced] = 0
    copy.set_parameters(urn.layout, W, urn.b.data)
    return copy


@torch.no_grad()
def sparsest(urn: URN, x: Tensor) -> tuple[Tensor, float]:
    """W without its smallest entries, as many as leave every prediction on x what it is (bisection over |W|), and
    the threshold. Subgradients leave no exact zeros, only noise of the size of the learning rate."""
    want, low, high = urn(x, PORT).argmax(1), 0.0, float(urn.W.abs().max())
    copy = urn.subnetwork(torch.arange(urn.S))
    for _ in range(20):
        middle = (low + high) / 2
        copy.set_parameters(urn.layout, urn.W.data * (urn.W.data.abs() > middle), urn.b.data)
        same = bool((copy(x, PORT).argmax(1) == want).all())
        low, high = (middle, high) if same else (low, middle)
    return urn.W.data * (urn.W.data.abs() > low), low


def row(s: Setting) -> dict:
    began = time.perf_counter()
    data = make_data(s)
    urn, left = train(s, data)
    seconds = time.perf_counter() - began
    early = left[-1 - s.epochs // 10]  # a tenth of the training before its end: is the count still falling?
    return describe(urn, data) | {"left_at_90": early, "left_at_100": left[-1], "seconds": seconds}


# The studies: what to run, most important first -------------------------------------------------------------------

CHOSEN = Setting()
TINY = replace(CHOSEN, S=500)
SMALL_START = replace(TINY, rule="residual_output", weight=5e-6, gain=0.03)
SWEPT = (2, 8, 3, 6)  # other I than the paper's 4


def choice() -> Iterable[Setting]:
    yield TINY
    yield replace(TINY, rule="residual_output", inputs_receive=True, literal=True, output="relu")
    yield replace(TINY, rule="residual_output", literal=True)
    for inner, spacing, thickness in ((1.0, 1.0, 0.5), (1.0, 2.0, 0.0), (1.0, 1.0, 0.0)):
        yield replace(TINY, inner=inner, spacing=spacing, thickness=thickness)
    yield replace(TINY, batch=512)
    yield replace(TINY, inputs_receive=True)
    yield replace(TINY, inputs_receive=True, literal=True)
    yield replace(TINY, output="relu")
    yield replace(TINY, batch=512, reduction="mean", activity=2e-5 * 128)  # the same price of activity, other steps
    yield replace(TINY, batch=32)
    yield replace(TINY, reduction="mean")


def small() -> Iterable[Setting]:
    for seed in range(5):
        for rule in ("plain", "residual_output", "residual_input")[: 3 if seed == 0 else 2]:
            yield replace(TINY, rule=rule, seed=seed)


def paper() -> Iterable[Setting]:
    for s in small():
        yield replace(s, S=5000)


def iterations() -> Iterable[Setting]:
    for I in (4, *SWEPT):
        for rule in ("residual_output", "plain"):
            yield replace(TINY, rule=rule, I=I)


def size() -> Iterable[Setting]:
    for S in (1000, 2000, 4000, 8000):
        yield replace(CHOSEN, S=S)


def phase() -> Iterable[Setting]:
    for weight in (5e-7, 5e-5, 5e-6, 5e-8):
        for activity in (2e-5, 2e-3, 2e-4, 2e-6):
            yield replace(TINY, rule="residual_output", weight=weight, activity=activity)


def hidden() -> Iterable[Setting]:
    residual = replace(TINY, rule="residual_output")
    for weight in (5e-7, 5e-6):
        for gain in (0.03, 0.1, 0.3, 1.0):
            yield replace(residual, weight=weight, gain=gain)
    for growth in (1.0, 2.0, 4.0):
        yield replace(residual, growth=growth)
    for seed in range(5):
        yield replace(SMALL_START, S=5000, gain=0.1, seed=seed)
    for seed in range(1, 5):
        yield replace(SMALL_START, seed=seed)
    for I in SWEPT:
        yield replace(SMALL_START, I=I)
    yield replace(residual, weight=5e-6, S=5000)
    yield replace(residual, gain=0.1, S=5000)
    for gain in (0.3, 0.1):
        yield replace(TINY, gain=gain)


STUDIES = {f.__name__: f for f in (choice, small, paper, iterations, size, phase, hidden)}


def table(rows: list[dict[str, str]]) -> None:
    """Mean and standard deviation over seeds of what counts, one line for each setting."""
    groups: dict[tuple, list[dict[str, str]]] = {}
    keys = [name for name in asdict(CHOSEN) if name != "seed" and len({r[name] for r in rows}) > 1]
    for r in rows:
        groups.setdefault(tuple(r[name] for name in keys), []).append(r)
    for values, group in groups.items():

        def spread(numbers: Iterable[str]) -> str:
            found = [float(n) for n in numbers if n]
            return f"{statistics.mean(found):.4g}" + (f" ± {statistics.stdev(found):.2g}" if len(found) > 1 else "")

        widths = [r["widths"].split() for r in group]
        shown = {name: spread(r[name] for r in group) for name in ("accuracy_val", "accuracy_test", "active")}
        shown["widths"] = " / ".join(spread(column) for column in zip(*widths, strict=True))
        for name in ("readout", "cut_changes", "graph_depth", "left_at_90", "left_at_100", "seconds"):
            shown[name] = spread(r[name] for r in group)
        print(dict(zip(keys, values, strict=True)), f"{len(group)} seed(s)")
        print("   ", ", ".join(f"{name} {value}" for name, value in shown.items()))


if __name__ == "__main__":
    study("spheres", __doc__, STUDIES, row, table)
