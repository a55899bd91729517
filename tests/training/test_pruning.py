"""Settling: what may be lost, what is dropped, what is never touched."""

from __future__ import annotations

import pytest
import torch

from nesa.training import pruning
from nesa.training.evaluation import accuracy
from nesa.training.pruning import DENSE, advice, drop_unconnected, mean_activity, prune
from urn.layout import Layout
from urn.network import URN
from urn.penalties import Penalty
from urn.update_rules import UPDATES

D_IN, CLASSES = 4, 3


def data(n: int = 90) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(5)
    y = torch.arange(n) % CLASSES
    centres = 2 * torch.randn(CLASSES, D_IN, generator=generator)
    return centres[y] + 0.7 * torch.randn(n, D_IN, generator=generator), y


def trained(update: str = "residual_output", frozen: bool = True) -> URN:
    """A net of 30 neurons with 9 % errors or fewer; its inputs and three hidden neurons are fixed."""
    layout = Layout.flat(30, D_IN, {"a": CLASSES})
    urn = URN(layout, 4, update, "linear", generator=torch.Generator().manual_seed(2))
    mask = torch.zeros(30, dtype=torch.bool)
    W = urn.W.data.clone()
    if frozen:
        mask[: D_IN + 3] = True
        W[mask[:, None] & ~mask] = 0
        W[:D_IN] = 0
    urn.set_parameters(layout, W, urn.b.data.clone(), mask)
    x, y = data()
    optimizer = torch.optim.Adam(urn.parameters(), 0.02)
    for _ in range(30):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(urn(x), y).backward()
        optimizer.step()
        urn.restore_frozen()
    assert accuracy(urn, x, y) > 0.9
    return urn


def chain(I: int, extra: dict[tuple[int, int], float] | None = None) -> URN:
    """0 input; 1 -> 2 -> 3 hidden in a row; 4 to 6 hidden; 7, 8 outputs. Output 7 reads 3, output 8 has a bias."""
    layout = Layout.flat(9, 1, {"a": 2})
    W = torch.zeros(9, 9)
    W[1, 0] = W[2, 1] = W[3, 2] = W[7, 3] = 1.0
    for (to, frm), weight in (extra or {}).items():
        W[to, frm] = weight
    b = torch.zeros(9)
    b[8] = 0.5
    frozen = torch.zeros(9, dtype=torch.bool)
    frozen[0] = True
    urn = URN(layout, I, "plain", "linear")
    urn.set_parameters(layout, W, b, frozen)
    return urn


X, Y = torch.tensor([[0.0], [1.0], [2.0], [0.0]]), torch.tensor([1, 0, 0, 1])  # what the chain answers at I = 4


# --- scores ---------------------------------------------------------------------------------------------------------


def test_accuracy_counts_right_answers():
    urn = chain(4)
    assert accuracy(urn, X, Y) == 1.0
    wrong = Y.clone()
    wrong[0] = 0
    assert accuracy(urn, X, wrong, "a") == 0.75


def test_mean_activity_by_hand():
    """The mean over the samples, then the maximum over l = 1..I-1; x = 0, 1, 2, 0."""
    urn = chain(4, {(4, 0): 2.0, (4, 4): 0.5})
    found = mean_activity(urn, X, "a", batch=3)
    # neuron 4: 2x at l = 1, x at l = 2, x/2 at l = 3; neurons 1, 2, 3 show x at l = 1, 2, 3; l = I counts for nobody
    assert found[:7].tolist() == pytest.approx([0.0, 0.75, 0.75, 0.75, 1.5, 0.0, 0.0])


def test_input_neurons_have_no_activity_of_their_own():
    for update in UPDATES:
        urn = trained(update)
        assert not mean_activity(urn, data()[0], "a")[:D_IN].any()


# --- settle ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("update", list(UPDATES))
@pytest.mark.parametrize("margin", [0.0, 0.05, 0.3])
def test_at_most_the_margin_is_lost(update, margin):
    urn = trained(update)
    x, y = data()
    before = accuracy(urn, x, y)
    settled = prune(urn, x, y, "a", margin)
    assert settled.score_before == before
    assert settled.score_after == accuracy(urn, x, y)
    assert settled.score_after >= before - margin - 1e-9
    assert len(settled.kept) == urn.S < 30


def test_a_wider_margin_prunes_more():
    left = []
    for margin in (0.0, 0.1, 0.5):
        urn = trained()
        prune(urn, *data(), "a", margin)
        left.append(int((urn.W.data[~urn.frozen] != 0).sum()))
    assert left[0] > left[1] > left[2]


