"""nesa.run_folder.digest: equal values have equal digests, whatever holds them, and any change gives another."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from nesa.run_folder.digest import digest, event_digest

VALUE = {"W": torch.arange(6.0).reshape(2, 3), "names": ["a", "b"], "n": 3, "share": 0.5, "none": None, "on": True}


def test_what_holds_a_value_does_not_matter():
    other = {
        "on": True,
        "none": None,
        "share": 0.5,
        "n": 3,
        "names": ("a", "b"),
        "W": np.arange(6.0, dtype="f").reshape(2, 3),
    }
    assert digest(other) == digest(VALUE)
    W = torch.arange(6.0).reshape(3, 2).T.contiguous()
    assert digest(W) == digest(torch.arange(6.0).reshape(3, 2).T), "a view is its values"
    assert digest(torch.nn.Parameter(torch.ones(3))) == digest(torch.ones(3))


@pytest.mark.parametrize(
    "change",
    [
        {"W": torch.arange(6.0).reshape(3, 2)},
        {"W": torch.arange(6.0).reshape(2, 3).double()},
        {"W": torch.arange(6.0).reshape(2, 3) + torch.tensor([0, 0, 0, 0, 0, 2.0**-20]).reshape(2, 3)},
        {"names": ["ab"]},
        {"names": ["b", "a"]},
        {"names": [["a"], "b"]},
        {"n": 3.0},
        {"n": "3"},
        {"n": True},
        {"share": np.nextafter(0.5, 1).item()},
        {"none": False},
        {"more": None},
    ],
    ids=str,
)
def test_every_change_shows(change):
    assert digest(VALUE | change) != digest(VALUE)


def test_a_zero_has_no_sign_and_empty_arrays_have_a_shape():
    assert digest(torch.tensor([-0.0, 1])) == digest(torch.tensor([0.0, 1]))
    assert digest(torch.zeros(0, 3)) != digest(torch.zeros(3, 0))


def test_what_is_no_data_is_refused():
    with pytest.raises(TypeError, match="a object has no digest"):
        digest({"a": [object()]})


def test_events_are_compared_without_their_times():
    event = {"event": "epoch", "time": 1.0, "seconds": 2.0, "loss": 0.5}
    assert event_digest([event]) == event_digest([event | {"time": 9.0, "seconds": 9.0}])
    assert event_digest([event]) != event_digest([event | {"loss": 0.6}])
    assert event_digest([event]) != event_digest([event, event])
