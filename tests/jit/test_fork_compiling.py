"""Processes that fork while another thread compiles: the child compiles, or says why it cannot."""

import os
import textwrap

import pytest

from tests.processes import FORKED, python

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this platform has no fork")

BACKGROUND = """
import threading, time
from numadam._jit import forks
ready, release = threading.Event(), threading.Event()
def hold(lock):
    def held():
        with lock:
            ready.set(); release.wait()
    threading.Thread(target=held, daemon=True).start()
    ready.wait()
def child():
    na.Adam(x := np.ones(7, "f4"), lr=1.0).step(x * 2)  # its loops are in the cache
    return f"{x[0]:.3f}"
def free():
    with forks.compile_lock():
        return "free"
def refused(work):
    try:
        return work()
    except RuntimeError as error:
        return str(error)
"""

COMPILES = {
    "numadam": """
        def compiling():
            na.SGD(np.ones(3, "f4"))
        """,
    "numba": """
        import numba
        @numba.njit
        def foreign(a):
            return np.sort(a)[::-1].cumsum()
        def compiling():
            foreign(np.ones(3))
        """,
    "the import of numba": """
        def compiling():
            import numba
        """,
}


@pytest.mark.parametrize("what", COMPILES)
def test_a_fork_waits_for_what_another_thread_compiles(what: str, warm: str) -> None:
    code = """
    forks._COMPILE_PATIENCE = 100.0
    thread = threading.Thread(target=compiling); thread.start()
    found = []
    while thread.is_alive():
        found.append(in_child(child)); time.sleep(0.05)
    print(bool(found), set(found))
    """
    code = FORKED + BACKGROUND + textwrap.dedent(COMPILES[what]) + textwrap.dedent(code)
    assert python(code, NUMBA_CACHE_DIR=warm).splitlines()[-1] == "True {'0.000'}"


LOCKS = {
    "ours": "forks.compile_lock()",
    "Numba's": "__import__('numba').core.compiler_lock.global_compiler_lock._lock",
    "LLVM's": "__import__('llvmlite.binding.ffi').binding.ffi.lib._lock._lock",
}


@pytest.mark.parametrize("whose", LOCKS)
def test_a_child_forked_in_the_middle_of_a_long_compile_says_so(whose: str, warm: str) -> None:
    """The fork has waited; loops that the parent has compiled work, and no call waits for ever."""
    code = f"""
    forks._COMPILE_PATIENCE = 0.2
    opt = na.Adam(np.ones(3, "f4"))
    hold({LOCKS[whose]})
    def work():
        opt.step(np.ones(3, "f4"))
        return f"{{opt.t}} {{child()}} {{refused(lambda: na.SGD(np.ones(3)))}}"
    print(in_child(work), in_child(lambda: in_child(work)), sep="\\n")
    release.set()
    print(free(), in_child(free))
    """
    code = FORKED + BACKGROUND + textwrap.dedent(code)
    *errors, after = python(code, NUMBA_CACHE_DIR=warm).splitlines()[-3:]
    assert all(error.startswith("1 0.000 numadam cannot compile") for error in errors)
    assert after == "free free"


def test_ctrl_c_ends_the_wait_and_comes_after_the_fork(warm: str) -> None:
    """Python prints what a hook raises, and goes on: Ctrl-C would be lost, and locks kept."""
    code = """
    import os, signal
    signal.signal(signal.SIGINT, signal.default_int_handler)  # shells' background ignores it
    hold(forks.compile_lock())
    threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()
    handler, start = signal.getsignal(signal.SIGINT), time.monotonic()
    def same_handler():
        return str(signal.getsignal(signal.SIGINT) is handler)
    try:
        print(in_child(lambda: f"{same_handler()} {refused(child)}"))
        time.sleep(60)
    except KeyboardInterrupt:
        print(time.monotonic() - start < 25, same_handler())
    release.set()
    print(free(), in_child(free))
    """
    code = FORKED + BACKGROUND + textwrap.dedent(code)
    *child, parent, after = python(code, NUMBA_CACHE_DIR=warm).splitlines()
    assert all(line.startswith("True numadam cannot compile") for line in child)
    assert (parent, after) == ("True True", "free free")


def test_every_lock_of_numba_and_llvm_is_found() -> None:
    """Their names are private ones."""
    code = """
    from numba.np.ufunc import parallel
    from numadam._jit import forks
    print(len(list(forks._compiler_locks())))
    """
    assert python(code) == "6"


@pytest.mark.parametrize(
    ("first", "then"),
    [
        ("child", "numba.core.typing"),
        ("lambda: np.ma", "numpy.ma.core"),  # Numba imports it before it takes its lock
        ("lambda: __import__('concurrent.futures')", "concurrent.futures._base"),
    ],
)
def test_a_child_forked_in_the_middle_of_a_long_import_says_so(
    first: str, then: str, warm: str
) -> None:
    """Numba's own modules, and what it imports itself."""
    code = f"""
    import sys
    forks._COMPILE_PATIENCE = 0.2
    def slow(event, details):
        if event == "import" and details[0] == "{then}":
            ready.set(); release.wait()
    sys.addaudithook(slow)
    threading.Thread(target={first}, daemon=True).start()
    ready.wait()
    print(in_child(lambda: refused(child)))
    release.set()
    print(child())
    """
    code = FORKED + BACKGROUND + textwrap.dedent(code)
    error, after = python(code, NUMBA_CACHE_DIR=warm).splitlines()[-2:]
    assert error.startswith("numadam cannot be imported")
    assert after == "0.000"
