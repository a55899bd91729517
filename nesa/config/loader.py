"""Load a curriculum from YAML and report every problem with its file, line and column.

    load(path, overrides)              read, extend, override, convert, check
    dump(curriculum)                   the resolved curriculum as YAML; ``load`` of it gives an equal object
    extend_curriculum(path, run, ...)  the curriculum of a run, with the tasks of a further file after its own

nesa.config.yaml_tree parses the text, nesa.config.overrides merges files, nesa.config.conversion gives types and
ranges, nesa.config.validation checks rules between keys; this module walks the tree. Nothing here imports torch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml

from nesa.config import validation
from nesa.config.conversion import ConversionError, convert, convert_params, field_types
from nesa.config.curriculum import (
    LEARNER_PARAMS,
    Augment,
    Curriculum,
    Input,
    Learner,
    Network,
    Penalties,
    Task,
    Training,
    to_dict,
)
from nesa.config.overrides import apply_override, read_with_extends, resolve_references
from nesa.config.scalars import core_type, is_misleading
from nesa.config.yaml_tree import Node, Place, join, show, suggestion
from nesa.datasets import registry
from nesa.errors import CurriculumError, Problem

MAX_PROBLEMS = 200

T = TypeVar("T")
KeyPath = tuple[str | int, ...]


def load(path: str | Path, overrides: Sequence[str] = ()) -> Curriculum:
    """Load the YAML file ``path``, with ``key=value`` overrides merged over it, as a resolved curriculum.

    Raises CurriculumError with all problems, and UserError when the file cannot be opened at all.
    """
    return _read(path, overrides, CurriculumReader.read_curriculum)


def extend_curriculum(path: str | Path, run: Curriculum, overrides: Sequence[str] = ()) -> Curriculum:
    """Add the tasks of the YAML file ``path`` to the curriculum of a run, after its own.

    The file has ``tasks``, under new names, and may have ``training`` and ``penalties``, which hold for its tasks and
    are merged over the run's. ``name`` and ``description`` are the file's own. Every other key is the run's: it is left
    out, or has the same value (``learner.grow`` may become true). Raises as ``load`` does.
    """
    return _read(path, overrides, lambda reader: reader.extend_curriculum(run))


def dump(curriculum: Curriculum) -> str:
    """Write the resolved curriculum as YAML text.

    Tasks have only what differs from the curriculum, so that ``training.epochs=3`` still holds for all of them.
    """
    resolved = to_dict(curriculum)
    for task in resolved["tasks"]:
        for section in ("penalties", "training"):
            task[section] = {key: value for key, value in task[section].items() if value != resolved[section][key]}
        if task["iterations"] == resolved["network"]["iterations"]:
            del task["iterations"]
        for key in [key for key, value in task.items() if value in ({}, None)]:
            del task[key]
    return yaml.dump(resolved, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)


def _represent_text(dumper: Any, text: Any) -> yaml.Node:
    style = "'" if core_type(text) != "str" or is_misleading(text) else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style)


class _Dumper(yaml.SafeDumper):
    """Quotes the text that YAML 1.2 reads as a number, too: PyYAML quotes by YAML 1.1 alone."""

    yaml_representers = yaml.SafeDumper.yaml_representers | {str: _represent_text}


def _read(
    path: str | Path, overrides: Sequence[str], read: Callable[[CurriculumReader], Curriculum | None]
) -> Curriculum:
    problems: list[Problem] = []
    root = read_with_extends(Path(path), problems)
    curriculum = None
    if root is not None:
        for number, text in enumerate(overrides, 1):
            apply_override(root, text, number, problems)
        resolve_references(root, problems)
        curriculum = read(CurriculumReader(root, problems))
    if problems or curriculum is None:
        raise CurriculumError(_in_order(problems))
    return curriculum


def _in_order(problems: list[Problem]) -> list[Problem]:
    """Sort problems by file, line and column, without repetitions, at most MAX_PROBLEMS."""
    files = list(dict.fromkeys(problem.file for problem in problems))
    unique = sorted(dict.fromkeys(problems), key=lambda p: (files.index(p.file), p.line, p.column))
    if len(unique) > MAX_PROBLEMS:
        last = unique[MAX_PROBLEMS]
        rest = Problem(last.file, last.line, last.column, "", f"and {len(unique) - MAX_PROBLEMS} more problems")
        unique = [*unique[:MAX_PROBLEMS], rest]
    return unique


def _other_section(key: str) -> str:
    """Return ' (did you mean training.lr?)' when the key belongs to another section, else ''."""
    for section in fields(Curriculum):
        cls = field_types(Curriculum)[section.name]
        if is_dataclass(cls) and key in (f.name for f in fields(cls)):
            return f" (did you mean {section.name}.{key}?)"
    return ""


def _param_types(cls: type, key: str, values: Mapping[str, Any]) -> dict[str, type]:
    """Return the declared types of the parameters under ``key`` of a section with these other values."""
    if cls is Learner:
        return {p.name: p.kind for p in LEARNER_PARAMS.get(values.get("name", ""), ())}
    source = registry.get(values.get("source" if key == "params" else "fallback"))
    return {p.name: p.type for p in source.params} if source is not None else {}


class CurriculumReader:
    """Turns a tree into config objects; adds every problem at the place of the value that it concerns."""

    def __init__(self, root: Node, problems: list[Problem]):
        self.root, self.problems = root, problems
        self.invalid: set[str] = set()  # keys whose value, or part of it, is not the user's: no rule applies to them

    # Places -----------------------------------------------------------------------------------------------------

    def node_at(self, path: KeyPath) -> Node | None:
        """Return the node of a key path; None when it is not given."""
        node: Node | None = self.root
        for step in path:
            if node is None or not isinstance(node.value, list if isinstance(step, int) else dict):
                return None
            value: Any = node.value
            node = value[step] if isinstance(step, int) else value.get(step)
        return node

    def place_of(self, path: KeyPath) -> Place:
        """Return where the value of ``path`` is written, or else the nearest value around it."""
        while (node := self.node_at(path)) is None:
            path = path[:-1]
        return node.place

    def add_problem(self, path: KeyPath, message: str, place: Place | None = None) -> None:
        """Add a problem of the value at ``path``, which is invalid from now on."""
        self.mark_invalid(path)
        self.problems.append((place or self.place_of(path)).problem(join(path), message))

    def is_valid(self, *keys: str) -> bool:
        """Check that there is no problem of these keys or anything inside them."""
        return not any(key in self.invalid for key in keys)

    def mark_invalid(self, path: KeyPath) -> None:
        """Mark a key path, and everything around it, as invalid."""
        self.invalid.update(join(path[:end]) for end in range(1, len(path) + 1))

    # Values -----------------------------------------------------------------------------------------------------

    def known_keys(self, cls: type, path: KeyPath, *, require_all: bool = True) -> dict[str, Node]:
        """Return the keys given at ``path`` that ``cls`` has; the others are problems, and missing required ones."""
        node = self.node_at(path)
        given: Any = {} if node is None or node.value is None else node.value
        if not isinstance(given, dict):
            self.add_problem(path, f"must be a mapping of keys, not {show(node)}")
            return {}
        known = [f.name for f in fields(cls)]
        for key, child in given.items():
            if key not in known:
                near = suggestion(key, known) or _other_section(key)
                self.add_problem((*path, key), f"unknown key{near}", child.key_place)
        for f in fields(cls):
            if require_all and f.default is MISSING and f.default_factory is MISSING and f.name not in given:
                self.add_problem((*path, f.name), f"is missing: {f.metadata['help']}", self.place_of(path))
        return {key: child for key, child in given.items() if key in known}

    def read_section(
        self, cls: type[T], path: KeyPath, base: T | None = None, *, require_all: bool = True, **more: Any
    ) -> T | None:
        """Read the config object at ``path``, over ``base`` or the defaults; None when a required value is unusable.

        ``more`` are values that the caller has read, nested sections among them. Without ``require_all`` nothing is
        required, because ``base`` has it.
        """
        types = field_types(cls)
        values: dict[str, Any] = {}
        params: dict[str, Node] = {}
        for key, child in self.known_keys(cls, path, require_all=require_all).items():
            nested = is_dataclass(types[key]) or any(is_dataclass(part) for part in get_args(types[key]))
            if child.broken:
                self.mark_invalid((*path, key))
            if nested or key in more or child.broken:
                continue
            if types[key] == dict[str, Any]:
                params[key] = child
                continue
            try:
                values[key] = convert(cls, key, child)
            except ConversionError as error:
                self.add_problem((*path, key), str(error), error.place)
        defaults = {f.name: getattr(base, f.name, f.default) for f in fields(cls)}  # type: ignore[arg-type]
        for key, child in params.items():
            values[key] = self._read_params((*path, key), child, _param_types(cls, key, defaults | values))
        if base is not None:
            return replace(base, **values, **more)  # type: ignore[type-var]
        try:
            return cls(**values, **more)
        except TypeError:  # a required one is missing, which is a problem already
            return None

    def _read_params(self, path: KeyPath, node: Node, types: Mapping[str, type]) -> dict[str, Any]:
        try:
            params, errors = convert_params(node, types)
        except ConversionError as error:
            self.add_problem(path, str(error))
            return {}
        for key, error in errors.items():
            self.add_problem((*path, key), str(error), error.place)
        return params

    # Sections ---------------------------------------------------------------------------------------------------

    def read_curriculum(self) -> Curriculum | None:
        """Read a whole curriculum; None when a required section is unusable."""
        penalties = self.read_section(Penalties, ("penalties",)) or Penalties()
        training = self.read_section(Training, ("training",)) or Training()
        learner = self.read_section(Learner, ("learner",)) or Learner()
        shape = self.read_section(Input, ("input",)) if self.node_at(("input",)) else None
        network = self.read_section(Network, ("network",)) if self.node_at(("network",)) else None
        if network is not None:
            network = validation.complete_feedforward(self, network, self.known_keys(Network, ("network",)))
        learner = replace(learner, params=validation.complete_learner_params(self, learner))
        iterations = network.iterations if network else Network().iterations
        tasks = tuple(self.read_tasks(Task("task", "", penalties=penalties, training=training, iterations=iterations)))
        curriculum = self.read_section(
            Curriculum,
            (),
            penalties=penalties,
            training=training,
            learner=learner,
            input=shape,
            network=network,
            tasks=tasks,
        )
        if curriculum is not None and shape is not None and network is not None:
            validation.check_curriculum(self, curriculum)
        return curriculum

    def extend_curriculum(self, run: Curriculum) -> Curriculum:
        """Add the tasks of the tree to the curriculum of a run; see ``extend_curriculum`` of this module."""
        penalties = self.read_section(Penalties, ("penalties",), run.penalties) or run.penalties
        training = self.read_section(Training, ("training",), run.training) or run.training
        learner = self.read_section(Learner, ("learner",), run.learner) or run.learner
        given = self.read_section(
            Curriculum,
            (),
            run,
            require_all=False,
            input=self.read_section(Input, ("input",), run.input, require_all=False),
            network=self.read_section(Network, ("network",), run.network),
            learner=learner,
        )
        # that the network may grow from now on is no change: had it been too small before, the run would have failed
        run = replace(run, learner=replace(run.learner, grow=run.learner.grow or learner.grow))
        self.require_unchanged(given, run, ())
        if self.node_at(("tasks",)) is None:
            self.add_problem(("tasks",), "is missing: the tasks to add to the run")
        base = Task("task", "", penalties=penalties, training=training, iterations=run.network.iterations)
        tasks = tuple(self.read_tasks(base))
        changed = replace(run, penalties=penalties, training=training)
        validation.check_curriculum(self, validation.with_tasks_added(changed, tasks))
        validation.check_added_tasks(self, tasks, run.tasks)
        return replace(run, tasks=(*run.tasks, *tasks))

    def require_unchanged(self, given: Any, run: Any, path: KeyPath) -> None:
        """Add a problem for each key whose given value differs from the run's."""
        for f in fields(run):
            mine, have, here = getattr(given, f.name), getattr(run, f.name), (*path, f.name)
            if mine == have or (not path and f.name in ("name", "description")):
                continue
            if is_dataclass(have):
                self.require_unchanged(mine, have, here)
            elif self.is_valid(join(here)):
                was = "not set" if have is None else show(have)
                self.add_problem(here, f"is {was} in the run, which cannot be changed afterwards: leave it out")

    def read_tasks(self, base: Task) -> list[Task]:
        """Read all tasks, each over ``base``, which has the curriculum's penalties, training and iterations."""
        node = self.node_at(("tasks",))
        if node is None:
            return []
        if not isinstance(node.value, list) or not node.value:
            self.add_problem(
                ("tasks",), f"must be a list of at least one task, not {show(node) if node.value else 'empty'}"
            )
            return []
        if len(node.value) > validation.MAX_TASKS:
            self.add_problem(
                ("tasks",), f"has {len(node.value):,} tasks; at most {validation.MAX_TASKS:,} are possible"
            )
            return []
        made = []
        for i in range(len(node.value)):
            path = ("tasks", i)
            made.append(
                self.read_section(
                    Task,
                    path,
                    base=replace(base, name=f"task {i}"),
                    augment=self.read_section(Augment, (*path, "augment")) or Augment(),
                    penalties=self.read_section(Penalties, (*path, "penalties"), base.penalties) or base.penalties,
                    training=self.read_section(Training, (*path, "training"), base.training) or base.training,
                )
            )
        return [validation.complete_task(self, i, task) for i, task in enumerate(made) if task is not None]
