"""Grey CIFAR-10 on a grid with a price on synaptic length (the paper's section 3, figure 6), at a small scale.

    NESA_DATA=DIR PYTHONPATH=. python studies/geometry.py STUDY [--most N] [--table]

    prices      what a unit of length, weight and activity costs, to be judged on validation; also the phase over length
    main        with and without the length term, 3 seeds
    controls    what could refute locality: pixels permuted (the gain must vanish), distances shuffled (locality in the
                true metric must vanish), Gaussian images with each class's mean and covariance, no length term
    depth       I = 2, 3, 4, 6: is the deepest readout that is allowed used?
    anchors     a linear model, an MLP of equal live size and a locally connected net, same images, batches and epochs;
                the last two on all images and on 32 x 32 pixels as well
    converged   49,000 images and 60 epochs, until training accuracy is near 100 % without the length term: with and
                without it, 3 seeds; weights that are dearer instead; the anchors
    permuted    the same with pixels permuted: what of the gain is geometry?
    large       the same on 32 x 32 x 4 neurons, one for each pixel of a plane, and 30 epochs; the price of length is
                halved, as lengths double
    square      the same with lengths priced by their square, which spares near synapses and cuts far ones
    local       the same with activity a tenth as dear, so that more neurons live: prices, then with and without the
                length term and with weights that are dearer instead, 3 seeds; the three controls
    fair        what else both sides of `local` could have been given: other learning rates; without the term fewer
                epochs and other prices of weights and activity; for the controls cheaper lengths; the anchors
    larger      44 x 44 x 6 neurons, with and without the length term, 3 seeds
    largest     the same with 52 x 52 x 6 neurons, which two cores train in half an hour
    full        the paper's size, 60 x 60 x 6 neurons, with and without the length term, on images of 60 x 60

Scale: 16 x 16 x 4 neurons and the output port at the centre of the last plane, I = 4, residual output, linear outputs,
input neurons only send; 10,000 training images and 12 epochs where it does not say otherwise, 1,000 for validation, the
10,000 test images; no augmentation, which would tell the anchors and the permuted control about geometry. Penalties act
as proximal steps in Adam's metric, so that a synapse that is gone is exactly zero. Each finished run is a row of
docs/results/rows/geometry.csv, for every study that asks for it.
"""

from __future__ import annotations

import math
import statistics
import sys
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace

import torch
from reference_nets import CLASSES, anchor, synapses
from result_rows import study
from spheres import Data
from study_images import make_data
from torch import Tensor, nn

from urn.compaction import ActivityTracker, compact, set_active_sets, update_full_pass
from urn.layout import Distance, Layout
from urn.measures.activity import Activity
from urn.measures.receptive_fields import fields
from urn.measures.structure import locality, measure, proof, shares_by_plane
from urn.mlp_conversion import extract
from urn.network import URN
from urn.optim import Proximal
from urn.penalties import Penalty

PROVED = 2000
PORT = "cifar10"


@dataclass(frozen=True)
class Setting:
    """Which run a row is. model: urn, linear, mlp, local. images: photos, permuted (one order of pixels for all
    images) or gaussian. metric: true, or shuffled (neurons trade their places for the length term). hidden: of the
    MLP. radius: of the locally connected net's neighbourhoods, in neurons. window: steps after which silent neurons are
    dropped, with active sets at each iteration; 0: after each epoch, without. warmup: steps on which the rate rises."""

    model: str = "urn"
    images: str = "photos"
    metric: str = "true"
    X: int = 16
    Z: int = 4
    I: int = 4
    train: int = 10_000
    weight: float = 1e-5
    activity: float = 1e-3
    length: float = 0.0
    beta: float = 16.0
    gamma: float = 1.0
    batch: int = 128
    lr: float = 1e-3
    epochs: int = 12
    hidden: int = 0
    radius: int = 0
    window: int = 0
    warmup: int = 0
    seed: int = 0


# Models: trained on the same batches for as many steps, at one rate that falls along half a cosine -------------------


