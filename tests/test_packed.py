"""nesa.packed: every value comes back, in the least space of the three forms."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from nesa.packed import pack, unpack

SHAPES = arrays.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=20)
FLOATS = st.floats(width=32, allow_nan=False) | st.just(0.0)


@settings(deadline=None, max_examples=200)
@given(st.one_of(arrays.arrays("float32", SHAPES, elements=FLOATS), arrays.arrays("bool", SHAPES)))
def test_every_value_comes_back(array):
    x = torch.from_numpy(array)
    y = unpack(pack(x))
    assert y.dtype == x.dtype and y.shape == x.shape and torch.equal(x, y)


@settings(deadline=None, max_examples=50)
@given(st.floats(0, 1), st.integers(0, 2**31))
def test_it_takes_the_least_of_values_bits_and_places(share, seed):
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(60, 50, generator=generator) * (torch.rand(60, 50, generator=generator) < share)
    count = int((x != 0).sum())
    state = pack(x)
    took = sum(value.numel() * value.element_size() for value in state.values() if isinstance(value, torch.Tensor))
    assert took == min(4 * 3000, 4 * count + 375, 8 * count)
    assert torch.equal(unpack(state), x)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_not_finite_is_a_value_too(bad):
    x = torch.zeros(100)
    x[7] = bad
    assert torch.equal(unpack(pack(x)).nan_to_num(1, 2, 3), x.nan_to_num(1, 2, 3))
