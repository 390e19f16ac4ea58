"""Processes that fork: the child can step, and finds no lock of a thread that it does not have.

Where another thread compiles meanwhile, the child compiles, or says why it cannot.
"""

import os
import subprocess
import sys
import textwrap
from pathlib import Path
from types import SimpleNamespace

import pytest

from numadam._jit import process
from tests.processes import FORKED, PREAMBLE, ROOT, python

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this platform has no fork")


def forked(*codes: str, **env: str) -> list[str]:
    """Lines of a program that forks; a layer of Numba may print warnings before them."""
    return python(FORKED + "".join(map(textwrap.dedent, codes)), **env).splitlines()


@pytest.mark.parametrize("layer", ["omp", "workqueue", "default"])
def test_child_of_a_fork_can_step(layer: str, warm: str, expected: str) -> None:
    """GNU OpenMP kills a forked child at its first parallel region: serial form there."""
    code = """
    opt_before = train()[1]
    print(in_child(digest), in_child(lambda: in_child(digest)))
    """
    (out,) = forked(code, NUMBA_CACHE_DIR=warm, NUMBA_THREADING_LAYER=layer)
    assert out.split() == [expected, expected]


def test_child_of_a_fork_after_foreign_openmp(warm: str, expected: str) -> None:
    """The parent used OpenMP through its own Numba code, and numadam only in the child."""
    code = """
    import numba
    @numba.njit(parallel=True)
    def foreign(a):
        for i in numba.prange(a.size):
            a[i] += 1
    foreign(np.zeros(100_000))
    print(in_child(digest))
    """
    assert forked(code, NUMBA_CACHE_DIR=warm, NUMBA_THREADING_LAYER="omp") == [expected]


def test_fork_while_another_thread_steps(warm: str) -> None:
    """The child finds no lock held by a thread that it does not have, and whole steps."""
    code = """
    import threading
    p, opt = train(200_000, 1)
    stop = threading.Event()
    def work():
        while not stop.is_set():
            opt.step(np.ones_like(p))
    thread = threading.Thread(target=work); thread.start()
    def child():
        t, m = opt.t, opt.state["m"].copy()
        opt.step(np.ones_like(p))
        return f"{opt.t - t} {np.ptp(m)}"
    ptp = [in_child(child).split() for _ in range(5)]
    stop.set(); thread.join()
    print(all(steps == "1" for steps, _ in ptp))
    """
    assert forked(code, NUMBA_CACHE_DIR=warm)[-1] == "True"


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_multiprocessing(method: str, warm: str, expected: str, tmp_path: Path) -> None:
    script = tmp_path / "job.py"
    script.write_text(
        PREAMBLE
        + textwrap.dedent(f"""
        import multiprocessing
        if __name__ == "__main__":
            train()
            with multiprocessing.get_context({method!r}).Pool(1) as pool:
                print(*set(pool.map(digest, [100_000] * 2)))
        """)
    )
    env = {**os.environ, "PYTHONPATH": str(ROOT), "NUMBA_CACHE_DIR": warm}
    done = subprocess.run(
        [sys.executable, str(script)], env=env, capture_output=True, text=True, timeout=120
    )
    assert done.stdout.strip() == expected, done.stderr


@pytest.mark.parametrize("case", ["forks in lr", "makes an optimiser in lr", "compiles"])
def test_fork_meets_a_lock_that_another_thread_holds(case: str, warm: str) -> None:
    """A step may itself wait for the forking thread: the fork waits a second at most."""
    codes = {
        "forks in lr": """
            from concurrent.futures import ThreadPoolExecutor
            lr = lambda t: 0.1 * len(ThreadPoolExecutor(1).submit(in_child, str).result() or "1")
            opt = na.Adam(np.ones(3, "f4"), lr=lr)
            opt.step(np.ones(3, "f4"))
            print(opt.t)
            """,
        "makes an optimiser in lr": """
            import threading, time
            inside = threading.Event()
            def lr(t):
                inside.set(); time.sleep(0.3); na.Adam(np.ones(2, "f4")); return 0.1
            opt = na.Adam(np.ones(3, "f4"), lr=lr)
            thread = threading.Thread(target=lambda: opt.step(np.ones(3, "f4"))); thread.start()
            inside.wait()
            in_child(str); thread.join()
            print(opt.t)
            """,
        "compiles": """
            import threading, time
            na.Adam(np.ones(4, "f4"))
            thread = threading.Thread(target=lambda: na.SGD(np.ones(3, "f4"))); thread.start()
            time.sleep(0.2)
            in_child(lambda: na.Adam(np.ones(7, "f4")) and "x"); thread.join()
            print(1)
            """,
    }
    assert forked(codes[case], NUMBA_CACHE_DIR=warm)[-1] == "1"


