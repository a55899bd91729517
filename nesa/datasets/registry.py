"""Find, check, load and preview task sources by name.

    find(name), get(name)                   the Source; a dotted path gives the user's function, not yet imported
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
from nesa.datasets.source import Arrays, Param, ProgressCallback, Source, no_progress
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
    "ProgressCallback",
    "Source",
    "available",
    "describe",
    "find",
    "get",
    "load",
    "preview",
]


def get(name: str | None) -> Source | None:
    """Return the source of that name or dotted path, which is not imported; None when there is none."""
    if name in SOURCES:
        return SOURCES[name]
    return user_function.make_source(name) if name is not None and user_function.is_dotted(name) else None


def find(name: str) -> Source:
    """Return the source called ``name``. Raises DataError, with the nearest name, when there is none."""
    if (source := get(name)) is not None:
        return source
    near = difflib.get_close_matches(name, SOURCES, 1)
    hint = f" (did you mean '{near[0]}'?)" if near else ""
    raise DataError(
        f"there is no task source '{name}'{hint}; there are {', '.join(SOURCES)}, or module:function for your own"
    )


def available(name: str, params: Mapping[str, Any], data: DataDirs) -> bool:
    """Check whether the source has all its files on this machine, by their names: one may still be damaged."""
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
    progress: ProgressCallback = no_progress,
) -> Arrays:
    """Load the source's data at ``size`` ([H, W] or [D]) and ``channels``, checked by ``checks.check_arrays``.

    A published data set that is nowhere on this machine is downloaded. Every note is also given as a warning.

    Raises DataError; its subclass MissingDataError when a published data set cannot be had, the case for a fallback.
    """
    source = find(name)
    if problems := source.check(params):
        raise DataError(f"source {name}: " + "; ".join(f"{key}: {message}" for key, message in problems))
    full = source.complete(params)
    if message := source.mismatch(full, size, channels):
        raise DataError(message)
    try:
        found = source.load(full, size=size, channels=channels, seed=seed, data=data or DataDirs(), progress=progress)
    except OSError as error:
        raise DataError(f"source {name}: cannot read the data: {error}") from error
    except MemoryError as error:
        raise DataError(f"source {name}: the data do not fit into this machine's memory") from error
    found = checks.check_arrays(found, f"source {name}", size, channels)
    for note in found.notes:
        warnings.warn(note, stacklevel=2)
    return found


def describe(name: str | None = None) -> str:
    """Describe all sources, or the one called ``name``, with parameters, defaults and difficulty."""
    return catalogue.describe_sources([find(name)] if name else SOURCES.values())


def preview(
    name: str,
    params: Mapping[str, Any],
    path: Path,
    *,
    size: tuple[int, ...] | None = None,
    channels: int = 1,
    seed: int = 0,
    data: DataDirs | None = None,
    progress: ProgressCallback = no_progress,
) -> Path:
    """Draw samples with their classes as a PNG at ``path``, and return the path. Raises DataError.

    Without ``size``, vectors keep theirs and images are drawn at 32 x 32.
    """
    source = find(name)
    if size is None and not source.check(params):
        size = source.size(source.complete(params))
    found = load(name, params, size=size or (32, 32), channels=channels, seed=seed, data=data, progress=progress)
    given = [f"{key}: {value}" for key, value in params.items()]
    return catalogue.draw_samples([(title(", ".join([name, *given]), found), found)], Path(path))


def title(what: str, arrays: Arrays) -> str:
    """Name a data set with its numbers of training and test samples."""
    return f"{what} ({len(arrays.train_x):,} + {len(arrays.test_x):,} samples)"
