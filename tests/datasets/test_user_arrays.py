"""One scale, one order of channels and one way of counting labels for a whole data set, or a sentence that says so."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

from nesa.datasets import registry
from nesa.datasets.checks import check_arrays
from nesa.datasets.paths import DataDirs
from nesa.datasets.source import Arrays
from nesa.errors import DataError

RNG = np.random.default_rng(3)
TRAIN, TEST = RNG.integers(0, 256, (20, 6, 5), np.uint8), RNG.integers(0, 256, (9, 6, 5), np.uint8)
TRAIN[0, 0, 0] = TEST[0, 0, 0] = 0
TRAIN[0, 0, 1] = TEST[0, 0, 1] = 255
Y, TEST_Y = np.arange(20) % 3, np.arange(9) % 3


def read(tmp_path, train=TRAIN, test=TEST, y=Y, test_y=TEST_Y, size=(6, 5), **more) -> Arrays:
    """The arrays as the source ``arrays`` delivers them; notes without their warnings."""
    np.savez(tmp_path / "mine.npz", train_x=train, train_y=y, test_x=test, test_y=test_y, **more)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return registry.load("arrays", {"path": str(tmp_path / "mine.npz")}, size=size, data=DataDirs(cache=tmp_path))


def with_value(x: np.ndarray, value: float) -> np.ndarray:
    """``x`` with this value where the image of 0 to 255 is white."""
    x = np.array(x)
    x[0, 0, 1] = value
    return x


# The scale -----------------------------------------------------------------------------------------------------------

SCALES = {
    # name: (train, test, end of the origin, part of a note)
    "bytes": (TRAIN, TEST, ".npz", ""),
    "wide integers": (TRAIN.astype(np.int64), TEST.astype(np.uint16), ".npz", ""),
    "floats of bytes": (TRAIN.astype(float), TEST.astype(np.float32), ".npz", ""),
    "floats of bytes beside bytes": (TRAIN, TEST.astype(np.float64), ".npz", ""),
    "bytes beside resized ones": (TRAIN, TEST + 0.25 * (TEST == 100), ".npz", ""),
    "unit": (TRAIN / 255, TEST / 255, ", values from 0 to 1", ""),
    "unit in halves": ((TRAIN / 255).astype(np.float16), (TEST / 255).astype(np.float64), ", values from 0 to 1", ""),
    "unit with one value above in test": (
        TRAIN / 255,
        with_value(TEST / 255, 1.0000001),
        ", values from 0 to 1",
        "test_x: 1 values just outside 0 to 1 were clipped",
    ),
    "unit with one value below in train": (
        with_value(TRAIN / 255, 1.009) - 0.009 * (np.arange(20) == 0)[:, None, None] * (TRAIN == 0),
        TEST / 255,
        ", values from 0 to 1",
        "values just outside 0 to 1 were clipped",
    ),
    "signed": (TRAIN / 127.5 - 1, TEST / 127.5 - 1, ", values from -1 to 1", "were read as -1 (black) to 1 (white)"),
    "signed with one value above": (
        TRAIN / 127.5 - 1,
        with_value(TEST / 127.5 - 1, 1.01),
        ", values from -1 to 1",
        "1 values just outside -1 to 1 were clipped",
    ),
    "bytes with one value above": (
        TRAIN.astype(float),
        with_value(TEST.astype(float), 255.5),
        ".npz",
        "1 values just outside 0 to 255 were clipped",
    ),
}


@pytest.mark.parametrize("case", SCALES)
def test_both_parts_have_one_scale(tmp_path, case):
    train, test, origin, note = SCALES[case]
    found = read(tmp_path, train, test)
    assert np.abs(found.train_x.astype(int) - TRAIN).max() <= (1 if "halves" in case or "below" in case else 0)
    assert np.abs(found.test_x.astype(int) - TEST).max() == 0
    assert found.origin.endswith(origin) and note in " ".join(found.notes) and bool(found.notes) == bool(note)


def test_masks_are_black_and_white(tmp_path):
    assert set(np.unique(read(tmp_path, TRAIN > 127, TEST > 127).train_x)) == {0, 255}
    assert set(np.unique(read(tmp_path, TRAIN > 127, TEST / 255).train_x)) == {0, 255}  # both of 0 to 1
    assert set(np.unique(read(tmp_path, (TRAIN > 127) * 1.0, (TEST > 127) * 1.0).train_x)) == {0, 255}


ONE = "must have one scale, but those of train_x from {} and test_x from {}: bring both to one"
NO_SCALE = r"image values must lie from 0 to 255 \(or 0 to 1, or -1 to 1\), got {} to {}"


@pytest.mark.parametrize(
    ("train", "test", "words"),
    [
        (TRAIN.astype(float), TEST / 255, ONE.format("0 to 255", "0 to 1")),
        (TRAIN / 255, TEST, ONE.format("0 to 1", "0 to 255")),
        (TRAIN, TEST // 255, ONE.format("0 to 255", "0 to 1")),
        (TRAIN > 127, TEST, ONE.format("0 to 1", "0 to 255")),
        (TRAIN / 127.5 - 1, TEST / 255, ONE.format("-1 to 1", "0 to 1")),
        (TRAIN / 255 * 37.2, TEST / 255 * 37.2, NO_SCALE.format("0", "37.2")),
        (TRAIN / 255, with_value(TEST / 255, 1.02), NO_SCALE.format("0", "1.02")),
        (TRAIN / 255 * 5 - 2.5, TEST / 255 * 5 - 2.5, NO_SCALE.format("-2.5", "2.5")),
        (TRAIN.astype(int) - 1, TEST, NO_SCALE.format("-1", "255")),
        (TRAIN.astype(np.uint16) * 257, TEST.astype(np.uint16) * 257, NO_SCALE.format("0", "65535")),
        (TRAIN.astype(float), with_value(TEST.astype(float), 258), NO_SCALE.format("0", "258")),
        (TRAIN.astype(float) - 4, TEST.astype(float), NO_SCALE.format("-4", "255")),
        (TRAIN / 127.5 - 1, TEST, NO_SCALE.format("-1", "255")),
    ],
)
def test_what_fits_no_scale_is_refused(tmp_path, train, test, words):
    with pytest.raises(DataError, match=words):
        read(tmp_path, train, test)


def test_vectors_have_no_scale(tmp_path):
    found = read(tmp_path, TRAIN.reshape(20, 30), TEST.reshape(9, 30) / 7.0, size=(30,))
    assert np.array_equal(found.test_x, (TEST.reshape(9, 30) / 7.0).astype(np.float32))
    assert np.array_equal(found.train_x, TRAIN.reshape(20, 30).astype(np.float32)) and found.notes == ()


# Channels and labels ---------------------------------------------------------------------------------------------


def test_channels_that_come_first_are_refused(tmp_path):
    first, last = TRAIN[:, None].repeat(3, axis=1), TEST[..., None].repeat(3, axis=3)
    with pytest.raises(DataError, match=r"must have the same shape, got \(3, 6, 5\) and \(6, 5, 3\)"):
        read(tmp_path, first, last)
    with pytest.raises(DataError, match=r"got shape \(20, 3, 6, 5\); channels come last: x.transpose\(0, 2, 3, 1\)"):
        read(tmp_path, first, TEST[:, None].repeat(3, axis=1))


@pytest.mark.parametrize(
    ("y", "test_y", "more", "words"),
    [
        (
            Y + 1,
            TEST_Y + 1,
            {},
            "no sample of class 0; every class needs some; labels run from 1 to 3, but classes count",
        ),
        (
            Y + 1,
            TEST_Y + 1,
            {"class_names": ["a", "b", "c"]},
            "got 3 at sample 2 .6 such labels.; labels run from 1 to 3",
        ),
        (Y, TEST_Y + 1, {}, "train labels run from 0 to 2 and test labels from 1 to 3: one counts from 1"),
        (Y + 1, TEST_Y, {}, "train labels run from 1 to 3 and test labels from 0 to 2: one counts from 1"),
        (Y + 4, TEST_Y + 4, {}, "no sample of class 0, 1, 2, 3; every class needs some$"),
        (
            Y,
            TEST_Y,
            {"class_names": ["a", "b", "a"]},
            "class names must differ, but 'a' is the name of classes 0 and 2",
        ),
    ],
)
def test_labels_and_names_that_are_refused(tmp_path, y, test_y, more, words):
    with pytest.raises(DataError, match=words):
        read(tmp_path, y=y, test_y=test_y, **more)


def test_an_empty_part_has_its_own_sentence(tmp_path):
    with pytest.raises(DataError, match="test data: there are no samples"):
        read(tmp_path, test=TEST[:0], test_y=TEST_Y[:0])


def test_unequal_classes_have_a_note_with_the_accuracy_of_a_constant_answer(tmp_path):
    x = RNG.integers(0, 256, (120, 6, 5), np.uint8)
    y = np.repeat([0, 1], [110, 10])
    (note,) = read(tmp_path, train=x, y=y, test_y=np.repeat([0, 1], [6, 3])).notes
    assert "train data: classes are unequal, from 10 samples (1) to 110 (0)" in note
    assert note.endswith("always answering 0 has a test accuracy of 66.7 %")
    assert read(tmp_path, train=x[:110], y=y[10:], test_y=np.repeat([0, 1], [6, 3])).notes == ()  # 10 : 1 is allowed


def test_names_are_compared_whichever_source_made_them():
    with pytest.raises(DataError, match="x: class names must differ"):
        check_arrays(Arrays(TRAIN, Y, TEST, TEST_Y, ("a", "b", "b")), "x", (6, 5), 1)
