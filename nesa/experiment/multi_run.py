"""Several runs one after the other, so that the same command goes on where it was stopped.

A run that is there and finished is skipped, one that was interrupted goes on, one that is missing begins. A folder that
holds a run of another curriculum is refused: its figures would stand for something that they are not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import yaml

from nesa.config.curriculum import Curriculum
from nesa.config.diff import differences
from nesa.config.loader import dump
from nesa.errors import RunFolderError
from nesa.progress import Progress
from nesa.run_folder import events
from nesa.run_folder.layout import CURRICULUM, is_run

SHOWN = 5  # differences that a message lists


def finished(folder: Path) -> bool:
    """Whether the folder holds a run that has come to its end, that of its last extension included."""
    return is_run(folder) and events.finished(events.read_events(folder)) is not None


def ensure(
    curriculum: Curriculum,
    folder: Path,
    *,
    device: str = "cpu",
    data: Path | None = None,
    command: Sequence[str] | None = None,
    film: bool = True,
    progress: Progress,
) -> bool:
    """Makes `folder` the finished run of the curriculum; returns whether there was anything to do. Raises
    RunFolderError when it holds something else, and what run and resume raise."""
    if is_run(folder):
        _same(curriculum, folder)
        if finished(folder):
            return False
        from nesa.experiment.run import resume

        resume(folder, data=data, device=device, film=film, progress=progress)
        return True
    from nesa.experiment.run import run

    run(
        curriculum,
        out=folder.parent,
        name=folder.name,
        seed=curriculum.seed,
        device=device,
        data=data,
        command=command,
        film=film,
        progress=progress,
    )
    return True


def seeded(curriculum: Curriculum, out: Path, name: str, seeds: Sequence[int]) -> list[tuple[Curriculum, Path]]:
    """The curriculum with each seed, and the folder OUT/NAME-seedN of its run."""
    return [(replace(curriculum, seed=seed), out / f"{name}-seed{seed}") for seed in seeds]


def check(planned: Sequence[tuple[Curriculum, Path]]) -> None:
    """RunFolderError for the first folder that is taken by something else, before anything is trained."""
    for curriculum, folder in planned:
        if is_run(folder):
            _same(curriculum, folder)


def _same(curriculum: Curriculum, folder: Path) -> None:
    text = (folder / CURRICULUM).read_text("utf-8")
    if text == dump(curriculum):
        return
    found = differences(yaml.safe_load(text), yaml.safe_load(dump(curriculum)))
    if found:
        more = [f"and {len(found) - SHOWN} more"] if len(found) > SHOWN else []
        raise RunFolderError(
            f"{folder}: is a run of another curriculum: {'; '.join([*found[:SHOWN], *more])}. Choose another --name"
        )
