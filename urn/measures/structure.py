"""Measure the structure of a network: depth, widths, direction, skips, recurrence, locality, reuse.

Each measure is a pure function of W (S, S) or its `Synapses`, of the levels (S,) and of what neurons do on data
(`Activity`), and has the same value for one feedforward net under each update rule that computes it exactly. `measure`
takes all of one task at once. The names of urn.measures.activity, graph, reuse and block_proof can be imported from
here as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from urn.layout import Distance, Layout
from urn.measures.activity import NEVER, TOLERANCE, Activity, active, layer_widths, levels, varies
from urn.measures.block_proof import Block, Proof, keep_blocks, named_blocks, place_port, proof
from urn.measures.graph import Synapses, graph_depth, live, on_cycles, path_lengths, path_levels, recurrence, unsettled
from urn.measures.reuse import Reuse, cut_reuse, reuse

__all__ = [
    "NEVER",
    "TOLERANCE",
    "Activity",
    "Block",
    "Locality",
    "Proof",
    "Reuse",
    "Shares",
    "Structure",
    "Synapses",
    "active",
    "cut_reuse",
    "graph_depth",
    "keep_blocks",
    "layer_widths",
    "levels",
    "live",
    "locality",
    "mean_depth",
    "measure",
    "named_blocks",
    "on_cycles",
    "path_lengths",
    "path_levels",
    "place_port",
    "proof",
    "readout_depth",
    "recurrence",
    "reuse",
    "shares",
    "shares_by_plane",
    "skip_share",
    "unsettled",
    "varies",
]


class Shares(NamedTuple):
    """Shares of synapse mass sum |W|; they add up to 1, or are all 0 where there is no synapse."""

    feedforward: float
    lateral: float
    feedback: float


class Locality(NamedTuple):
    """|W|-weighted mean length of a synapse, the same with senders shuffled within their planes, and the ratio of
    the two: 1 means no locality, NaN that there is no synapse. Lengths in units of the grid's spacing."""

    length: float
    shuffled: float
    ratio: float


def readout_depth(scores: Sequence[float], margin: float) -> int:
    """Find the smallest L such that reading the output after L iterations loses at most `margin` against after I.

    (Paper: "cut off further changes to the output after iteration L".) scores: the score read after l = 1..I, larger
    is better, in the units of margin. Raises ValueError for no scores or a negative margin."""
    if not scores or margin < 0:
        raise ValueError(f"readout depth needs a score for each iteration and a margin >= 0, not {scores}, {margin}")
    enough = scores[-1] - margin - 1e-12  # 0.90 - 0.89 is a little more than 0.01 in floating point
    return 1 + next(index for index, score in enumerate(scores) if score >= enough)


def mean_depth(W: Tensor | Synapses, strength: Tensor, levels: Tensor, port: Tensor) -> float:
    """Compute the mean level of the output port's senders, plus one, weighted by what they send.

    sum_j |W_oj| a_j (level_j + 1) / sum_j |W_oj| a_j over the senders j of the port (D_out,), a_j the mean activation
    `Activity.strength` (S,). Constant senders carry no data and do not count; 0 when there is no other."""
    edges = Synapses.of(W, receivers=port)
    edges = edges.select(levels[edges.sender] >= 0)
    flow = edges.mass * strength[edges.sender]
    total = float(flow.sum())
    return float((flow * (levels[edges.sender] + 1)).sum()) / total if total else 0.0


def shares(W: Tensor | Synapses, levels: Tensor) -> Shares:
    """Measure the shares of mass that go up, stay within and go down the levels (S,).

    Synapses at a neuron without a level do not count. Give the output port the level of `place_port`."""
    edges = _levelled(W, levels)
    return _by_direction(levels[edges.receiver] - levels[edges.sender], edges.mass)


def shares_by_plane(W: Tensor | Synapses, positions: Tensor) -> Shares:
    """Measure the shares of mass that go to larger, equal and smaller z; positions (S, 3).

    Red, black and green in the paper's figure 6."""
    edges, z = Synapses.of(W), positions[:, 2].cpu()
    return _by_direction(z[edges.receiver] - z[edges.sender], edges.mass)


def skip_share(W: Tensor | Synapses, levels: Tensor) -> float:
    """Measure the share of mass in synapses that jump forward over at least one level, of all between neurons with one.

    Give it `path_levels`. By the first l at which a neuron varies there is hardly a skip, whatever the net: what a
    neuron at level k sends makes its receiver vary at k + 1, so the receiver of a skip has level k + 1 and the path
    that the skip cuts short counts as a lateral synapse."""
    edges = _levelled(W, levels)
    jumps = levels[edges.receiver] - levels[edges.sender] > 1
    return float(edges.mass[jumps].sum()) / (float(edges.mass.sum()) or 1.0)


