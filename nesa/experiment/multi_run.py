"""Train several runs one after the other, so that the same command goes on where it was interrupted.

A run that is finished is skipped, one that was interrupted is resumed, one that is missing begins. A folder that holds
a run of another curriculum is refused: its figures would pass for those of this one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import yaml

from nesa.config.curriculum import Curriculum
from nesa.config.diff import differences
from nesa.config.loader import dump, load
from nesa.errors import RunFolderError
from nesa.progress import Progress
from nesa.run_folder import events
from nesa.run_folder.layout import CURRICULUM, is_run

SHOWN = 5  # differences that a message lists


def is_finished(folder: Path) -> bool:
    """Return whether the folder holds a run that has ended, its last extension included."""
    return is_run(folder) and events.finish_event(events.read_events(folder)) is not None


def ensure(
    curriculum: Curriculum,
    folder: Path,
    *,
    device: str = "cpu",
    data: Path | None = None,
    command: Sequence[str] | None = None,
    animate: bool = True,
    progress: Progress,
) -> bool:
    """Make `folder` the finished run of the curriculum; returns whether there was anything to do.

    Raises RunFolderError when it holds something else, and what run and resume raise."""
    if is_run(folder):
        _check_same_curriculum(curriculum, folder)
        if is_finished(folder):
            return False
        from nesa.experiment.run import resume

        resume(folder, data=data, device=device, animate=animate, progress=progress)
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
        animate=animate,
        progress=progress,
    )
    return True


def seeded(curriculum: Curriculum, out: Path, name: str, seeds: Sequence[int]) -> list[tuple[Curriculum, Path]]:
    """Return the curriculum with each seed, and the folder OUT/NAME-seedN of its run."""
    return [(replace(curriculum, seed=seed), out / f"{name}-seed{seed}") for seed in seeds]


def check(planned: Sequence[tuple[Curriculum, Path]]) -> None:
    """Raise RunFolderError for the first folder that holds another run, before anything is trained."""
    for curriculum, folder in planned:
        if is_run(folder):
            _check_same_curriculum(curriculum, folder)


def _check_same_curriculum(curriculum: Curriculum, folder: Path) -> None:
    text = (folder / CURRICULUM).read_text("utf-8")
    if text == dump(curriculum) or load(folder / CURRICULUM) == curriculum:  # one of an earlier version lacks keys
        return
    found = differences(yaml.safe_load(text), yaml.safe_load(dump(curriculum)))
    if found:
        more = [f"and {len(found) - SHOWN} more"] if len(found) > SHOWN else []
        raise RunFolderError(
            f"{folder}: is a run of another curriculum: {'; '.join([*found[:SHOWN], *more])}. Choose another --name"
        )
