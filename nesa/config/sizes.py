"""Room in the network: how many neurons a task must find free, and how many more tasks will."""

from __future__ import annotations

ROOM = 0.1  # a task needs at least this share of the hidden neurons to be free


def needed(hidden: int) -> int:
    """Free neurons that a task must find, of `hidden` ones; with fewer, the network grows before it."""
    return int(ROOM * hidden) + 1


def forecast(free: int, claimed: int, hidden: int) -> int | None:
    """How many more tasks that claim `claimed` neurons each the network takes before it has to grow; None when the
    task claimed nothing, which says nothing about others.

    free, hidden: neurons free now, and hidden neurons in all. Each of those tasks begins with enough free neurons
    (`needed`) and finds as many as it claims.
    """
    if claimed <= 0:
        return None
    if free < needed(hidden):
        return 0
    return min(free // claimed, (free - needed(hidden)) // claimed + 1)
