"""Pack tensors that are mostly zeros for checkpoints: a compressed bit mask of the non-zeros, and their values.

Nothing is rounded: `unpack` gives every value back, bit for bit (-0 comes back as 0). A full tensor is stored as it is.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

Packed = dict[str, Any]


def pack(x: Tensor) -> Packed:
    """Return `x` as CPU tensors: its `shape`, its non-zero `values`, and `bits` unless no entry is zero."""
    flat = x.detach().cpu().reshape(-1)
    nonzero = flat != 0
    if bool(nonzero.all()):
        return {"shape": list(x.shape), "values": flat}
    bits = zlib.compress(np.packbits(nonzero.numpy()).tobytes(), 1)
    return {
        "shape": list(x.shape),
        "values": flat[nonzero],
        "bits": torch.frombuffer(bytearray(bits), dtype=torch.uint8),
    }


def unpack(state: Mapping[str, Any]) -> Tensor:
    """Return what `pack` was given, on the CPU. Raises ValueError where mask, values and shape do not fit."""
    shape, values = state["shape"], state["values"]
    if "bits" not in state and "gaps" not in state:
        return values.reshape(shape)
    length = math.prod(shape)
    places = _places(state["bits"], length) if "bits" in state else _places_of_gaps(state["gaps"], length)
    if len(places) != len(values):
        raise ValueError("the mask and the values do not fit one another")
    flat = values.new_zeros(length)
    flat[places] = values
    return flat.reshape(shape)


def _inflate(data: Tensor, most: int) -> np.ndarray:
    """Decompress at most `most` bytes: a damaged file must not fill the memory."""
    inflated = np.frombuffer(zlib.decompressobj().decompress(data.numpy().tobytes(), most + 1), np.uint8)
    if len(inflated) > most:
        raise ValueError("the mask is longer than the tensor")
    return inflated


def _places(bits: Tensor, length: int) -> Tensor:
    """(count,) ascending: the places of the non-zeros in a flat tensor of `length`."""
    inflated = _inflate(bits, -(-length // 8))
    if len(inflated) != -(-length // 8):
        raise ValueError("the mask is shorter than the tensor")
    return torch.from_numpy(np.flatnonzero(np.unpackbits(inflated, count=length)))


def _places_of_gaps(gaps: Tensor, length: int) -> Tensor:
    """The same from the form that runs before the redesign stored: the gaps between non-zeros, 255 meaning more."""
    data = _inflate(gaps, length + length // 255 + 1)
    last = np.flatnonzero(data != 255)
    places = np.cumsum(data, dtype=np.int64)[last] + np.arange(len(last))
    if len(places) and places[-1] >= length:
        raise ValueError("the gaps between the values do not fit the tensor")
    return torch.from_numpy(places)