@pytest.mark.parametrize("update", list(UPDATES))
def test_fixed_rows_are_never_touched(update):
    urn = trained(update)
    index = urn.frozen.nonzero().flatten()
    W, b = urn.W.data[index].clone(), urn.b.data[index].clone()
    settled = prune(urn, *data(), "a", 0.5)
    assert torch.isin(index, settled.kept).all()  # not dropped either, although little is left
    assert torch.equal(urn.W.data[urn.frozen], W[:, settled.kept]) and torch.equal(urn.b.data[urn.frozen], b)
    assert W[:, D_IN : D_IN + 3].any()


def test_weights_below_the_threshold_and_only_they_are_cut():
    urn = trained()
    W = urn.W.data.clone()
    settled = prune(urn, *data(), "a", 0.1)
    old, new = W[settled.kept][:, settled.kept], urn.W.data
    free = ~urn.frozen
    assert settled.weight_threshold > 0
    small = old[free].abs() < settled.weight_threshold
    assert not new[free][small].any() and small.any()
    assert torch.equal(new[free][~small], old[free][~small])


def test_neurons_at_or_below_theta_are_dropped():
    """All weights are 1, so none is cut. Mean activities: 4: 0.1, 5: 0.15, 6: 0, and 0.75 in the chain that answers."""
    urn = chain(4, {(7, 4): 1.0, (7, 5): 1.0})
    urn.b.data[4], urn.b.data[5] = 0.1, 0.15
    settled = prune(urn, X, Y, "a", 0.0)
    assert settled.score_before == settled.score_after == 1.0
    assert settled.theta == pytest.approx(0.15) and settled.weight_threshold == 1.0
    assert settled.kept.tolist() == [0, 1, 2, 3, 7, 8]


def test_validation_data_decide(monkeypatch):
    """Whatever settling calls for a score gets the validation samples and nothing else."""
    urn = trained()
    x, y = data()
    seen = set()
    real = pruning.accuracy

    def spy(urn, x, y, *rest):
        seen.add((x.data_ptr(), len(x)))
        return real(urn, x, y, *rest)

    monkeypatch.setattr(pruning, "accuracy", spy)
    prune(urn, x, y, "a", 0.1)
    assert seen == {(x.data_ptr(), len(x))}


def test_a_net_without_free_weights_settles_as_it_is():
    urn = chain(4)
    urn.set_parameters(urn.layout, urn.W.data.clone(), urn.b.data.clone(), torch.ones(9, dtype=torch.bool))
    settled = prune(urn, X, Y, "a", 0.5)
    assert settled.score_before == settled.score_after == 1.0 and settled.kept.tolist() == list(range(9))
    empty = chain(4)
    empty.W.data.zero_()
    assert prune(empty, X, Y, "a", 0.0).score_after == 0.5


# --- dead ends ------------------------------------------------------------------------------------------------------


def test_dead_ends_are_dropped():
    """4 reads but nobody reads it; 5 is read by 4 alone; 6 reaches the port."""
    urn = chain(4, {(4, 5): 1.0, (5, 0): 1.0, (6, 0): 1.0, (7, 6): 1.0})
    kept = drop_unconnected(urn, "a", torch.ones(9, dtype=torch.bool))
    assert kept.tolist() == [0, 1, 2, 3, 6, 7, 8]
    assert urn.S == 7 and urn.layout.ports["a"].tolist() == [5, 6]


@pytest.mark.parametrize(("I", "expected"), [(5, [1, 2, 3]), (4, [1, 2, 3]), (3, [2, 3]), (2, [3]), (1, [])])
def test_neurons_that_act_too_late_are_dropped(I, expected):
    """A hidden neuron first fires at l = 1, so its way to the port must be I - 1 synapses or shorter."""
    urn = chain(I)
    before = urn(X)
    kept = drop_unconnected(urn, "a", torch.ones(9, dtype=torch.bool))
    assert kept.tolist() == [0, *expected, 7, 8]
    assert torch.equal(urn(X), before)


def test_a_path_through_a_dropped_neuron_is_none():
    urn = chain(4, {(4, 0): 1.0, (5, 4): 1.0, (7, 5): 1.0})
    alive = torch.ones(9, dtype=torch.bool)
    alive[5] = False
    assert drop_unconnected(urn, "a", alive).tolist() == [0, 1, 2, 3, 7, 8]


