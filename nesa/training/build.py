"""Build the layout, the empty accumulation, penalties and optimisers that a curriculum describes."""

from __future__ import annotations

from collections.abc import Sequence

from nesa.config.curriculum import Curriculum, Penalties, Task
from nesa.errors import UserError
from nesa.training.accumulation import Accumulation, Dynamics
from nesa.training.task_data import TaskData
from urn.layout import Layout
from urn.network import URN
from urn.optim import Proximal
from urn.penalties import Penalty


def make_layout(curriculum: Curriculum, tasks: Sequence[TaskData]) -> Layout:
    """Build the layout that a curriculum describes, with one output port a task.

    Raises UserError when the neurons do not suffice for inputs and ports."""
    ports = {task.name: task.classes for task in tasks}
    network = curriculum.network
    try:
        if network.grid is not None:
            return Layout.grid(network.grid, curriculum.input.channels, ports)
        if network.layers is not None:
            return Layout.feedforward(network.layers, tasks[0].train.x.shape[1], ports)
        assert network.neurons is not None
        return Layout.flat(network.neurons, tasks[0].train.x.shape[1], ports)
    except ValueError as error:
        raise UserError(f"network: {error}; ask for more neurons") from None


def make_accumulation(curriculum: Curriculum, tasks: Sequence[TaskData]) -> Accumulation:
    """Build the accumulation of a curriculum with nothing learned yet."""
    network = curriculum.network
    return Accumulation(make_layout(curriculum, tasks), network.gain, inputs_receive=network.inputs_receive)


def make_dynamics(curriculum: Curriculum, k: int) -> Dynamics:
    """Return how the network of task `k` is iterated."""
    network = curriculum.network
    return Dynamics(curriculum.tasks[k].iterations, network.update, network.output_activation)


def make_penalty(p: Penalties) -> Penalty:
    """Build the penalty of a curriculum's `penalties` section (paper eq 5 and 9)."""
    return Penalty(
        method=p.method,
        weight=p.weight,
        activity=p.activity,
        activity_reduction=p.activity_reduction,
        activity_growth=p.activity_growth,
        synapse_length=p.synapse_length,
        beta=p.beta,
        gamma=p.gamma,
        literal=p.literal,
        ports=p.ports,
        early_readout=p.early_readout,
    )


def make_optimizer(task: Task, network: URN) -> Proximal:
    """Build the optimiser of a task: its base rule, with the proximal step and frozen rows in the same pass."""
    training = task.training
    return Proximal(
        network,
        training.optimizer,
        training.lr,
        penalty=make_penalty(task.penalties),
        momentum=training.momentum,
        weight_decay=training.weight_decay,
        factored_moments=training.factored_moments,
    )
