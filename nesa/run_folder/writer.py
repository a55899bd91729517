"""The record of a run: the only module that writes into a run folder, but for the report that nesa.reports.run_report adds.

    curriculum.yaml     resolved, enough to repeat the run
    environment.json    see nesa.run_folder.environment
    events.jsonl        append-only, flat keys; everything below is a view of it
    tensorboard/        event file, see nesa.run_folder.tensorboard
    accuracy.csv        see nesa.run_folder.tables
    accumulation.csv    see nesa.run_folder.tables
    tasks/NAME/         checkpoint.pt, structure.npz, figures as PNG and SVG, evolution.gif, connectome.html;
                        training.pt and film.pt while the task is in hand
    figures/            figures of the run as a whole
    lock                see nesa.run_folder.lock

Every file but events.jsonl is written whole: a temporary file beside it, fsync, rename. An event is one line, appended
in one write; a line that a crash cut short is dropped when the run is opened again.
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
from typing import TYPE_CHECKING, Any

from nesa.errors import RunFolderError
from nesa.run_folder import checkpoint, tables
from nesa.run_folder.events import new_event, whole_events
from nesa.run_folder.layout import (
    CHECKPOINT,
    CURRICULUM,
    ENVIRONMENT,
    EVENTS,
    STRUCTURE,
    check_run,
    failed,
    file_name,
    is_run,
    task_folder,
    write_whole,
)
from nesa.run_folder.lock import RunLock, is_held
from nesa.run_folder.tensorboard import TensorBoardWriter

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class RunWriter:
    """One run folder, held by this process alone from `create` or `open` to `close`; a context manager."""

    def __init__(self, folder: Path, lock: RunLock, events: list[dict[str, Any]]):
        """Use `create` or `open`."""
        self.folder = folder
        self.events = events
        self._lock = lock
        self._board: TensorBoardWriter | None = None
        self._file = (folder / EVENTS).open("ab", buffering=0)

    @classmethod
    def create(cls, folder: str | Path, curriculum: str, environment: Mapping[str, Any]) -> RunWriter:
        """Make a new run folder: all of it, or nothing.

        ``curriculum`` is the text of the resolved curriculum, ``environment`` what environment.json shall hold. The
        folder must not exist, or be empty: anything else is a RunFolderError and is left as it is.
        """
        folder = Path(folder)
        refused = None
        if folder.is_dir() and any(folder.iterdir()):
            refused = "is not empty"
            if is_run(folder):
                if is_held(folder):
                    RunLock(folder).acquire().release()  # refused with the name of whoever holds it
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
            write_whole(draft / CURRICULUM, curriculum.encode())
            write_whole(draft / ENVIRONMENT, (json.dumps(environment, indent=2) + "\n").encode())
            write_whole(draft / EVENTS, b"")
            lock = RunLock(draft).acquire()  # held before anybody else can see the folder
            draft.rename(folder)  # replaces an empty folder; fails if somebody filled it meanwhile
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
        """Go on with a run: RunFolderError if it is none, is damaged, or belongs to another process.

        Leftovers of a crash are removed: temporary files and the half-written last event.
        """
        folder = Path(folder)
        check_run(folder)
        lock = RunLock(folder).acquire()
        try:
            events, size = whole_events(folder)
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
        """Append one event and show it in the tables and in TensorBoard; returns the event as it was written.

        Values are flat: text, numbers, booleans, None, or lists of those (numpy and torch numbers and vectors are
        welcome); NaN and infinities become null. TypeError for anything else, ValueError for a missing key.
        """
        line = new_event(event, values, self.events)
        board = self._view()
        size = self._file.seek(0, os.SEEK_END)
        try:
            data = (json.dumps(line, allow_nan=False) + "\n").encode()
            if self._file.write(data) < len(data):  # what a disk does when it fills up just now
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            with contextlib.suppress(OSError):
                self._file.truncate(size)  # no half line between whole ones
            raise failed(self.folder / EVENTS, error) from error
        self.events.append(line)
        if event in ("task_claimed", "evaluated"):
            self._tables()
        try:
            board.add(line)
        except OSError as error:
            raise failed(self.folder / "tensorboard", error) from error
        return line

    def rewind(self, count: int) -> None:
        """Forget all but the first ``count`` events; tables and TensorBoard follow.

        Resuming calls this with the number of events that its checkpoint has seen.
        """
        if not 0 <= count <= len(self.events):
            raise RunFolderError(
                f"{self.folder}/{EVENTS}: holds {len(self.events)} whole events where the checkpoint has seen {count}; "
                "the file was cut or is another run's"
            )
        del self.events[count:]
        with (self.folder / EVENTS).open("r+b") as file:
            size = sum(len(line) for _, line in zip(range(count), file, strict=False))
            file.truncate(size)
            os.fsync(file.fileno())
        self._tables()
        if self._board is not None:
            self._board.close()
        self._board = TensorBoardWriter.rebuilt(self.folder, self._curriculum(), self.events)

    def extend(self, **values: Any) -> None:
        """The run goes on with more tasks: append the event `extended`, then put the ``curriculum`` in ``values`` in
        the place of the stored one. A crash in between is mended by `put_curriculum` with what the event says."""
        self.event("extended", **values)
        self.put_curriculum(values["curriculum"])

    def put_curriculum(self, text: str) -> None:
        """Put another curriculum in the place of the stored one; TensorBoard is rebuilt with it."""
        write_whole(self.folder / CURRICULUM, text.encode())
        if self._board is not None:
            self._board.close()
            self._board = None

    def checkpoint(
        self, task: str, state: Mapping[str, Any], name: str = CHECKPOINT, earlier: str | None = None
    ) -> Path:
        """Save ``state`` as tasks/TASK/checkpoint.pt, whole, after every event so far is on the disk. What was there
        before is kept under the name ``earlier``, if that is given.

        ``state`` may nest mappings, lists and tuples of tensors, numbers, text, booleans and None: what
        ``torch.load(weights_only=True)`` takes, checked here, because a checkpoint that cannot be loaded is found out
        too late. Store ``len(record.events)`` in it: `rewind` wants it back.
        """
        path = self._made(task_folder(self.folder, task)) / name
        try:
            os.fsync(self._file.fileno())
            if earlier is not None and path.exists():
                path.replace(path.with_name(earlier))
        except OSError as error:
            raise failed(path, error) from error
        checkpoint.save(path, state)
        return path

    def forget(self, task: str, *names: str) -> None:
        """Remove checkpoints of tasks/TASK that have served; nothing happens where there are none."""
        for name in names:
            path = task_folder(self.folder, task) / name
            try:
                path.unlink(missing_ok=True)
            except OSError as error:
                raise failed(path, error) from error

    def structure(self, task: str, **arrays: Any) -> Path:
        """Save named numpy arrays (or CPU tensors) as tasks/TASK/structure.npz."""
        import numpy as np

        plain = {key: np.asarray(value) for key, value in arrays.items()}
        for key, value in plain.items():
            if value.dtype.hasobject:
                raise TypeError(f"structure {key!r} holds objects; it stores arrays of numbers or text only")
        path = self._made(task_folder(self.folder, task)) / STRUCTURE
        write_whole(path, lambda file: np.savez_compressed(file, allow_pickle=False, **plain))
        return path

    def figure(self, name: str, figure: Figure, task: str | None = None, step: int | None = None) -> Path:
        """Save a figure as NAME.png and NAME.svg, show it in TensorBoard as ``figures/NAME``; the path of the PNG.

        It lies in tasks/TASK/, or in figures/ without a task; ``step`` is the index of the task unless told. A figure
        of the same name and task is replaced.
        """
        from nesa.figures.style import render

        return self._shown(name, render(figure), task, step)

    def animation(self, name: str, gif: bytes, task: str) -> Path:
        """Save an animation as tasks/TASK/NAME.gif and show it in TensorBoard; its path."""
        return self._shown(name, {"gif": gif}, task, None)

    def page(self, name: str, html: str, task: str) -> Path:
        """Save an HTML page as tasks/TASK/NAME.html."""
        path = self._made(task_folder(self.folder, task)) / f"{file_name(name)}.html"
        write_whole(path, html.encode())
        return path

    def _shown(self, name: str, files: Mapping[str, bytes], task: str | None, step: int | None) -> Path:
        """Files of one picture by their kinds, and the event that shows the first of them."""
        if step is None:
            if task is None:
                raise ValueError(f"figure {name!r} belongs to no task, so it needs a step")
            step = tables.task_indices(self.events).get(task)
            if step is None:
                raise ValueError(f"figure {name!r} is of {task!r}, a task that has not started")
        folder = self._made(self.folder / "figures" if task is None else task_folder(self.folder, task))
        paths = [folder / f"{file_name(name)}.{kind}" for kind in files]
        for path, data in zip(paths, files.values(), strict=True):
            write_whole(path, data)
        self.event("figure", name=name, task=task, step=step, file=paths[0].relative_to(self.folder).as_posix())
        return paths[0]

    def close(self) -> None:
        """Close the files and let go of the folder; may be called twice."""
        if self._board is not None:
            self._board.close()
            self._board = None
        self._file.close()
        self._lock.release()

    def __enter__(self) -> RunWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None):
        self.close()

    def _view(self) -> TensorBoardWriter:
        """The board; made when the first event asks for it, so that opening a run stays light."""
        if self._file.closed:
            raise RuntimeError(f"the record of {self.folder} is closed")
        if self._board is None:
            self._board = TensorBoardWriter.rebuilt(self.folder, self._curriculum(), self.events)
        return self._board

    def _curriculum(self) -> str:
        return (self.folder / CURRICULUM).read_text(encoding="utf-8")

    def _made(self, folder: Path) -> Path:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise failed(folder, error) from error
        return folder

    def _tables(self) -> None:
        names, R = tables.accuracy(self.events)
        rows = tables.accumulation(self.events)
        self._table("accuracy.csv", tables.accuracy_csv(names, R) if names else "")
        self._table("accumulation.csv", tables.accumulation_csv(rows) if rows else "")

    def _table(self, name: str, text: str) -> None:
        if text:
            write_whole(self.folder / name, text.encode())
        else:
            (self.folder / name).unlink(missing_ok=True)
