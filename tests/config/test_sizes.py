"""nesa.config.sizes: the forecast is what a network would do that claims the same number again and again."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from nesa.config.sizes import forecast, needed


def played(free: int, claimed: int, hidden: int) -> int:
    count = 0
    while free >= needed(hidden) and free >= claimed:
        free, count = free - claimed, count + 1
    return count


@given(st.integers(1, 5000), st.data())
def test_the_forecast_is_what_would_happen(hidden, data):
    free = data.draw(st.integers(0, hidden))
    claimed = data.draw(st.integers(1, hidden))
    assert forecast(free, claimed, hidden) == played(free, claimed, hidden)


def test_a_task_that_claims_nothing_says_nothing():
    assert forecast(50, 0, 100) is None


def test_a_tenth_must_be_free():
    assert needed(2048) == 205 and forecast(204, 1, 2048) == 0 and forecast(205, 1, 2048) == 1
