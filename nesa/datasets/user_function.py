"""Load data from the user's own function, named ``package.module:function`` or ``package.module.function``.

It is called with the task's params as keywords, and with ``size``, ``channels`` and ``seed`` where its signature has
them, and returns (train_x, train_y, test_x, test_y) or a mapping with these names: see ``user_arrays``. It is
imported when the data are loaded, never by ``nesa check``; the module may be in the current folder.
"""

from __future__ import annotations

import contextlib
import importlib
import inspect
import re
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from nesa.datasets import user_arrays
from nesa.datasets.paths import DataDirs
from nesa.datasets.source import Arrays, Param, ProgressCallback, Source, no_progress
from nesa.errors import DataError

PATTERN = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*|[^\W\d]\w*(\.[^\W\d]\w*)+")


def is_dotted(name: str) -> bool:
    """Check whether ``name`` is written like a function in a module."""
    return PATTERN.fullmatch(name) is not None


def make_source(name: str) -> Source:
    """Make the source of a dotted path; nothing is imported yet."""

    def load(
        params: Mapping[str, Any],
        *,
        size: tuple[int, ...],
        channels: int,
        seed: int,
        data: DataDirs,
        progress: ProgressCallback = no_progress,
    ) -> Arrays:
        function = _function(name)
        keywords = {key: value for key, value in params.items() if key != "classes"}
        offered = {"size": size, "channels": channels, "seed": seed, "classes": params["classes"]}
        try:
            wanted = inspect.signature(function).parameters
            keywords |= {key: value for key, value in offered.items() if key in wanted and key not in keywords}
            with _torch_settings_restored():
                result = function(**keywords)
        except (Exception, SystemExit) as error:
            message = f"{type(error).__name__}: {error}{_line(error, inspect.unwrap(function))}"
            raise DataError(f"your function {name} raised {message}") from error
        if isinstance(result, (tuple, list)) and len(result) == len(user_arrays.NAMES):
            result = dict(zip(user_arrays.NAMES, result, strict=True))
        if not isinstance(result, Mapping):
            raise DataError(f"source {name} must return {', '.join(user_arrays.NAMES)}, got {type(result).__name__}")
        try:
            result = {key: np.asarray(value) for key, value in result.items()}
        except Exception as error:  # such as a tensor with gradients, or on a GPU
            raise DataError(f"source {name} must return NumPy arrays: {type(error).__name__}: {error}") from error
        return user_arrays.convert_arrays(
            result, f"source {name}", size=size, channels=channels, classes=params["classes"]
        )

    return Source(
        name=name,
        summary="your own function; its code runs when the data are loaded",
        difficulty="yours",
        load=load,
        classes=lambda params: params["classes"],
        kind=lambda params: None,
        user_code=True,
        params=(Param("classes", int, None, "the number of classes that it returns", 2, 10_000, required=True),),
    )


def _function(name: str) -> Callable[..., Any]:
    module, _, attribute = name.replace(":", ".").rpartition(".")
    here = str(Path.cwd())
    sys.path.insert(0, here)
    try:
        with _torch_settings_restored():
            function = getattr(importlib.import_module(module), attribute)
    except (Exception, SystemExit) as error:
        raise DataError(f"source {name} cannot be imported: {type(error).__name__}: {error}{_line(error)}") from error
    finally:
        if here in sys.path:
            sys.path.remove(here)
    if not callable(function):
        raise DataError(f"source {name} is not a function")
    return function


def _line(error: BaseException, function: Any = None) -> str:
    """Format the last line of the user's code that an error passed through, or ''."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if not f.filename.startswith("<frozen")]
    file = getattr(getattr(function, "__code__", None), "co_filename", None)
    own = [f for f in frames if f.filename == file] if file else [f for f in frames if f.filename != __file__]
    return f" (line {own[-1].lineno} of {own[-1].filename})" if own else ""


@contextlib.contextmanager
def _torch_settings_restored() -> Iterator[None]:
    """Restore the global settings of torch that the user's code changes and training depends on."""
    torch = sys.modules.get("torch")
    if torch is None:  # then nothing is trained afterwards
        yield
        return
    settings = (
        (torch.is_grad_enabled, torch.set_grad_enabled),
        (torch.get_default_dtype, torch.set_default_dtype),
        (torch.get_default_device, torch.set_default_device),
        (torch.get_num_threads, torch.set_num_threads),
    )
    before = [get() for get, _ in settings]
    try:
        yield
    finally:
        for (get, restore), value in zip(settings, before, strict=True):
            if get() != value:
                restore(value)
