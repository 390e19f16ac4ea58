"""Threads: of the caller, and of Numba with each of its layers.

Ctrl-C, signals and exceptions from outside: they wait for the end of a block, or of a step.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap

import pytest

from numadam._jit.process import defer_interrupts
from tests import extras
from tests.processes import PREAMBLE, ROOT, STORM, python


@pytest.mark.parametrize("layer", ["omp", "workqueue", "default"])
def test_two_threads_step_at_once(layer: str, warm: str, expected: str) -> None:
    """Under workqueue two threads in a parallel region of Numba's abort the process."""
    code = """
    from concurrent.futures import ThreadPoolExecutor
    with ThreadPoolExecutor(2) as pool:
        print(*set(pool.map(lambda _: digest(), range(8))))
    """
    assert python(code, NUMBA_CACHE_DIR=warm, NUMBA_THREADING_LAYER=layer) == expected


def test_no_jit_is_a_named_error() -> None:
    code = """
    try:
        na.Adam(np.zeros(3))
    except RuntimeError as error:
        print("NUMBA_DISABLE_JIT" in str(error))
    """
    assert python(code, NUMBA_DISABLE_JIT="1") == "True"


@pytest.mark.parametrize(
    "settings",
    [{"NUMBA_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}, {"NUMBA_BOUNDSCHECK": "1"}],
)
def test_settings_of_the_host_change_no_bit(
    settings: dict[str, str], warm: str, expected: str
) -> None:
    assert python("print(digest())", NUMBA_CACHE_DIR=warm, **settings) == expected


def test_thread_count_is_obeyed(warm: str) -> None:
    """numadam never sets Numba's thread count or layer."""
    code = """
    import numba
    numba.set_num_threads(1)
    train()
    print(numba.get_num_threads(), numba.config.THREADING_LAYER)
    """
    assert python(code, NUMBA_CACHE_DIR=warm) == "1 default"


def test_every_entry_runs_on_the_threading_layer_of_info() -> None:
    """Numba chooses its layer once; it finds tbb only where numadam has loaded it before."""
    entries = """
    from tests.processes import *
    import numba, os, sys
    from numadam._info import facts
    exec(FORKED)
    @numba.njit
    def fun(x, g):
        g[:] = 2.0 * x
        return (x * x).sum()
    both, x = (lambda x: (x @ x, 2 * x)), np.ones(70_000)
    entries = {
        "info": facts,
        "step": lambda: train(),
        "update": lambda: na.sgd_update(x, x.copy(), lr=0.1),
        "minimize": lambda: na.minimize(both, x, maxiter=1, jac=True),
        "compiled": lambda: na.minimize(fun, x, maxiter=1),
    }
    def layer_of(work):
        work()
        try:
            return numba.threading_layer()
        except ValueError:
            return "none"  # it has asked for no threads
    for name, work in entries.items():
        print(name, in_child(lambda: layer_of(work)), sep=": ")
    """
    text = python(entries)
    said = dict(line.split(": ") for line in text.splitlines())
    assert set(said.values()) <= {said["info"], "none"}, said


def test_lists_and_headers_that_another_thread_changes(warm: str) -> None:
    """Lists and headers are read under the GIL and kept alive: no crash, no mixed gradients."""
    code = """
    import threading, time, warnings
    # NumPy 2.5 says so where a shape is set: another thread may do it all the same
    warnings.filterwarnings("ignore", "Setting the shape", DeprecationWarning)
    n, rows = 1_000_000, 300_000
    opt, wide = na.Adam([np.zeros(n, "f4")]), np.zeros((rows, 4), "f4")[:, :2]
    strided = na.Adam(wide)
    stop = threading.Event()
    def shapes():
        while not stop.is_set():
            wide.shape = (rows, 2, 1); time.sleep(0.0003); wide.shape = (rows, 2); time.sleep(0.001)
    thread = threading.Thread(target=shapes); thread.start()
    refused = 0
    for k in range(30):
        grads = [np.ones(n, "f4")]
        late = threading.Timer(k % 12 * 2e-4, lambda: grads.__setitem__(0, None)); late.start()
        for o, g in ((opt, grads), (strided, np.ones((rows, 2), "f4"))):
            try:
                o.step(g)
            except (TypeError, ValueError):
                refused += 1
        late.join()
    stop.set(); thread.join()
    wide.shape = (rows, 2)
    twin = na.Adam(np.zeros(1, "f4"))
    for _ in range(strided.t):
        twin.step(np.ones(1, "f4"))
    print(refused + opt.t + strided.t, np.ptp(wide), wide[0, 0] == twin.params[0])
    """
    assert python(code, NUMBA_CACHE_DIR=warm) == "60 0.0 True"


# --- large steps: callers, signals, the end of a process -----------------------------------------

#: Large enough for threads, with a gradient that never changes: any part that ran twice or not
#: at all shows in the spread of m.
LARGE = """
N = 1_000_000
G = np.ones(N, "f4")
def large():
    opt = na.Adam(np.zeros(N, "f4"))
    assert form(opt) == "parallel"
    return opt
def whole(opt):
    twin = na.Adam(np.zeros(3, "f4"))
    for _ in range(opt.t):
        twin.step(G[:3])
    return all(np.ptp(opt.state[k]) == 0 and opt.state[k][0] == twin.state[k][0] for k in "mv")
"""


def run(warm: str, *codes: str) -> str:
    """What a program prints, with its loops in the cache."""
    source = "".join(map(textwrap.dedent, (LARGE, *codes)))
    return python(source, NUMBA_CACHE_DIR=warm, NUMBA_NUM_THREADS="2")


@pytest.mark.parametrize("ends", ["", "1/0"])
def test_process_ends_while_a_daemon_steps(ends: str, warm: str) -> None:
    """The end waits for no step, and does not crash."""
    code = """
    import threading, time
    opt = large()
    def work():
        while True:
            opt.step(G)
    for _ in range(3):
        threading.Thread(target=work, daemon=True).start()
    time.sleep(0.3)
    print("end", flush=True)
    """
    source = PREAMBLE + LARGE + textwrap.dedent(code) + ends
    env = {**os.environ, "PYTHONPATH": str(ROOT), "NUMBA_CACHE_DIR": warm}
    done = subprocess.run([sys.executable, "-c", source], env=env, capture_output=True, text=True)
    assert done.returncode == (1 if ends == "1/0" else 0), done.stderr
    assert done.stdout == "end\n"


def test_a_step_at_exit(warm: str) -> None:
    code = """
    import atexit
    opt = large()
    atexit.register(lambda: print(opt.step(G), opt.t, whole(opt)))
    """
    assert run(warm, code).endswith("1 True")


def test_asynchronous_exceptions_leave_whole_steps(warm: str) -> None:
    code = """
    opt = large()
    opt.step(G)
    storm(lambda: opt.step(G), 100)
    print(opt.t > 0, whole(opt))
    """
    assert run(warm, STORM, code) == "True True"


# --- interrupts ----------------------------------------------------------------------------------


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


# --- whole steps ---------------------------------------------------------------------------------


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
