"""Ctrl-C waits for the end of a block, and the handler is the old one afterwards."""

from __future__ import annotations

import signal
import threading

import pytest

from numadam._jit.process import defer_interrupts
from tests.processes import python


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


def test_ctrl_c_in_the_middle_of_llvmlite_does_not_crash(tmp_path):
    """Right after LLVM has taken a module over, when llvmlite has not noted it yet."""
    code = """
    import signal, sys
    from llvmlite.binding import linker
    signal.signal(signal.SIGINT, signal.default_int_handler)
    def watch(frame, event, arg):
        if event == "return" and frame.f_back.f_code is linker.link_modules.__code__:
            sys.setprofile(None)
            signal.raise_signal(signal.SIGINT)
            print("sent")
    sys.setprofile(watch)
    try:
        na.Adam(np.zeros(3)).step(np.ones(3))
    except KeyboardInterrupt:
        print("interrupted")
    sys.setprofile(None)
    x = np.zeros(3)
    na.Adam(x, lr=0.5).step(np.ones(3))
    print(x, signal.getsignal(signal.SIGINT) is signal.default_int_handler)
    """
    out = python(code, NUMBA_CACHE_DIR=str(tmp_path))
    assert out == "sent\ninterrupted\n[-0.5 -0.5 -0.5] True"
