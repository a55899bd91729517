"""Samples as tensors: split, normalisation, order, augmentation, and seeds by purpose."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from nesa.config.curriculum import Augment, Curriculum, Input, Network, Task
from nesa.config.sizes import input_size
from nesa.datasets.registry import Arrays
from nesa.errors import DataError
from nesa.seeds import derive
from nesa.training.batches import Batches, augmented, draw_changes
from nesa.training.task_data import from_arrays, normalise


def images(n: int = 100, H: int = 4, W: int = 5, channels: int = 1) -> Arrays:
    """uint8 images whose values tell which sample, row and column they are."""
    draw = np.random.default_rng(0)
    shape = (n, H, W) if channels == 1 else (n, H, W, channels)
    x = draw.integers(0, 256, shape, dtype=np.uint8)
    y = np.arange(n) % 3
    return Arrays(x, y, x[:20], y[:20], ("p", "q", "r"), kind="image", origin="drawn")


def vectors(n: int = 100) -> Arrays:
    x = np.random.default_rng(0).normal(3.0, 2.0, (n, 6)).astype(np.float32)
    y = np.arange(n) % 2
    return Arrays(x, y, x[:10], y[:10], ("p", "q"), kind="vector", origin="drawn")


# --- split and normalisation -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "held"), [(100, 10), (57, 6), (5, 1), (2, 1)])
def test_a_tenth_is_for_validation(n, held):
    data = from_arrays("t", 0, images(n), seed=3)
    assert (len(data.train), len(data.val), len(data.test)) == (n - held, held, 20 if n >= 20 else n)
    together = torch.cat([data.train.x, data.val.x])
    expected = torch.from_numpy(images(n).train_x.reshape(n, -1))
    rows = sorted(map(tuple, together.tolist()))
    assert rows == sorted(map(tuple, expected.tolist()))  # every sample once


def test_labels_stay_with_their_samples():
    arrays = images()
    data = from_arrays("t", 0, arrays, seed=3)
    label = {
        tuple(x): y for x, y in zip(arrays.train_x.reshape(100, -1).tolist(), arrays.train_y.tolist(), strict=True)
    }
    for part in (data.train, data.val, data.test):
        assert part.y.dtype == torch.int64
        assert [label[tuple(x)] for x in part.x.tolist()] == part.y.tolist()


def test_the_split_depends_on_its_seed_alone():
    one, two, other = (from_arrays("t", 0, images(), seed=seed) for seed in (3, 3, 4))
    assert torch.equal(one.val.x, two.val.x) and torch.equal(one.train.y, two.train.y)
    assert not torch.equal(one.val.x, other.val.x)


def test_images_stay_bytes_and_are_normalised_by_their_training_samples():
    data = from_arrays("t", 0, images(), seed=3)
    assert data.train.x.dtype == data.test.x.dtype == torch.uint8
    pixels = data.train.x.double()
    assert data.mean == pytest.approx(pixels.mean().item(), rel=1e-5)
    assert data.std == pytest.approx(pixels.std().item(), rel=1e-5)
    x = data.prepare(data.train.x)
    assert x.dtype == torch.float32
    assert x.mean().item() == pytest.approx(0, abs=1e-4) and x.std().item() == pytest.approx(1, abs=1e-4)
    assert torch.equal(data.prepare(data.test.x), normalise(data.test.x, data.mean, data.std))
    assert normalise(torch.tensor([0, 255], dtype=torch.uint8), 100.0, 50.0).tolist() == pytest.approx([-2.0, 3.1])


def test_validation_and_test_samples_do_not_move_the_mean():
    arrays = images()
    changed = Arrays(arrays.train_x, arrays.train_y, arrays.test_x // 2, arrays.test_y, arrays.class_names)
    one, two = from_arrays("t", 0, arrays, seed=3), from_arrays("t", 0, changed, seed=3)
    assert (one.mean, one.std) == (two.mean, two.std)


def test_colour_lies_plane_by_plane():
    arrays = images(channels=3)
    data = from_arrays("t", 0, arrays, seed=3)
    assert data.shape == (3, 4, 5) and data.test.x.shape == (20, 60)
    for plane in range(3):
        first = plane * 20
        assert torch.equal(
            data.test.x[:, first : first + 20], torch.from_numpy(arrays.test_x[..., plane].reshape(20, -1).copy())
        )


def test_vectors():
    data = from_arrays("t", 2, vectors(), seed=3, source_used="own", fallback=True)
    assert data.shape is None and data.train.x.dtype == torch.float32 and data.train.x.shape == (90, 6)
    assert (data.classes, data.index, data.source_used, data.fallback) == (2, 2, "own", True)
    assert data.mean == pytest.approx(3, abs=0.3) and data.std == pytest.approx(2, abs=0.3)


def test_arrays_that_are_constant_or_read_only():
    x = np.full((20, 4, 4), 7, dtype=np.uint8)
    y = np.arange(20) % 2
    with pytest.raises(DataError, match="task 't': all training samples are one constant value"):
        from_arrays("t", 0, Arrays(x, y, x, y, ("a", "b")), seed=3)
    arrays = images()
    arrays.train_x.setflags(write=False)
    from_arrays("t", 0, arrays, seed=3)  # a memory map is read-only, and torch must not warn about it


def test_the_size_that_sources_deliver():
    def curriculum(size, **network) -> Curriculum:
        task = Task(name="t", source="arrays")
        return Curriculum(name="c", input=Input(size), network=Network(**network), tasks=(task,))

    assert input_size(curriculum((28, 28), grid=(8, 6, 3))) == (6, 8)  # [H, W] of an X x Y plane
    assert input_size(curriculum((7,), neurons=50)) == (7,)


# --- batches ---------------------------------------------------------------------------------------------------------


def epoch(batches: Batches) -> list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    return [tuple(batch) for batch in batches]


def test_an_epoch_shows_every_sample_once_in_whole_batches():
    data = from_arrays("t", 5, images(), seed=3)  # 90 to train on
    batches = Batches(data, data.train, 30, seed=1)
    for _ in range(2):
        found = epoch(batches)
        assert len(found) == len(batches) == 3
        assert all(x.shape == (30, 20) and y.shape == t.shape == (30,) and t.eq(5).all() for x, y, t in found)
        rows = sorted(map(tuple, torch.cat([x for x, _, _ in found]).tolist()))
        assert rows == sorted(map(tuple, data.prepare(data.train.x).tolist()))
    assert len(Batches(data, data.train, 40, seed=1)) == 2 and len(epoch(Batches(data, data.train, 40, seed=1))) == 2
    assert len(epoch(Batches(data, data.train, 1000, seed=1))) == 1  # a task smaller than a batch is one batch


def test_the_order_depends_on_seed_and_epoch_alone():
    data = from_arrays("t", 0, images(), seed=3)

    def labels(seed: int, number: int) -> list[int]:
        batches = Batches(data, data.train, 30, seed)
        batches.epoch = number
        return torch.cat([y for _, y, _ in epoch(batches)]).tolist()

    first = Batches(data, data.train, 30, seed=1)
    torch.manual_seed(99)
    passes = [torch.cat([y for _, y, _ in epoch(first)]).tolist() for _ in range(3)]
    assert passes == [labels(1, 0), labels(1, 1), labels(1, 2)]  # the third epoch needs no first two
    assert passes[0] != passes[1] and labels(1, 0) != labels(2, 0)
    assert first.epoch == 3


# --- augmentation ----------------------------------------------------------------------------------------------------


def moved(image: torch.Tensor, flip: bool, down: int, right: int) -> torch.Tensor:
    """One (C, H, W) image, mirrored and then moved pixel by pixel, with its edge repeated."""
    _, H, W = image.shape
    if flip:
        image = image.flip(2)
    new = torch.empty_like(image)
    for y in range(H):
        for x in range(W):
            new[:, y, x] = image[:, min(max(y - down, 0), H - 1), min(max(x - right, 0), W - 1)]
    return new


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("augment", [Augment(flip=True), Augment(shift=2), Augment(flip=True, shift=2)])
def test_pixels_move_as_said(channels, augment):
    """Each result is the image under one of the allowed moves; all moves occur, and each image has its own."""
    H, W, B = 4, 5, 200
    x = torch.randint(0, 256, (B, channels * H * W), dtype=torch.uint8)
    found = augmented(x, (channels, H, W), *draw_changes(len(x), augment, torch.Generator().manual_seed(2)))
    assert found.dtype == torch.uint8 and found.shape == x.shape
    steps = range(-augment.shift, augment.shift + 1)
    moves = [
        (flip, down, right)
        for flip in ((False, True) if augment.flip else (False,))
        for down in steps
        for right in steps
    ]
    seen = set()
    for before, after in zip(x, found, strict=True):
        image = before.reshape(channels, H, W)
        fits = [move for move in moves if torch.equal(moved(image, *move).flatten(), after)]
        assert fits
        seen.update(fits)
    assert seen == set(moves)


def test_augmentation_changes_training_alone_and_repeats_with_the_seed():
    data = from_arrays("t", 0, images(), seed=3)
    augment = Augment(flip=True, shift=1)
    one, two, plain = (Batches(data, data.train, 45, 7, a) for a in (augment, augment, None))
    first = epoch(one)
    for (x, y, _), (same, _, _), (bare, labels, _) in zip(first, epoch(two), epoch(plain), strict=True):
        assert torch.equal(x, same) and torch.equal(y, labels)
        assert not torch.equal(x, bare)
    assert not torch.equal(first[0][0], epoch(one)[0][0])  # the next epoch moves otherwise
    assert Batches(data, data.train, 45, 7, Augment()).augment is None


def test_vectors_cannot_be_flipped():
    data = from_arrays("t", 0, vectors(), seed=3)
    with pytest.raises(DataError, match="vectors cannot be flipped or shifted"):
        epoch(Batches(data, data.train, 10, 7, Augment(flip=True)))


# --- seeds -----------------------------------------------------------------------------------------------------------


def test_seeds_differ_by_purpose_and_repeat():
    names = [("weights", "a"), ("order", "a"), ("weights", "b"), ("epoch", 0), ("epoch", 1), ()]
    seeds = {derive(seed, *purpose) for purpose in names for seed in (0, 1)}
    assert len(seeds) == 12 and all(0 <= seed < 2**63 for seed in seeds)
    assert derive(0, "order", "a") == derive(0, "order", "a")
    assert derive(7, "order", "shapes") == 1789815616010190312  # runs of today repeat tomorrow
    torch.Generator().manual_seed(max(seeds))
