"""Derive a seed for each purpose from the seed of the run.

No stream of random numbers depends on how far another one has been used, so a task, an epoch or a resumed run draws
the same numbers whatever came before.
"""

from __future__ import annotations

import hashlib


def derive(seed: int, *purpose: str | int) -> int:
    """Derive a 63-bit seed for `purpose`, for example derive(0, "shapes", "order", 3)."""
    text = "/".join(map(str, (seed, *purpose)))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1
