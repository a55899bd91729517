"""Prove that a structure is real: the output stays the same with its blocks of W alone (paper, section 2).

("We manually set all other weights of the network to zero.") A block is all synapses from the neurons of one level to
those of another. A multi-layer perceptron is its blocks l -> l + 1 (paper eq 1); skip connections, lateral and feedback
blocks are kept only when they are named. Synapses from constant neurons (level NEVER, yet active, as a bias is) are
blocks (NEVER, l) and can be named too.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from urn.measures.activity import NEVER, TOLERANCE, Activity, active, levels
from urn.measures.graph import Synapses, live, path_levels
from urn.network import URN


@dataclass(frozen=True)
class Block:
    """The live synapses from level `sender` to level `receiver`. mass: sum |W|. carries_data: False where all that
    they send is constant over the data, as a bias is."""

    sender: int
    receiver: int
    synapses: int
    mass: float
    carries_data: bool

    @property
    def consecutive(self) -> bool:
        """Whether it leads from a level to the next one, as in a multi-layer perceptron."""
        return self.sender >= 0 and self.receiver == self.sender + 1


@dataclass(frozen=True)
class Proof:
    """The outputs after all weights outside the named blocks were set to zero, against those before.

    max_difference: of any output on any sample, in units of the output. same_predictions: samples whose largest
    output is the same one. kept, nonzero: synapses before and after. blocks: all that the live graph has;
    named: the pairs of levels beside l -> l + 1 that were kept."""

    max_difference: float
    same_predictions: int
    samples: int
    kept: int
    nonzero: int
    blocks: tuple[Block, ...]
    named: tuple[tuple[int, int], ...]

    def holds(self, tolerance: float = 1e-5) -> bool:
        """Return whether all predictions are the same, and no output differs by more than `tolerance`."""
        return self.same_predictions == self.samples and self.max_difference <= tolerance


def place_port(levels: Tensor, graph: Synapses, port: Tensor) -> Tensor:
    """Return levels (S,) with the output port (D_out,) one above the highest of its senders in the live graph.

    NEVER where it has none. (Under residual outputs a port varies as soon as its first sender does; what it computes is
    complete after the last one.)"""
    placed = levels.clone()
    into = torch.zeros(graph.S, dtype=torch.bool)
    into[port.cpu()] = True
    senders = levels[graph.sender[into[graph.receiver]]]
    placed[port.cpu()] = int(senders.max()) + 1 if len(senders) and int(senders.max()) >= 0 else NEVER
    return placed


def named_blocks(W: Tensor | Synapses, levels: Tensor, data: Synapses | None = None) -> tuple[Block, ...]:
    """List the blocks that W (or its live synapses) has between the neurons of each pair of levels (S,) >= NEVER.

    Ordered by receiver and sender. data: the live synapses that carry data (all of W by default)."""
    edges = Synapses.of(W)
    data = edges if data is None else data
    offset = NEVER
    count = int(levels.max()) - offset + 1

    def totals(of: Synapses, weights: Tensor | None) -> Tensor:
        pair = (levels[of.receiver] - offset) * count + levels[of.sender] - offset
        return torch.bincount(pair, weights, minlength=count * count)

    number, mass, carried = totals(edges, None), totals(edges, edges.mass), totals(data, None)
    return tuple(
        Block(pair % count + offset, pair // count + offset, int(number[pair]), float(mass[pair]), bool(carried[pair]))
        for pair in number.nonzero().flatten().tolist()
    )


def keep_blocks(W: Tensor | Synapses, levels: Tensor, skips: Iterable[tuple[int, int]] = ()) -> Tensor:
    """Mask the non-zero synapses in the blocks l -> l + 1, l >= 0, and in the named ones.

    skips: (sender's level, receiver's level) of each. The mask is (S, S) bool for W, (E,) for Synapses."""
    edges = Synapses.of(W)
    to, frm = levels[edges.receiver], levels[edges.sender]
    keep = (frm >= 0) & (to == frm + 1)
    for sender, receiver in skips:
        keep |= (frm == sender) & (to == receiver)
    if isinstance(W, Synapses):
        return keep
    mask = torch.zeros(W.shape, dtype=torch.bool)
    mask[edges.receiver[keep], edges.sender[keep]] = True
    return mask.to(W.device)


@torch.no_grad()
def proof(
    network: URN,
    x: Tensor,
    port: str | None = None,
    *,
    skips: Iterable[tuple[int, int]] | None = (),
    by: Literal["time", "path"] = "time",
    tolerance: float = TOLERANCE,
    batch_size: int = 1024,
) -> Proof:
    """Keep the named blocks of a copy of `network`, set every other weight to zero and compare the outputs.

    x: (B, D_in), or (B, I, D_in) for a sequence. port: the output port (the only one when None). skips: blocks to
    keep beside l -> l + 1; None names every block that the live graph has, and then those without which a neuron that
    is inactive at some l would be active there and change the output. by: levels by the first l at which a neuron
    varies on x (the paper's order), or by the longest path to it in the live graph, which distinguishes skip
    connections from lateral ones. Raises ValueError when x is empty."""
    if len(x) == 0:
        raise ValueError("the proof needs at least one sample")
    out, inputs = network._port(port).cpu(), network.layout.inputs.cpu()
    name = next(iter(network.layout.ports)) if port is None else port
    batches = x.split(batch_size)
    activity = Activity(tolerance)
    before = []
    for batch in batches:
        activity.update(network.states(batch, name))
        before.append(network(batch, name))
    y = torch.cat(before)
    taking_part = active(activity)
    if not network.outputs_send:
        for other in network.layout.ports.values():
            taking_part[other.cpu()] = False
    taking_part[inputs] = taking_part[out] = True
    edges = Synapses.of(network.W, taking_part)
    data = live(edges, activity.varies, out, network.update.residual_output)
    effective = live(edges, activity.active, out, network.update.residual_output)
    level = place_port(levels(activity, inputs) if by == "time" else path_levels(data, inputs), data, out)
    blocks = named_blocks(effective, level, data)
    pairs = {(b.sender, b.receiver) for b in blocks if not b.consecutive} if skips is None else set(skips)
    while True:
        keep = keep_blocks(edges, level, pairs)
        rest, index = _only(network, edges.select(keep), torch.cat([inputs, out]))
        z = torch.cat([rest(batch, name) for batch in batches])
        difference = float((y - z).abs().max())
        if skips is not None or difference <= tolerance * float(y.abs().max()):
            break
        without = Activity(tolerance)
        for batch in batches:
            without.update(rest.states(batch, name))
        activated = torch.zeros_like(activity.active)
        activated[:, index] = without.active & ~activity.active[:, index]
        inhibiting = _inhibiting(edges.select(~keep), activity.active, activated, level)
        if not inhibiting:
            break
        pairs |= inhibiting
    return Proof(
        max_difference=difference,
        same_predictions=int((_predictions(y) == _predictions(z)).sum()),
        samples=len(x),
        kept=int(keep.sum()),
        nonzero=int(torch.count_nonzero(network.W)),
        blocks=blocks,
        named=tuple(sorted(pairs)),
    )


def _only(network: URN, kept: Synapses, always: Tensor) -> tuple[URN, Tensor]:
    """`network` with the synapses `kept` and no others, and which of its neurons (n,) are in it: those at an end of
    one, and `always`. What has no weight left, neither in nor out, need not be computed."""
    inside = kept.neurons
    inside[always] = True
    index = inside.nonzero().flatten()
    rest = network.subnetwork(index)
    new = torch.cumsum(inside, 0) - 1
    W = torch.zeros_like(rest.W)
    W[new[kept.receiver].to(W.device), new[kept.sender].to(W.device)] = kept.weight.to(W.device)
    rest.set_parameters(rest.layout, W, rest.b.data)
    return rest, index


def _inhibiting(missing: Synapses, active: Tensor, activated: Tensor, level: Tensor) -> set[tuple[int, int]]:
    """The blocks of the `missing` synapses into neurons that are `activated` (I+1, S) without them and `active`
    (I+1, S) not at all with them. No path of `live` leads through a neuron at an l at which it is inactive, so these
    blocks are found by what their absence does."""
    found = set()
    for before, after in zip(active[:-1], activated[1:], strict=True):
        these = missing.select(before[missing.sender] & after[missing.receiver])
        found |= set(zip(level[these.sender].tolist(), level[these.receiver].tolist(), strict=True))
    return found


def _predictions(y: Tensor) -> Tensor:
    """(B,): the largest of several outputs, the sign of a single one."""
    return y.argmax(1) if y.shape[1] > 1 else y[:, 0] > 0
