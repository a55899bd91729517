"""Tensors that are mostly zeros, as what a checkpoint stores of them: where the non-zeros are, and their values.

Nothing is rounded: `unpack` gives every value back, bit for bit (-0 comes back as 0). Where the non-zeros are is told
by the gaps between them, Huffman coded: for synapses without a pattern close to the entropy, and one bit each where
nearly all are there. A full tensor is stored as it is.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

Packed = dict[str, Any]
MORE = 255  # a byte that says: the gap is at least so long, and goes on


def pack(x: Tensor) -> Packed:
    """`x` of any shape and device as CPU tensors: its `shape`, its non-zero `values`, and `gaps` (bytes) unless no
    entry is zero."""
    flat = x.detach().cpu().reshape(-1)
    there = flat != 0
    if bool(there.all()):
        return {"shape": list(x.shape), "values": flat}
    return {"shape": list(x.shape), "values": flat[there], "gaps": _encode(there)}


def unpack(state: Mapping[str, Any]) -> Tensor:
    """What `pack` was given, on the CPU; a state that was damaged gives an error of torch or other values. Raises
    ValueError for gaps that lead out of the tensor."""
    shape, values = state["shape"], state["values"]
    if "gaps" not in state:
        return values.reshape(shape)
    flat = values.new_zeros(math.prod(shape))
    flat[_decode(state["gaps"], len(values), len(flat))] = values
    return flat.reshape(shape)


def _encode(there: Tensor) -> Tensor:
    import numpy as np

    gaps = np.diff(np.flatnonzero(there.numpy()), prepend=-1) - 1
    last = np.cumsum(gaps // MORE + 1)  # where each gap's bytes end
    data = np.full(last[-1] if len(last) else 0, MORE, np.uint8)
    data[last - 1] = gaps % MORE
    coder = zlib.compressobj(1, zlib.DEFLATED, zlib.MAX_WBITS, 9, zlib.Z_HUFFMAN_ONLY)
    return torch.frombuffer(bytearray(coder.compress(data.tobytes()) + coder.flush()), dtype=torch.uint8)


def _decode(gaps: Tensor, count: int, length: int) -> Tensor:
    """(count,) ascending: the places of the non-zeros in a flat tensor of `length`."""
    import numpy as np

    longest = count + length // MORE  # bytes; what wants to become more is not ours
    coder = zlib.decompressobj()
    data = np.frombuffer(coder.decompress(gaps.numpy().tobytes(), longest + 1), np.uint8)
    last = np.flatnonzero(data != MORE)
    places = np.cumsum(data, dtype=np.int64)[last] + np.arange(len(last))
    if len(data) > longest or len(places) != count or (count and places[-1] >= length):
        raise ValueError("the gaps between the values do not fit the tensor")
    return torch.from_numpy(places)


__all__ = ["Packed", "pack", "unpack"]
