"""Load the data of a stored run again, and compare them with the digests that it stored."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path

from nesa.config.curriculum import Curriculum
from nesa.datasets import registry
from nesa.datasets.registry import DataDirs
from nesa.errors import RunFolderError
from nesa.run_folder.events import Event
from nesa.run_folder.reader import StoredRun
from nesa.training.task_data import TaskData, data_digest, load_task


def stored_data(run: StoredRun, curriculum: Curriculum, task: str, data: Path | None) -> TaskData | str:
    """Load the data that a stored run used for a task, or a text with the reason why they cannot be loaded here.

    data: the folder of data sets, as for `nesa run`. RunFolderError when the data found are not those of the run."""
    started = next(e for e in run.events if e["event"] == "task_started" and e["task"] == task)
    as_used, folders = _as_used(curriculum, started), DataDirs(data)
    config = as_used.tasks[started["index"]]
    if registry.find(config.source).user_code:  # whoever made this folder could name any function
        return f"{config.source} is somebody's code, which is not run here"
    if not registry.available(config.source, config.params, folders):
        return f"the data of {config.source} are not on this machine; name their folder with --data"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the run has shown them
        found = load_task(as_used, started["index"], folders)
    if data_digest(found) != run.start["data"][run.tasks.index(task)]:
        raise RunFolderError(f"the data of {task} are not those of the run, so nothing can be measured on them")
    return found


def _as_used(curriculum: Curriculum, started: Event) -> Curriculum:
    """Return the curriculum with the source that the run used for the task, fallback or not, as the only one."""
    index = started["index"]
    task = replace(curriculum.tasks[index], fallback=None)
    if started["fallback"]:
        requested = curriculum.tasks[index]
        task = replace(task, source=requested.fallback or requested.source, params=requested.fallback_params)
    return replace(curriculum, tasks=(*curriculum.tasks[:index], task, *curriculum.tasks[index + 1 :]))
