"""Merge one curriculum over another: ``extends``, ``key=value`` of the command line, ``${references}``.

    read_with_extends(path, problems)   one file on top of the files that it extends
    apply_override(root, text, ...)     one ``key=value``, in place
    resolve_references(root, problems)  values given elsewhere in the same curriculum, in place

All of it happens on the tree of nesa.config.yaml_tree, before any value has a type, so that each value keeps its place.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from nesa.config import yaml_tree
from nesa.config.yaml_tree import Node, Place, join, show
from nesa.errors import Problem, UserError

MAX_NAME = 4095  # characters of a file named in a file: the longest path of an operating system
MAX_EXTENDS = 8
COMMAND_LINE = "command line"

_PATH = re.compile(r"[^.\[\]=]+(?:\.[^.\[\]=]+|\[[^\[\]=]+\])*")
_STEP = re.compile(r"\[([^\[\]]+)\]|([^.\[\]=]+)")
_REFERENCE = re.compile(r"\$\{([\w.\[\]-]{1,200})\}")


def read_with_extends(path: Path, problems: list[Problem]) -> Node | None:
    """Read the mapping of the file at ``path``, merged over the files that it ``extends``.

    Problems are appended; None means that there is no mapping to read. Raises UserError when the file itself
    cannot be opened.
    """
    try:
        text = yaml_tree.read_text(path)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    return _read_extended(path, text, (path.resolve(),), problems)


def _read_extended(path: Path, text: str, chain: tuple[Path, ...], problems: list[Problem]) -> Node | None:
    before = len(problems)
    root = yaml_tree.parse(text, str(path), problems)
    if root is None:
        if len(problems) == before:
            problems.append(Problem(str(path), 1, 1, "", "is empty: a curriculum needs name, input, network and tasks"))
        return None
    if not isinstance(root.value, dict):
        problems.append(root.place.problem("", f"a curriculum is a mapping of keys, not {show(root)}"))
        return None
    link = root.value.pop("extends", None)
    if link is None:
        return root
    if not isinstance(link.value, str) or not 0 < len(link.value) <= MAX_NAME or "\0" in link.value:
        problems.append(link.place.problem("extends", f"must be the name of one YAML file, not {show(link)}"))
        return root
    target = path.parent / link.value
    resolved = target.resolve()
    if resolved in chain:
        circle = " -> ".join(step.name for step in (*chain[chain.index(resolved) :], resolved))
        problems.append(link.place.problem("extends", f"goes in a circle: {circle}"))
        return root
    if len(chain) >= MAX_EXTENDS:
        problems.append(link.place.problem("extends", f"is the end of a chain of more than {MAX_EXTENDS} files"))
        return root
    try:
        text = yaml_tree.read_text(target)
    except UserError as error:
        name = str(target)  # its end is more informative than its beginning, and all of it may fill the screen
        name = name if len(name) <= 200 else f"...{name[-197:]}"
        problems.append(link.place.problem("extends", f"{name}: {error}"))
        return root
    base = _read_extended(target, text, (*chain, resolved), problems)
    return root if base is None else merge(base, root)


def merge(base: Node, top: Node) -> Node:
    """Merge ``top`` over ``base``: mappings key by key, everything else replaced.

    Parameters belong to the ``source`` (or learner ``name``) beside them: where that changes, the old ones are dropped.
    """
    if not isinstance(base.value, dict) or not isinstance(top.value, dict):
        return top
    old = dict(base.value)
    for key, child in top.value.items():
        if key in old and old[key].value != child.value:
            old.pop(_parameters_of(key, old), None)
    merged = {key: merge(old[key], child) if key in old else child for key, child in top.value.items()}
    return replace(top, value=old | merged)


def _parameters_of(key: str, mapping: dict[str, Node]) -> str:
    """Return the key of the parameters of what ``key`` names, or ''."""
    if key == "name":
        return "" if "source" in mapping else "params"
    return {"source": "params", "fallback": "fallback_params"}.get(key, "")


def apply_override(root: Node, text: str, number: int, problems: list[Problem]) -> None:
    """Put the ``number``-th ``key=value`` of the command line into the tree, in place.

    Lists are addressed by index or, for tasks, by the task's name: ``tasks[1].training.epochs=3`` and
    ``tasks.shapes.training.epochs=3``. The value is YAML.
    """
    here = Place(COMMAND_LINE, number, 1)
    key, equals, value = text.partition("=")
    steps = [bracketed or plain for bracketed, plain in _STEP.findall(key)]
    if not equals or not _PATH.fullmatch(key):
        problems.append(here.problem("", f"{show(text)} is not of the form key=value, such as training.epochs=3"))
        return
    before = len(problems)
    node = yaml_tree.parse(value, COMMAND_LINE, problems, line=number, column=len(key) + 2)
    if len(problems) > before:
        return
    if node is None:
        node = Node(None, here, here)
    if steps[0] == "extends":
        problems.append(here.problem("extends", "cannot be given on the command line; write a file that extends"))
        return
    current, path = root, ()
    for step in steps[:-1]:
        path = (*path, step)
        if isinstance(current.value, dict):
            child = current.value.setdefault(step, Node({}, here, here))
            if child.value is None:
                child.value = {}
            current = child
        else:
            current = _item(current, step)
        if current is None or not isinstance(current.value, (dict, list)):
            problems.append(here.problem(join(path), "does not exist" if current is None else "has no keys of its own"))
            return
    last = steps[-1]
    node.key_place = here
    if isinstance(current.value, list):
        item = _item(current, last)
        if item is None:
            problems.append(here.problem(join((*path, last)), f"does not exist: the list has {len(current.value)}"))
        else:
            current.value[next(i for i, child in enumerate(current.value) if child is item)] = node
        return
    owned = _parameters_of(last, current.value)
    if owned in current.value and current.value[owned].place.file != COMMAND_LINE:
        known = current.value.get(last)
        if known is None or known.value != node.value:
            del current.value[owned]
    current.value[last] = node


def _item(node: Node, step: str) -> Node | None:
    """Return the item of a list by index or by its ``name``; None when there is none."""
    for item in node.value:
        if isinstance(item.value, dict) and "name" in item.value and item.value["name"].text == step:
            return item
    return node.value[int(step)] if step.isdecimal() and len(step) < 6 and int(step) < len(node.value) else None


def resolve_references(root: Node, problems: list[Problem]) -> None:
    """Replace, in place, each value that is a reference ``${key.path}`` by the scalar of that key.

    Nothing more of OmegaConf's interpolation is read: no resolvers (oc.env would read the environment), no text around.
    """
    for path, node in list(_scalars(root, ())):
        seen: set[int] = set()
        target: Node | None = node
        sentence = ""
        while target is not None and isinstance(target.value, str) and "${" in target.value and not sentence:
            found = _REFERENCE.fullmatch(target.value)
            if found is None:
                sentence = (
                    f"{show(target)} is not read: only a whole value that names a key, such as ${{training.lr}}, is"
                )
            elif id(target) in seen:
                sentence = f"{show(node)} refers to itself"
            seen.add(id(target))
            target = _lookup(root, found[1]) if found else None
        if seen and not sentence and (target is None or isinstance(target.value, (dict, list))):
            sentence = f"{show(node)} names {'no key' if target is None else 'more than one value'} of this curriculum"
        if sentence:
            problems.append(node.place.problem(join(path), sentence))
            node.value, node.text, node.broken = None, "", True
        elif seen and target is not None:
            node.value, node.text, node.quoted, node.broken = target.value, target.text, target.quoted, target.broken


def _scalars(node: Node, path: tuple[str | int, ...]) -> Iterator[tuple[tuple[str | int, ...], Node]]:
    if isinstance(node.value, dict):
        for key, child in node.value.items():
            yield from _scalars(child, (*path, key))
    elif isinstance(node.value, list):
        for i, child in enumerate(node.value):
            yield from _scalars(child, (*path, i))
    else:
        yield path, node


def _lookup(root: Node, key: str) -> Node | None:
    current: Node | None = root
    for bracketed, plain in _STEP.findall(key):
        if current is None or not isinstance(current.value, (dict, list)):
            return None
        step = bracketed or plain
        current = current.value.get(step) if isinstance(current.value, dict) else _item(current, step)
    return current
