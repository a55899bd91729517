"""nesa.interrupts: signals that wait for the current step, sent for real."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from nesa.interrupts import DelayedInterrupt


def send(signum: int) -> None:
    os.kill(os.getpid(), signum)


def test_a_signal_that_is_not_deferred_takes_effect_at_once():
    with pytest.raises(KeyboardInterrupt), DelayedInterrupt():
        send(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_deferred_signal_waits_for_raise_if_pending():
    with DelayedInterrupt() as stop:
        stop.deferred = True
        send(signal.SIGINT)
        assert stop.pending == signal.SIGINT  # and the step goes on
        with pytest.raises(KeyboardInterrupt):
            stop.raise_if_pending()
        assert stop.pending is None and not stop.deferred
        stop.raise_if_pending()  # once is enough


def test_the_second_does_not_wait():
    with DelayedInterrupt() as stop:
        stop.deferred = True
        send(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            send(signal.SIGINT)


def test_what_takes_effect_is_the_handler_that_was_there(monkeypatch):
    received = []
    before = signal.signal(signal.SIGTERM, lambda signum, frame: received.append(signum))
    try:
        with DelayedInterrupt() as stop:
            stop.deferred = True
            send(signal.SIGTERM)
            assert received == []
            stop.raise_if_pending()
            assert received == [signal.SIGTERM]
        send(signal.SIGTERM)
        assert received == [signal.SIGTERM] * 2
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_signal_that_is_ignored_stays_so():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # nohup, or a job in the background
    try:
        with DelayedInterrupt() as stop:
            stop.deferred = True
            send(signal.SIGINT)
            assert stop.pending is None
    finally:
        signal.signal(signal.SIGINT, before)


def test_outside_the_main_thread_it_does_nothing():
    seen = []

    def work() -> None:
        with DelayedInterrupt() as stop:
            seen.append(stop.pending)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [None] and signal.getsignal(signal.SIGINT) is signal.default_int_handler
