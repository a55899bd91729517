"""nesa.training.sparse_tensors: every value comes back, in little more space than they need."""

from __future__ import annotations

import math
import tracemalloc
import zlib

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from nesa.training.sparse_tensors import pack, unpack

SHAPES = arrays.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=20)
FLOATS = st.floats(width=32, allow_nan=False) | st.just(0.0)


@settings(deadline=None, max_examples=200)
@given(st.one_of(arrays.arrays("float32", SHAPES, elements=FLOATS), arrays.arrays("bool", SHAPES)))
def test_every_value_comes_back(array):
    x = torch.from_numpy(array)
    y = unpack(pack(x))
    assert y.dtype == x.dtype and y.shape == x.shape and torch.equal(x, y)


@pytest.mark.parametrize("share", [0.0, 0.001, 0.02, 0.1, 0.35, 0.9, 1.0])
def test_where_they_are_takes_little_more_than_its_entropy(share):
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(400, 500, generator=generator) + 0.5
    x *= torch.rand(400, 500, generator=generator) < share
    state, count = pack(x), int((x != 0).sum())
    bits = sum(-p * math.log2(p) for p in (share, 1 - share) if p)
    assert state["values"].numel() == count and ("gaps" in state) == (share < 1)
    assert state.get("gaps", torch.empty(0)).numel() <= max(1.03 * x.numel() * bits, 1.15 * count) / 8 + 100
    assert torch.equal(unpack(state), x)


@pytest.mark.parametrize("change", [{"shape": [50]}, {"values": torch.ones(3)}, {"gaps": torch.zeros(9).byte()}])
def test_what_does_not_fit_is_refused(change):
    x = torch.zeros(100)
    x[[7, 90]] = 1
    with pytest.raises((ValueError, zlib.error)):
        unpack(pack(x) | change)


def test_a_bomb_is_not_inflated():
    bomb = zlib.compress(bytes(200_000_000))
    state = pack(torch.eye(3)) | {"gaps": torch.frombuffer(bytearray(bomb), dtype=torch.uint8)}
    tracemalloc.start()
    with pytest.raises(ValueError, match="do not fit"):
        unpack(state)
    assert tracemalloc.get_traced_memory()[1] < 5_000_000
    tracemalloc.stop()


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_not_finite_is_a_value_too(bad):
    x = torch.zeros(100)
    x[7] = bad
    assert torch.equal(unpack(pack(x)).nan_to_num(1, 2, 3), x.nan_to_num(1, 2, 3))
