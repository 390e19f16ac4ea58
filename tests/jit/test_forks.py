"""Processes that fork: the child can step, and finds no lock of a thread that it does not have.

Where another thread compiles meanwhile, the child compiles, or says why it cannot.
"""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from tests import extras
from tests.processes import FORKED, PREAMBLE, ROOT, python

pytestmark = extras.fork


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
    done = subprocess.run([sys.executable, str(script)], env=env, capture_output=True, text=True)
    assert done.stdout.strip() == expected, done.stderr


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


def test_a_schedule_may_fork(warm: str) -> None:
    """The forking thread holds the lock of the step itself."""
    code = """
    def lr(t):
        assert in_child(lambda: str(opt.t)) == "0"
        return 0.1
    opt = na.Adam(np.ones(3, "f4"), lr=lr)
    opt.step(np.ones(3, "f4"))
    print(opt.t)
    """
    assert forked(code, NUMBA_CACHE_DIR=warm)[-1] == "1"


# --- while another thread compiles or steps ------------------------------------------------------

REFUSED = """
import threading
ready, release = threading.Event(), threading.Event()
def refused(work):
    try:
        return work()
    except RuntimeError as error:
        return str(error).partition(" in this process")[0]
"""


def test_a_child_forked_in_the_middle_of_a_step_says_so(warm: str) -> None:
    """Of this optimiser; others work, and so does the parent."""
    code = """
    def lr(t):
        ready.set(); release.wait()
        return 0.1
    g = np.ones(3, "f4")
    opt, other = na.Adam(np.ones(3, "f4"), lr=lr), na.Adam(np.ones(3, "f4"))
    thread = threading.Thread(target=lambda: opt.step(g)); thread.start()
    ready.wait()
    def child():
        other.step(g)
        return f"{other.t} {refused(lambda: opt.step(g))}; {refused(opt.snapshot)}"
    print(in_child(child))
    print(in_child(lambda: in_child(child)))
    release.set(); thread.join()
    print(opt.t, other.t)
    """
    *children, parent = forked(REFUSED, code, NUMBA_CACHE_DIR=warm)
    text = "numadam cannot use this optimiser"
    assert children == [f"1 {text}; {text}"] * 2
    assert parent == "1 0"


@pytest.mark.parametrize("lock", ["numadam", "numba"])
def test_a_child_forked_while_another_thread_compiles_says_so(lock: str, warm: str) -> None:
    """Loops that the parent has compiled work, and no call waits for ever."""
    code = f"""
    from numba.core.compiler_lock import global_compiler_lock
    from numadam._jit import process
    locks = dict(numadam=process.compile_lock(), numba=global_compiler_lock)
    opt, g = na.Adam(np.ones(3, "f4")), np.ones(3, "f4")
    def compiling():
        with locks["{lock}"]:
            ready.set(); release.wait()
    thread = threading.Thread(target=compiling); thread.start()
    ready.wait()
    def child():
        opt.step(g)
        return f"{{opt.t}} {{refused(lambda: na.SGD(np.ones(3)))}}"
    print(in_child(child))
    print(in_child(lambda: in_child(child)))
    release.set(); thread.join()
    print(in_child(lambda: str(na.Adam(np.ones(7, "f4")).t)))
    """
    *children, after = forked(REFUSED, code, NUMBA_CACHE_DIR=warm)
    assert children == ["1 numadam cannot compile or load a loop"] * 2
    assert after == "0"
