"""One value of a curriculum: from a node of the tree to the type and range that nesa.config.curriculum gives to its key.

OmegaConf's structured configs, built of the config classes, do the conversion: "3" is a number where a number is
wanted, true is not. This module adds the ranges and the sentences.
"""

from __future__ import annotations

import math
import re
from dataclasses import Field, fields
from functools import cache
from typing import Any, get_args, get_type_hints

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from nesa.config.yaml_tree import Node, show, suggestion

MAX_NAME = 64

_KINDS = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}


def typed(cls: type, key: str, node: Node) -> Any:
    """The value of ``node`` as ``cls.key`` wants it. Raises ValueError with a sentence that says why it cannot be."""
    hint = hints_of(cls)[key]
    if hint == dict[str, Any]:
        if node.value is not None and not isinstance(node.value, dict):
            raise ValueError(f"must be a mapping of keys, not {show(node)}")
        return node.plain() or {}
    if node.value is None and type(None) in get_args(hint):
        return None
    # A text keeps its own spelling: `name: 007` is not 7, and `name: no` is not false.
    textual = str in (hint, *get_args(hint)) and not isinstance(node.value, (dict, list, type(None)))
    try:
        value = _converted(cls, key, node.text if textual else node.plain(), _length(hint))
    except (OmegaConfBaseException, ValueError, TypeError, OverflowError):
        raise ValueError(f"must be {_described(hint)}, not {show(node)}") from None
    if reason := _out_of_range(next(f for f in fields(cls) if f.name == key), value):
        raise ValueError(reason)
    return value


@cache
def hints_of(cls: type) -> dict[str, Any]:
    """The evaluated annotations of a config class."""
    return get_type_hints(cls)


@cache
def _schema(cls: type) -> DictConfig:
    """OmegaConf's structured config of a config class: it converts and refuses values by their annotated type."""
    config = OmegaConf.structured(cls)
    OmegaConf.set_readonly(config, False)
    return config


def _converted(cls: type, key: str, raw: Any, length: int | None) -> Any:
    """``raw`` as OmegaConf reads it for ``cls.key``; lists become tuples. Raises ValueError or OmegaConf's errors."""
    if raw is None or raw == "???" or (length is not None and (not isinstance(raw, list) or len(raw) != length)):
        raise ValueError  # "???" is OmegaConf's word for a value that is still missing
    config = _schema(cls)
    OmegaConf.update(config, key, raw, merge=False)
    value = config[key]
    return tuple(value) if OmegaConf.is_config(value) or isinstance(value, (list, tuple)) else value


def _out_of_range(spec: Field[Any], value: Any) -> str:
    """Why ``value`` is outside what the field's metadata allow, in a sentence; '' when it is not."""
    allowed = spec.metadata
    for item in value if isinstance(value, tuple) else (value,):
        if isinstance(item, str):
            if (choices := allowed.get("choices")) and item not in choices:
                return f"{show(item)} is not one of {', '.join(choices)}{suggestion(item, choices)}"
            if (pattern := allowed.get("pattern")) and (not re.fullmatch(pattern, item) or len(item) > MAX_NAME):
                return (
                    f"{show(item)} must be at most {MAX_NAME} letters, digits, '_', '-' and '.', not starting with "
                    "'.' or '-', because files are named after it"
                )
        elif not isinstance(item, bool):
            if not math.isfinite(item):
                return f"must be a finite number, not {item}"
            if (low := allowed.get("low")) is not None and item < low:
                return f"must be at least {low:g}, not {item}"
            if (above := allowed.get("above")) is not None and item <= above:
                return f"must be greater than {above:g}, not {item}"
            if (high := allowed.get("high")) is not None and item > high:
                return f"must be at most {high}, not {item}"
    return ""


def _described(hint: Any) -> str:
    """An annotation in words: tuple[int, int, int] | None -> '[3 whole numbers] or null'."""
    if hint in _KINDS:
        return _KINDS[hint]
    parts = get_args(hint)
    if type(None) in parts:
        return " or ".join([*(_described(part) for part in parts if part is not type(None)), "null"])
    return "a list of whole numbers" if Ellipsis in parts else f"a list of {len(parts)} whole numbers"


def _length(hint: Any) -> int | None:
    """The fixed length of a tuple annotation, optional or not; None when there is none."""
    for part in (hint, *get_args(hint)):
        items = get_args(part)
        if getattr(part, "__origin__", None) is tuple and Ellipsis not in items:
            return len(items)
    return None
