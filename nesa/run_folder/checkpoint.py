"""Save and load checkpoints of data only, so that loading one never runs code, and without unused tensor storage."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from nesa.errors import RunFolderError
from nesa.files import write_atomically
from nesa.run_folder.layout import CHECKPOINT, task_folder


def save(path: Path, state: Mapping[str, Any]) -> None:
    """Write ``state`` atomically; TypeError, before anything is written, if `load_checkpoint` could not load it."""
    plain = _plain(path.name, state)
    write_atomically(path, lambda file: _save(plain, file))


def load_checkpoint(folder: str | Path, task: str, name: str = CHECKPOINT, device: str = "cpu") -> dict[str, Any]:
    """Load tasks/TASK/NAME as data only, never code; RunFolderError if it is missing or damaged."""
    import torch

    path = task_folder(folder, task) / name
    try:
        return torch.load(path, map_location=device, weights_only=True)
    except FileNotFoundError as error:
        raise RunFolderError(f"{path}: is missing; the run has no checkpoint of {task!r}") from error
    except Exception as error:  # a damaged file fails in a dozen ways, from zip to unpickling
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise RunFolderError(f"{path}: is damaged or not a checkpoint ({reason})") from error


def _plain(place: str, value: Any) -> Any:
    """Copy ``value`` with tensors detached and views separated from their storage; TypeError for what is not data."""
    import torch

    if isinstance(value, torch.Tensor):
        value = value.detach()
        whole = value.untyped_storage().nbytes() == value.numel() * value.element_size()
        return value if whole else value.clone()  # a view would be saved with its whole storage
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str | int):
                raise TypeError(f"{place} has the key {key!r}; keys are text or integers")
        return {key: _plain(f"{place}.{key}", item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_plain(f"{place}[{at}]", item) for at, item in enumerate(value))
    if value is None or type(value) in (str, bool, int, float, bytes):
        return value
    raise TypeError(f"{place} is a {type(value).__name__}; a checkpoint holds tensors, numbers, text and None only")


def _save(state: Any, file: IO[bytes]) -> None:
    """Call torch.save, and raise a full disk as OSError; torch hides it behind a RuntimeError."""
    import torch

    try:
        torch.save(state, file)
    except RuntimeError as error:
        causes = (error.__context__, error.__cause__)
        raise next((cause for cause in causes if isinstance(cause, OSError)), OSError(str(error))) from error
