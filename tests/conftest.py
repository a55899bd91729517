"""Every test starts from the same random numbers and one thread, so that each is deterministic by itself."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def same_start(request):
    """Seeds torch for the tests that use it; the light ones (command line, curricula) never import it."""
    import sys

    torch = sys.modules.get("torch")
    if torch is not None:
        torch.manual_seed(0)
    yield
