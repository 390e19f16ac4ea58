"""Ctrl-C waits for the end of a block, and the handler is the old one afterwards."""

from __future__ import annotations

import signal
import threading

import pytest

from numadam._jit.interrupts import defer_interrupts


@pytest.mark.usefixtures("ctrl_c")
def test_ctrl_c_comes_after_the_block():
    done = []
    before = signal.getsignal(signal.SIGINT)

    def interrupted():
        with defer_interrupts():
            signal.raise_signal(signal.SIGINT)
            done.append(True)

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert done == [True]
    assert signal.getsignal(signal.SIGINT) is before


def test_an_error_inside_passes_and_the_handler_returns():
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(ZeroDivisionError), defer_interrupts():
        _ = 1 / 0
    assert signal.getsignal(signal.SIGINT) is before


def test_an_ignored_signal_stays_ignored():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with defer_interrupts():
            signal.raise_signal(signal.SIGINT)
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_other_threads_may_use_it():
    done = []

    def work():
        with defer_interrupts():
            done.append(True)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert done == [True]
