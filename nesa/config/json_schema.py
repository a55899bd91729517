"""Generate the JSON Schema (draft 2020-12) of a curriculum, for completion and checks in editors.

It is made from nesa.config.curriculum, which has names, defaults, ranges and help, and from the declared parameters of
the task sources. A curriculum names it in its first line, ``# yaml-language-server: $schema=schema.json``. It covers
single values; ``nesa check`` checks the rules between keys.
"""

from __future__ import annotations

from dataclasses import MISSING, Field, fields, is_dataclass
from typing import Any, get_args

from nesa.config.conversion import MAX_NAME, field_types
from nesa.config.curriculum import LEARNER_PARAMS, NAME_PATTERN, Curriculum, Learner, Task
from nesa.datasets.registry import SOURCES
from nesa.datasets.source import Source
from nesa.datasets.user_function import PATTERN

_TYPES = {int: "integer", float: "number", bool: "boolean", str: "string"}


def schema() -> dict[str, Any]:
    """Generate the schema, as plain dicts and lists for ``json.dumps``."""
    top = _object(Curriculum)
    top["properties"]["extends"] = {"type": "string", "description": "another curriculum that this one changes"}
    required = [f.name for f in fields(Curriculum) if _needed(f)]
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "NESA curriculum",
        **top,
        # A file that extends another needs only what it changes.
        "if": {"not": {"required": ["extends"]}},
        "then": {"required": required, "properties": {"input": {"required": ["size"]}}},
        "$defs": {f"source_{name}": _source(source) for name, source in SOURCES.items()},
    }


def _object(cls: type) -> dict[str, Any]:
    hints = field_types(cls)
    made: dict[str, Any] = {
        "type": ["object", "null"],
        "description": (cls.__doc__ or "").partition("\n")[0],
        "properties": {f.name: _property(cls, f, hints[f.name]) for f in fields(cls)},
        "additionalProperties": False,
    }
    if cls is Task:
        made |= {"type": "object", "required": [f.name for f in fields(cls) if _needed(f)]}
        made["allOf"] = [
            _when(key, name, params, {"$ref": f"#/$defs/source_{name}"})
            for key, params in (("source", "params"), ("fallback", "fallback_params"))
            for name in SOURCES
        ]
    if cls is Learner:
        made["allOf"] = [_when("name", name, "params", _learner(name)) for name in LEARNER_PARAMS]
    return made


def _needed(f: Field[Any]) -> bool:
    return f.default is MISSING and f.default_factory is MISSING


def _property(cls: type, f: Field[Any], hint: Any) -> dict[str, Any]:
    allowed = f.metadata
    if is_dataclass(hint) and isinstance(hint, type):
        return _object(hint) | {"description": allowed["help"]}
    made: dict[str, Any] = {"description": allowed["help"]}
    if (cls, f.name) in ((Task, "source"), (Task, "fallback")):
        names = [{"enum": list(SOURCES)}, {"type": "string", "pattern": f"^({PATTERN.pattern})$"}]
        return made | {"anyOf": names if _needed(f) else [*names, {"type": "null"}]}
    if f.default is not MISSING:
        made["default"] = list(f.default) if isinstance(f.default, tuple) else f.default
    parts = [part for part in get_args(hint) if part is not type(None)]
    optional = len(parts) < len(get_args(hint))
    base = parts[0] if optional else hint
    if base == dict[str, Any]:
        return made | {"type": ["object", "null"]}
    if base == tuple[Task, ...]:
        return made | {"type": "array", "minItems": 1, "items": _object(Task)}
    if base in _TYPES:
        made |= {"type": _TYPES[base]} | _range(allowed)
    else:  # a tuple of whole numbers, of fixed length or not
        made |= {"type": "array", "items": {"type": "integer"} | _range(allowed), "minItems": 1}
        if Ellipsis not in get_args(base):
            made |= {"minItems": len(get_args(base)), "maxItems": len(get_args(base))}
    if optional:
        made["type"] = [made["type"], "null"]
    return made


def _range(allowed: Any) -> dict[str, Any]:
    names = {"low": "minimum", "above": "exclusiveMinimum", "high": "maximum", "choices": "enum"}
    made = {name: allowed[key] for key, name in names.items() if allowed.get(key) is not None}
    if "enum" in made:
        made["enum"] = list(made["enum"])
    if allowed.get("pattern"):
        made |= {"pattern": f"^{NAME_PATTERN}$", "maxLength": MAX_NAME}
    return made


def _when(key: str, name: str, params: str, shape: dict[str, Any]) -> dict[str, Any]:
    """Require this shape of ``params`` where ``key`` is ``name``."""
    return {
        "if": {"properties": {key: {"const": name}}, "required": [key]},
        "then": {"properties": {params: shape}},
    }


def _source(source: Source) -> dict[str, Any]:
    made = {}
    for p in source.params:
        one: dict[str, Any] = {"description": p.help, "type": _TYPES[p.type]}
        if p.default is None:
            one["type"] = [one["type"], "null"]
        elif not p.required:
            one["default"] = p.default
        if p.choices:
            one["enum"] = list(p.choices)
        made[p.name] = one | {key: v for key, v in (("minimum", p.low), ("maximum", p.high)) if v is not None}
    needed = [p.name for p in source.params if p.required]
    shape = {
        "type": ["object", "null"],
        "description": source.summary,
        "properties": made,
        "additionalProperties": False,
    }
    return shape | ({"required": needed} if needed else {})


def _learner(name: str) -> dict[str, Any]:
    made = {
        p.name: {"type": _TYPES[p.kind], "minimum": p.low, "default": p.default, "description": p.help}
        for p in LEARNER_PARAMS[name]
    }
    return {"type": ["object", "null"], "properties": made, "additionalProperties": False}
