"""Every test starts from the same random numbers and runs on one thread, so that each is deterministic by itself."""

from __future__ import annotations

import os
import signal

# One thread from the start, here and in the processes that tests start: OpenMP's threads do not survive a fork, so a
# test that forks after a parallel region would wait for ever.
os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = "1"

import pytest

# A shell starts background jobs with Ctrl-C ignored, and that is inherited; tests that send it mean a foreground job.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def same_start(request):
    """Seeds torch for the tests that use it; the light ones (command line, curricula) never import it."""
    import sys

    torch = sys.modules.get("torch")
    if torch is not None:
        torch.manual_seed(0)
    yield
