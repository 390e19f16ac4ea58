"""Ctrl-C, signals and exceptions from outside: they wait for the end of a block, or of a step."""

from __future__ import annotations

import signal
import textwrap

import pytest

from numadam._jit.process import defer_interrupts
from tests import extras
from tests.processes import STORM, python


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


# --- whole steps ----------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [50, 60_000])
def test_asynchronous_exceptions_never_part_t_from_the_arrays(n: int, warm: str) -> None:
    code = f"""
    rng = np.random.default_rng(0)
    start = rng.standard_normal({n}).astype("f4")
    g = rng.standard_normal({n}).astype("f4")
    p = start.copy()
    opt = na.Adam(p)
    storm(lambda: opt.step(g), 100)
    q = start.copy()
    whole = na.Adam(q)
    for _ in range(opt.t):
        whole.step(g)
    same = [np.array_equal(opt.state[k], whole.state[k]) for k in "mvt"]
    print(opt.t > 0, np.array_equal(p, q), *same)
    """
    out = python(STORM + textwrap.dedent(code), NUMBA_CACHE_DIR=warm)
    assert out == "True True True True True"


@extras.posix
def test_signal_handler_that_steps_the_same_optimiser(warm: str) -> None:
    """A handler runs between the lines of `step`: its own step must not change the outer one."""
    code = """
    import signal
    p, q = np.zeros(300, "f4"), np.zeros(300, "f4")
    opt = na.SGD([p, q], lr=1.0)
    inner = 0
    def handler(*_):
        global inner
        inner += 1
        opt.step([np.full(300, 1000, "f4"), np.full(300, 2000, "f4")])
    signal.signal(signal.SIGALRM, handler)
    signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.0005)
    outer = 0
    while inner < 200:
        opt.step([np.full(300, 1, "f4"), np.full(300, 2, "f4")])
        outer += 1
    signal.setitimer(signal.ITIMER_REAL, 0)
    total = -(outer + 1000 * inner)
    print(opt.t == outer + inner, set(p) == {total}, set(q) == {2 * total})
    """
    assert python(code, NUMBA_CACHE_DIR=warm) == "True True True"
