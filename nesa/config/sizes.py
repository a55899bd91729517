"""Count neurons, classes, samples and bytes of a curriculum before its data are loaded.

Task sources answer from their parameters. What only the data determine is assumed, by the constants here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from nesa.config.curriculum import Curriculum, Task
from nesa.datasets import registry

# W is kept dense, row by receiver: 100,000 neurons are 40 GB in float32, and training keeps four of its size.
MAX_NEURONS = 100_000
FREE_SHARE = 0.1  # a task needs at least this share of the hidden neurons to be free
LEAST_CLASSES = 2  # of any task
ASSUMED_CLASSES = 10  # of a task whose classes only the data determine, in an estimate
ASSUMED_SAMPLES = 10_000  # training samples, likewise
# Training samples of sources that do not state them in a parameter.
PUBLISHED_SAMPLES = {"cifar10": 50_000, "mnist": 60_000, "permuted_mnist": 60_000, "digits": 1_797}


def input_size(curriculum: Curriculum) -> tuple[int, ...]:
    """Return the size at which sources deliver: the grid's plane, or the input's own size without a grid."""
    if curriculum.network.grid is None:
        return curriculum.input.size
    X, Y, _ = curriculum.network.grid
    return (Y, X)


def input_neurons(curriculum: Curriculum) -> int:
    """Count input neurons: one for each value of a sample, at the size at which sources deliver."""
    return math.prod(input_size(curriculum)) * curriculum.input.channels


def neurons(curriculum: Curriculum) -> tuple[int, int]:
    """Count input and hidden neurons; ports are beside a grid and beside layers, and inside `network.neurons`."""
    network, inputs = curriculum.network, input_neurons(curriculum)
    if network.grid is not None:
        return inputs, math.prod(network.grid) - inputs
    if network.layers is not None:
        return inputs, sum(network.layers)
    assert network.neurons is not None
    return inputs, network.neurons - inputs - sum(map(assumed_outputs, curriculum.tasks))


def least_neurons(curriculum: Curriculum) -> int:
    """Count all neurons, with the least output neurons that the tasks can have."""
    if curriculum.network.neurons is not None:
        return curriculum.network.neurons
    return sum(neurons(curriculum)) + sum(map(least_outputs, curriculum.tasks))


def classes(name: str | None, params: Mapping[str, Any]) -> int | None:
    """Return the classes of a source with these parameters; None where only the data determine them."""
    source = registry.get(name)
    return None if source is None or source.check(params) else source.classes(source.complete(params))


def assumed_outputs(task: Task) -> int:
    """Return the output neurons of a task's source, ASSUMED_CLASSES where only the data determine them."""
    return classes(task.source, task.params) or ASSUMED_CLASSES


def least_outputs(task: Task) -> int:
    """Return the least output neurons that a task can have, with its source or with its fallback."""
    return max(
        classes(task.source, task.params) or LEAST_CLASSES,
        classes(task.fallback, task.fallback_params) or LEAST_CLASSES,
    )


def training_samples(task: Task) -> tuple[int, bool]:
    """Count training samples before the split; the second value is whether they are known without the data."""
    source = registry.get(task.source)
    params = source.complete(task.params) if source is not None else task.params
    if isinstance(params.get("train"), int) and params["train"] > 0:
        return params["train"], True
    if task.source in PUBLISHED_SAMPLES:
        return PUBLISHED_SAMPLES[task.source] - (params.get("test") or 0) * (task.source == "digits"), True
    return ASSUMED_SAMPLES, False


def needed(hidden: int) -> int:
    """Return how many of `hidden` neurons must be free for a task; with fewer, the network grows before it."""
    return int(FREE_SHARE * hidden) + 1


def planes_to_add(missing: int, plane: int) -> int:
    """Return how many planes of `plane` neurons hold `missing` ones."""
    return -(-missing // plane)


def forecast(free: int, claimed: int, hidden: int) -> int | None:
    """Forecast how many more tasks that claim `claimed` neurons each fit before the network grows; None if 0 claimed.

    free, hidden: neurons free now, and hidden neurons in all. Each of those tasks begins with enough free neurons
    (`needed`) and finds as many as it claims.
    """
    if claimed <= 0:
        return None
    if free < needed(hidden):
        return 0
    return min(free // claimed, (free - needed(hidden)) // claimed + 1)


def weight_bytes(count: int) -> int:
    """Return the bytes of W of `count` neurons, float32."""
    return 4 * count**2


def in_bytes(count: int) -> str:
    """Format a number of bytes: 40000000000 -> '40 GB'."""
    size, units = float(count), ["bytes", "kB", "MB", "GB", "TB", "PB", "EB", "ZB", "YB"]
    while size >= 1000 and len(units) > 1:
        size, units = size / 1000, units[1:]
    return f"{size:.3g} {units[0]}"
