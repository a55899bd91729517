"""Define the keys of a curriculum as frozen dataclasses: names, defaults, ranges and help texts.

nesa.config.loader fills these classes from YAML, nesa.config.json_schema makes a JSON Schema of them, and every other
module only reads them. A ``Curriculum`` is resolved: each task has its own full ``penalties``, ``training`` and
``iterations``. Rules between keys (ports that must fit the network) are in nesa.config.validation.
"""
# ruff: noqa: RUF009  (_key, _required and _section are thin names for dataclasses.field)

from __future__ import annotations

from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any

__all__ = [
    "LEARNER_PARAMS",
    "NAME_PATTERN",
    "Augment",
    "Curriculum",
    "Input",
    "Learner",
    "LearnerParam",
    "Network",
    "Penalties",
    "Task",
    "Training",
    "to_dict",
]

# Names become folders and files: no separators, no leading dot.
NAME_PATTERN = r"[A-Za-z0-9_][A-Za-z0-9_.-]*"

UPDATES = ("plain", "residual_output", "residual_input", "residual_both")
OUTPUT_ACTIVATIONS = ("relu", "linear")
METHODS = ("subgradient", "prox_adam", "prox_decoupled")
REDUCTIONS = ("mean", "sum")
LEARNERS = ("neural_pruning", "naive", "ewc", "replay", "lwf", "joint")
OPTIMIZERS = ("adam", "adamw", "sgd")
SCHEDULES = ("constant", "cosine")
PRECISIONS = ("float32", "bfloat16", "auto")


def _key(
    default: Any,
    help: str,
    *,
    low: float | None = None,
    above: float | None = None,
    high: float | None = None,
    choices: tuple[str, ...] | None = None,
) -> Any:
    """Make a key with a default: ``low <= value <= high``, ``value > above``, or one of ``choices``."""
    return field(default=default, metadata={"help": help, "low": low, "above": above, "high": high, "choices": choices})


def _required(help: str, *, low: float | None = None, pattern: str | None = None) -> Any:
    """Make a key that the user must give."""
    return field(metadata={"help": help, "low": low, "pattern": pattern})


def _section(make: Any, help: str) -> Any:
    """Make a mapping of further keys; ``make`` builds its default."""
    return field(default_factory=make, metadata={"help": help})


@dataclass(frozen=True)
class Input:
    """The shape of one sample, before it is interpolated to the network's grid."""

    size: tuple[int, ...] = _required("[H, W] of an image, or [D] of a vector", low=1)
    channels: int = _key(1, "1 for grey (ITU-R 601), 3 for colour: that many input planes", low=1, high=3)


@dataclass(frozen=True)
class Network:
    """The recursive network: exactly one of ``grid``, ``neurons`` and ``layers`` gives its number of neurons."""

    grid: tuple[int, int, int] | None = _key(
        None, "[X, Y, Z] neurons; an image is interpolated to Y rows and X columns and fills the first planes", low=1
    )
    neurons: int | None = _key(None, "total number of neurons, input and all output ports included (no grid)", low=1)
    layers: tuple[int, ...] | None = _key(
        None,
        "hidden neurons of each layer of a feedforward network: a layer reads the one before alone, all other synapses "
        "are held at zero; iterations, update and inputs_receive follow",
        low=1,
    )
    iterations: int = _key(5, "I, the number of updates from input to output", low=1, high=1000)
    update: str = _key("residual_both", "update rule (paper equations 3, 6, 7)", choices=UPDATES)
    output_activation: str = _key("linear", "activation at the output ports", choices=OUTPUT_ACTIVATIONS)
    gain: float = _key(1.0, "factor on the He-normal standard deviation sqrt(2/S) of the first weights", above=0)
    inputs_receive: bool = _key(True, "whether input neurons may read other neurons after l = 0, as in the paper")


@dataclass(frozen=True)
class Penalties:
    """What is added to the task's loss (paper equations 5, 8 and 9)."""

    method: str = _key("prox_decoupled", "how the weight penalty acts; constants differ by method", choices=METHODS)
    weight: float = _key(0.3, "c_W, on the sum of |W|", low=0)
    activity: float = _key(2e-3, "c_N, on the activation of hidden neurons", low=0)
    activity_reduction: str = _key("mean", "mean or sum over the batch of the activity term", choices=REDUCTIONS)
    activity_growth: float = _key(0.0, "the activity term of iteration l is weighted by l to this power", low=0)
    synapse_length: float = _key(0.0, "c_syn, on |W_ij| d_ij^gamma; needs a grid", low=0)
    beta: float = _key(16.0, "factor on dz^2 in the squared distance", low=0)
    gamma: float = _key(1.0, "power of the distance", low=0)
    ramp: float = _key(0.33, "fraction of the task over which weight and length penalties rise from 0", low=0, high=1)
    literal: bool = _key(False, "count the activity of iteration I, too; with ports, equation 5 to the letter")
    early_readout: float = _key(
        0.0, "share of the task's loss that is taken at the readouts before the last, l = 2 to I - 1", low=0, high=1
    )
    ports: bool = _key(False, "let input and output neurons count in the activity term")


