"""Check what must hold between the keys of a curriculum: ports that fit, sizes that agree, parameters that exist.

    complete_feedforward(collector, network, given)   a network of layers, with the values that follow from them
    complete_learner_params(collector, learner)       parameters of a baseline learner, with defaults
    complete_task(collector, i, task)                 a task with its sources' parameters, with defaults
    check_curriculum(collector, curriculum)           all rules that join several keys
    with_tasks_added(run, tasks)                      the curriculum to check when tasks are added to a run
    check_added_tasks(collector, tasks, known)        their names are new to the run, and they are not too many

Problems are collected, none of them stops the checks. Nothing here imports torch: task sources answer these questions
without loading data.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Any, Protocol

from nesa.config.curriculum import LEARNER_PARAMS, Curriculum, Learner, Network, Penalties, Task, Training
from nesa.config.sizes import MAX_NEURONS, in_bytes, input_neurons, least_neurons, least_outputs, weight_bytes
from nesa.config.yaml_tree import join, show, suggestion
from nesa.datasets import registry

# Words that name other things beside tasks in tables and figures, and names that Windows keeps for devices.
RESERVED = {"input", "free", "all", "mean", "con", "prn", "aux", "nul"} | {
    f"{p}{n}" for p in ("com", "lpt") for n in "123456789"
}

MAX_TASKS = 1000

KeyPath = tuple[str | int, ...]


class ProblemCollector(Protocol):
    """Collects problems, and the keys that have one."""

    def add_problem(self, path: KeyPath, message: str) -> None: ...
    def is_valid(self, *keys: str) -> bool: ...


def complete_feedforward(collector: ProblemCollector, network: Network, given: Collection[str]) -> Network:
    """Complete a network of layers with the iterations, the update rule and the inputs that follow from them.

    Other networks are returned as they are. given: the keys that the user wrote, which must not contradict.
    """
    if network.layers is None or not collector.is_valid("network"):
        return network
    count = len(network.layers)
    follows = {"iterations": count + 1, "update": "plain", "inputs_receive": False}
    for key, value in follows.items():
        if key in given and getattr(network, key) != value:
            collector.add_problem(
                ("network", key),
                f"must be {show(value)} with {count} hidden layer(s), not {show(getattr(network, key))}: each "
                "iteration carries the data one layer on; leave the key out, it follows from layers",
            )
    return replace(network, **follows)


def complete_learner_params(collector: ProblemCollector, learner: Learner) -> dict[str, Any]:
    """Complete ``learner.params`` with the defaults of the named learner."""
    known = {p.name: p for p in LEARNER_PARAMS[learner.name]}
    for key, value in learner.params.items():
        path = ("learner", "params", key)
        if key not in known:
            has = f"it has {', '.join(known)}" if known else "it has none"
            collector.add_problem(
                path, f"unknown parameter of learner {learner.name}{suggestion(key, list(known)) or f'; {has}'}"
            )
            continue
        p = known[key]
        number = not isinstance(value, bool) and isinstance(value, int if p.kind is int else (int, float))
        if not number or not p.low <= value < float("inf"):
            what = "a whole number" if p.kind is int else "a number"
            collector.add_problem(path, f"must be {what} of at least {p.low:g}, not {show(value)}")
    return {p.name: p.default for p in known.values()} | learner.params


def complete_task(collector: ProblemCollector, index: int, task: Task) -> Task:
    """Check and complete the parameters of a task's source, and of its fallback."""
    path = ("tasks", index)
    params = _complete_params(collector, path, "source", task.source, "params", task.params)
    if task.fallback is None:
        if task.fallback_params:
            collector.add_problem((*path, "fallback_params"), "has no use without fallback")
        return replace(task, params=params)
    if task.fallback == task.source:
        collector.add_problem(
            (*path, "fallback"), f"is the source itself, {show(task.source)}: name another source, or none"
        )
        return replace(task, params=params)
    fallback_params = _complete_params(
        collector, path, "fallback", task.fallback, "fallback_params", task.fallback_params
    )
    return replace(task, params=params, fallback_params=fallback_params)


