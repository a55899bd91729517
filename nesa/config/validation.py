"""What must hold between the keys of a curriculum: ports that fit, sizes that agree, parameters that exist.

    feedforward(door, network)         a network of layers, with what follows from them
    learner_params(door, learner)      parameters of a rival learner, completed
    with_defaults(door, i, task)       a task with its source's parameters completed
    check(door, curriculum)            all rules that join several keys
    beside(run, tasks)                 what to check of tasks that are added to a run
    further(door, tasks, known)        their names are new to it, and they are not too many

Each function says its problems through ``door``; none of them stops at the first. Nothing here imports torch: task
sources answer these questions without loading data.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Any, Protocol

from nesa.config.curriculum import LEARNER_PARAMS, Curriculum, Learner, Network, Penalties, Task, Training
from nesa.config.yaml_tree import join, show, suggestion
from nesa.datasets import registry
from nesa.datasets.source import Source
from nesa.datasets.user_function import is_dotted

# W is kept dense, row by receiver: 100,000 neurons are 40 GB in float32, and training keeps four of its size.
MAX_NEURONS = 100_000
# Words that name other things beside tasks in tables and figures, and names that Windows keeps for devices.
RESERVED = {"input", "free", "all", "mean", "con", "prn", "aux", "nul"} | {
    f"{p}{n}" for p in ("com", "lpt") for n in "123456789"
}

MAX_TASKS = 1000

KeyPath = tuple[str | int, ...]


class Reader(Protocol):
    """Where problems are said, and whether one has been said about a key."""

    def add_problem(self, path: KeyPath, message: str) -> None: ...
    def is_valid(self, *keys: str) -> bool: ...


def source_called(name: str | None) -> Source | None:
    """The source of that name or dotted path, which is never imported here; None when there is none."""
    return registry.find(name) if name is not None and (name in registry.SOURCES or is_dotted(name)) else None


def feedforward(reader: Reader, network: Network, given: Collection[str]) -> Network:
    """A network of layers with the iterations, the update rule and the silent inputs that layers ask for; others as
    they are. given: the keys that the user wrote, which must not say otherwise."""
    if network.layers is None or not reader.is_valid("network"):
        return network
    count = len(network.layers)
    follows = {"iterations": count + 1, "update": "plain", "inputs_receive": False}
    for key, value in follows.items():
        if key in given and getattr(network, key) != value:
            reader.add_problem(
                ("network", key),
                f"must be {show(value)} with {count} hidden layer(s), not {show(getattr(network, key))}: each "
                "iteration carries the data one layer on; leave the key out, it follows from layers",
            )
    return replace(network, **follows)


def learner_params(reader: Reader, learner: Learner) -> dict[str, Any]:
    """``learner.params`` with the defaults of the named learner."""
    known = {p.name: p for p in LEARNER_PARAMS[learner.name]}
    for key, value in learner.params.items():
        path = ("learner", "params", key)
        if key not in known:
            has = f"it has {', '.join(known)}" if known else "it has none"
            reader.add_problem(
                path, f"unknown parameter of learner {learner.name}{suggestion(key, list(known)) or f'; {has}'}"
            )
            continue
        p = known[key]
        number = not isinstance(value, bool) and isinstance(value, int if p.kind is int else (int, float))
        if not number or not p.low <= value < float("inf"):
            what = "a whole number" if p.kind is int else "a number"
            reader.add_problem(path, f"must be {what} of at least {p.low:g}, not {show(value)}")
    return {p.name: p.default for p in known.values()} | learner.params


def with_defaults(reader: Reader, index: int, task: Task) -> Task:
    """The task with the parameters of its source, and of its fallback, checked and completed."""
    path = ("tasks", index)
    params = _params(reader, path, "source", task.source, "params", task.params)
    if task.fallback is None:
        if task.fallback_params:
            reader.add_problem((*path, "fallback_params"), "has no use without fallback")
        return replace(task, params=params)
    if task.fallback == task.source:
        reader.add_problem(
            (*path, "fallback"), f"is the source itself, {show(task.source)}: name another source, or none"
        )
        return replace(task, params=params)
    fallback_params = _params(reader, path, "fallback", task.fallback, "fallback_params", task.fallback_params)
    return replace(task, params=params, fallback_params=fallback_params)


def _params(
    reader: Reader, path: KeyPath, key: str, name: str, params_key: str, params: dict[str, Any]
) -> dict[str, Any]:
    if not reader.is_valid(join((*path, key)), join((*path, params_key))):
        return params
    source = source_called(name)
    if source is None:
        known = list(registry.SOURCES)
        near = suggestion(name, known) or f"; there are {', '.join(known)}, or module:function of your own"
        reader.add_problem((*path, key), f"{show(name)} is not a task source{near}")
        return params
    problems = source.check(params)
    for param, message in problems:
        reader.add_problem((*path, params_key, param), message if len(message) <= 400 else message[:397] + "...")
    return params if problems else source.complete(params)


def check(reader: Reader, curriculum: Curriculum) -> None:
    """Every rule that joins several keys. Rules are silent about values that are already known to be wrong."""
    _input(reader, curriculum)
    _optimisation(reader, (), curriculum.penalties, curriculum.training, curriculum)
    _names(reader, curriculum)
    for index, task in enumerate(curriculum.tasks):
        path = ("tasks", index)
        own = task.penalties != curriculum.penalties or task.training != curriculum.training
        if own and reader.is_valid("penalties", "training"):
            _optimisation(reader, path, task.penalties, task.training, curriculum)
        _augment(reader, path, task, curriculum)
        if curriculum.network.layers is not None and task.iterations != curriculum.network.iterations:
            reader.add_problem(
                (*path, "iterations"), f"must be {curriculum.network.iterations}, as network.layers asks for"
            )
        _sample(reader, (*path, "source"), task.source, task.params, curriculum)
        if task.fallback is not None:
            _sample(reader, (*path, "fallback"), task.fallback, task.fallback_params, curriculum)
    _network(reader, curriculum)


def _input(reader: Reader, curriculum: Curriculum) -> None:
    size, channels = curriculum.input.size, curriculum.input.channels
    if not reader.is_valid("input"):
        return
    if len(size) not in (1, 2):
        reader.add_problem(("input", "size"), f"must be [H, W] of an image or [D] of a vector, not {len(size)} numbers")
    elif channels == 2:
        reader.add_problem(("input", "channels"), "must be 1 (grey) or 3 (colour), not 2")
    elif len(size) == 1 and channels != 1:
        reader.add_problem(("input", "channels"), f"must be 1 for a vector, not {channels}")


def _network(reader: Reader, curriculum: Curriculum) -> None:
    net, size, channels = curriculum.network, curriculum.input.size, curriculum.input.channels
    if not reader.is_valid("network.grid", "network.neurons", "network.layers", "input"):
        return
    given = [key for key in ("grid", "neurons", "layers") if getattr(net, key) is not None]
    if not given:
        reader.add_problem(
            ("network",),
            "needs grid: [X, Y, Z], or neurons: the total number without a grid, or layers: of a feedforward network",
        )
        return
    for key in given[1:]:
        reader.add_problem(("network", key), f"is given beside {given[0]}: keep one of them and set the other to null")
    if len(given) > 1:
        return
    ports = sum(map(_port, curriculum.tasks))
    if net.layers is not None:
        total, where = channels * _product(size) + sum(net.layers) + ports, "layers"
    elif net.grid is not None:
        X, Y, Z = net.grid
        if channels + 1 > Z:
            reader.add_problem(
                ("network", "grid"),
                f"has {Z} plane(s), but {channels} for the input and at least one for hidden neurons are needed",
            )
        if len(size) == 1 and size[0] != X * Y:
            reader.add_problem(
                ("network", "grid"),
                f"has planes of {X} x {Y} = {X * Y:,} neurons, but input.size says vectors of {size[0]:,}: a vector "
                "fills the first plane exactly; give neurons instead of grid",
            )
        total, where = X * Y * Z + ports, "grid"
    else:
        total, where = net.neurons or 0, "neurons"
        inputs = channels * _product(size)
        if total < inputs + ports + 1:
            reader.add_problem(
                ("network", "neurons"),
                f"{total:,} neurons cannot hold {inputs:,} input neurons, {ports:,} output neurons of "
                f"{len(curriculum.tasks)} task(s) and one hidden neuron: at least {inputs + ports + 1:,} are needed",
            )
    if total > MAX_NEURONS:
        reader.add_problem(
            ("network", where),
            f"means {total:,} neurons, whose matrix W would need {in_bytes(4 * total * total)}, and training four "
            f"times that; at most {MAX_NEURONS:,} neurons ({in_bytes(4 * MAX_NEURONS**2)}) are possible",
        )


def _port(task: Task) -> int:
    """Output neurons that a task will want; where only the data can tell, the least that a task can have."""
    return max(_classes(task.source, task.params), _classes(task.fallback, task.fallback_params))


def _classes(name: str | None, params: dict[str, Any]) -> int:
    source = source_called(name)
    return 2 if source is None or source.check(params) else source.classes(source.complete(params)) or 2


def _sample(reader: Reader, path: KeyPath, name: str, params: dict[str, Any], curriculum: Curriculum) -> None:
    """The source must deliver what ``input`` says: images, or vectors of that length."""
    source = source_called(name)
    if source is None or not reader.is_valid("input", join(path[:2])) or source.check(params):
        return
    if message := source.misfit(source.complete(params), curriculum.input.size, curriculum.input.channels):
        reader.add_problem(path, message)


def _optimisation(
    reader: Reader, path: KeyPath, penalties: Penalties, training: Training, curriculum: Curriculum
) -> None:
    where = [join((*path, section)) for section in ("penalties", "training")]
    if not reader.is_valid(*where):
        return
    if training.momentum > 0 and training.optimizer != "sgd":
        reader.add_problem((*path, "training", "momentum"), f"is for sgd, but the optimizer is {training.optimizer}")
    if penalties.method == "prox_adam" and training.optimizer == "sgd":
        reader.add_problem(
            (*path, "penalties", "method"), "prox_adam needs Adam's second moments, but the optimizer is sgd"
        )
    if penalties.early_readout > 0 and curriculum.network.layers is not None:
        reader.add_problem(
            (*path, "penalties", "early_readout"), "has no use with network.layers: only the last layer is read"
        )
    if penalties.synapse_length > 0 and curriculum.network.grid is None and reader.is_valid("network.grid"):
        reader.add_problem(
            (*path, "penalties", "synapse_length"), "needs network.grid: without a grid synapses have no length"
        )


def _augment(reader: Reader, path: KeyPath, task: Task, curriculum: Curriculum) -> None:
    size = curriculum.input.size
    if not reader.is_valid("input", join((*path, "augment"))):
        return
    if len(size) == 1 and (task.augment.flip or task.augment.shift):
        reader.add_problem((*path, "augment"), "is for images, but input.size says vectors")
    elif task.augment.shift >= min(size):
        reader.add_problem(
            (*path, "augment", "shift"), f"must be smaller than the image, {list(size)}, not {task.augment.shift}"
        )


def _names(reader: Reader, curriculum: Curriculum) -> None:
    """Task names are file names: unique even where the file system ignores case."""
    first: dict[str, int] = {}
    for index, task in enumerate(curriculum.tasks):
        path = ("tasks", index, "name")
        if not reader.is_valid(join(path)):
            continue
        folded = task.name.casefold()
        if folded.split(".")[0] in RESERVED or folded.endswith("."):
            reader.add_problem(path, f"{show(task.name)} is reserved; choose another name")
        elif folded in first:
            reader.add_problem(
                path, f"{show(task.name)} is the name of tasks[{first[folded]}] already; names must differ"
            )
        first.setdefault(folded, index)


def beside(run: Curriculum, tasks: tuple[Task, ...]) -> Curriculum:
    """``run`` with further tasks alone, whose ports come on top of its neurons."""
    neurons = run.network.neurons
    network = replace(run.network, neurons=None if neurons is None else neurons + sum(map(_port, tasks)))
    return replace(run, network=network, tasks=tasks)


def further(reader: Reader, tasks: Sequence[Task], known: Sequence[Task]) -> None:
    """What holds for tasks that are added to those of a run: new names, and not too many."""
    names = {task.name.casefold() for task in known}
    for index, task in enumerate(tasks):
        if task.name.casefold() in names and reader.is_valid(join(("tasks", index, "name"))):
            reader.add_problem(
                ("tasks", index, "name"), f"{show(task.name)} is a task of the run already; names must differ"
            )
    if len(known) + len(tasks) > MAX_TASKS:
        reader.add_problem(
            ("tasks",), f"would make {len(known) + len(tasks):,} tasks; at most {MAX_TASKS:,} are possible"
        )


def _product(size: tuple[int, ...]) -> int:
    total = 1
    for side in size:
        total *= side
    return total


def in_bytes(count: int) -> str:
    """40000000000 -> '40 GB'."""
    size, units = float(count), ["bytes", "kB", "MB", "GB", "TB", "PB", "EB", "ZB", "YB"]
    while size >= 1000 and len(units) > 1:
        size, units = size / 1000, units[1:]
    return f"{size:.3g} {units[0]}"
