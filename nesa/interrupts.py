"""Delay Ctrl-C and SIGTERM while a task is trained, until the current step is finished and saved.

Then the handler that was there before is called (KeyboardInterrupt for Ctrl-C; the command line's own for SIGTERM).
Outside of training, and for a second signal, it is called at once.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class DelayedInterrupt:
    """A context manager that replaces the signal handlers in the main thread (elsewhere it does nothing).

    deferred: set while a signal shall wait for `raise_if_pending`. pending: the signal that waits, or None. saved: set
    once everything up to the current step is saved.
    """

    def __init__(self):
        self.deferred = self.saved = False
        self.pending: int | None = None
        self._before: dict[int, Callable[[int, FrameType | None], Any]] = {}

    def raise_if_pending(self) -> None:
        """Call the earlier handler, which raises, if a signal is pending."""
        if self.pending is not None:
            signum, self.pending, self.deferred = self.pending, None, False
            self._before[signum](signum, None)

    def __enter__(self) -> DelayedInterrupt:
        if threading.current_thread() is threading.main_thread():
            for signum in SIGNALS:
                before = signal.getsignal(signum)
                if callable(before):  # not where the signal is ignored or kills
                    self._before[signum] = before
                    signal.signal(signum, self._handle)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None):
        for signum, before in self._before.items():
            signal.signal(signum, before)

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        if self.deferred and self.pending is None:
            self.pending = signum
        else:
            self._before[signum](signum, frame)
