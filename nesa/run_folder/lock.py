"""One writer for a run: a lock that survives a crash of its holder.

The lock is ``flock`` on the file ``lock`` in the run folder. The kernel drops it when the holder dies, however it dies,
so nothing has to be cleaned up by hand; the text in the file only says who holds it. The file itself is never removed:
a process that waits on a removed file would hold a lock that nobody else can see.
"""

from __future__ import annotations

import contextlib
import datetime
import fcntl
import functools
import json
import os
import socket
import weakref
from pathlib import Path
from types import TracebackType
from typing import Any

from nesa.errors import RunFolderError

NAME = "lock"

_held: weakref.WeakSet[RunLock] = weakref.WeakSet()


class RunLock:
    """The right to write into one run folder, from `acquire` to `release`; a context manager.

    A second holder, in this process or another, is refused with a RunFolderError that names the first.
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        self._file: int | None = None

    @property
    def held(self) -> bool:
        return self._file is not None

    def acquire(self) -> RunLock:
        """Take the lock, or raise RunFolderError: held by another, or the folder cannot be written."""
        if self._file is not None:
            raise RuntimeError(f"this lock on {self.folder} is already held")
        path = self.folder / NAME
        try:
            file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise RunFolderError(
                f"{self.folder}: cannot be written ({error.strerror}); check the path and its permissions"
            ) from error
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(file)
            raise RunFolderError(
                f"{self.folder}: in use by {_name(holder(self.folder))}; wait for it or stop it, "
                "two processes never share a run"
            ) from error
        except OSError as error:
            os.close(file)
            raise RunFolderError(
                f"{self.folder}: this file system cannot lock files ({error.strerror}); use another folder for runs"
            ) from error
        who = {"pid": os.getpid(), "host": socket.gethostname(), "since": _now()}
        os.ftruncate(file, 0)
        os.write(file, (json.dumps(who) + "\n").encode())
        self._file = file
        _let_go_in_children()
        _held.add(self)
        return self

    def release(self) -> None:
        """Give the lock back; does nothing when it is not held."""
        if self._file is None:
            return
        file, self._file = self._file, None
        _held.discard(self)
        with contextlib.suppress(OSError):  # a full or vanished disk must not keep the lock
            os.ftruncate(file, 0)
        os.close(file)

    def __enter__(self) -> RunLock:
        return self.acquire()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None):
        self.release()


def holder(folder: str | Path) -> dict[str, Any] | None:
    """Who says that they hold the lock: pid, host, since. None when nobody does, or it cannot be read.

    After a crash the file still names the dead holder: only `RunLock.acquire` can tell.
    """
    try:
        who = json.loads((Path(folder) / NAME).read_text())
    except (OSError, ValueError):
        return None
    return who if isinstance(who, dict) else None


def is_held(folder: str | Path) -> bool:
    """Whether some process holds the lock now; nothing is written, and a folder without a lock file is free."""
    try:
        file = os.open(Path(folder) / NAME, os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(file)
    return False


def _name(who: dict[str, Any] | None) -> str:
    if who is None:
        return "another process"
    return f"process {who.get('pid')} on {who.get('host')} since {who.get('since')}"


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


@functools.cache  # once a process, and never at import
def _let_go_in_children() -> None:
    """A forked child shares its parent's locks and would keep them after the parent's death: it lets go at once.

    Closing the child's copy leaves the parent's lock alone; only LOCK_UN or the last close would end it.
    """
    os.register_at_fork(after_in_child=_forget_all)


def _forget_all() -> None:
    for lock in list(_held):
        if lock._file is not None:
            os.close(lock._file)
            lock._file = None
    _held.clear()
