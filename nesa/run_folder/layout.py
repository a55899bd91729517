"""The run folder as a place: what lies where, reading it, and writing a file so that it is whole or as it was.

Reading needs no lock and no torch. Only nesa.run_folder.writer writes into a run, and nesa.reports.run_report its own files.
"""

from __future__ import annotations

import contextlib
import json
import os
import urllib.parse
import uuid
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import IO, Any

from nesa.errors import RunFailed, RunFolderError

CURRICULUM = "curriculum.yaml"
ENVIRONMENT = "environment.json"
EVENTS = "events.jsonl"
CHECKPOINT = "checkpoint.pt"
STRUCTURE = "structure.npz"


def new_folder(out: str | Path, name: str, now: datetime | None = None) -> Path:
    """OUT/NAME-TIMESTAMP for a new run, with -2, -3, ... behind it while the path is taken. Nothing is made."""
    path = Path(out) / f"{file_name(name)}-{now or datetime.now():%Y%m%d-%H%M%S}"
    free, count = path, 1
    while free.exists():
        count += 1
        free = path.with_name(f"{path.name}-{count}")
    return free


def file_name(name: str) -> str:
    """``name`` as the name of a file that lies where it is put: separators and a leading dot are percent-encoded."""
    if not name:
        raise ValueError("a name that becomes a file is not empty")
    quoted = urllib.parse.quote(name, safe=" +=,@")
    return "%2E" + quoted[1:] if quoted.startswith(".") else quoted


def task_folder(folder: str | Path, task: str) -> Path:
    """tasks/NAME of a run folder."""
    return Path(folder) / "tasks" / file_name(task)


def is_run(folder: str | Path) -> bool:
    return all((Path(folder) / name).is_file() for name in (CURRICULUM, ENVIRONMENT, EVENTS))


def check_run(folder: str | Path) -> Path:
    """The folder as a Path, or RunFolderError that says why it is not a run."""
    folder = Path(folder)
    if not folder.is_dir():
        raise RunFolderError(f"{folder}: there is no such folder; give the folder of a run, as `nesa run` printed it")
    for name in (CURRICULUM, ENVIRONMENT, EVENTS):
        if not (folder / name).is_file():
            raise RunFolderError(f"{folder}: is not a run, {name} is missing; give the folder that holds it")
    return folder


def read_environment(folder: str | Path) -> dict[str, Any]:
    """environment.json of a run."""
    path = check_run(folder) / ENVIRONMENT
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunFolderError(f"{path}: cannot be read ({error})") from error


def load_structure(folder: str | Path, task: str) -> dict[str, Any]:
    """The numpy arrays that `Record.structure` saved, by name; RunFolderError if missing or damaged."""
    import zipfile

    import numpy as np

    path = task_folder(folder, task) / STRUCTURE
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            return dict(arrays)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise RunFolderError(f"{path}: is missing or damaged ({error})") from error


def write_whole(path: Path, content: bytes | Callable[[IO[bytes]], object]) -> None:
    """Write bytes, or what ``content(file)`` writes, so that ``path`` holds all of it or what it held before.

    A temporary file beside it, fsync, rename, fsync of the folder. RunFailed when the disk refuses.
    """
    draft = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        with draft.open("xb") as file:
            if isinstance(content, bytes):
                file.write(content)
            else:
                content(file)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
        _sync_folder(path.parent)
    except OSError as error:
        raise failed(path, error) from error
    finally:
        with contextlib.suppress(OSError):
            draft.unlink(missing_ok=True)


def failed(path: Path, error: OSError) -> RunFailed:
    """What a user is told when a run cannot write ``path``."""
    return RunFailed(
        f"{path}: cannot be written ({error.strerror or error}); what was there before is untouched. "
        "Make room or restore access, then resume the run"
    )


def _sync_folder(folder: Path) -> None:
    """Make the rename itself last through a power cut; some file systems do not let folders be synced."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
