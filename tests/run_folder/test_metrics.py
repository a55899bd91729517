"""Scores of a curriculum against arithmetic by hand."""

from __future__ import annotations

import numpy as np
import pytest

from nesa.run_folder import metrics

NAN = float("nan")
R = np.array([[0.9, NAN, NAN], [0.7, 0.8, NAN], [0.6, 0.85, 0.5]])


def test_acc_is_the_mean_of_the_last_row():
    assert metrics.average_accuracy(R) == pytest.approx((0.6 + 0.85 + 0.5) / 3)


def test_bwt_compares_the_last_row_with_the_diagonal_and_leaves_the_last_task_out():
    assert metrics.backward_transfer(R) == pytest.approx(((0.6 - 0.9) + (0.85 - 0.8)) / 2)


def test_forgetting_is_measured_from_the_best_score_of_each_task():
    assert metrics.forgetting(R) == pytest.approx(((0.9 - 0.6) + (0.85 - 0.85)) / 2)


def test_a_dip_that_recovers_counts_for_neither():
    recovered = np.array([[0.9, NAN, NAN], [0.2, 0.8, NAN], [0.9, 0.8, 0.5]])
    assert metrics.backward_transfer(recovered) == 0
    assert metrics.forgetting(recovered) == 0


def test_a_score_from_before_training_is_not_forgotten():
    lucky = np.array([[0.9, 1.0, 0.1], [0.9, 0.5, 0.1], [0.9, 0.5, 0.3]])
    assert metrics.forgetting(lucky) == 0


def test_nothing_lost_is_exactly_zero():
    kept = np.tril(np.tile([0.3, 0.7, 0.1], (3, 1)))
    assert metrics.backward_transfer(kept) == 0
    assert metrics.forgetting(kept) == 0


@pytest.mark.parametrize("score", [metrics.average_accuracy, metrics.backward_transfer, metrics.forgetting])
def test_a_gap_is_not_averaged_away(score):
    gap = R.copy()
    gap[2, 0] = NAN
    assert np.isnan(score(gap))


def test_a_best_score_that_was_not_measured_is_not_guessed():
    gap = R.copy()
    gap[1, 0] = NAN
    assert np.isnan(metrics.forgetting(gap))
    assert metrics.backward_transfer(gap) == metrics.backward_transfer(R)


def test_one_task_has_an_acc_and_nothing_to_forget():
    assert metrics.average_accuracy([[0.4]]) == 0.4
    assert np.isnan(metrics.backward_transfer([[0.4]]))
    assert np.isnan(metrics.forgetting([[0.4]]))


def test_transfer_is_task_by_task_on_the_diagonal():
    assert metrics.transfer(R, [0.9, 0.7, 0.55]) == pytest.approx([0.0, 0.1, -0.05])


def test_pruning_cost_is_before_minus_after():
    assert metrics.pruning_cost([0.93, 0.85], [0.92, 0.86]) == pytest.approx([0.01, -0.01])


@pytest.mark.parametrize("score", [metrics.average_accuracy, metrics.backward_transfer, metrics.forgetting])
@pytest.mark.parametrize("wrong", [[], [0.5], [[0.5, 0.5]], np.zeros((0, 0))])
def test_r_must_be_square(score, wrong):
    with pytest.raises(ValueError, match=r"\(K, K\)"):
        score(wrong)


def test_lengths_must_agree():
    with pytest.raises(ValueError, match="one score a task"):
        metrics.transfer(R, [0.5])
    with pytest.raises(ValueError, match="one score a task"):
        metrics.pruning_cost([0.5], [0.5, 0.6])
