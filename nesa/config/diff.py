"""List the keys in which YAML trees differ: two curricula, or a curriculum and the one that a run began with."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import yaml


def differences(before: Any, now: Any) -> list[str]:
    """List `key.path: OLD became NEW` for each key in which two YAML trees differ."""
    trees = (before, now)
    return [f"{key}: {old} became {new}" for key, (old, new) in differing_values(trees).items()]


def differing_values(trees: tuple[Any, ...] | list[Any]) -> dict[str, list[str]]:
    """Map each key path whose values differ among the trees to the value of each, as YAML; `-` for nothing."""
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
