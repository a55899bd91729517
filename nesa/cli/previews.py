"""Draw samples of task sources as PNG before anything is trained."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nesa.config import sizes
from nesa.config.overrides import COMMAND_LINE, apply_override
from nesa.config.yaml_tree import Node, Place
from nesa.datasets import catalogue, registry
from nesa.errors import CurriculumError, DataError, Problem
from nesa.progress import Progress
from nesa.seeds import derive

if TYPE_CHECKING:
    from nesa.config.curriculum import Curriculum


def draw_source(
    name: str, words: Sequence[str], path: Path, *, size: tuple[int, ...] | None, channels: int, data: Path | None
) -> Path:
    """Draw one source with the parameters ``words``, each key=value with a YAML value."""
    with shown_progress() as progress:
        options: dict[str, Any] = {"channels": channels, "data": registry.DataDirs(data), "progress": progress}
        return registry.preview(name, source_params(words), path, size=size, **options)


def source_params(words: Sequence[str]) -> dict[str, Any]:
    """Parse key=value words as the parameters of a source; CurriculumError with every problem."""
    start = Place(COMMAND_LINE, 1, 1)
    root = Node({}, start, start)
    problems: list[Problem] = []
    for number, word in enumerate(words, 1):
        apply_override(root, word, number, problems)
    if problems:
        raise CurriculumError(problems)
    return root.plain()


def draw_curriculum(curriculum: Curriculum, path: Path, data: Path | None) -> Path:
    """Draw all tasks of a curriculum on one sheet, with the samples, size and channels that a run would use."""
    tasks = []
    with shown_progress() as progress:
        options: dict[str, Any] = {
            "size": sizes.input_size(curriculum),
            "channels": curriculum.input.channels,
            "data": registry.DataDirs(data),
            "progress": progress,
        }
        for task in curriculum.tasks:
            options["seed"] = derive(curriculum.seed, "data", task.name)
            source = task.source
            try:
                try:
                    arrays = registry.load(source, task.params, **options)
                except registry.MissingDataError:
                    if task.fallback is None:
                        raise
                    source = task.fallback
                    arrays = registry.load(source, task.fallback_params, **options)
            except DataError as error:
                raise DataError(f"task {task.name}: {error}") from error
            tasks.append((registry.title(f"{task.name}: {source}", arrays), arrays))
    return catalogue.draw_samples(tasks, path)


@contextlib.contextmanager
def shown_progress() -> Iterator[Progress]:
    """Show progress, and the warnings of the sources as messages."""
    with Progress() as progress, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        yield progress
        for warning in caught:
            progress.warning(str(warning.message))
