"""Lock a run folder for one writer, with a lock that the kernel frees when its holder dies.

The lock is ``flock`` on the file ``lock`` in the run folder; the text in the file only names the holder. The file is
never removed: a process that waits on a removed file would get a lock that no other process can find.
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
from nesa.run_folder.layout import LOCK

_held: weakref.WeakSet[RunLock] = weakref.WeakSet()


class RunLock:
    """Exclusive right to write into one run folder, from `acquire` to `release`; a context manager.

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
        path = self.folder / LOCK
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
        _release_in_children()
        _held.add(self)
        return self

    def release(self) -> None:
        """Free the lock; does nothing when it is not held."""
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
    """Read who holds the lock according to its file: pid, host, since. None when nobody does, or it cannot be read.

    After a crash the file still names the dead holder; `is_held` and `RunLock.acquire` are exact.
    """
    try:
        who = json.loads((Path(folder) / LOCK).read_text())
    except (OSError, ValueError):
        return None
    return who if isinstance(who, dict) else None


def is_held(folder: str | Path) -> bool:
    """Return whether a process holds the lock now; nothing is written, and a folder without a lock file is free."""
    try:
        file = os.open(Path(folder) / LOCK, os.O_RDONLY)
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
def _release_in_children() -> None:
    """Make forked children close their copies of the locks, which would outlive the parent.

    Closing a copy leaves the parent's lock alone; only LOCK_UN or the last close would end it.
    """
    os.register_at_fork(after_in_child=_close_all)


def _close_all() -> None:
    for lock in list(_held):
        if lock._file is not None:
            os.close(lock._file)
            lock._file = None
    _held.clear()
