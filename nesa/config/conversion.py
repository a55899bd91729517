"""Convert a node of the YAML tree to the type and range that nesa.config.curriculum declares for its key.

convert(cls, key, node)        a value of a config class
convert_params(node, types)    parameters of a source or learner: by declared type, or by YAML's core schema
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import Field, fields
from functools import cache
from typing import Any, get_args, get_origin, get_type_hints

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from nesa.config.scalars import check_untyped, read_bool, read_number
from nesa.config.yaml_tree import Node, Place, show, suggestion

MAX_NAME = 64

_KINDS = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}


class ConversionError(ValueError):
    """Why a value cannot be converted, in a sentence. place: of the item of a list that is to blame, else None."""

    def __init__(self, message: str, place: Place | None = None):
        super().__init__(message)
        self.place = place


def convert(cls: type, key: str, node: Node) -> Any:
    """Convert ``node`` to the type of ``cls.key``; lists become tuples. Raises ConversionError."""
    hint = field_types(cls)[key]
    if node.value is None and type(None) in get_args(hint):
        return None
    kind = None if get_origin(hint) is tuple else next((p for p in (hint, *get_args(hint)) if p in _KINDS), None)
    if kind is not None:
        value = None if isinstance(node.value, (dict, list)) else read_scalar(kind, node)
    else:
        value = _convert_list(node, _length(hint))
    if value is None:
        raise ConversionError(f"must be {_described(hint)}, not {show(node)}{_nearest(kind, node)}")
    if reason := _out_of_range(next(f for f in fields(cls) if f.name == key), value):
        raise ConversionError(reason)
    try:
        return _typed(cls, key, value)
    except OmegaConfBaseException:
        raise ConversionError(f"must be {_described(hint)}, not {show(node)}") from None


@cache
def _structured(cls: type) -> DictConfig:
    """OmegaConf's structured config of a config class: it refuses values by their annotated type."""
    config = OmegaConf.structured(cls)
    OmegaConf.set_readonly(config, False)
    return config


def _typed(cls: type, key: str, value: Any) -> Any:
    """The value as OmegaConf holds it for ``cls.key``; lists become tuples. Raises OmegaConf's errors."""
    if value == "???":  # OmegaConf's word for a value that is missing, here a text like others
        return value
    config = _structured(cls)
    OmegaConf.update(config, key, list(value) if isinstance(value, tuple) else value, merge=False)
    typed = config[key]
    return tuple(typed) if OmegaConf.is_config(typed) or isinstance(typed, (list, tuple)) else typed


def read_scalar(kind: type, node: Node) -> Any:
    """Read a scalar as int, float, bool or str, quoted or not; None where it is none. Raises ConversionError.

    A text keeps its own spelling: `name: 007` is not 7, and `name: no` is not false.
    """
    if kind is str:
        return None if node.value is None else node.text
    if kind is bool:
        return read_bool(node.text)
    try:
        return read_number(kind, node.text)
    except ValueError as error:
        raise ConversionError(str(error), node.place) from None


def convert_params(node: Node, types: Mapping[str, type]) -> tuple[dict[str, Any], dict[str, ConversionError]]:
    """Convert a mapping of parameters, and collect an error for each that cannot be; ``types`` are those declared.

    A declared type decides how a scalar is read; a value that is not of its type is left to the source's own check.
    """
    if node.value is not None and not isinstance(node.value, dict):
        raise ConversionError(f"must be a mapping of keys, not {show(node)}")
    params: dict[str, Any] = {}
    errors: dict[str, ConversionError] = {}
    for key, child in (node.value or {}).items():
        try:
            params[key] = _convert_param(child, types.get(key))
        except ConversionError as error:
            errors[key] = error
    return params, errors


def _convert_param(node: Node, kind: type | None) -> Any:
    if isinstance(node.value, dict):
        return {key: _convert_param(child, None) for key, child in node.value.items()}
    if isinstance(node.value, list):
        return [_convert_param(child, None) for child in node.value]
    if kind is not None and node.value is not None:
        value = read_scalar(kind, node)
        return node.value if value is None else value
    if not node.quoted:
        try:
            check_untyped(node.text)
        except ValueError as error:
            raise ConversionError(str(error), node.place) from None
    return node.value


def _convert_list(node: Node, length: int | None) -> tuple[Any, ...] | None:
    """Convert a list of whole numbers; None where it is none, or not of this length."""
    if not isinstance(node.value, list) or length not in (None, len(node.value)):
        return None
    items = [None if isinstance(item.value, (dict, list)) else read_scalar(int, item) for item in node.value]
    return None if None in items else tuple(items)


def _nearest(kind: type | None, node: Node) -> str:
    """Return ': write 10' where a value means one of the wanted kind, as 10.0 does; else ''."""
    if kind is int and isinstance(node.value, float) and node.value.is_integer() and abs(node.value) < 1e15:
        return f": write {node.value:.0f}"
    if kind is bool and not isinstance(node.value, (dict, list)) and node.text.lower() in ("true", "false", "0", "1"):
        return f": write {'true' if node.text.lower() in ('true', '1') else 'false'}"
    return ""


@cache
def field_types(cls: type) -> dict[str, Any]:
    """Return the evaluated annotations of a config class."""
    return get_type_hints(cls)


def _out_of_range(spec: Field[Any], value: Any) -> str:
    """Return why ``value`` is outside what the field's metadata allow, in a sentence; '' when it is not."""
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
    """Describe an annotation in words: tuple[int, int, int] | None -> '[3 whole numbers] or null'."""
    if hint in _KINDS:
        return _KINDS[hint]
    parts = get_args(hint)
    if type(None) in parts:
        return " or ".join([*(_described(part) for part in parts if part is not type(None)), "null"])
    return "a list of whole numbers" if Ellipsis in parts else f"a list of {len(parts)} whole numbers"


def _length(hint: Any) -> int | None:
    """Return the fixed length of a tuple annotation, optional or not; None when there is none."""
    for part in (hint, *get_args(hint)):
        items = get_args(part)
        if get_origin(part) is tuple and Ellipsis not in items:
            return len(items)
    return None
