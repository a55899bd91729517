"""Define a task source: its parameters, the input size and classes that it announces, and the arrays it returns."""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from nesa.datasets.paths import DataDirs

TYPES = {int: "a whole number", float: "a number", str: "a text", bool: "true or false"}


@dataclass(frozen=True)
class Arrays:
    """One task's data, on the host, before any split, normalisation or augmentation.

    train_x, test_x
        images: uint8 (n, H, W), or (n, H, W, C) for several channels; vectors: float32 (n, D). They may be memory
        maps that cannot be written to.
    train_y, test_y
        int64 (n,), labels from 0 to ``len(class_names) - 1``.
    origin
        where the data came from, and how their values were read: a folder, a file, or "generated".
    notes
        warnings that concern the user: what was left out, what seems wrong.
    """

    train_x: np.ndarray
    train_y: np.ndarray
    test_x: np.ndarray
    test_y: np.ndarray
    class_names: tuple[str, ...]
    kind: str = "image"
    origin: str = ""
    notes: tuple[str, ...] = ()


class ProgressCallback(Protocol):
    """Called by a source with what it is doing, how much is done, and of how much (None: unknown)."""

    def __call__(self, label: str, done: int, total: int | None, /) -> None: ...


def no_progress(label: str, done: int, total: int | None) -> None:
    """Show nothing: the default progress callback."""


@dataclass(frozen=True)
class Param:
    """A parameter of a source, with its type (``int``, ``float``, ``str`` or ``bool``) and range, ends included."""

    name: str
    type: type
    default: Any
    help: str
    low: float | None = None
    high: float | None = None
    required: bool = False
    choices: tuple[Any, ...] = ()

    def problem(self, value: Any) -> str | None:
        """Return why ``value`` cannot be used, in one sentence; None when it can."""
        if self.type is float:
            good = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
        elif self.type is int:
            good = isinstance(value, int) and not isinstance(value, bool)
        else:
            good = isinstance(value, self.type)
        if not good:
            return f"expected {TYPES[self.type]}, got {value!r}"
        if self.choices and value not in self.choices:
            return f"expected one of {', '.join(map(str, self.choices))}, got {value!r}"
        if self.low is not None and value < self.low:
            return f"must be at least {self.low:g}, got {value!r}"
        if self.high is not None and value > self.high:
            return f"must be at most {self.high:g}, got {value!r}"
        return None


def _none(params: Mapping[str, Any]) -> None:
    return None


def _image(params: Mapping[str, Any]) -> str:
    return "image"


@dataclass(frozen=True)
class Source:
    """A named kind of task.

    ``classes``, ``size`` and ``kind`` take the complete parameters and answer without loading data: the number of
    classes, the only input size that fits ([D] of vectors) and "image" or "vector"; None where only the data
    determine it, and ``size`` None where images are resized to the curriculum's size.

    ``load(params, *, size, channels, seed, data, progress)`` returns ``Arrays`` or raises ``DataError``;
    ``available(params, data)`` returns whether its files are there, without decoding anything;
    ``relations(params)`` adds (key, message) pairs for parameters that do not fit together.
    """

    name: str
    summary: str
    difficulty: str
    load: Callable[..., Arrays]
    params: tuple[Param, ...] = ()
    classes: Callable[[Mapping[str, Any]], int | None] = _none
    size: Callable[[Mapping[str, Any]], tuple[int, ...] | None] = _none
    kind: Callable[[Mapping[str, Any]], str | None] = _image
    available: Callable[[Mapping[str, Any], DataDirs], bool] = field(default=lambda params, data: True)
    relations: Callable[[Mapping[str, Any]], list[tuple[str, str]]] = field(default=lambda params: [])
    user_code: bool = False  # it runs the user's own code, and passes on parameters that are not in ``params``

    def complete(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """Fill in the defaults of ``params``; whole numbers become floats where the parameter is a float."""
        full = {p.name: params.get(p.name, p.default) for p in self.params} | dict(params)
        for p in self.params:
            if p.type is float and isinstance(full[p.name], int) and not isinstance(full[p.name], bool):
                full[p.name] = float(full[p.name])
        return full

    def check(self, params: Mapping[str, Any]) -> list[tuple[str, str]]:
        """Return every mistake in ``params`` as (key, message); an empty list when they can be used."""
        known = {p.name: p for p in self.params}
        problems = []
        for key, value in params.items():
            if key in known:
                if message := known[key].problem(value):
                    problems.append((key, message))
                continue
            if self.user_code:
                continue
            near = difflib.get_close_matches(str(key), known, 1)
            hint = f" (did you mean '{near[0]}'?)" if near else f"; it knows {', '.join(known) or 'no parameters'}"
            problems.append((str(key), f"unknown parameter of source '{self.name}'{hint}"))
        for p in self.params:
            if p.required and params.get(p.name) is None:
                problems.append((p.name, f"source '{self.name}' needs this parameter: {p.help}"))
        return problems or self.relations(self.complete(params))

    def mismatch(self, params: Mapping[str, Any], size: tuple[int, ...], channels: int) -> str | None:
        """Return why complete ``params`` do not go with ``input.size`` and ``input.channels``; None when they do."""
        kind, wanted = self.kind(params), self.size(params)
        if kind == "image" and len(size) != 2:
            return f"source '{self.name}' makes images: input.size must be [H, W], not {list(size)}"
        if kind == "vector" and len(size) != 1:
            fit = f"[{wanted[0]}]" if wanted else "[D]"
            return f"source '{self.name}' makes vectors: input.size must be {fit}, not {list(size)}"
        if wanted is not None and tuple(wanted) != tuple(size):
            return f"source '{self.name}' makes samples of size {list(wanted)}, but input.size is {list(size)}"
        if len(size) == 2 and channels not in (1, 3):
            return f"images have 1 (grey) or 3 (colour) channels, not {channels}: set input.channels"
        if len(size) == 1 and channels != 1:
            return f"vectors have one channel, not {channels}: leave input.channels out"
        return None