def _complete_params(
    collector: ProblemCollector, path: KeyPath, key: str, name: str, params_key: str, params: dict[str, Any]
) -> dict[str, Any]:
    if not collector.is_valid(join((*path, key)), join((*path, params_key))):
        return params
    source = registry.get(name)
    if source is None:
        known = list(registry.SOURCES)
        near = suggestion(name, known) or f"; there are {', '.join(known)}, or module:function of your own"
        collector.add_problem((*path, key), f"{show(name)} is not a task source{near}")
        return params
    problems = source.check(params)
    for param, message in problems:
        collector.add_problem((*path, params_key, param), message if len(message) <= 400 else message[:397] + "...")
    return params if problems else source.complete(params)


def check_curriculum(collector: ProblemCollector, curriculum: Curriculum) -> None:
    """Check every rule that joins several keys. No rule applies to values that are known to be wrong already."""
    _check_input(collector, curriculum)
    _check_optimisation(collector, (), curriculum.penalties, curriculum.training, curriculum)
    _check_names(collector, curriculum)
    for index, task in enumerate(curriculum.tasks):
        path = ("tasks", index)
        own = task.penalties != curriculum.penalties or task.training != curriculum.training
        if own and collector.is_valid("penalties", "training"):
            _check_optimisation(collector, path, task.penalties, task.training, curriculum)
        _check_augment(collector, path, task, curriculum)
        if curriculum.network.layers is not None and task.iterations != curriculum.network.iterations:
            collector.add_problem(
                (*path, "iterations"), f"must be {curriculum.network.iterations}, as network.layers asks for"
            )
        _check_source(collector, (*path, "source"), task.source, task.params, curriculum)
        if task.fallback is not None:
            _check_source(collector, (*path, "fallback"), task.fallback, task.fallback_params, curriculum)
    _check_network(collector, curriculum)


def _check_input(collector: ProblemCollector, curriculum: Curriculum) -> None:
    size, channels = curriculum.input.size, curriculum.input.channels
    if not collector.is_valid("input"):
        return
    if len(size) not in (1, 2):
        collector.add_problem(
            ("input", "size"), f"must be [H, W] of an image or [D] of a vector, not {len(size)} numbers"
        )
    elif channels == 2:
        collector.add_problem(("input", "channels"), "must be 1 (grey) or 3 (colour), not 2")
    elif len(size) == 1 and channels != 1:
        collector.add_problem(("input", "channels"), f"must be 1 for a vector, not {channels}")


def _check_network(collector: ProblemCollector, curriculum: Curriculum) -> None:
    net, size, channels = curriculum.network, curriculum.input.size, curriculum.input.channels
    if not collector.is_valid("network.grid", "network.neurons", "network.layers", "input"):
        return
    given = [key for key in ("grid", "neurons", "layers") if getattr(net, key) is not None]
    if not given:
        collector.add_problem(
            ("network",),
            "needs grid: [X, Y, Z], or neurons: the total number without a grid, or layers: of a feedforward network",
        )
        return
    for key in given[1:]:
        collector.add_problem(
            ("network", key), f"is given beside {given[0]}: keep one of them and set the other to null"
        )
    if len(given) > 1:
        return
    total = least_neurons(curriculum)
    if net.grid is not None:
        X, Y, Z = net.grid
        if channels + 1 > Z:
            collector.add_problem(
                ("network", "grid"),
                f"has {Z} plane(s), but {channels} for the input and at least one for hidden neurons are needed",
            )
        if len(size) == 1 and size[0] != X * Y:
            collector.add_problem(
                ("network", "grid"),
                f"has planes of {X} x {Y} = {X * Y:,} neurons, but input.size says vectors of {size[0]:,}: a vector "
                "fills the first plane exactly; give neurons instead of grid",
            )
    if net.neurons is not None:
        inputs, ports = input_neurons(curriculum), sum(map(least_outputs, curriculum.tasks))
        if total < inputs + ports + 1:
            collector.add_problem(
                ("network", "neurons"),
                f"{total:,} neurons cannot hold {inputs:,} input neurons, {ports:,} output neurons of "
                f"{len(curriculum.tasks)} task(s) and one hidden neuron: at least {inputs + ports + 1:,} are needed",
            )
    if total > MAX_NEURONS:
        collector.add_problem(
            ("network", given[0]),
            f"means {total:,} neurons, whose matrix W would need {in_bytes(weight_bytes(total))}, and training four "
            f"times that; at most {MAX_NEURONS:,} neurons ({in_bytes(weight_bytes(MAX_NEURONS))}) are possible",
        )


