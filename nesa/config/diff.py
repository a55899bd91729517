"""Where two YAML trees differ, in words: two curricula, or a curriculum and what a run began with."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import yaml


def differences(before: Any, now: Any) -> list[str]:
    """`key.path: OLD became NEW` for each place where two YAML trees differ."""
    trees = (before, now)
    return [f"{key}: {old} became {new}" for key, (old, new) in unlike(trees).items()]


def unlike(trees: tuple[Any, ...] | list[Any]) -> dict[str, list[str]]:
    """For each key path at which the trees do not all say the same, what each says there, as YAML; `-` for nothing."""
    leaves = [dict(_leaves("", tree)) for tree in trees]
    found = {}
    for key in dict.fromkeys(key for tree in leaves for key in tree):
        values = [(key in tree, type(tree.get(key)), tree.get(key)) for tree in leaves]
        if any(value != values[0] for value in values[1:]):
            found[key] = [_shown(tree, key) for tree in leaves]
    return found


def _leaves(path: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping) and value:
        for key, item in value.items():
            yield from _leaves(f"{path}.{key}" if path else str(key), item)
    elif isinstance(value, list) and value:
        for at, item in enumerate(value):
            yield from _leaves(f"{path}[{at}]", item)
    else:
        yield path, value


def _shown(leaves: Mapping[str, Any], key: str) -> str:
    return yaml.safe_dump(leaves[key], default_flow_style=True, width=1000).splitlines()[0] if key in leaves else "-"
