"""Write the files of a run folder: events, tables, TensorBoard, checkpoints and figures.

    curriculum.yaml     resolved, enough to repeat the run
    environment.json    see nesa.run_folder.environment
    events.jsonl        append-only, flat keys; the tables and TensorBoard are computed from it
    tensorboard/        event file, see nesa.run_folder.tensorboard
    accuracy.csv        see nesa.run_folder.tables
    accumulation.csv    see nesa.run_folder.tables
    tasks/NAME/         checkpoint.pt, structure.npz, figures as PNG and SVG, evolution.gif, connectome.html;
                        training.pt and film.pt while the task is trained
    figures/            figures of the run as a whole
    lock                see nesa.run_folder.lock

Every file but events.jsonl is written atomically. An event is one line, appended in one write; a line that a crash cut
short is dropped when the run is opened again. Only nesa.reports.run_report adds files of its own.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import uuid
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from nesa.errors import RunFolderError
from nesa.files import file_name, write_atomically, write_failure
from nesa.run_folder import checkpoint, tables
from nesa.run_folder.events import complete_events, new_event
from nesa.run_folder.layout import (
    ACCUMULATION_TABLE,
    ACCURACY_TABLE,
    CHECKPOINT,
    CURRICULUM,
    ENVIRONMENT,
    EVENTS,
    FIGURES,
    STRUCTURE,
    TENSORBOARD,
    check_run,
    is_run,
    task_folder,
)
from nesa.run_folder.lock import RunLock, is_held
from nesa.run_folder.tensorboard import TensorBoardWriter


class RunWriter:
    """One run folder, locked by this process from `create` or `open` to `close`; a context manager."""

    def __init__(self, folder: Path, lock: RunLock, events: list[dict[str, Any]]):
        """Use `create` or `open`."""
        self.folder = folder
        self.events = events
        self._lock = lock
        self._tensorboard: TensorBoardWriter | None = None
        self._file = (folder / EVENTS).open("ab", buffering=0)

    @classmethod
    def create(cls, folder: str | Path, curriculum: str, environment: Mapping[str, Any]) -> RunWriter:
        """Make a new run folder, complete or not at all.

        ``curriculum`` is the text of the resolved curriculum, ``environment`` the content of environment.json. The
        folder must not exist, or be empty: anything else is a RunFolderError and is left as it is.
        """
        folder = Path(folder)
        refused = None
        if folder.is_dir() and any(folder.iterdir()):
            refused = "is not empty"
            if is_run(folder):
                if is_held(folder):
                    RunLock(folder).acquire().release()  # raises with the name of the holder
                refused = "is a run already; resume it, or choose another name"
        elif folder.exists() and not folder.is_dir():
            refused = "is a file"
        if refused:
            raise RunFolderError(f"{folder}: {refused}; a new run needs a folder of its own")
        draft = lock = None
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            draft = folder.with_name(f".{folder.name}.{uuid.uuid4().hex[:8]}.tmp")
            draft.mkdir()
            write_atomically(draft / CURRICULUM, curriculum.encode())
            write_atomically(draft / ENVIRONMENT, (json.dumps(environment, indent=2) + "\n").encode())
            write_atomically(draft / EVENTS, b"")
            lock = RunLock(draft).acquire()  # before another process can find the folder
            draft.rename(folder)  # replaces an empty folder; fails if it has been filled meanwhile
            lock.folder = folder
        except OSError as error:
            if lock is not None:
                lock.release()
            raise RunFolderError(f"{folder}: cannot be made ({error.strerror}); check the path and the disk") from error
        finally:
            if draft is not None and draft.exists():
                shutil.rmtree(draft, ignore_errors=True)
        return cls(folder, lock, [])

    @classmethod
    def open(cls, folder: str | Path) -> RunWriter:
        """Open a run to write more of it; RunFolderError if it is none, is damaged, or is locked by another process.

        Leftovers of a crash are removed: temporary files and an incomplete last event.
        """
        folder = Path(folder)
        check_run(folder)
        lock = RunLock(folder).acquire()
        try:
            events, size = complete_events(folder)
            with (folder / EVENTS).open("r+b") as file:
                file.truncate(size)
            for leftover in folder.rglob(".*.tmp"):
                leftover.unlink(missing_ok=True)
            return cls(folder, lock, events)
        except OSError as error:
            lock.release()
            raise RunFolderError(f"{folder}: cannot be written ({error.strerror}); check its permissions") from error
        except BaseException:
            lock.release()
            raise

    def event(self, event: str, /, **values: Any) -> dict[str, Any]:
        """Append one event and update the tables and TensorBoard; returns the event as it was written.

        Values are flat: text, numbers, booleans, None, or lists of those (also of NumPy and torch). NaN and
        infinities become null. TypeError for anything else, ValueError for a missing key.
        """
        line = new_event(event, values, self.events)
        tensorboard = self._open_tensorboard()
        size = self._file.seek(0, os.SEEK_END)
        try:
            data = (json.dumps(line, allow_nan=False) + "\n").encode()
            if self._file.write(data) < len(data):  # what a disk does when it fills up just now
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            with contextlib.suppress(OSError):
                self._file.truncate(size)  # no incomplete line between others
            raise write_failure(self.folder / EVENTS, error) from error
        self.events.append(line)
        if event in ("task_claimed", "evaluated"):
            self._write_tables()
        try:
            tensorboard.add(line)
        except OSError as error:
            raise write_failure(self.folder / TENSORBOARD, error) from error
        return line

    def rewind(self, count: int) -> None:
        """Drop all but the first ``count`` events, and rebuild the tables and TensorBoard.

        Resuming calls this with the number of events that its checkpoint has stored.
        """
        if not 0 <= count <= len(self.events):
            raise RunFolderError(
                f"{self.folder}/{EVENTS}: holds {len(self.events)} whole events where the checkpoint counts {count}; "
                "the file was cut or is another run's"
            )
        del self.events[count:]
        with (self.folder / EVENTS).open("r+b") as file:
            size = sum(len(line) for _, line in zip(range(count), file, strict=False))
            file.truncate(size)
            os.fsync(file.fileno())
        self._write_tables()
        if self._tensorboard is not None:
            self._tensorboard.close()
        self._tensorboard = TensorBoardWriter.rebuilt(self.folder, self._curriculum(), self.events)

    def extend(self, **values: Any) -> None:
        """Append the event `extended`, then replace the stored curriculum by the ``curriculum`` in ``values``.

        A crash in between is repaired by `put_curriculum` with the text in the event."""
        self.event("extended", **values)
        self.put_curriculum(values["curriculum"])

    def put_curriculum(self, text: str) -> None:
        """Replace the stored curriculum; TensorBoard is rebuilt with it."""
        write_atomically(self.folder / CURRICULUM, text.encode())
        if self._tensorboard is not None:
            self._tensorboard.close()
            self._tensorboard = None

    def checkpoint(
        self, task: str, state: Mapping[str, Any], name: str = CHECKPOINT, earlier: str | None = None
    ) -> Path:
        """Save ``state`` as tasks/TASK/NAME once every event so far is on the disk.

        The file that was there before is renamed to ``earlier``, if that is given. ``state`` may nest mappings, lists
        and tuples of tensors, numbers, text, booleans and None, which ``torch.load(weights_only=True)`` can load.
        """
        path = self._make_folder(task_folder(self.folder, task)) / name
        try:
            os.fsync(self._file.fileno())
            if earlier is not None and path.exists():
                path.replace(path.with_name(earlier))
        except OSError as error:
            raise write_failure(path, error) from error
        checkpoint.save(path, state)
        return path

    def remove_checkpoints(self, task: str, *names: str) -> None:
        """Remove files of tasks/TASK, if they exist."""
        for name in names:
            path = task_folder(self.folder, task) / name
            try:
                path.unlink(missing_ok=True)
            except OSError as error:
                raise write_failure(path, error) from error

    def structure(self, task: str, **arrays: Any) -> Path:
        """Save named numpy arrays (or CPU tensors) as tasks/TASK/structure.npz."""
        import numpy as np

        plain = {key: np.asarray(value) for key, value in arrays.items()}
        for key, value in plain.items():
            if value.dtype.hasobject:
                raise TypeError(f"structure {key!r} holds objects; it stores arrays of numbers or text only")
        path = self._make_folder(task_folder(self.folder, task)) / STRUCTURE
        write_atomically(path, lambda file: np.savez_compressed(file, allow_pickle=False, **plain))
        return path

    def page(self, name: str, html: str, task: str) -> Path:
        """Save an HTML page as tasks/TASK/NAME.html."""
        path = self._make_folder(task_folder(self.folder, task)) / f"{file_name(name)}.html"
        write_atomically(path, html.encode())
        return path

    def figure(self, name: str, files: Mapping[str, bytes], task: str | None = None, step: int | None = None) -> Path:
        """Save a figure as NAME.KIND for each kind of ``files`` (png, svg, gif), and return the path of the first.

        They are in tasks/TASK/, or in figures/ without a task, and replace figures of the same name. TensorBoard shows
        the first as ``figures/NAME`` at ``step``, by default the index of the task.
        """
        if step is None:
            if task is None:
                raise ValueError(f"figure {name!r} belongs to no task, so it needs a step")
            step = tables.task_indices(self.events).get(task)
            if step is None:
                raise ValueError(f"figure {name!r} is of {task!r}, a task that has not started")
        folder = self._make_folder(self.folder / FIGURES if task is None else task_folder(self.folder, task))
        paths = [folder / f"{file_name(name)}.{kind}" for kind in files]
        for path, data in zip(paths, files.values(), strict=True):
            write_atomically(path, data)
        self.event("figure", name=name, task=task, step=step, file=paths[0].relative_to(self.folder).as_posix())
        return paths[0]

    def close(self) -> None:
        """Close the files and free the lock; may be called twice."""
        if self._tensorboard is not None:
            self._tensorboard.close()
            self._tensorboard = None
        self._file.close()
        self._lock.release()

    def __enter__(self) -> RunWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None):
        self.close()

    def _open_tensorboard(self) -> TensorBoardWriter:
        """Make the TensorBoard writer at the first event, so that opening a run does not import it."""
        if self._file.closed:
            raise RuntimeError(f"the writer of {self.folder} is closed")
        if self._tensorboard is None:
            self._tensorboard = TensorBoardWriter.rebuilt(self.folder, self._curriculum(), self.events)
        return self._tensorboard

    def _curriculum(self) -> str:
        return (self.folder / CURRICULUM).read_text(encoding="utf-8")

    def _make_folder(self, folder: Path) -> Path:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise write_failure(folder, error) from error
        return folder

    def _write_tables(self) -> None:
        texts = {
            ACCURACY_TABLE: tables.accuracy_csv(*tables.accuracy(self.events)),
            ACCUMULATION_TABLE: tables.accumulation_csv(tables.accumulation(self.events)),
        }
        for name, text in texts.items():
            if text:
                write_atomically(self.folder / name, text.encode())
            else:
                (self.folder / name).unlink(missing_ok=True)
