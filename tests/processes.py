"""Code that runs in a process of its own.

No process has a limit of time: pytest-timeout ends a test that hangs.

Exceptions from outside: after some work, or before every bytecode of numadam that runs.

Ranks that are threads of one process: what they exchange goes without MPI.
"""

from __future__ import annotations

import _thread
import collections
import contextlib
import itertools
import os
import shutil
import subprocess
import sys
import sysconfig
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import numadam
from numadam._mpi import Ranks
from numadam.mpi import RankError
from tests import emulator, extras

ROOT = Path(numadam.__file__).parent.parent

PREAMBLE = """
import numpy as np, numadam as na
def train(n=100_000, steps=5, **options):
    rng = np.random.default_rng(0)
    p = rng.standard_normal(n).astype("f4")
    opt = na.Adam(p, lr=0.01, **options)
    for _ in range(steps):
        opt.step(np.sin(p))
    return p, opt
def form(opt):
    return opt._backend.compiled.kernel().form
def digest(n=100_000):
    import hashlib
    return hashlib.sha256(train(n)[0].tobytes()).hexdigest()
"""

#: For a process that forks: ``in_child(work)`` is the text that `work` returns in a child.
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

#: ``storm(work, strikes)``: calls of `work` that an exception from outside ends, so many times.
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


