"""Threads: of the caller, and of Numba with each of its threading layers."""

import pytest

from tests.processes import python


@pytest.mark.parametrize("layer", ["omp", "workqueue", "default"])
def test_two_threads_step_at_once(layer: str, warm: str, expected: str) -> None:
    """Under workqueue two threads in a parallel region of Numba's abort the process."""
    code = """
    from concurrent.futures import ThreadPoolExecutor
    with ThreadPoolExecutor(2) as pool:
        print(*set(pool.map(lambda _: digest(), range(8))))
    """
    assert python(code, NUMBA_CACHE_DIR=warm, NUMBA_THREADING_LAYER=layer) == expected


def test_one_optimiser_from_several_threads(warm: str) -> None:
    code = """
    from concurrent.futures import ThreadPoolExecutor
    g = np.random.default_rng(1).standard_normal(50_000).astype("f4")
    p, q = np.zeros_like(g), np.zeros_like(g)
    a, b = na.Adam(p), na.Adam(q)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: a.step(g), range(200)))
    for _ in range(200):
        b.step(g)
    print(a.t, np.array_equal(p, q))
    """
    assert python(code, NUMBA_CACHE_DIR=warm) == "200 True"


def test_no_jit_is_a_named_error() -> None:
    code = """
    try:
        na.Adam(np.zeros(3))
    except RuntimeError as error:
        print("NUMBA_DISABLE_JIT" in str(error))
    """
    assert python(code, NUMBA_DISABLE_JIT="1") == "True"


@pytest.mark.parametrize(
    "setting", [{"NUMBA_NUM_THREADS": "1"}, {"OMP_NUM_THREADS": "1"}, {"NUMBA_BOUNDSCHECK": "1"}]
)
def test_settings_of_the_host_change_no_bit(
    setting: dict[str, str], warm: str, expected: str
) -> None:
    assert python("print(digest())", NUMBA_CACHE_DIR=warm, **setting) == expected


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
    from numadam.info import facts
    exec(FORKED)
    @numba.njit
    def fun(x, g):
        g[:] = 2.0 * x
        return (x * x).sum()
    both, x = (lambda x: (x @ x, 2 * x)), np.ones(70_000)
    rows, many = (lambda x: ((x * x).sum(1), 2 * x)), np.ones((64, 2))
    entries = {
        "info": facts,
        "step": lambda: train(),
        "update": lambda: na.sgd_update(x, x.copy(), lr=0.1),
        "minimize": lambda: na.minimize(both, x, maxiter=1, jac=True),
        "compiled": lambda: na.minimize(fun, x, maxiter=1),
        "many": lambda: na.minimize_many(fun, many, maxiter=1),
        "many in Python": lambda: na.minimize_many(rows, many, maxiter=1, jac=True),
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
    opt, wide = na.SGD([np.zeros(n)], lr=1.0), np.zeros((rows, 4))[:, :2]
    strided = na.SGD(wide, lr=1.0)
    stop = threading.Event()
    def shapes():
        while not stop.is_set():
            wide.shape = (rows, 2, 1); time.sleep(0.0003); wide.shape = (rows, 2); time.sleep(0.001)
    thread = threading.Thread(target=shapes); thread.start()
    refused = 0
    for k in range(60):
        grads = [np.ones(n)]
        late = threading.Timer(k % 12 * 2e-4, lambda: grads.__setitem__(0, None)); late.start()
        for o, g in ((opt, grads), (strided, np.ones((rows, 2)))):
            try:
                o.step(g)
            except (TypeError, ValueError):
                refused += 1
        late.join()
    stop.set(); thread.join()
    wide.shape = (rows, 2)
    print(refused + opt.t + strided.t, np.ptp(wide), -wide[0, 0] == strided.t)
    """
    assert python(code, NUMBA_CACHE_DIR=warm) == "120 0.0 True"