@dataclass(frozen=True)
class LearnerParam:
    """An extra parameter of a baseline learner; ``kind`` is int or float."""

    name: str
    kind: type
    default: float
    low: float
    help: str
    high: float | None = None


# Extra parameters of each learner, under learner.params.
LEARNER_PARAMS: dict[str, tuple[LearnerParam, ...]] = {
    "neural_pruning": (),
    "naive": (),
    "joint": (),
    "ewc": (LearnerParam("lambda", float, 1.0, 0, "strength of the quadratic penalty"),),
    "replay": (LearnerParam("memory", int, 200, 1, "number of stored training samples, all tasks together"),),
    "lwf": (
        LearnerParam("alpha", float, 1.0, 0, "strength of the distillation loss"),
        LearnerParam("temperature", float, 2.0, 1e-6, "temperature of the distillation loss"),
    ),
}


@dataclass(frozen=True)
class Learner:
    """How tasks are learned one after the other."""

    name: str = _key("neural_pruning", "neural_pruning, or one of Avalanche's strategies", choices=LEARNERS)
    margin: float = _key(
        0.01, "most that pruning may cost on validation data: 0.01 is one point of accuracy", low=0, high=1
    )
    heal_epochs: int = _key(4, "epochs of fine-tuning after pruning: without penalties, zero weights stay zero", low=0)
    heal_lr: float = _key(1.0, "first learning rate of fine-tuning, as a share of the task's", above=0)
    compaction: bool = _key(True, "leave neurons that are inactive for 100 steps out of the products")
    active_sets: bool = _key(True, "leave neurons that are inactive from some iteration on out of the products there")
    grow: bool = _key(True, "append a plane when too few neurons are free")
    params: dict[str, Any] = _section(
        dict, "parameters of a baseline: ewc lambda; replay memory; lwf alpha, temperature"
    )

    @property
    def claims_neurons(self) -> bool:
        """Return whether tasks keep neurons of their own, so that there is a structure and nothing is forgotten."""
        return self.name == "neural_pruning"


@dataclass(frozen=True)
class Training:
    """The optimiser and the time it has."""

    optimizer: str = _key("adam", "torch optimiser", choices=OPTIMIZERS)
    lr: float = _key(1e-3, "learning rate", above=0)
    momentum: float = _key(0.0, "momentum, for sgd only", low=0, high=1)
    weight_decay: float = _key(0.0, "weight decay", low=0)
    batch_size: int = _key(256, "samples in a batch", low=1)
    epochs: int = _key(10, "passes over the training data", low=1)
    schedule: str = _key("cosine", "course of the learning rate over the task", choices=SCHEDULES)
    warmup: int = _key(50, "steps in which the learning rate rises to lr; large networks want more", low=0)
    factored_moments: bool = _key(
        False, "every 50 steps reduce Adam's moments of zero weights to a row and a column, for small checkpoints"
    )
    precision: str = _key(
        "float32",
        "what a step multiplies in; auto: bfloat16 on a device with matrix units for it, else float32",
        choices=PRECISIONS,
    )


@dataclass(frozen=True)
class Augment:
    """Random changes of training images."""

    flip: bool = _key(False, "mirror left and right, at random")
    shift: int = _key(0, "largest random shift, in pixels", low=0)


@dataclass(frozen=True)
class Task:
    """One task, resolved: its penalties, training and iterations are complete."""

    name: str = _required("name of the task, unique; part of file names", pattern=NAME_PATTERN)
    source: str = _required("task source (see `nesa tasks`), or the dotted path of your own function")
    params: dict[str, Any] = _section(dict, "parameters of the source")
    fallback: str | None = _key(None, "source to use, loudly, when the data of `source` cannot be had")
    fallback_params: dict[str, Any] = _section(dict, "parameters of the fallback source")
    augment: Augment = _section(Augment, "random changes of training images")
    penalties: Penalties = _section(Penalties, "keys that differ from the curriculum's penalties")
    training: Training = _section(Training, "keys that differ from the curriculum's training")
    iterations: int = _key(5, "I for this task; network.iterations unless given", low=1, high=1000)


@dataclass(frozen=True, kw_only=True)
class Curriculum:
    """A whole curriculum, resolved: enough to repeat the run."""

    name: str = _required("name of the curriculum; part of the run folder's name", pattern=NAME_PATTERN)
    description: str = _key("", "free text for people")
    seed: int = _key(0, "seed of everything random", low=0, high=2**32 - 1)
    input: Input = _required("the shape of one sample")
    network: Network = _required("the recursive network")
    penalties: Penalties = _section(Penalties, "penalties of every task that has none of its own")
    learner: Learner = _section(Learner, "how tasks are learned one after the other")
    training: Training = _section(Training, "training of every task that has none of its own")
    tasks: tuple[Task, ...] = _required("the tasks, in the order in which they are learned")


def to_dict(config: Any) -> dict[str, Any]:
    """Convert a config object to plain dicts, lists and scalars, in field order, for YAML and JSON.

    ``nesa.config.loader.load`` of the dumped result gives an equal object.
    """
    return {f.name: _plain(getattr(config, f.name)) for f in fields(config)}


def _plain(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return to_dict(value)
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value