def locality(
    W: Tensor | Synapses, positions: Tensor, metric: Distance, generator: torch.Generator, draws: int = 10
) -> Locality:
    """Measure whether synapses are short for where their ends are.

    positions (S, 3); lengths in `metric` with gamma = 1 (paper eq 8). The null shuffles, `draws` times, the columns of
    W that send anything among those of the same plane, so that neither the distances between planes nor the weights nor
    the number of synapses of any neuron change. A neuron's synapse to itself has no length and is left out."""
    edges = Synapses.of(W)
    edges = edges.select(edges.receiver != edges.sender)
    if not len(edges):
        return Locality(float("nan"), float("nan"), float("nan"))
    positions = positions.cpu().double()
    place = positions * torch.tensor([1.0, 1.0, metric.beta**0.5], dtype=torch.float64)
    senders = edges.sender.unique()
    by_plane = senders[positions[senders, 2].argsort(stable=True)]
    z = positions[by_plane, 2]
    moved = torch.arange(edges.S)

    def mean_length() -> float:
        d = (place[edges.receiver] - place[moved[edges.sender]]).norm(dim=1)
        return float((edges.mass * d).sum() / edges.mass.sum())

    length, shuffled = mean_length(), 0.0
    for _ in range(draws):
        mixed = torch.randperm(len(by_plane), generator=generator)
        mixed = mixed[z[mixed].argsort(stable=True)]  # by plane again, in random order within it
        moved[by_plane] = by_plane[mixed]
        shuffled += mean_length() / draws
    return Locality(length, shuffled, length / shuffled if shuffled else float("nan"))


@dataclass(frozen=True)
class Structure:
    """Every measure of one task's network, on its live graph (of the data) unless said otherwise.

    levels: (S,) the first l at which a neuron varies; path_levels: (S,) the longest path to it (for `skip_share`);
    in both the output port is one above its highest sender. active: hidden neurons that are
    ever active; constant: those of them that never vary. widths: active hidden neurons at level 1..I;
    widths_unsettled: those of them on unsettled cycles. recurrent: sizes of the components with a cycle. synapses:
    non-zero ones among active neurons and the ports; live_synapses: those in the live graph."""

    levels: Tensor
    path_levels: Tensor
    active: int
    constant: int
    widths: tuple[int, ...]
    widths_unsettled: tuple[int, ...]
    depth_readout: int | None
    depth_mean: float
    depth_graph: int
    path_lengths: tuple[float, ...]
    shares: Shares
    skip_share: float
    recurrent: tuple[int, ...]
    synapses: int
    live_synapses: int
    shares_by_plane: Shares | None
    locality: Locality | None


def measure(
    W: Tensor | Synapses,
    activity: Activity,
    layout: Layout,
    port: str,
    *,
    residual_output: bool,
    members: Tensor | None = None,
    scores: Sequence[float] | None = None,
    margin: float = 0.01,
    metric: Distance | None = None,
    generator: torch.Generator | None = None,
) -> Structure:
    """Take all measures of the network that ends in the output port called `port`.

    members: (S,) bool, the hidden neurons that belong to it (all by default); synapses from and to others do not
    count. scores: what `readout_depth` needs, None without. metric, generator: what `locality` needs; without them,
    or where the layout has no grid, the measures of geometry are None."""
    out, inputs, iterations = layout.ports[port], layout.inputs, activity.iterations
    hidden = torch.zeros(layout.S, dtype=torch.bool)
    hidden[layout.hidden] = True
    if members is not None:
        hidden &= members.cpu()
    on = active(activity) & hidden
    inside = on.clone()
    inside[inputs] = inside[out] = True
    edges = Synapses.of(W, inside)
    graph = live(edges, activity.varies, out, residual_output)
    level, by_path = (place_port(of, graph, out) for of in (levels(activity, inputs), path_levels(graph, inputs)))
    gridded = layout.plane is not None
    local = locality(graph, layout.positions, metric, generator) if gridded and metric and generator else None
    return Structure(
        levels=level,
        path_levels=by_path,
        active=int(on.sum()),
        constant=int((on & (level == NEVER)).sum()),
        widths=layer_widths(level, on, iterations),
        widths_unsettled=layer_widths(level, on & unsettled(graph, activity), iterations),
        depth_readout=None if scores is None else readout_depth(scores, margin),
        depth_mean=mean_depth(graph, activity.strength, level, out),
        depth_graph=graph_depth(graph, inputs, out),
        path_lengths=path_lengths(graph, inputs, out, iterations),
        shares=shares(graph, level),
        skip_share=skip_share(graph, by_path),
        recurrent=recurrence(graph),
        synapses=len(edges),
        live_synapses=len(graph),
        shares_by_plane=shares_by_plane(graph, layout.positions) if gridded else None,
        locality=local,
    )


def _levelled(W: Tensor | Synapses, levels: Tensor) -> Synapses:
    edges = Synapses.of(W)
    return edges.select((levels[edges.receiver] >= 0) & (levels[edges.sender] >= 0))


def _by_direction(step: Tensor, mass: Tensor) -> Shares:
    total = float(mass.sum()) or 1.0
    return Shares(*(float(mass[part].sum()) / total for part in (step > 0, step == 0, step < 0)))
