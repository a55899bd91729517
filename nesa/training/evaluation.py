"""What a claimed task looks like: one row of the accumulation table (measures: urn.measures.structure; docs/method.md)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from nesa.training.accumulation import Accumulation
from nesa.training.task_data import Samples, TaskData
from urn.layout import Distance
from urn.measures import structure
from urn.measures.activity import Activity
from urn.network import URN

BATCH = 1000


@torch.no_grad()
def accuracy(network: URN, data: TaskData, samples: Samples) -> float:
    """Share of right answers on raw samples."""
    right = 0
    for first in range(0, len(samples), BATCH):
        x = data.prepare(samples.x[first : first + BATCH])
        right += int((network(x, data.name).argmax(1) == samples.y[first : first + BATCH]).sum())
    return right / len(samples)


@torch.no_grad()
def observe(network: URN, data: TaskData, samples: Samples) -> tuple[Activity, list[float]]:
    """Activity of every neuron over the samples, and the accuracy of reading the port after l = 1..I."""
    activity, right = Activity(), [0] * network.iterations
    port = network.layout.ports[data.name]
    for first in range(0, len(samples), BATCH):
        states = network.states(data.prepare(samples.x[first : first + BATCH]), data.name)
        activity.update(states)
        for level, N in enumerate(states[1:]):
            right[level] += int((N[:, port].argmax(1) == samples.y[first : first + BATCH]).sum())
    return activity, [n / len(samples) for n in right]


def with_weights(network: URN, W: Tensor) -> URN:
    """A copy of a claimed task's network with other weights W (n, n)."""
    copy = network.subnetwork(torch.arange(network.S))
    copy.set_parameters(network.layout, W, network.b.data.clone(), torch.ones(network.S, dtype=torch.bool))
    return copy


def measure(accumulation: Accumulation, data: TaskData, margin: float, metric: Distance, seed: int) -> dict[str, Any]:
    """The measures of a task that has just been claimed, by the names of the accumulation table, plus `levels`:
    the level of each member, for the figures. Activity and readout depth are measured on validation data, the
    ablation on test data."""
    network = accumulation.network(data.name).to(data.val.x.device)
    entry = accumulation.find(data.name)
    number = accumulation.claims.index(entry)
    owner = accumulation.owner[entry.members]
    port = network.layout.ports[data.name]
    activity, scores = observe(network, data, data.val)
    found = structure.measure(
        network.W.data,
        activity,
        network.layout,
        data.name,
        residual_output=network.update.residual_output,
        scores=scores,
        margin=margin,
        metric=metric,
        generator=torch.Generator().manual_seed(seed),
    )
    read = structure.reuse(network.W.data, owner, number, port)
    cut = with_weights(network, structure.cut_reuse(network.W.data, owner, number, port))
    new, old = owner == number, (owner >= 0) & (owner < number)
    old_read = torch.zeros_like(old)
    old_read[read.neurons] = True
    I = network.iterations
    hidden = int((accumulation.owner >= -1).sum())
    total, claimed = len(accumulation.claimed), int((accumulation.owner == number).sum())
    return {
        "accuracy_test": accuracy(network, data, data.test),
        "accuracy_val": accuracy(network, data, data.val),
        "neurons_claimed": claimed,
        "neurons_total": total,
        "neurons_free": len(accumulation.free),
        "claimed_share": total / hidden,
        "neurons_reused": len(read.neurons),
        "reuse_share": read.share,
        "accuracy_cut": accuracy(cut, data, data.test) if number else None,
        "depth_readout": found.depth_readout,
        "depth_mean": found.depth_mean,
        "depth_graph": found.depth_graph,
        "readout_scores": scores,
        "levels_claimed": structure.layer_widths(found.levels, new, I),
        "levels_reused": structure.layer_widths(found.levels, old_read, I),
        "feedforward_share": found.shares.feedforward,
        "lateral_share": found.shares.lateral,
        "feedback_share": found.shares.feedback,
        "skip_share": found.skip_share,
        "recurrent_neurons": sum(found.recurrent),
        "locality": found.locality.ratio if found.locality else None,
        "synapses": found.synapses,
        "levels": found.levels,
        "strength": activity.mean,
    }
