"""Processes that fork: the child can step, and finds no lock of a thread that it does not have."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path
from types import SimpleNamespace

import pytest

from numadam._jit import process
from tests.processes import FORKED, PREAMBLE, ROOT, python


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this platform has no fork")
@pytest.mark.parametrize("layer", ["omp", "workqueue", "default"])
def test_child_of_a_fork_can_step(layer: str, warm: str, expected: str) -> None:
    """GNU OpenMP kills a forked child at its first parallel region: serial form there."""
    code = """
    opt_before = train()[1]
    print(in_child(digest), in_child(lambda: in_child(digest)))
    """
    out = python(FORKED + textwrap.dedent(code), NUMBA_CACHE_DIR=warm, NUMBA_THREADING_LAYER=layer)
    assert out.split() == [expected, expected]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this platform has no fork")
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
    out = python(FORKED + textwrap.dedent(code), NUMBA_CACHE_DIR=warm, NUMBA_THREADING_LAYER="omp")
    assert out == expected


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this platform has no fork")
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
    # Numba's tbb layer prints a warning of its own here, on stdout
    out = python(FORKED + textwrap.dedent(code), NUMBA_CACHE_DIR=warm)
    assert out.splitlines()[-1] == "True"


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_multiprocessing(method: str, warm: str, expected: str, tmp_path: Path) -> None:
    script = tmp_path / "job.py"
    script.write_text(
        PREAMBLE
        + textwrap.dedent(f"""
        import multiprocessing
        if __name__ == "__main__":
            train()
            with multiprocessing.get_context({method!r}).Pool(2) as pool:
                print(*set(pool.map(digest, [100_000] * 4)))
        """)
    )
    env = {**os.environ, "PYTHONPATH": str(ROOT), "NUMBA_CACHE_DIR": warm}
    done = subprocess.run(
        [sys.executable, str(script)], env=env, capture_output=True, text=True, timeout=120
    )
    assert done.stdout.strip() == expected, done.stderr


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this platform has no fork")
@pytest.mark.parametrize("case", ["forks in lr", "makes an optimiser in lr", "compiles"])
def test_fork_meets_a_lock_that_another_thread_holds(case: str, warm: str) -> None:
    """A step may itself wait for the forking thread: the fork waits a second at most."""
    codes = {
        "forks in lr": """
            from concurrent.futures import ThreadPoolExecutor
            lr = lambda t: 0.1 * len(ThreadPoolExecutor(1).submit(in_child, str).result() or "1")
            opt = na.Adam(np.ones(3), lr=lr)
            opt.step(np.ones(3))
            print(opt.t)
            """,
        "makes an optimiser in lr": """
            import threading, time
            inside = threading.Event()
            def lr(t):
                inside.set(); time.sleep(0.3); na.SGD(np.ones(2)); return 0.1
            opt = na.Adam(np.ones(3), lr=lr)
            thread = threading.Thread(target=lambda: opt.step(np.ones(3))); thread.start()
            inside.wait()
            in_child(str); thread.join()
            print(opt.t)
            """,
        "compiles": """
            import threading, time
            na.sgd_update(np.ones(4), np.ones(4))
            thread = threading.Thread(target=lambda: na.RMSprop(np.ones(3))); thread.start()
            time.sleep(0.2)
            in_child(lambda: na.sgd_update(np.ones(7), np.ones(7)) or "x"); thread.join()
            print(1)
            """,
    }
    code = FORKED + textwrap.dedent(codes[case])
    assert python(code, NUMBA_CACHE_DIR=warm).splitlines()[-1] == "1"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this platform has no fork")
def test_threads_that_fork_at_once(warm: str) -> None:
    code = """
    import threading
    opts = [na.Adam(np.ones(3)) for _ in range(20)]
    def forking():
        for _ in range(5):
            in_child(lambda: [o.step(np.ones(3)) for o in opts] and "x")
    threads = [threading.Thread(target=forking) for _ in range(4)]
    [t.start() for t in threads]; [t.join() for t in threads]
    for opt in opts:
        opt.step(np.ones(3))
    print(set(opt.t for opt in opts))
    """
    out = python(FORKED + textwrap.dedent(code), NUMBA_CACHE_DIR=warm)
    assert out.splitlines()[-1] == "{1}"


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


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this platform has no fork")
def test_the_lock_of_logging_is_free_while_a_fork_waits(warm: str) -> None:
    """A thread that compiles may want to log; the hook of `logging` takes its lock before ours."""
    code = """
    import logging, threading
    from numadam._jit import forks, reports
    free, wait = [], forks._wait
    def spy():
        def log():
            free.append(lock.acquire(blocking=False) and not lock.release())
        lock = logging._lock
        thread = threading.Thread(target=log); thread.start(); thread.join()
        wait()
    forks._wait = spy
    print(in_child(lambda: "x"), free)
    """
    out = python(FORKED + textwrap.dedent(code), NUMBA_CACHE_DIR=warm)
    assert out == "x [True]"
