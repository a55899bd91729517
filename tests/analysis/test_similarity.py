"""nesa.analysis.similarity: structures whose likeness is known, and relabelling, which must not change anything."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
import stored_run

from nesa.analysis.similarity import Structure, overlap, shared_synapses, similarity


def test_overlap_by_hand():
    assert overlap([3, 1], [1, 2, 1]) == pytest.approx((1 + 1 + 0) / (3 + 2 + 1))
    assert overlap([5, 2], [5, 2]) == 1 and overlap([5], [0, 5]) == 0
    assert overlap([], [0]) is None


def test_a_structure_is_like_itself_under_other_names():
    arrays = stored_run.structure(1, n=12)
    order = np.arange(len(arrays["owner"]))
    order[16:28] = np.random.default_rng(0).permutation(order[16:28])
    other = {"owner": arrays["owner"], "levels": arrays["levels"][order], "W": arrays["W"][order[:, None], order]}
    found = similarity(Structure.of(arrays), Structure.of(other))
    assert (found.widths, found.support, found.matched) == (1, 1, 12)
    assert found.fields == pytest.approx(1)
    assert found.chance is not None and found.chance < 0.7


def test_the_matching_is_the_best_there_is():
    a, b = (Structure.of(stored_run.structure(seed, n=6)) for seed in (2, 3))
    cosines = a.fields @ b.fields.T
    best = max(sum(cosines[i, j] for i, j in enumerate(order)) for order in permutations(range(6)))
    assert similarity(a, b).fields == pytest.approx(best / 6)


def test_support_by_hand():
    """Two neurons each: one synapse from the input in common of three, and none of the two among them."""
    zero = np.zeros((2, 1))
    a = Structure(np.ones(2), zero, np.array([[1, 1], [0, 0]], bool), np.array([[0, 0], [1, 0]], bool))
    b = Structure(np.ones(2), zero, np.array([[1, 0], [0, 1]], bool), np.array([[0, 1], [0, 0]], bool))
    straight, crossed = np.array([0, 1]), np.array([1, 0])
    assert shared_synapses(a, b, straight, straight) == pytest.approx(1 / 5)
    # crossed: input {(0,0),(0,1)} against {(0,1),(1,0)}, among {(1,0)} against {(1,0)}
    assert shared_synapses(a, b, straight, crossed) == pytest.approx(2 / 4)


def test_neurons_that_do_not_read_the_input_have_the_field_of_what_they_read():
    arrays = stored_run.structure(4, n=4)
    fields = Structure.of(arrays).fields
    W_in, W = arrays["W"][16:20, :16].astype(float), arrays["W"][16:20, 16:20].astype(float)
    first = W_in[:2] / np.linalg.norm(W_in[:2], axis=1, keepdims=True)
    second = W[2:, :2] @ first
    np.testing.assert_allclose(fields[:2], first, rtol=1e-5)
    np.testing.assert_allclose(fields[2:], second / np.linalg.norm(second, axis=1, keepdims=True), rtol=1e-5)


def test_unequal_sizes_empty_structures_and_other_inputs():
    a, b = Structure.of(stored_run.structure(5, n=10)), Structure.of(stored_run.structure(5, n=4))
    one, other = similarity(a, b), similarity(b, a)
    assert one.matched == other.matched == 4 and one.widths == other.widths == pytest.approx(4 / 10)
    assert one.fields == pytest.approx(other.fields) and one.support == pytest.approx(other.support)
    none = Structure.of(stored_run.structure(0, n=0))
    assert (
        similarity(a, none).matched == 0
        and similarity(a, none).support is None
        and similarity(none, none).widths is None
    )
    with pytest.raises(ValueError, match="16 and of 9"):
        similarity(a, Structure.of(stored_run.structure(0, d_in=9)))