def _check_source(
    collector: ProblemCollector, path: KeyPath, name: str, params: dict[str, Any], curriculum: Curriculum
) -> None:
    """Check that the source delivers what ``input`` declares: images, or vectors of that length."""
    source = registry.get(name)
    if source is None or not collector.is_valid("input", join(path[:2])) or source.check(params):
        return
    if message := source.mismatch(source.complete(params), curriculum.input.size, curriculum.input.channels):
        collector.add_problem(path, message)


def _check_optimisation(
    collector: ProblemCollector, path: KeyPath, penalties: Penalties, training: Training, curriculum: Curriculum
) -> None:
    where = [join((*path, section)) for section in ("penalties", "training")]
    if not collector.is_valid(*where):
        return
    if training.momentum > 0 and training.optimizer != "sgd":
        collector.add_problem((*path, "training", "momentum"), f"is for sgd, but the optimizer is {training.optimizer}")
    if penalties.method == "prox_adam" and training.optimizer == "sgd":
        collector.add_problem(
            (*path, "penalties", "method"), "prox_adam needs Adam's second moments, but the optimizer is sgd"
        )
    if penalties.early_readout > 0 and curriculum.network.layers is not None:
        collector.add_problem(
            (*path, "penalties", "early_readout"), "has no use with network.layers: only the last layer is read"
        )
    if penalties.synapse_length > 0 and curriculum.network.grid is None and collector.is_valid("network.grid"):
        collector.add_problem(
            (*path, "penalties", "synapse_length"), "needs network.grid: without a grid synapses have no length"
        )


def _check_augment(collector: ProblemCollector, path: KeyPath, task: Task, curriculum: Curriculum) -> None:
    size = curriculum.input.size
    if not collector.is_valid("input", join((*path, "augment"))):
        return
    if len(size) == 1 and (task.augment.flip or task.augment.shift):
        collector.add_problem((*path, "augment"), "is for images, but input.size says vectors")
    elif task.augment.shift >= min(size):
        collector.add_problem(
            (*path, "augment", "shift"), f"must be smaller than the image, {list(size)}, not {task.augment.shift}"
        )


def _check_names(collector: ProblemCollector, curriculum: Curriculum) -> None:
    """Check task names, which are file names: unique even where the file system ignores case."""
    first: dict[str, int] = {}
    for index, task in enumerate(curriculum.tasks):
        path = ("tasks", index, "name")
        if not collector.is_valid(join(path)):
            continue
        folded = task.name.casefold()
        if folded.split(".")[0] in RESERVED or folded.endswith("."):
            collector.add_problem(path, f"{show(task.name)} is reserved; choose another name")
        elif folded in first:
            collector.add_problem(
                path, f"{show(task.name)} is the name of tasks[{first[folded]}] already; names must differ"
            )
        first.setdefault(folded, index)


def with_tasks_added(run: Curriculum, tasks: tuple[Task, ...]) -> Curriculum:
    """Return ``run`` with the further tasks alone, whose ports are added to its neurons."""
    neurons = run.network.neurons
    network = replace(run.network, neurons=None if neurons is None else neurons + sum(map(least_outputs, tasks)))
    return replace(run, network=network, tasks=tasks)


def check_added_tasks(collector: ProblemCollector, tasks: Sequence[Task], known: Sequence[Task]) -> None:
    """Check tasks that are added to those of a run: new names, and not too many."""
    names = {task.name.casefold() for task in known}
    for index, task in enumerate(tasks):
        if task.name.casefold() in names and collector.is_valid(join(("tasks", index, "name"))):
            collector.add_problem(
                ("tasks", index, "name"), f"{show(task.name)} is a task of the run already; names must differ"
            )
    if len(known) + len(tasks) > MAX_TASKS:
        collector.add_problem(
            ("tasks",), f"would make {len(known) + len(tasks):,} tasks; at most {MAX_TASKS:,} are possible"
        )
