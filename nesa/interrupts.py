"""Ctrl-C and SIGTERM while a task is trained: the step in hand is finished and saved before they take effect.

What takes effect is the handler that was there before (KeyboardInterrupt for Ctrl-C; what the command line has put in
place for SIGTERM). Outside of training, and for a second signal, that is at once.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class DelayedInterrupt:
    """A context manager that listens; only the main thread can (elsewhere it does nothing).

    patient: set by whoever will look at `asked` soon and call `obey`. asked: the signal that came meanwhile, or None.
    saved: set by whoever has saved everything before that.
    """

    def __init__(self):
        self.deferred = self.saved = False
        self.asked: int | None = None
        self._before: dict[int, Callable[[int, FrameType | None], Any]] = {}

    def raise_if_pending(self) -> None:
        """Does now what the signal asked for: the handler that was there before is called, which raises."""
        if self.asked is not None:
            signum, self.asked, self.deferred = self.asked, None, False
            self._before[signum](signum, None)

    def __enter__(self) -> DelayedInterrupt:
        if threading.current_thread() is threading.main_thread():
            for signum in SIGNALS:
                before = signal.getsignal(signum)
                if callable(before):  # a signal that is ignored, or that kills, goes on doing so
                    self._before[signum] = before
                    signal.signal(signum, self._hear)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None):
        for signum, before in self._before.items():
            signal.signal(signum, before)

    def _hear(self, signum: int, frame: FrameType | None) -> None:
        if self.deferred and self.asked is None:
            self.asked = signum
        else:
            self._before[signum](signum, frame)