def python(code: str, *, root: Path = ROOT, cwd: Path | None = None, **env: str) -> str:
    """Run code in a fresh interpreter; its output, or its error as the test's."""
    settings = {**os.environ, "PYTHONPATH": str(root), "PYTHONWARNINGS": "error", **env}
    # a warning that Numba's tbb layer writes from C comes before what Python prints later
    settings["PYTHONUNBUFFERED"] = "1"
    layer = env.get("NUMBA_THREADING_LAYER")
    extras.need_machine(layer != "omp" or sys.platform == "linux", "GNU OpenMP")
    done = subprocess.run(
        [sys.executable, "-c", PREAMBLE + textwrap.dedent(code)],
        env=settings,
        cwd=cwd or root,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"exit {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout.strip()


def mpiexec(ranks: int, *words: Any) -> subprocess.CompletedProcess[str]:
    """Run Python on ranks of MPI; `words` are its arguments. One that fails ends all."""
    command = shutil.which("mpiexec", path=sysconfig.get_path("scripts")) or shutil.which("mpiexec")
    if command is None:
        extras.stop("mpi", "there is no mpiexec: pip install mpich")
    # what mpiexec or a start without it left in the environment would join the ranks of this run
    foreign = ("PMI", "HYDRA", "MPI_LOCAL", "MPIEXEC", "OMPI_", "PRTE", "PMIX")
    env = {key: text for key, text in emulator.environment().items() if not key.startswith(foreign)}
    if not emulator.is_running():
        env["PYTHONPATH"] = str(ROOT)
    env.setdefault("OMP_NUM_THREADS", "1")  # of BLAS; the ranks share the cores
    # more ranks than cores: those of MPICH that wait sleep instead of taking turns in a loop
    env.setdefault("MPIR_CVAR_ENABLE_HEAVY_YIELD", "1")
    return subprocess.run(
        [command, "-n", str(ranks), sys.executable, "-m", "mpi4py", *map(str, words)],
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )


# --- interrupts ----------------------------------------------------------------------------------


_PACKAGE = str(Path(numadam.__file__).parent)


class Strike(Exception):
    """Stands for KeyboardInterrupt, or for what another thread sets in this one."""


@contextlib.contextmanager
def interrupted_after(seconds: float) -> Iterator[None]:
    """Ctrl-C after so many seconds of processor time; the test uses the fixture `ctrl_c`.

    On a busy machine the block has then done as much as on a quiet one.
    """
    over, end = threading.Event(), time.process_time() + seconds

    def watch() -> None:
        while not over.wait(0.001):
            if time.process_time() > end:
                _thread.interrupt_main()
                return

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _raise() -> None:
    raise Strike


def _struck_at(k: int, work: Callable[[], Any], inside: str, strike: Callable[[], None]) -> bool:
    """Call `work` with a strike before its k-th bytecode; False where it has fewer."""
    left = k

    def trace(frame: FrameType, event: str, arg: Any) -> Any:
        nonlocal left
        if not frame.f_code.co_filename.startswith(_PACKAGE + inside):
            return None
        frame.f_trace_opcodes = True
        if event == "opcode":
            left -= 1
            if left < 0:
                sys.settrace(None)
                strike()
        return trace

    before = sys.gettrace()
    # Python 3.12 traces bytecodes only where a frame has asked for it before settrace
    sys._getframe().f_trace_opcodes = True
    try:
        sys.settrace(trace)
        work()
    except (Strike, KeyboardInterrupt):
        return True
    finally:
        sys.settrace(before)
    return left < 0


def strike_everywhere(
    make: Callable[[], Any],
    work: Callable[[Any], Any],
    check: Callable[[Any], None],
    *,
    inside: str = "",
    strike: Callable[[], None] = _raise,
    every: int = 1,
) -> int:
    """Repeat ``work(make())`` with a strike at every bytecode in turn; `check` what it leaves.

    Parameters
    ----------
    inside : str
        Folder or file of numadam, such as ``"/_cpu"``, whose bytecodes count.
    strike : callable
        What happens there; a signal that is deferred does not end the work.
    every : int
        Bytecodes from one strike to the next.

    Returns
    -------
    int
        How many bytecodes there were.
    """
    for k in itertools.count(step=every):
        thing = make()
        struck = _struck_at(k, lambda thing=thing: work(thing), inside, strike)
        check(thing)
        if not struck:
            return k
    raise AssertionError


# --- rank threads --------------------------------------------------------------------------------


#: Seconds after which ranks that wait for each other are a failure.
PATIENCE = 1200


class LeftAloneError(Exception):
    """Raised on a rank that the others do not come to."""


class Group:
    """Ranks of one communicator."""

    def __init__(self, size):
        self.size, self.moved, self.failed = size, threading.Condition(), False
        self.rows = collections.defaultdict(dict)  # of each exchange, by rank

    def run(self, work):
        """``work(ranks)`` on all ranks at once: the results, or exceptions, by rank."""
        found = [None] * self.size

        def one(rank):
            try:
                found[rank] = work(ThreadRanks(self, rank))
            except BaseException as error:
                found[rank], self.failed = error, True
                self.until(lambda: True)

        threads = [threading.Thread(target=one, args=(rank,)) for rank in range(self.size)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return found

    def until(self, there):
        """Tell the others that this rank has done something, and wait for what they do."""
        with self.moved:
            self.moved.notify_all()
            came = self.moved.wait_for(lambda: there() or self.failed, PATIENCE)
            if not there():
                raise LeftAloneError("another rank failed" if came else "the others did not come")


class ThreadRanks(Ranks):
    """One rank."""

    def __init__(self, group, rank):
        self.group, self.rank, self.size, self.exchanges = group, rank, group.size, 0

    def gather(self, value):
        given = self.group.rows[self.exchanges]
        self.exchanges += 1
        given[self.rank] = value
        self.group.until(lambda: len(given) == self.size)
        return [given[rank] for rank in range(self.size)]

    def share(self, rows, patience=None):
        for rank, row in enumerate(self.gather(rows[self.rank].copy())):
            assert (row.shape, row.dtype) == (rows.shape[1:], rows.dtype)
            rows[rank] = row
        return True


def on_ranks(size, work):
    """Results of ``work(ranks)`` on so many ranks; the first own error, if there is one."""
    found = Group(size).run(work)
    errors = [error for error in found if isinstance(error, BaseException)]
    for error in sorted(errors, key=lambda error: isinstance(error, (RankError, LeftAloneError))):
        raise error
    return found
