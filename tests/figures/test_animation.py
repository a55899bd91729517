"""Test which synapses a snapshot stores, how many snapshots an animation has, and that frames show them."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image

from nesa.figures.animation import FRAMES, MATRIX, Animation, Snapshot, snapshot
from nesa.run_folder.digest import digest


def test_a_snapshot_keeps_the_strongest_in_order_and_counts_all():
    W = torch.randn(1500, 1500) * (torch.rand(1500, 1500) < 0.3)
    found = snapshot(W, torch.arange(1500) + 10, "x", 7, count=4000)
    best = W.abs().flatten().topk(4000)
    assert found.live == int(torch.count_nonzero(W))
    assert found.neurons == 7
    torch.testing.assert_close(found.weight.abs(), best.values.half())
    rows, columns = found.receiver.long() - 10, found.sender.long() - 10
    torch.testing.assert_close(W[rows, columns].half(), found.weight)
    assert len(set(zip(rows.tolist(), columns.tolist(), strict=True))) == 4000


def test_fewer_synapses_than_a_snapshot_holds_are_all_stored():
    W = torch.zeros(50, 50)
    W[3, 4], W[5, 6] = -1e-6, 2.0
    found = snapshot(W, torch.arange(50), "x", 0)
    assert (found.sender.tolist(), found.receiver.tolist(), found.live) == ([6, 4], [5, 3], 2)
    assert snapshot(torch.zeros(50, 50), torch.arange(50), "x", 0).live == 0


def test_a_long_training_is_thinned_evenly_and_goes_on_from_its_state():
    W, index = torch.eye(5), torch.arange(5)
    whole, resumed = Animation(), Animation()
    for epoch in range(3 * FRAMES):
        whole.add(W, index, str(epoch), epoch)
        resumed.add(W, index, str(epoch), epoch)
        if epoch == 50:
            resumed = Animation(resumed.state())
    labels = [int(frame.label) for frame in whole.frames]
    assert FRAMES // 2 <= len(labels) <= FRAMES
    assert labels[0] == 0 and set(np.diff(labels)) == {4}
    assert [frame.label for frame in resumed.frames] == [frame.label for frame in whole.frames]


def two_frames(grid):
    """Inputs 0 and 1, neuron 2 at level 1, neuron 3 pruned, port 4 at level 2."""
    animation = Animation()
    W = torch.zeros(5, 5)
    W[2, 0], W[3, 1], W[4, 3] = 0.25, -0.25, 0.25
    animation.add(W, torch.arange(5), "epoch 1", 2)
    W[3], W[4, 3], W[4, 2] = 0, 0, 0.25
    last = snapshot(W, torch.arange(5), "pruned", 1)
    positions = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 0, 1], [1, 0, 1], [1, 1, 1]]) * grid
    return Image.open(
        io.BytesIO(animation.gif("task", last, positions, torch.tensor([0, 1]), {0: 0, 1: 0, 2: 1, 4: 2}))
    )


def test_frames_show_the_matrix_sorted_by_the_level_at_the_end():
    for grid in (True, False):
        gif = two_frames(grid)
        assert gif.n_frames == 2
        marks = []
        for frame in range(2):
            gif.seek(frame)
            matrix = np.asarray(gif.convert("RGB"), dtype=int)[46 : 46 + MATRIX, 640 - MATRIX - 16 : 640 - 16]
            red = (matrix[..., 0] - matrix[..., 2]) > 60
            blue = (matrix[..., 2] - matrix[..., 0]) > 60
            step = MATRIX // 5
            cells = [
                (row, column, sign)
                for sign, mask in (("+", red), ("-", blue))
                for row, column in {(int(y) // step, int(x) // step) for y, x in zip(*np.nonzero(mask), strict=True)}
            ]
            marks.append(set(cells))
        # the order is inputs 0 1, then 2, then the port 4, and 3, which was pruned, last
        assert marks[0] == {(2, 0, "+"), (4, 1, "-"), (3, 4, "+")}
        assert marks[1] == {(2, 0, "+"), (3, 2, "+")}


def test_an_animation_without_epochs_is_its_last_frame():
    empty = torch.zeros(0, dtype=torch.int32)
    last = Snapshot("pruned", empty, empty, torch.zeros(0, dtype=torch.float16), 0, 0)
    gif = Animation().gif("t", last, torch.zeros(3, 3), torch.tensor([0]), {})
    assert Image.open(io.BytesIO(gif)).n_frames == 1


def animated(epochs: int, animation: Animation | None = None) -> Animation:
    animation = animation or Animation()
    for epoch in range(animation.seen, epochs):
        W = torch.zeros(3, 3)
        W[2, epoch % 2] = 1 + epoch
        animation.add(W, torch.arange(3), f"epoch {epoch + 1}", 1)
    return animation


@pytest.mark.parametrize(("stored", "seen"), [(3, 3), (7, 3), (2 * FRAMES + 3, FRAMES - 1), (FRAMES, 0)])
def test_an_animation_goes_on_from_any_earlier_epoch_to_the_same_frames(stored, seen):
    """Also from a state that is later than where it goes on, thinned in the meantime."""
    going_on = animated(3 * FRAMES, Animation(animated(stored).state(), seen))
    assert digest(going_on.state()) == digest(animated(3 * FRAMES).state())
    assert len(going_on.frames) <= FRAMES


def test_an_animation_whose_frames_are_lost_begins_where_it_goes_on():
    animation = animated(9, Animation(seen=5))
    assert animation.at == [5, 6, 7, 8] and [frame.label for frame in animation.frames] == [
        f"epoch {k}" for k in (6, 7, 8, 9)
    ]
