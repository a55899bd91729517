"""Tensors that are mostly zeros, as what a checkpoint stores of them: where the non-zeros are, and their values.

Nothing is rounded: `unpack` gives every value back, bit for bit (-0 comes back as 0). Where the non-zeros are is told
by one bit an entry, or by their numbers where fewer than one entry in 32 is left; a full tensor is stored as it is.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

Packed = dict[str, Any]


def pack(x: Tensor) -> Packed:
    """`x` of any shape and device as CPU tensors, in the smallest of the three forms: `values` with nothing, `mask`
    (one bit an entry, packed into bytes) or `index` (int32, or int64 in very large tensors) beside it."""
    flat = x.detach().cpu().reshape(-1)
    there = flat != 0
    count, size = int(there.sum()), flat.element_size()
    wide = torch.int32 if len(flat) < 2**31 else torch.int64
    costs = {
        "values": len(flat) * size,
        "mask": count * size + -(-len(flat) // 8),
        "index": count * (size + (4 if wide == torch.int32 else 8)),
    }
    form = min(costs, key=costs.__getitem__)
    state: Packed = {"shape": list(x.shape), "values": flat if form == "values" else flat[there]}
    if form == "mask":
        state["mask"] = _bits(there)
    elif form == "index":
        state["index"] = there.nonzero().flatten().to(wide)
    return state


def unpack(state: Mapping[str, Any]) -> Tensor:
    """What `pack` was given, on the CPU; a state that was damaged gives an error of torch or other values."""
    shape, values = state["shape"], state["values"]
    if "mask" in state:
        there = _booleans(state["mask"], math.prod(shape))
        flat = values.new_zeros(len(there))
        flat[there] = values
    elif "index" in state:
        flat = values.new_zeros(math.prod(shape))
        flat[state["index"].long()] = values
    else:
        flat = values
    return flat.reshape(shape)


def _bits(there: Tensor) -> Tensor:
    import numpy as np

    return torch.from_numpy(np.packbits(there.numpy()))


def _booleans(bits: Tensor, count: int) -> Tensor:
    import numpy as np

    return torch.from_numpy(np.unpackbits(bits.numpy(), count=count).astype(bool))
