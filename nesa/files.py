"""Write files atomically, and turn any name into a safe file name."""

from __future__ import annotations

import contextlib
import os
import urllib.parse
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import IO

from nesa.errors import RunFailed


def write_atomically(path: Path, content: bytes | Callable[[IO[bytes]], object]) -> None:
    """Write bytes, or what ``content(file)`` writes, so that ``path`` has either its old or its new content.

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
        raise write_failure(path, error) from error
    finally:
        with contextlib.suppress(OSError):
            draft.unlink(missing_ok=True)


def write_failure(path: Path, error: OSError) -> RunFailed:
    """Return the error to raise where ``path`` cannot be written."""
    return RunFailed(
        f"{path}: cannot be written ({error.strerror or error}); what was there before is untouched. "
        "Make room or restore access, then resume the run"
    )


def file_name(name: str) -> str:
    """Turn any name into one file name inside a folder: separators and a leading dot are percent-encoded."""
    if not name:
        raise ValueError("a name that becomes a file is not empty")
    quoted = urllib.parse.quote(name, safe=" +=,@")
    return "%2E" + quoted[1:] if quoted.startswith(".") else quoted


def _sync_folder(folder: Path) -> None:
    """Make the rename last through a power cut; some file systems do not let folders be synced."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
