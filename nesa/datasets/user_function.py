"""A dotted path: the user's own function, ``package.module:function`` or ``package.module.function``.

It is called with the task's params as keywords, and with ``size``, ``channels`` and ``seed`` where its signature has
them, and returns (train_x, train_y, test_x, test_y) or a mapping with these names: see ``given``. It is imported when
the data are loaded, never by ``nesa check``; the current folder may hold the module.
"""

from __future__ import annotations

import importlib
import inspect
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from nesa.datasets import user_arrays
from nesa.datasets.paths import DataDirs
from nesa.datasets.source import Arrays, Param, Progress, Source, silent
from nesa.errors import DataError

PATTERN = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*|[^\W\d]\w*(\.[^\W\d]\w*)+")


def is_dotted(name: str) -> bool:
    """Whether ``name`` is written like a function in a module."""
    return PATTERN.fullmatch(name) is not None


def source(name: str) -> Source:
    """The source of a dotted path; imports nothing."""

    def load(
        params: Mapping[str, Any],
        *,
        size: tuple[int, ...],
        channels: int,
        seed: int,
        data: DataDirs,
        progress: Progress = silent,
    ) -> Arrays:
        function = _function(name)
        keywords = {key: value for key, value in params.items() if key != "classes"}
        offered = {"size": size, "channels": channels, "seed": seed, "classes": params["classes"]}
        try:
            wanted = inspect.signature(function).parameters
            keywords |= {key: value for key, value in offered.items() if key in wanted and key not in keywords}
            result = function(**keywords)
        except (Exception, SystemExit) as error:
            raise DataError(f"source {name} failed: {type(error).__name__}: {error}") from error
        if isinstance(result, (tuple, list)) and len(result) == len(user_arrays.NAMES):
            result = dict(zip(user_arrays.NAMES, result, strict=True))
        if not isinstance(result, Mapping):
            raise DataError(f"source {name} must return {', '.join(user_arrays.NAMES)}, got {type(result).__name__}")
        return user_arrays.arrays(result, f"source {name}", size=size, channels=channels, classes=params["classes"])

    return Source(
        name=name,
        summary="your own function; its code runs when the data are loaded",
        difficulty="yours",
        load=load,
        classes=lambda params: params["classes"],
        kind=lambda params: None,
        foreign=True,
        params=(Param("classes", int, None, "the number of classes that it returns", 2, 10_000, required=True),),
    )


def _function(name: str) -> Callable[..., Any]:
    module, _, attribute = name.replace(":", ".").rpartition(".")
    here = str(Path.cwd())
    sys.path.insert(0, here)
    try:
        function = getattr(importlib.import_module(module), attribute)
    except (Exception, SystemExit) as error:
        raise DataError(f"source {name} cannot be imported: {type(error).__name__}: {error}") from error
    finally:
        if here in sys.path:
            sys.path.remove(here)
    if not callable(function):
        raise DataError(f"source {name} is not a function")
    return function
