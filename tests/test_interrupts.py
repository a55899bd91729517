"""nesa.interrupts: signals that wait for the step in hand, sent for real."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from nesa.interrupts import DelayedInterrupt


def send(signum: int) -> None:
    os.kill(os.getpid(), signum)


def test_without_patience_it_is_as_if_nobody_listened():
    with pytest.raises(KeyboardInterrupt), DelayedInterrupt():
        send(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_with_patience_the_first_waits_until_it_is_obeyed():
    with DelayedInterrupt() as stop:
        stop.deferred = True
        send(signal.SIGINT)
        assert stop.asked == signal.SIGINT  # and the step goes on
        with pytest.raises(KeyboardInterrupt):
            stop.raise_if_pending()
        assert stop.asked is None and not stop.deferred
        stop.raise_if_pending()  # once is enough


def test_the_second_does_not_wait():
    with DelayedInterrupt() as stop:
        stop.deferred = True
        send(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            send(signal.SIGINT)


def test_what_takes_effect_is_the_handler_that_was_there(monkeypatch):
    heard = []
    before = signal.signal(signal.SIGTERM, lambda signum, frame: heard.append(signum))
    try:
        with DelayedInterrupt() as stop:
            stop.deferred = True
            send(signal.SIGTERM)
            assert heard == []
            stop.raise_if_pending()
            assert heard == [signal.SIGTERM]
        send(signal.SIGTERM)
        assert heard == [signal.SIGTERM] * 2
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_signal_that_is_ignored_stays_so():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # nohup, or a job in the background
    try:
        with DelayedInterrupt() as stop:
            stop.deferred = True
            send(signal.SIGINT)
            assert stop.asked is None
    finally:
        signal.signal(signal.SIGINT, before)


def test_outside_the_main_thread_it_does_nothing():
    seen = []

    def work() -> None:
        with DelayedInterrupt() as stop:
            seen.append(stop.asked)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [None] and signal.getsignal(signal.SIGINT) is signal.default_int_handler