def test_neurons_that_only_dropped_ones_had_woken_are_dropped():
    """4 (activity 0.1) wakes 5 (0.4), which does not matter; 6 (0.2) does. So theta is 0.1, and 5 falls silent."""
    urn = chain(4, {(5, 4): 4.0, (7, 5): -1.0, (8, 6): 1.0})
    urn.b.data[[4, 6, 7, 8]] = torch.tensor([0.1, 0.2, 0.35, 0.3])
    settled = prune(urn, X, Y, "a", 0.0)
    assert settled.score_before == settled.score_after == 1.0
    assert settled.theta == pytest.approx(0.1)
    assert settled.kept.tolist() == [0, 1, 2, 3, 6, 7, 8]


def test_rows_of_input_neurons_that_nobody_needs_become_zero():
    """Two inputs, both read by a hidden neuron that only input 0's path leads out of the port."""
    layout = Layout.flat(6, 2, {"a": 2})
    W = torch.zeros(6, 6)
    W[2, 0] = W[4, 2] = 1.0  # input 0 -> hidden 2 -> output
    W[0, 3], W[1, 3], W[3, 1] = 1.0, 1.0, 1.0  # both input neurons read hidden 3, and 3 reads input 1
    W[1, 2] = 1.0
    urn = URN(layout, 4, "plain", "linear")
    urn.set_parameters(layout, W, torch.tensor([0.1, 0.2, 0.0, 0.0, 0.0, 0.0]))
    kept = drop_unconnected(urn, "a", torch.ones(6, dtype=torch.bool))
    assert kept.tolist() == [0, 1, 2, 3, 4, 5]  # 1 -> 3 -> 0 -> 2 -> port in four iterations, so 3 stays
    urn = URN(layout, 3, "plain", "linear")
    urn.set_parameters(layout, W, torch.tensor([0.1, 0.2, 0.0, 0.0, 0.0, 0.0]))
    kept = drop_unconnected(urn, "a", torch.ones(6, dtype=torch.bool))
    assert kept.tolist() == [0, 1, 2, 4, 5]
    assert not urn.W.data[1].any() and float(urn.b.data[1]) == 0.0
    assert float(urn.b.data[0]) == pytest.approx(0.1)


# --- advice ---------------------------------------------------------------------------------------------------------


def hidden_of(dense: bool, port: bool = True) -> URN:
    layout = Layout.flat(20, 4, {"edges": 2})
    urn = URN(layout, 3, "plain", "linear")
    mask = torch.zeros(20, dtype=torch.bool)
    mask[:4] = True
    W = urn.W.data.clone()
    if not dense:
        W[:, 3:] = 0
    if not port:
        W[18:] = 0
    urn.set_parameters(layout, W, urn.b.data.clone(), mask)
    return urn


def test_a_task_that_keeps_everything_is_told_what_to_raise():
    penalty = Penalty(weight=0.3, activity=0.002)
    message = advice("edges", hidden_of(dense=True), 14, penalty)
    assert message is not None and "'edges'" in message
    assert "claims 14 of the 14 free neurons (100%)" in message and "Raise penalties.weight (now 0.3)" in message
    message = advice("edges", hidden_of(dense=False), 15, penalty)
    assert message is not None and "14 of the 15" in message and "Raise penalties.activity (now 0.002)" in message
    assert DENSE == 0.5


def test_a_task_that_learned_nothing_is_told_what_to_lower():
    message = advice("edges", hidden_of(dense=True, port=False), 100, Penalty(weight=0.3, activity=0.002))
    assert message is not None and "has learned nothing" in message
    assert "Lower penalties.activity (now 0.002) or penalties.weight (now 0.3)" in message


def test_a_task_that_left_room_hears_nothing():
    assert advice("edges", hidden_of(dense=True), 16, Penalty()) is None
    assert advice("edges", hidden_of(dense=True), 0, Penalty()) is None  # there was nothing to claim


def test_half_of_the_margin_is_for_weights_and_all_of_it_for_neurons(monkeypatch):
    floors: list[float] = []

    def nothing_pruned(score, floor, low, high) -> float:
        floors.append(floor)
        return low

    monkeypatch.setattr("nesa.training.pruning._bisect", nothing_pruned)
    found = prune(chain(4), X, Y, "a", 0.2)
    assert floors == pytest.approx([found.score_before - 0.1, found.score_before - 0.2])