def train_urn(s: Setting, data: Data) -> tuple[URN, Layout]:
    """The network, and its layout with the true places of its neurons."""
    torch.manual_seed(s.seed)
    true = Layout.grid((s.X, s.X, s.Z), 1, {PORT: CLASSES})
    layout = true
    if s.metric == "shuffled":
        layout = replace(true, positions=true.positions[torch.randperm(true.S)])
    urn = URN(layout, s.I, "residual_output", "linear")
    W = urn.W.data
    W[layout.inputs] = 0
    urn.set_parameters(layout, W, urn.b.data, torch.zeros(urn.S, dtype=torch.bool).index_fill(0, layout.inputs, True))
    penalty = Penalty("prox_adam", s.weight, s.activity, "mean", synapse_length=s.length, beta=s.beta, gamma=s.gamma)
    optimizer = Proximal(urn, "adam", s.lr, penalty=penalty)
    urn.reuse_gradient_memory = True
    urn.tracker = ActivityTracker(urn)
    began, total = time.perf_counter(), 0.0
    for step, (pick, first) in enumerate(_batches(s, len(data.x), optimizer)):
        if step and (step % s.window == 0 if s.window else first):
            true = true.take((set_active_sets if s.window else compact)(urn, optimizer))
            urn.tracker = ActivityTracker(urn)
            took, mean = time.perf_counter() - began, total / (s.window or len(data.x) // s.batch)
            print(f"step {step}: {len(true.hidden)} neurons, loss {mean:.3f}, {took:.0f} s", file=sys.stderr)
            total = 0.0
        if s.window:
            update_full_pass(urn, optimizer, step)
        optimizer.zero_grad()
        done = urn.training_pass(data.x[pick], PORT, penalty)
        loss = nn.functional.cross_entropy(done.logits, data.y[pick])
        (loss + done.activity).backward()
        optimizer.step()
        total += float(loss.detach())
    optimizer.apply_deferred()
    urn.set_inactive(None)
    return urn, true


def train_anchor(s: Setting, data: Data) -> tuple[nn.Module, float]:
    """The anchor after the last epoch and, by validation after each epoch, the best one's accuracy on test data."""
    torch.manual_seed(s.seed)
    model = anchor(s.model, s.X, s.Z - 1, s.hidden, s.radius)
    optimizer = torch.optim.Adam(model.parameters(), lr=s.lr)
    best = (-1.0, 0.0)
    for pick, first in _batches(s, len(data.x), optimizer):
        if first:
            best = max(best, (_accuracy(model, data.val_x, data.val_y), _accuracy(model, data.test_x, data.test_y)))
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(data.x[pick]), data.y[pick]).backward()
        optimizer.step()
    return model, max(best, (_accuracy(model, data.val_x, data.val_y), _accuracy(model, data.test_x, data.test_y)))[1]


