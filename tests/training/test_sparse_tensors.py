"""nesa.training.sparse_tensors: every value comes back, in little more space than they need."""

from __future__ import annotations

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
def test_the_mask_takes_at_most_a_bit_an_entry_and_less_where_few_are_there(share):
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(400, 500, generator=generator) + 0.5
    x *= torch.rand(400, 500, generator=generator) < share
    state, count = pack(x), int((x != 0).sum())
    assert state["values"].numel() == count and ("bits" in state) == (share < 1)
    size = state.get("bits", torch.empty(0)).numel()
    assert size <= x.numel() / 8 + 100 and size <= 4 * count + 200
    assert torch.equal(unpack(state), x)


@pytest.mark.parametrize("change", [{"shape": [50]}, {"values": torch.ones(3)}, {"bits": torch.zeros(9).byte()}])
def test_what_does_not_fit_is_refused(change):
    x = torch.zeros(100)
    x[[7, 90]] = 1
    with pytest.raises((ValueError, zlib.error)):
        unpack(pack(x) | change)


@pytest.mark.parametrize("key", ["bits", "gaps"])
def test_a_bomb_is_not_inflated(key):
    state = pack(torch.eye(3))
    del state["bits"]
    bomb = torch.frombuffer(bytearray(zlib.compress(bytes(200_000_000))), dtype=torch.uint8)
    tracemalloc.start()
    with pytest.raises(ValueError, match="longer than the tensor"):
        unpack(state | {key: bomb})
    assert tracemalloc.get_traced_memory()[1] < 5_000_000
    tracemalloc.stop()


def test_the_gaps_that_earlier_versions_stored_are_read():
    """0, 3 and 600 of 700 are there: gaps of 0, 2 and 596 = 2 x 255 + 86."""
    gaps = zlib.compress(bytes([0, 2, 255, 255, 86]))
    state = {"shape": [7, 100], "values": torch.tensor([1.0, 2.0, 3.0])}
    x = unpack(state | {"gaps": torch.frombuffer(bytearray(gaps), dtype=torch.uint8)})
    assert x.flatten().nonzero().flatten().tolist() == [0, 3, 600] and x.shape == (7, 100)
    with pytest.raises(ValueError, match="do not fit"):
        unpack(state | {"shape": [5, 100], "gaps": torch.frombuffer(bytearray(gaps), dtype=torch.uint8)})


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_not_finite_is_a_value_too(bad):
    x = torch.zeros(100)
    x[7] = bad
    assert torch.equal(unpack(pack(x)).nan_to_num(1, 2, 3), x.nan_to_num(1, 2, 3))
