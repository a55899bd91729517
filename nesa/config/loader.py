"""The door: from YAML to a ``Curriculum``, or to every problem in it at once, each with FILE:LINE:COLUMN.

    load(path, overrides)         read, extend, override, type, check, freeze
    dump(curriculum)              the resolved curriculum as YAML; ``load`` of it gives an equal object
    extended(path, run, ...)      the curriculum of a run with the tasks of a further file behind its own

nesa.config.yaml_tree reads the text, nesa.config.overrides lays files over each other, nesa.config.conversion gives types and ranges, nesa.config.validation
joins keys; this module walks the tree and keeps the places. Nothing here imports torch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import MISSING, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml

from nesa.config import validation
from nesa.config.conversion import hints_of, typed
from nesa.config.curriculum import Augment, Curriculum, Input, Learner, Network, Penalties, Task, Training, to_dict
from nesa.config.overrides import apply_override, read_with_extends, resolve_references
from nesa.config.yaml_tree import Node, Place, join, show, suggestion
from nesa.errors import CurriculumError, Problem

MAX_PROBLEMS = 200

T = TypeVar("T")
KeyPath = tuple[str | int, ...]


def load(path: str | Path, overrides: Sequence[str] = ()) -> Curriculum:
    """The resolved curriculum of the YAML file ``path`` with ``key=value`` overrides on top.

    Raises CurriculumError with all problems, and UserError when the file cannot be opened at all.
    """
    return _entered(path, overrides, CurriculumReader.curriculum)


def extended(path: str | Path, run: Curriculum, overrides: Sequence[str] = ()) -> Curriculum:
    """``run`` with the tasks of the YAML file ``path`` behind its own.

    The file says ``tasks``, under new names, and may say ``training`` and ``penalties``, which hold for its tasks and
    lie over the run's. ``name`` and ``description`` are the file's own. Every other key is the run's: it is left out,
    or says the same (``learner.grow`` may become true). Raises as ``load`` does.
    """
    return _entered(path, overrides, lambda reader: reader.longer(run))


def _entered(
    path: str | Path, overrides: Sequence[str], enter: Callable[[CurriculumReader], Curriculum | None]
) -> Curriculum:
    problems: list[Problem] = []
    root = read_with_extends(Path(path), problems)
    curriculum = None
    if root is not None:
        for number, text in enumerate(overrides, 1):
            apply_override(root, text, number, problems)
        resolve_references(root, problems)
        curriculum = enter(CurriculumReader(root, problems))
    if problems or curriculum is None:
        raise CurriculumError(_ordered(problems))
    return curriculum


def dump(curriculum: Curriculum) -> str:
    """The resolved curriculum as YAML text.

    Tasks say only what differs from the curriculum, so that ``training.epochs=3`` still reaches them all.
    """
    whole = to_dict(curriculum)
    for task in whole["tasks"]:
        for section in ("penalties", "training"):
            task[section] = {key: value for key, value in task[section].items() if value != whole[section][key]}
        if task["iterations"] == whole["network"]["iterations"]:
            del task["iterations"]
        for key in [key for key, value in task.items() if value in ({}, None)]:
            del task[key]
    return yaml.safe_dump(whole, sort_keys=False, allow_unicode=True, width=120)


def _ordered(problems: list[Problem]) -> list[Problem]:
    """Without repetitions, in the order of the text, file by file, at most MAX_PROBLEMS."""
    files = list(dict.fromkeys(problem.file for problem in problems))
    unique = sorted(dict.fromkeys(problems), key=lambda p: (files.index(p.file), p.line, p.column))
    if len(unique) > MAX_PROBLEMS:
        last = unique[MAX_PROBLEMS]
        rest = Problem(last.file, last.line, last.column, "", f"and {len(unique) - MAX_PROBLEMS} more problems")
        unique = [*unique[:MAX_PROBLEMS], rest]
    return unique


def _elsewhere(key: str) -> str:
    """' (did you mean training.lr?)' when the key belongs to another section, else ''."""
    for section in fields(Curriculum):
        cls = hints_of(Curriculum)[section.name]
        if is_dataclass(cls) and key in (f.name for f in fields(cls)):
            return f" (did you mean {section.name}.{key}?)"
    return ""


class CurriculumReader:
    """Turns a tree into config objects; says every problem at the place of the value that it concerns."""

    def __init__(self, root: Node, problems: list[Problem]):
        self.root, self.problems = root, problems
        self.invalid: set[str] = set()  # keys whose value, or part of it, is not the user's: no rule speaks about them

    # Places -----------------------------------------------------------------------------------------------------

    def at(self, path: KeyPath) -> Node | None:
        node: Node | None = self.root
        for step in path:
            if node is None or not isinstance(node.value, list if isinstance(step, int) else dict):
                return None
            value: Any = node.value
            node = value[step] if isinstance(step, int) else value.get(step)
        return node

    def place(self, path: KeyPath) -> Place:
        """Where the value of ``path`` is written, or else the nearest thing around it."""
        while (node := self.at(path)) is None:
            path = path[:-1]
        return node.place

    def add_problem(self, path: KeyPath, message: str, place: Place | None = None) -> None:
        self._spoil(path)
        self.problems.append((place or self.place(path)).problem(join(path), message))

    def is_valid(self, *keys: str) -> bool:
        """No problem has been said about these keys or anything inside them."""
        return not any(key in self.invalid for key in keys)

    def _spoil(self, path: KeyPath) -> None:
        self.invalid.update(join(path[:end]) for end in range(1, len(path) + 1))

    # Values -----------------------------------------------------------------------------------------------------

    def keys(self, cls: type, path: KeyPath, *, whole: bool = True) -> dict[str, Node]:
        """The keys given at ``path`` that ``cls`` knows; says which are unknown and, of a ``whole`` section, which
        required ones are missing."""
        node = self.at(path)
        given: Any = {} if node is None or node.value is None else node.value
        if not isinstance(given, dict):
            self.add_problem(path, f"must be a mapping of keys, not {show(node)}")
            return {}
        known = [f.name for f in fields(cls)]
        for key, child in given.items():
            if key not in known:
                near = suggestion(key, known) or _elsewhere(key)
                self.add_problem((*path, key), f"unknown key{near}", child.key_place)
        for f in fields(cls):
            if whole and f.default is MISSING and f.default_factory is MISSING and f.name not in given:
                self.add_problem((*path, f.name), f"is missing: {f.metadata['help']}", self.place(path))
        return {key: child for key, child in given.items() if key in known}

    def section(
        self, cls: type[T], path: KeyPath, base: T | None = None, *, whole: bool = True, **more: Any
    ) -> T | None:
        """The config object at ``path``, over ``base`` or the defaults; None when a required value is unusable.

        ``more`` are values that the caller has made; nested sections are the caller's too. Without ``whole`` nothing
        is required, because ``base`` has it.
        """
        hints = hints_of(cls)
        values: dict[str, Any] = {}
        for key, child in self.keys(cls, path, whole=whole).items():
            nested = is_dataclass(hints[key]) or any(is_dataclass(part) for part in get_args(hints[key]))
            if child.broken:
                self._spoil((*path, key))
            if nested or key in more or child.broken:
                continue
            try:
                values[key] = typed(cls, key, child)
            except ValueError as error:
                self.add_problem((*path, key), str(error))
        if base is not None:
            return replace(base, **values, **more)  # type: ignore[type-var]
        try:
            return cls(**values, **more)
        except TypeError:  # a required one is missing, which has been said
            return None

    # Sections ---------------------------------------------------------------------------------------------------

    def curriculum(self) -> Curriculum | None:
        penalties = self.section(Penalties, ("penalties",)) or Penalties()
        training = self.section(Training, ("training",)) or Training()
        learner = self.section(Learner, ("learner",)) or Learner()
        shape = self.section(Input, ("input",)) if self.at(("input",)) else None
        network = self.section(Network, ("network",)) if self.at(("network",)) else None
        if network is not None:
            network = validation.feedforward(self, network, self.keys(Network, ("network",)))
        learner = replace(learner, params=validation.learner_params(self, learner))
        iterations = network.iterations if network else Network().iterations
        tasks = tuple(self.tasks(Task("task", "", penalties=penalties, training=training, iterations=iterations)))
        whole = self.section(
            Curriculum,
            (),
            penalties=penalties,
            training=training,
            learner=learner,
            input=shape,
            network=network,
            tasks=tasks,
        )
        if whole is not None and shape is not None and network is not None:
            validation.check(self, whole)
        return whole

    def longer(self, run: Curriculum) -> Curriculum:
        """``run`` with further tasks; see ``extended``."""
        penalties = self.section(Penalties, ("penalties",), run.penalties) or run.penalties
        training = self.section(Training, ("training",), run.training) or run.training
        learner = self.section(Learner, ("learner",), run.learner) or run.learner
        given = self.section(
            Curriculum,
            (),
            run,
            whole=False,
            input=self.section(Input, ("input",), run.input, whole=False),
            network=self.section(Network, ("network",), run.network),
            learner=learner,
        )
        # that the network may grow from now on is no change: had it been too small before, the run would have failed
        run = replace(run, learner=replace(run.learner, grow=run.learner.grow or learner.grow))
        self.same(given, run, ())
        if self.at(("tasks",)) is None:
            self.add_problem(("tasks",), "is missing: the tasks to add to the run")
        base = Task("task", "", penalties=penalties, training=training, iterations=run.network.iterations)
        tasks = tuple(self.tasks(base))
        validation.check(self, validation.beside(replace(run, penalties=penalties, training=training), tasks))
        validation.further(self, tasks, run.tasks)
        return replace(run, tasks=(*run.tasks, *tasks))

    def same(self, given: Any, run: Any, path: KeyPath) -> None:
        """Says each key that is given otherwise than the run has it."""
        for f in fields(run):
            mine, have, here = getattr(given, f.name), getattr(run, f.name), (*path, f.name)
            if mine == have or (not path and f.name in ("name", "description")):
                continue
            if is_dataclass(have):
                self.same(mine, have, here)
            elif self.is_valid(join(here)):
                was = "not set" if have is None else show(have)
                self.add_problem(here, f"is {was} in the run, which cannot be changed afterwards: leave it out")

    def tasks(self, base: Task) -> list[Task]:
        """All tasks, each over ``base``, which carries the curriculum's penalties, training and iterations."""
        node = self.at(("tasks",))
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
                self.section(
                    Task,
                    path,
                    base=replace(base, name=f"task {i}"),
                    augment=self.section(Augment, (*path, "augment")) or Augment(),
                    penalties=self.section(Penalties, (*path, "penalties"), base.penalties) or base.penalties,
                    training=self.section(Training, (*path, "training"), base.training) or base.training,
                )
            )
        return [validation.with_defaults(self, i, task) for i, task in enumerate(made) if task is not None]