def _batches(s: Setting, n: int, optimizer: torch.optim.Optimizer) -> Iterable[tuple[Tensor, bool]]:
    """(B,) indices, and whether an epoch begins with them; sets the rate on the way."""
    generator, steps = torch.Generator().manual_seed(s.seed), s.epochs * (n // s.batch)
    for epoch in range(s.epochs):
        order = torch.randperm(n, generator=generator)
        for k in range(n // s.batch):
            done = epoch * (n // s.batch) + k
            rise = min(1.0, (done + 1) / max(1, s.warmup))
            optimizer.param_groups[0]["lr"] = rise * s.lr * (1 + math.cos(math.pi * done / steps)) / 2
            yield order[k * s.batch : (k + 1) * s.batch], k == 0


@torch.no_grad()
def _accuracy(model: nn.Module, x: Tensor, y: Tensor) -> float:
    return sum(int((model(a).argmax(1) == b).sum()) for a, b in zip(x.split(1000), y.split(1000), strict=True)) / len(y)


# Measures -----------------------------------------------------------------------------------------------------------


@torch.no_grad()
def describe(urn: URN, true: Layout, data: Data, s: Setting) -> dict:
    """Activity on validation data; accuracies of all readouts, and the readout depth by them, on test data; the proof
    on 2,000 of them in float64; lengths in the true metric."""
    activity, right = Activity(), [0.0] * s.I
    for x, y in zip(data.test_x.split(1000), data.test_y.split(1000), strict=True):
        for level, logits in enumerate(urn.readouts(x, PORT)):
            right[level] += float((logits.argmax(1) == y).sum()) / len(data.test_y)
    activity.update(urn.states(data.val_x, PORT))
    generator, metric = torch.Generator().manual_seed(s.seed), Distance(s.beta)
    found = measure(
        urn.W.data, activity, true, PORT, residual_output=True, scores=right, margin=0.01, metric=metric,
        generator=generator,
    )  # fmt: skip
    from_input = torch.zeros_like(urn.W)  # the receptive fields of hidden neurons
    from_input[:, true.inputs] = urn.W.data[:, true.inputs]
    from_input[true.ports[PORT]] = 0
    near = locality(from_input, true.positions, metric, generator)
    read = fields(from_input, true.positions, true.inputs, generator)
    between = shares_by_plane(urn.W.data[true.hidden][:, true.hidden], true.positions[true.hidden])  # hidden neurons
    assert found.locality is not None and found.shares_by_plane is not None
    accuracy = {
        "accuracy_val": _accuracy(urn, data.val_x, data.val_y),
        "accuracy_test": right[-1],
        "accuracy_best": None,
        "accuracy_train": _accuracy(urn, data.x, data.y),
    }
    x = data.test_x[:PROVED].double()
    urn = urn.double()
    whole, chain, module = proof(urn, x, PORT, skips=None), proof(urn, x, PORT), extract(urn, PORT)
    return accuracy | {
        "neurons": found.active,
        "synapses": found.live_synapses,
        "forward": found.shares_by_plane.feedforward,
        "lateral": found.shares_by_plane.lateral,
        "backward": found.shares_by_plane.feedback,
        "hidden_forward": between.feedforward,
        "hidden_lateral": between.lateral,
        "hidden_backward": between.feedback,
        "mean_length": found.locality.length,
        "shuffled_length": found.locality.shuffled,
        "locality": found.locality.ratio,
        "fields": near.ratio,
        "field_spread": read.ratio,
        "field_map": read.map,
        "readout": found.depth_readout,
        "readout_scores": tuple(right),
        "graph_depth": found.depth_graph,
        "mean_depth": found.depth_mean,
        "widths": found.widths,
        "skip_share": found.skip_share,
        "on_cycles": sum(found.recurrent),
        "chain_kept": chain.kept,
        "chain_same": chain.same_predictions,
        "named_kept": whole.kept,
        "named_same": whole.same_predictions,
        "named_difference": whole.max_difference,
        "extract_difference": float((urn(x, PORT) - module(x)).abs().max()),
        "nonzero": whole.nonzero,
    }


MEASURES = (  # the columns that `describe` fills
    "accuracy_val", "accuracy_test", "accuracy_best", "accuracy_train", "neurons", "synapses", "forward", "lateral",
    "backward", "hidden_forward", "hidden_lateral", "hidden_backward", "mean_length", "shuffled_length", "locality",
    "fields", "field_spread", "field_map", "readout", "readout_scores", "graph_depth", "mean_depth", "widths",
    "skip_share", "on_cycles", "chain_kept", "chain_same", "named_kept", "named_same", "named_difference",
    "extract_difference", "nonzero",
)  # fmt: skip


def row(s: Setting) -> dict:
    data, began = make_data(s.images, s.X, s.train, s.seed), time.perf_counter()
    if s.model == "urn":
        urn, true = train_urn(s, data)
        seconds = time.perf_counter() - began
        return describe(urn, true, data, s) | {"seconds": seconds}
    model, best = train_anchor(s, data)
    seconds = time.perf_counter() - began
    found = dict.fromkeys(MEASURES) | {
        "accuracy_val": _accuracy(model, data.val_x, data.val_y),
        "accuracy_test": _accuracy(model, data.test_x, data.test_y),
        "accuracy_best": best,
        "accuracy_train": _accuracy(model, data.x, data.y),
        "neurons": {"linear": 0, "mlp": s.hidden, "local": (s.Z - 1) * s.X**2}[s.model],
        "synapses": synapses(model),
    }
    return found | {"seconds": seconds}


# The studies --------------------------------------------------------------------------------------------------------

WITHOUT = Setting()
WITH = Setting(length=3e-5)


def coefficients() -> Iterable[Setting]:
    for length in (1e-5, 3e-5, 1e-4, 3e-6):
        yield replace(WITH, length=length)
    for weight in (1e-5, 3e-5):
        yield replace(WITHOUT, weight=weight)
    yield replace(WITH, beta=1.0)
    for weight in (1e-4, 3e-4):
        yield replace(WITHOUT, weight=weight)
    yield replace(WITH, length=1e-4, beta=1.0)


def main() -> Iterable[Setting]:
    return pairs(WITH)


def controls() -> Iterable[Setting]:
    for seed in range(3):
        yield replace(WITH, images="permuted", seed=seed)
        yield replace(WITH, metric="shuffled", seed=seed)
        yield replace(WITHOUT, images="permuted", seed=seed)
        yield replace(WITHOUT, images="gaussian", seed=seed)


def depth() -> Iterable[Setting]:
    for start in (WITH, WITHOUT):
        for seed in range(3):
            for I in (2, 3, 4, 6):
                yield replace(start, I=I, seed=seed)


def anchors() -> Iterable[Setting]:
    for seed in range(3):
        yield replace(bare(WITHOUT), model="linear", seed=seed)
        yield from nets(replace(WITHOUT, seed=seed))
    for X in (16, 32):
        yield from nets(replace(WITHOUT, X=X, train=FULL.train))


def converged() -> Iterable[Setting]:
    for seed in range(3):
        yield from contrast(replace(FULL, seed=seed))
    yield from (replace(FULL, length=3e-5), replace(FULL, weight=3e-4), replace(FULL, length=3e-6))
    yield from nets(FULL)


def permuted() -> Iterable[Setting]:
    for seed in range(3):
        with_length, neither, _ = contrast(replace(FULL, images="permuted", seed=seed))
        yield from (with_length, neither)


def large() -> Iterable[Setting]:
    for seed in range(3):
        yield from contrast(replace(LARGE, seed=seed))
    yield replace(LARGE, weight=1e-4)
    yield from nets(LARGE)
    yield from contrast(replace(LARGE, window=100))[:2]


def square() -> Iterable[Setting]:
    for length in (3e-7, 1e-7, 1e-6, 3e-6, 1e-5):
        yield replace(LARGE, window=100, length=length, gamma=2.0)


def local() -> Iterable[Setting]:
    for seed in range(3):
        with_length, neither, dearer = contrast(replace(LOCAL, seed=seed))
        yield from (with_length, neither)
        yield from (replace(with_length, images="permuted"), replace(neither, images="permuted"))
        yield from (dearer, replace(with_length, metric="shuffled"))
    for seed in range(3):
        yield replace(without(LOCAL), images="gaussian", seed=seed)
    for length in (3e-6, 3e-7, 1e-5):
        yield replace(LOCAL, length=length)
    yield replace(without(LOCAL), weight=1e-4)
    yield from (replace(LOCAL, beta=4.0), replace(LOCAL, activity=1e-5), replace(LOCAL, activity=3e-4))
    yield replace(LOCAL, batch=64, warmup=100)


def fair() -> Iterable[Setting]:
    for seed in range(3):
        s, neither = replace(LOCAL, seed=seed), replace(without(LOCAL), seed=seed)
        yield from (third(s), third(replace(s, images="permuted")), third(replace(s, metric="shuffled")))
        yield replace(neither, epochs=10)
        yield from nets(neither, hidden=LIVE_LOCAL)
    s, neither = LOCAL, without(LOCAL)
    yield replace(bare(s), model="linear")
    for lr, warmup in ((5e-4, 0), (2e-3, 200)):
        yield from (replace(neither, lr=lr, warmup=warmup), replace(s, lr=lr, warmup=warmup))
    yield from (replace(neither, lr=3e-4), replace(neither, weight=1e-4), replace(neither, activity=3e-4))
    yield from (replace(neither, epochs=6), replace(neither, epochs=10, weight=3e-5))
    yield replace(s, images="permuted", length=1e-7)


def larger() -> Iterable[Setting]:
    return pairs(LARGER)


def largest() -> Iterable[Setting]:
    return pairs(LARGEST)


def full() -> Iterable[Setting]:
    return pairs(PAPER)


def pairs(s: Setting) -> Iterable[Setting]:
    """s with and without the length term, 3 seeds."""
    for seed in range(3):
        yield replace(s, seed=seed)
        yield replace(without(s), seed=seed)


def third(s: Setting) -> Setting:
    """s at a third of the price of length in `local`, which suits permuted pixels best."""
    return replace(s, length=3e-7)


def without(s: Setting) -> Setting:
    return replace(s, length=0.0, gamma=1.0)


FULL = replace(WITHOUT, train=49_000, epochs=60)
LARGE = replace(FULL, X=32, epochs=30)
LOCAL = replace(LARGE, activity=1e-4, length=1e-6, gamma=2.0, window=100)
LARGER = replace(LOCAL, X=44, Z=6, length=5e-7, warmup=100)  # squares of lengths double; W wants a warm-up
LARGEST = replace(LARGER, X=52, length=4e-7, warmup=200)
PAPER = replace(LARGER, X=60, length=3e-7, window=50, warmup=300)
DEAR = {16: (1e-5, 1e-4), 32: (5e-6, 3e-5)}  # by X, prices of length and weight, by validation images of seed 0
LIVE = 741  # hidden neurons of the MLP: what is live with the length term (seed 0)
LIVE_LOCAL = 374  # the same of `local`, the mean of three seeds


def contrast(s: Setting) -> tuple[Setting, Setting, Setting]:
    """With the length term, without it, and with weights that are dearer instead."""
    (length, weight), neither = DEAR[s.X], without(s)
    return replace(s, length=s.length or length), neither, replace(neither, weight=weight)


def nets(s: Setting, hidden: int = LIVE) -> tuple[Setting, Setting]:
    """The perceptron and the locally connected net on the images, batches and epochs of s."""
    return replace(bare(s), model="mlp", hidden=hidden), replace(bare(s), model="local", radius=2)


def bare(s: Setting) -> Setting:
    """What anchors have of s: no prices, and nothing that only a URN knows."""
    return replace(without(s), weight=0.0, activity=0.0, I=1, window=0, warmup=0)


ON_SMALL_GRIDS = (coefficients, main, controls, depth, anchors, converged, permuted)
ON_LARGE_GRIDS = (large, square, local, fair, larger, largest, full)
STUDIES = {f.__name__: f for f in ON_SMALL_GRIDS + ON_LARGE_GRIDS}


def table(rows: list[dict[str, str]]) -> None:
    """Mean and standard deviation over seeds, one line for each setting."""
    groups: dict[tuple, list[dict[str, str]]] = {}
    keys = [name for name in asdict(WITH) if name != "seed" and len({r[name] for r in rows}) > 1]
    for r in rows:
        groups.setdefault(tuple(r[name] for name in keys), []).append(r)
    for values, group in groups.items():
        print(dict(zip(keys, values, strict=True)), f"{len(group)} seed(s)")
        shown = []
        for name in (*MEASURES, "seconds"):
            found = [float(r[name]) for r in group if r[name] and " " not in r[name]]
            if found:
                spread = f" ± {statistics.stdev(found):.2g}" if len(found) > 1 else ""
                shown.append(f"{name} {statistics.mean(found):.4g}{spread}")
        print("   ", ", ".join(shown))


if __name__ == "__main__":
    study("geometry", __doc__, STUDIES, row, table)
