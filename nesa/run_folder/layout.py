"""Name the files of a run folder, and find the folder of a run or of a task.

nesa.run_folder.writer is the only module that writes them, and describes their content.
"""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

from nesa.errors import RunFolderError
from nesa.files import file_name

CURRICULUM = "curriculum.yaml"
ENVIRONMENT = "environment.json"
EVENTS = "events.jsonl"
ACCURACY_TABLE = "accuracy.csv"
ACCUMULATION_TABLE = "accumulation.csv"
TENSORBOARD = "tensorboard"
FIGURES = "figures"
LOCK = "lock"
TASKS = "tasks"

# in tasks/NAME
CHECKPOINT = "checkpoint.pt"
STRUCTURE = "structure.npz"
PROBE = "probe.pt"
TRAINING = "training.pt"  # the partly trained task after some step; removed when the task is finished
EARLIER = "training-earlier.pt"  # its predecessor, for the case that it is damaged
ANIMATION = "film.pt"  # the animation of the partly trained task so far; removed with it

FORMAT = 2  # version of checkpoint.pt and probe.pt
TRAINING_FORMAT = 3  # version of training.pt and film.pt


def new_folder(out: str | Path, name: str, now: datetime | None = None) -> Path:
    """Return OUT/NAME-TIMESTAMP for a new run, with -2, -3, ... appended while the path is taken. Makes nothing."""
    path = Path(out) / f"{file_name(name)}-{now or datetime.now():%Y%m%d-%H%M%S}"
    free, count = path, 1
    while free.exists():
        count += 1
        free = path.with_name(f"{path.name}-{count}")
    return free


def task_folder(folder: str | Path, task: str) -> Path:
    """Return tasks/NAME of a run folder."""
    return Path(folder) / TASKS / file_name(task)


def is_run(folder: str | Path) -> bool:
    """Return whether the folder has the three files that every run has."""
    return all((Path(folder) / name).is_file() for name in (CURRICULUM, ENVIRONMENT, EVENTS))


def check_run(folder: str | Path) -> Path:
    """Return the folder as a Path; RunFolderError, with the reason, where it is not a run."""
    folder = Path(folder)
    if not folder.is_dir():
        raise RunFolderError(f"{folder}: there is no such folder; give the folder of a run, as `nesa run` printed it")
    for name in (CURRICULUM, ENVIRONMENT, EVENTS):
        if not (folder / name).is_file():
            raise RunFolderError(f"{folder}: is not a run, {name} is missing; give the folder that holds it")
    return folder
