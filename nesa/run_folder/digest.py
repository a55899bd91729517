"""A digest of data by content: equal values give equal digests, whatever file they came from.

Files would not do: a checkpoint of the same values can differ in its bytes (which strings are one object, which tensors
share their storage), and torch.load does not notice a flipped bit.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nesa.training.task_data import TaskData

UNREPEATABLE = ("time", "seconds")  # keys of an event that differ between two runs of one curriculum


def digest(value: Any) -> str:
    """32 hexadecimal digits for nested mappings, lists and tuples of tensors, arrays, numbers, text and None.

    Keys are taken in sorted order, lists and tuples are alike; TypeError for anything else.
    """
    h = hashlib.sha256()
    _feed(h, value)
    return h.hexdigest()[:32]


def event_digest(events: Iterable[Mapping[str, Any]]) -> str:
    """The digest of events without their times, so that a run which was interrupted and resumed has the same one."""
    return digest([{k: v for k, v in event.items() if k not in UNREPEATABLE} for event in events])


def data_digest(data: TaskData) -> str:
    """The digest of a task's samples, labels and class names, as they were split."""
    return digest([*((part.x, part.y) for part in (data.train, data.val, data.test)), data.class_names])


def _feed(h: Any, value: Any) -> None:
    if isinstance(value, Mapping):
        h.update(b"{%d" % len(value))
        for key in sorted(value, key=str):
            _feed(h, key)
            _feed(h, value[key])
    elif isinstance(value, list | tuple):
        h.update(b"[%d" % len(value))
        for item in value:
            _feed(h, item)
    elif hasattr(value, "dtype"):
        _feed_array(h, value)
    elif value is None or isinstance(value, str | bool | int | float | bytes):
        text = value if isinstance(value, bytes) else repr(value).encode()
        h.update(b"%s %d " % (type(value).__name__.encode(), len(text)))
        h.update(text)
    else:
        raise TypeError(f"a {type(value).__name__} has no digest")


def _feed_array(h: Any, value: Any) -> None:
    """A tensor or a NumPy array; the two are alike when dtype, shape and values are (-0 and 0 are one value, because W
    is stored without its zeros)."""
    import numpy as np

    if hasattr(value, "detach"):
        value = value.detach().cpu().numpy()
    array = np.ascontiguousarray(value)
    if array.dtype.kind == "f":
        array = array + array.dtype.type(0)
    h.update(f"{array.dtype.str}{list(value.shape)} ".encode())
    h.update(array.reshape(-1).view(np.uint8).data if array.dtype.kind != "O" and array.size else b"")
