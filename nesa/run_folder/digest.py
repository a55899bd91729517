"""Compute a digest of data by content: equal values give equal digests, whatever file they came from.

A digest of the file would not do: checkpoints of the same values can differ in their bytes (which strings are one
object, which tensors share their storage).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

UNREPEATABLE = ("time", "seconds")  # keys of an event that differ between two runs of one curriculum


def digest(value: Any) -> str:
    """Compute 32 hexadecimal digits for nested mappings, lists and tuples of tensors, arrays, numbers, text and None.

    Keys are sorted, lists and tuples are alike; TypeError for anything else.
    """
    h = hashlib.sha256()
    _update(h, value)
    return h.hexdigest()[:32]


def event_digest(events: Iterable[Mapping[str, Any]]) -> str:
    """Compute the digest of events without their times, so that interrupting and resuming a run does not change it."""
    return digest([{k: v for k, v in event.items() if k not in UNREPEATABLE} for event in events])


def _update(h: Any, value: Any) -> None:
    if isinstance(value, Mapping):
        h.update(b"{%d" % len(value))
        for key in sorted(value, key=str):
            _update(h, key)
            _update(h, value[key])
    elif isinstance(value, list | tuple):
        h.update(b"[%d" % len(value))
        for item in value:
            _update(h, item)
    elif hasattr(value, "dtype"):
        _update_array(h, value)
    elif value is None or isinstance(value, str | bool | int | float | bytes):
        text = value if isinstance(value, bytes) else repr(value).encode()
        h.update(b"%s %d " % (type(value).__name__.encode(), len(text)))
        h.update(text)
    else:
        raise TypeError(f"a {type(value).__name__} has no digest")


def _update_array(h: Any, value: Any) -> None:
    """Hash a tensor or a NumPy array by dtype, shape and values; -0 counts as 0, because W is stored without zeros."""
    import numpy as np

    if hasattr(value, "detach"):
        value = value.detach().cpu().numpy()
    array = np.ascontiguousarray(value)
    if array.dtype.kind == "f":
        array = array + array.dtype.type(0)
    h.update(f"{array.dtype.str}{list(value.shape)} ".encode())
    h.update(array.reshape(-1).view(np.uint8).data if array.dtype.kind != "O" and array.size else b"")
