"""numadam must never harm the process it runs in: threads, forks, caches, signals.

Each case runs in a process of its own, with the threading layer and the cache that it names.
"""

import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from tests.processes import ROOT, PREAMBLE, python


@pytest.fixture(scope="module")
def warm(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A cache folder that holds both twins, compiled once for the whole file."""
    folder = str(tmp_path_factory.mktemp("warm"))
    code = """
    from numadam._cpu.compiled import compiled_step
    steps = compiled_step(na.Adam(np.ones(3, "f4"))._settings.plan)
    steps.parallel, steps.serial
    """
    python(code, NUMBA_CACHE_DIR=folder)
    return folder


@pytest.fixture(scope="module")
def expected(warm: str) -> str:
    return python("print(digest())", NUMBA_CACHE_DIR=warm)


def test_import_loads_no_heavy_library() -> None:
    code = "import sys; print([m for m in HEAVY if m in sys.modules])"
    heavy = ["numba", "llvmlite", "cupy", "scipy", "optree", "tqdm", "matplotlib"]
    assert python(code.replace("HEAVY", repr(heavy))) == "[]"


def test_steps_never_import_cupy(warm: str) -> None:
    code = (
        "train(10); import sys; print([m for m in ('cupy', 'scipy.optimize') if m in sys.modules])"
    )
    assert python(code, NUMBA_CACHE_DIR=warm) == "[]"


@pytest.mark.parametrize("layer", ["omp", "workqueue", "default"])
def test_two_threads_step_at_once(layer: str, warm: str, expected: str) -> None:
    """Under workqueue two threads in a parallel region abort the process: serial twins there."""
    code = """
    from concurrent.futures import ThreadPoolExecutor
    with ThreadPoolExecutor(2) as pool:
        print(*set(pool.map(lambda _: digest(), range(8))))
    """
    assert python(code, NUMBA_CACHE_DIR=warm, NUMBA_THREADING_LAYER=layer) == expected


def test_workqueue_takes_the_serial_twin(warm: str) -> None:
    code = """
    run = chosen(train()[1])
    print(run.kernel is run.serial)
    """
    assert python(code, NUMBA_CACHE_DIR=warm, NUMBA_THREADING_LAYER="workqueue") == "True"
    assert python(code, NUMBA_CACHE_DIR=warm) == "False"


FORKED = """
import os, sys
def in_child(work):
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.write(write, work().encode())
        finally:
            os._exit(0)
    os.close(write)
    with os.fdopen(read) as pipe:
        text = pipe.read()
    status = os.waitpid(pid, 0)[1]
    assert status == 0, f"child ended with status {status}"
    return text
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this platform has no fork")
@pytest.mark.parametrize("layer", ["omp", "workqueue", "default"])
def test_child_of_a_fork_can_step(layer: str, warm: str, expected: str) -> None:
    """GNU OpenMP kills a forked child at its first parallel region: serial twin there."""
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


def test_unwritable_cache_still_works(tmp_path: Path) -> None:
    """Nothing fails at import or in a step; loops are compiled in memory."""
    blocked = tmp_path / "a-file"
    blocked.write_text("not a folder")
    code = "from numadam._jit.cache import directory; print(train(10)[1].t, directory())"
    assert python(code, NUMBA_CACHE_DIR=str(blocked / "below")) == "5 None"


DAMAGED = """
import hashlib, os, pathlib
from numadam._cpu import compiled as c
from numadam._jit import loops

def again():
    loops._compiled_loops.clear(); c.validator_address.cache_clear()  # as in a new process
    found = digest(100)
    (step,) = loops._compiled_loops.values()
    return found, (step.serial._cache.hit, c._callbacks[-1]._cache.hit)

garbage = b"cno_such_module\\nX\\n."  # whole, but pickle can make nothing of it
damages = [lambda old, n=n: old[:n] for n in (0, 10, 32, 500, -1)]
damages.append(lambda old: hashlib.sha256(garbage).digest() + garbage)
right, hits = again()
assert hits == (True, True), hits
for damage in damages:
    entries = list(pathlib.Path(os.environ["NUMBA_CACHE_DIR"]).rglob("*.loop"))
    assert len(entries) >= 2
    for entry in entries:
        entry.write_bytes(damage(entry.read_bytes()))
    assert again() == (right, (False, False))
    assert again() == (right, (True, True))
print(right)
"""


def test_damaged_cache_is_compiled_again(warm: str, tmp_path: Path) -> None:
    """In one process, which compiles quickly from the second time on, and in a new one."""
    folder = str(shutil.copytree(warm, tmp_path / "cache"))
    right = python(DAMAGED, NUMBA_CACHE_DIR=folder)
    hit = "from numadam._cpu import compiled as c; print(digest(100), c._callbacks[0]._cache.hit)"
    assert python(hit, NUMBA_CACHE_DIR=folder) == f"{right} True"


def test_several_processes_fill_one_cache(tmp_path: Path) -> None:
    env = {**os.environ, "PYTHONPATH": str(ROOT), "NUMBA_CACHE_DIR": str(tmp_path)}
    code = PREAMBLE + "print(digest(100))"
    jobs = [
        subprocess.Popen([sys.executable, "-c", code], env=env, stdout=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    outputs = {job.communicate(timeout=200)[0] for job in jobs}
    assert all(job.returncode == 0 for job in jobs)
    assert len(outputs) == 1
    assert not list(tmp_path.rglob("*.tmp"))


def test_cache_sees_changed_formula_and_version(tmp_path: Path) -> None:
    """An upgrade, or an edit of the formula's file alone, is never served from the old entry."""
    shutil.copytree(ROOT / "numadam", tmp_path / "numadam", ignore=shutil.ignore_patterns("*.loop"))
    code = "p, opt = train(3, 1); print(chosen(opt).serial._cache.hit, p[0])"

    def run() -> list[str]:
        return python(code, root=tmp_path, NUMBA_CACHE_DIR=str(tmp_path / "cache")).split()

    first, again = run(), run()
    assert (first[0], again[0], first[1]) == ("False", "True", again[1])
    rule = tmp_path / "numadam" / "rules" / "moments.py"
    text = rule.read_text()
    assert "n = s * m\n" in text
    rule.write_text(text.replace("n = s * m\n", "n = s * m + s * m\n"))
    changed = run()
    assert changed[0] == "False"
    assert changed[1] != first[1]
    home = tmp_path / "numadam" / "_version.py"
    home.write_text(home.read_text().replace('__version__ = "', '__version__ = "9.'))
    assert run()[0] == "False"


ONE_STEP = """
import sys
for case in sys.argv[1:]:
    p, g = np.zeros(7), np.full(7, 2.0)
    if case == "rmsprop":
        na.rmsprop_update(p, g, np.ones(7), lr=1.0)
        right = -2 / np.sqrt(0.99 + 0.04)
    elif case == "adam":
        na.adam_update(p, g, np.zeros(7), np.zeros(7), 1, lr=1.0)
        right = -1.0
    elif case == "sgd":
        na.sgd_update(p, g, lr=1.0)
        right = -2.0
    else:
        na.sgd_update(p, g, np.ones(7), lr=1.0, momentum=0.5, nesterov=case == "nesterov")
        right = -3.25 if case == "nesterov" else -2.5
    assert np.allclose(p, right, atol=1e-6), (case, p[0], right)
"""


def test_loops_of_other_processes_are_not_taken_for_each_other(tmp_path: Path) -> None:
    """Loops from the disk and fresh ones meet in one process in every order.

    Numba names symbols by a counter of the process: without names of our own, momentum from the
    disk was linked against plain SGD compiled here.
    """
    orders = [
        "adam",
        "rmsprop adam",
        "momentum rmsprop adam",
        "sgd momentum rmsprop adam",
        "nesterov sgd momentum",
        "adam nesterov sgd momentum rmsprop",
    ]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "NUMBA_CACHE_DIR": str(tmp_path)}
    for order in orders:
        done = subprocess.run(
            [sys.executable, "-c", PREAMBLE + ONE_STEP, *order.split()],
            env=env,
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, f"{order}: {done.stderr}"


STORM = """
import ctypes, threading
class Strike(Exception): pass
def storm(work, strikes):
    main, stop, inside = threading.get_ident(), threading.Event(), []
    def strike():
        while not stop.wait(0.0005):
            if inside:  # one strike for each entry: none meets the handler below
                inside.clear()
                ctypes.pythonapi.PyThreadState_SetAsyncExc(
                    ctypes.c_ulong(main), ctypes.py_object(Strike))
    thread = threading.Thread(target=strike, daemon=True)
    thread.start()
    for _ in range(strikes):
        try:
            inside.append(True)
            while True:
                work()
        except Strike:
            pass
    stop.set(); thread.join()
"""


@pytest.mark.parametrize("n", [50, 60_000])
def test_asynchronous_exceptions_never_part_t_from_the_arrays(n: int, warm: str) -> None:
    code = f"""
    rng = np.random.default_rng(0)
    start = rng.standard_normal({n}).astype("f4")
    g = rng.standard_normal({n}).astype("f4")
    p = start.copy()
    opt = na.Adam(p)
    storm(lambda: opt.step(g), 300)
    q = start.copy()
    whole = na.Adam(q)
    for _ in range(opt.t):
        whole.step(g)
    same = [np.array_equal(opt.state[k], whole.state[k]) for k in "mvt"]
    print(opt.t > 0, np.array_equal(p, q), *same)
    """
    out = python(STORM + textwrap.dedent(code), NUMBA_CACHE_DIR=warm)
    assert out == "True True True True True"


@pytest.mark.skipif(sys.platform == "win32", reason="no interval timer on Windows")
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


def test_lists_and_headers_that_another_thread_changes(warm: str) -> None:
    """What the step reads is read under the GIL and kept alive: no crash, no mixed gradients."""
    code = """
    import threading, time
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
