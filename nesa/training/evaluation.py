"""Score a network on samples, and measure what a claimed task looks like: one row of the accumulation table.

The measures are defined in docs/method.md and computed by urn.measures.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from nesa.training.accumulation import Accumulation
from nesa.training.task_data import Samples, TaskData
from urn.layout import Distance
from urn.measures import structure
from urn.measures.activity import Activity
from urn.network import URN
from urn.penalties import Penalty

BATCH = 1000
STRIP = 1024  # rows of W at a time: synaptic lengths of all of them would need W's memory again


@torch.no_grad()
def accuracy(
    network: URN, x: Tensor, y: Tensor, port: str | None = None, prepare: Callable[[Tensor], Tensor] | None = None
) -> float:
    """Return the share (0..1) of the samples x (n, D_in) whose label y (n,) is the network's largest logit.

    prepare: normalises a batch of raw samples; without it x is normalised already."""
    right = 0
    for inputs, labels in zip(x.split(BATCH), y.split(BATCH), strict=True):
        logits = network(inputs if prepare is None else prepare(inputs), port)
        right += int((logits.argmax(1) == labels).sum())
    return right / len(x)


def task_accuracy(network: URN, data: TaskData, part: str) -> float:
    """Return the accuracy (0..1) on a task's "train", "val" or "test" samples."""
    samples: Samples = getattr(data, part)
    return accuracy(network, samples.x, samples.y, data.name, data.prepare)


@torch.no_grad()
def observe(network: URN, data: TaskData, samples: Samples) -> tuple[Activity, list[float]]:
    """Measure the activity of every neuron, and the accuracy of reading the port after l = 1..I."""
    activity, right = Activity(), [0] * network.iterations
    port = network.layout.ports[data.name]
    for inputs, labels in zip(samples.x.split(BATCH), samples.y.split(BATCH), strict=True):
        states = network.states(data.prepare(inputs), data.name)
        activity.update(states)
        for level, N in enumerate(states[1:]):
            right[level] += int((N[:, port].argmax(1) == labels).sum())
    return activity, [n / len(samples) for n in right]


def with_weights(network: URN, W: Tensor) -> URN:
    """Return a copy of a claimed task's network with other weights W (n, n)."""
    copy = network.subnetwork(torch.arange(network.S))
    copy.set_parameters(network.layout, W, network.b.data.clone(), torch.ones(network.S, dtype=torch.bool))
    return copy


def weight_penalty(network: URN, penalty: Penalty) -> float:
    """Return the weight and length terms of paper eq 9 over the synapses of all rows that train."""
    total, partition, device = 0.0, network.partition, network.W.device
    for rows in (~network.frozen[partition.neurons]).nonzero().flatten().split(STRIP):
        coefficient = penalty.coefficient(network.layout, partition.neurons[rows])
        coefficient = coefficient.to(device) if isinstance(coefficient, Tensor) else coefficient
        total += float((network.W.data[rows.to(device)].abs() * coefficient).sum())
    return float(partition.total(torch.tensor(total, dtype=torch.float64, device=device)))


@dataclass(frozen=True)
class TaskMeasures:
    """row: the measures by the names of the accumulation table. levels, activity: (n,) the level and the mean activity
    of each member of the task's network."""

    row: dict[str, Any]
    levels: Tensor
    activity: Tensor


def measure(accumulation: Accumulation, data: TaskData, margin: float, distance: Distance, seed: int) -> TaskMeasures:
    """Measure a task that has just been claimed.

    Activity and readout depth are measured on validation data, the ablation on test data."""
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
        metric=distance,
        generator=torch.Generator().manual_seed(seed),
    )
    read = structure.reuse(network.W.data, owner, number, port)
    cut = with_weights(network, structure.cut_reuse(network.W.data, owner, number, port))
    new, old = owner == number, (owner >= 0) & (owner < number)
    old_read = torch.zeros_like(old)
    old_read[read.neurons] = True
    I = network.iterations
    hidden = accumulation.hidden_count
    total, claimed = len(accumulation.claimed), int((accumulation.owner == number).sum())
    row = {
        "accuracy_test": task_accuracy(network, data, "test"),
        "accuracy_val": task_accuracy(network, data, "val"),
        "neurons_claimed": claimed,
        "neurons_total": total,
        "neurons_free": len(accumulation.free),
        "claimed_share": total / hidden,
        "neurons_reused": len(read.neurons),
        "reuse_share": read.share,
        "accuracy_cut": task_accuracy(cut, data, "test") if number else None,
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
    }
    return TaskMeasures(row, found.levels, activity.mean)
