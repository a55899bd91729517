"""Task sources by name, and the four things that are done with one: check, look for, load, show.

    find(name)                              the Source; a dotted path gives the user's function, not yet imported
    available(name, params, data)           whether its files are on this machine; decodes nothing
    load(name, params, size=..., ...)       its Arrays, checked, at the wanted size and channels
    describe(name), preview(name, ...)      what `nesa tasks` prints and draws

Light: NumPy alone. torchvision, scikit-image, scikit-learn and Matplotlib are imported when data are loaded or drawn.
"""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nesa.datasets import catalogue, checks, user_function
from nesa.datasets.paths import DataDirs
from nesa.datasets.source import Arrays, Param, Progress, Source, silent
from nesa.datasets.sources import (
    arrays,
    cifar10,
    digits,
    edges,
    folder,
    gratings,
    junctions,
    mnist,
    overlaps,
    permuted_mnist,
    positions,
    scenes,
    shapes,
    spheres,
)
from nesa.datasets.torchvision_data import MissingDataError
from nesa.errors import DataError

SOURCES: dict[str, Source] = {
    module.SOURCE.name: module.SOURCE
    for module in (
        *(edges, shapes, cifar10, mnist, permuted_mnist, digits, scenes),
        *(gratings, positions, junctions, overlaps),
        *(spheres, folder, arrays),
    )
}

__all__ = [
    "SOURCES",
    "Arrays",
    "DataDirs",
    "MissingDataError",
    "Param",
    "Progress",
    "Source",
    "available",
    "describe",
    "find",
    "load",
    "preview",
]


def find(name: str) -> Source:
    """The source called ``name``. Raises DataError, with the nearest name, when there is none."""
    if name in SOURCES:
        return SOURCES[name]
    if user_function.is_dotted(name):
        return user_function.source(name)
    near = difflib.get_close_matches(name, SOURCES, 1)
    hint = f" (did you mean '{near[0]}'?)" if near else ""
    raise DataError(
        f"there is no task source '{name}'{hint}; there are {', '.join(SOURCES)}, or module:function for your own"
    )


def available(name: str, params: Mapping[str, Any], data: DataDirs) -> bool:
    """Whether the source has all its files on this machine. Light; a file may still turn out to be damaged."""
    source = find(name)
    return source.available(source.complete(params), data)


def load(
    name: str,
    params: Mapping[str, Any],
    *,
    size: tuple[int, ...],
    channels: int = 1,
    seed: int = 0,
    data: DataDirs | None = None,
    progress: Progress = silent,
) -> Arrays:
    """The source's data at ``size`` ([H, W] or [D]) and ``channels``, checked by ``doors.inspect``.

    Downloads a published data set that is nowhere on this machine. Every note is also given as a warning.

    Raises DataError; its subclass MissingDataError when a published data set cannot be had, the case for a fallback.
    """
    source = find(name)
    if problems := source.check(params):
        raise DataError(f"source {name}: " + "; ".join(f"{key}: {message}" for key, message in problems))
    full = source.complete(params)
    if message := source.misfit(full, size, channels):
        raise DataError(message)
    try:
        found = source.load(full, size=size, channels=channels, seed=seed, data=data or DataDirs(), progress=progress)
    except OSError as error:
        raise DataError(f"source {name}: cannot read the data: {error}") from error
    except MemoryError as error:
        raise DataError(f"source {name}: the data do not fit into this machine's memory") from error
    found = checks.inspect(found, found.origin if source.foreign else f"source {name}", size, channels)
    for note in found.notes:
        warnings.warn(note, stacklevel=2)
    return found


def describe(name: str | None = None) -> str:
    """All sources, or the one called ``name``, with parameters, defaults and difficulty."""
    return catalogue.describe([find(name)] if name else SOURCES.values())


def preview(
    name: str,
    params: Mapping[str, Any],
    path: Path,
    *,
    size: tuple[int, ...] | None = None,
    channels: int = 1,
    seed: int = 0,
    data: DataDirs | None = None,
    progress: Progress = silent,
) -> Path:
    """Draws a sheet of samples with their classes as a PNG at ``path``, and returns it. Raises DataError.

    Without ``size``, vectors keep theirs and images are drawn at 32 x 32.
    """
    source = find(name)
    size = size or source.size(source.complete(params)) or (32, 32)
    found = load(name, params, size=size, channels=channels, seed=seed, data=data, progress=progress)
    given = [f"{key}: {value}" for key, value in params.items()]
    title = f"{', '.join([name, *given])} ({len(found.train_x):,} + {len(found.test_x):,} samples)"
    return catalogue.sheet(found, title, Path(path))