def test_threads_that_fork_at_once(warm: str) -> None:
    code = """
    import threading
    opts, g = [na.Adam(np.ones(3, "f4")) for _ in range(20)], np.ones(3, "f4")
    def forking():
        for _ in range(5):
            in_child(lambda: [opt.step(g) for opt in opts] and "x")
    threads = [threading.Thread(target=forking) for _ in range(4)]
    [t.start() for t in threads]; [t.join() for t in threads]
    for opt in opts:
        opt.step(g)
    print(set(opt.t for opt in opts))
    """
    assert forked(code, NUMBA_CACHE_DIR=warm)[-1] == "{1}"


def test_locks_of_dropped_optimisers_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """By no callback of a weak reference: it is Python code, in which Ctrl-C would be lost."""
    monkeypatch.setattr(process, "_locks", {})
    monkeypatch.setattr(process, "_purge_at", 64)
    owners = [SimpleNamespace() for _ in range(10)]
    for owner in owners:
        process.give_lock(owner)
    for _ in range(1000):
        process.give_lock(SimpleNamespace())
    assert len(process._locks) < 100
    assert not any(ref.__callback__ for ref in process._locks)
    locks = [ref() for ref in process._locks]
    assert all(any(owner._lock is lock for lock in locks) for owner in owners)


def test_the_lock_of_logging_is_free_while_a_fork_waits(warm: str) -> None:
    """A thread that compiles may want to log; the hook of `logging` takes its lock before ours."""
    code = """
    import logging, threading
    from numadam._jit import process, reports
    free, wait = [], process._wait
    def spy():
        def log():
            free.append(lock.acquire(blocking=False) and not lock.release())
        lock = logging._lock
        thread = threading.Thread(target=log); thread.start(); thread.join()
        wait()
    process._wait = spy
    print(in_child(lambda: "x"), free)
    """
    assert forked(code, NUMBA_CACHE_DIR=warm) == ["x [True]"]


# --- while another thread compiles ---------------------------------------------------------------

BACKGROUND = """
import threading, time
from numadam._jit import process
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
    with process.compile_lock():
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
            return a.cumsum()
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
    process._COMPILE_PATIENCE = 100.0
    thread = threading.Thread(target=compiling); thread.start()
    found = []
    while thread.is_alive():
        found.append(in_child(child)); time.sleep(0.2)
    print(bool(found), set(found))
    """
    out = forked(BACKGROUND, COMPILES[what], code, NUMBA_CACHE_DIR=warm)
    assert out[-1] == "True {'0.000'}"


def test_a_child_forked_in_the_middle_of_a_long_compile_says_so(warm: str) -> None:
    """The fork has waited; loops that the parent has compiled work, and no call waits for ever.

    The names of Numba's and LLVM's locks are private ones.
    """
    code = """
    process._COMPILE_PATIENCE = 0.2
    from numba.np.ufunc import parallel
    print(len(list(process._compiler_locks())))
    import numba.core.compiler_lock, llvmlite.binding.ffi
    ours, g = process.compile_lock(), np.ones(3, "f4")
    numbas = numba.core.compiler_lock.global_compiler_lock._lock
    llvms = llvmlite.binding.ffi.lib._lock._lock
    for lock in (ours, numbas, llvms):
        opt = na.Adam(np.ones(3, "f4"))
        ready.clear(); release.clear()
        hold(lock)
        def work():
            opt.step(g)
            return f"{opt.t} {child()} {refused(lambda: na.SGD(np.ones(3)))}"
        print(in_child(work), in_child(lambda: in_child(work)), sep="\\n")
        release.set()
        print(free(), in_child(free))
    """
    count, *lines = forked(BACKGROUND, code, NUMBA_CACHE_DIR=warm)
    assert len(lines) == 9
    assert lines[2::3] == ["free free"] * 3
    errors = lines[::3] + lines[1::3]
    assert all(error.startswith("1 0.000 numadam cannot compile") for error in errors)
    assert count == "6"


def test_ctrl_c_ends_the_wait_and_comes_after_the_fork(warm: str) -> None:
    """Python prints what a hook raises, and goes on: Ctrl-C would be lost, and locks kept."""
    code = """
    import os, signal
    signal.signal(signal.SIGINT, signal.default_int_handler)  # shells' background ignores it
    hold(process.compile_lock())
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
    *child, parent, after = forked(BACKGROUND, code, NUMBA_CACHE_DIR=warm)
    assert all(line.startswith("True numadam cannot compile") for line in child)
    assert (parent, after) == ("True True", "free free")


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
    process._COMPILE_PATIENCE = 0.2
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
    error, after = forked(BACKGROUND, code, NUMBA_CACHE_DIR=warm)[-2:]
    assert error.startswith("numadam cannot be imported")
    assert after == "0.000"
