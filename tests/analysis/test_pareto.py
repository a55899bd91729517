"""nesa.analysis.pareto: which points nothing beats."""

from __future__ import annotations

from nesa.analysis.pareto import front


def test_a_point_is_beaten_by_one_as_small_or_as_accurate_that_is_better_in_the_other():
    assert front([1, 1, 2, 2, 3], [0.5, 0.6, 0.6, 0.7, 0.7]) == [False, True, False, True, False]


def test_equal_points_are_both_on_the_front():
    assert front([1, 1], [0.5, 0.5]) == [True, True]
