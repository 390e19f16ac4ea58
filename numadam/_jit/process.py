"""State of the process: Ctrl-C between calls that belong together, forked children, threads."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import operator
import os
import sys
import threading
import weakref

# what `signal.signal` and `signal.getsignal` call: their enums take 4 of the 15 us of a GPU step
from _signal import SIGINT, getsignal, signal  # type: ignore[import-not-found]
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

# --- several calls that have to happen together --------------------------------------------------

#: Calls for `at_once`.
Writes = list[Callable[[], Any]]


def at_once(calls: Iterable[Callable[[], Any]]) -> list[Any]:
    """Call C functions with no bytecode between them: no exception from outside comes there.

    Returns their results.

    Signal handlers, and exceptions that another thread sets in this one, run between bytecodes
    alone. Whatever the calls need is bound before: `functools.partial` of C functions, with no
    method or descriptor that is written in Python.
    """
    return list(map(operator.call, list(calls)))


class defer_interrupts:
    """Defer Ctrl-C: its handler runs when the block is done.

    In the main thread, the only one that runs handlers. Handlers of other signals that raise (a
    SIGALRM timeout, say) and exceptions that C code sets in a thread from outside are not deferred.
    """

    _handler: Any = None

    def __init__(self) -> None:
        self.caught: list[Any] = []

    def __enter__(self) -> None:
        if threading.current_thread() is threading.main_thread():
            handler = getsignal(SIGINT)
            if callable(handler):  # not ignored, nor the system's own, which run no Python code
                self._handler = handler
                signal(SIGINT, self._interrupt)

    def __exit__(self, *error: object) -> None:
        if self.end():
            self._handler(*self.caught[-1])

    def end(self) -> bool:
        """Put the handler back; whether it has to be called."""
        if self._handler is not None:
            signal(SIGINT, self._handler)
        return bool(self.caught)

    def _interrupt(self, number: int, frame: Any) -> None:
        self.caught.append((number, frame))


# --- state of a forked child ---------------------------------------------------------------------
# Registered by ``import numadam`` itself, so that it holds also where other code forks before the
# first optimiser is made. Imports neither numba nor numpy.
#
# A fork copies the forking thread alone: a lock that another thread holds stays held in the child.
# A child that was forked while no other thread compiled or stepped works; any other gets an error.

Kind = TypeVar("Kind")

#: Set in a forked child where Numba's threads are lost: only serial loops are safe there. Under
#: GNU OpenMP the child's first parallel region kills it; tbb cannot shut down for a fork while
#: other threads of the parent hold on to it.
serial_only = False

#: Held while a thread compiles or loads a loop, or imports Numba for numadam.
_compiling = threading.RLock()
#: Set in a child that was forked in the middle of it: Numba and LLVM stay half changed.
_compile_cut_off = False
_threads_before_fork = 1

# A plain dict: its single operations cannot be interrupted, and so need no lock of their own. No
# weak set either: its callbacks are Python code, in which an interrupt would be lost.
_owners: dict[weakref.ref[Any], None] = {}
_purge_at = 64


def give_lock(owner: Any) -> None:
    """Give `owner` a ``_lock`` for its steps, which raises in a child that cannot have it."""
    global _purge_at
    owner._lock = threading.RLock()  # noqa: SLF001  # this module makes and replaces it
    _owners[weakref.ref(owner)] = None
    if len(_owners) >= _purge_at:
        for ref in list(_owners):
            if ref() is None:
                _owners.pop(ref, None)
        _purge_at = 64 + 2 * len(_owners)


def refuse_lost(process: int) -> None:
    """Refuse to wait in a child for a thread of its parent, which compiles."""
    if process != os.getpid():
        raise _error("compile or load a loop", "was compiling")


def wait_for_compiling() -> None:
    """Wait for the thread that compiles, if there is one."""
    if not _compile_cut_off:
        with _compiling:
            pass


@contextlib.contextmanager
def compile_lock() -> Iterator[None]:
    """Hold the lock of all that is compiled, or loaded, or imported with Numba.

    Raises
    ------
    RuntimeError
        In a child that was forked while another thread did so.
    """
    if _compile_cut_off:
        raise _error("compile or load a loop", "was compiling")
    with _compiling:
        yield


def _error(what: str, other: str) -> RuntimeError:
    return RuntimeError(
        f"numadam cannot {what} in this process: it was forked while another thread {other}. "
        "Fork while no other thread compiles or steps, or start processes by 'spawn' or "
        "'forkserver'."
    )


class _LostLock:
    """Lock of an optimiser that another thread of the parent was stepping."""

    def __enter__(self) -> None:
        raise _error("use this optimiser", "was in the middle of a step of it")

    def __exit__(self, *error: object) -> None:
        """Nothing: it is never entered."""


class cached_property(functools.cached_property[Kind]):
    """As in `functools`, less the lock of Python 3.11, which a child may find held for ever."""

    def __init__(self, compute: Callable[[Any], Kind]) -> None:
        super().__init__(compute)
        self.lock = contextlib.nullcontext()


def safe(serial: Any, parallel: Any) -> Any:
    """The parallel form of a loop, or the serial one where a fork has lost Numba's threads."""
    return serial if serial_only else parallel


def _is_free(lock: Any) -> bool:
    """Whether no other thread holds a lock."""
    if not lock.acquire(blocking=False):
        return False
    lock.release()
    return True


def _before() -> None:
    global _threads_before_fork
    _threads_before_fork = threading.active_count()


def _in_child() -> None:
    global serial_only, _compile_cut_off
    numbas: Any = sys.modules.get("numba.core.compiler_lock")  # held by all that compiles by Numba
    locks = [_compiling, *([numbas.global_compiler_lock._lock] if numbas else [])]  # noqa: SLF001
    _compile_cut_off = _compile_cut_off or not all(map(_is_free, locks))
    for ref in list(_owners):
        owner = ref()
        if owner is not None and not _is_free(owner._lock):  # noqa: SLF001  # see `give_lock`
            owner._lock = _LostLock()  # noqa: SLF001  # see `give_lock`
    layer = None
    with contextlib.suppress(AttributeError, ValueError):  # not imported, or none chosen yet
        layer = sys.modules["numba"].threading_layer() if "numba" in sys.modules else None
    serial_only = serial_only or layer == "omp" or (layer == "tbb" and _threads_before_fork > 1)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before, after_in_child=_in_child)


# --- threads that a step may use -----------------------------------------------------------------
# Numba chooses one layer for the whole process at the first parallel call: tbb, then omp, then
# workqueue. Figures behind the choices are in ``docs/development/benchmarks``.

#: Elements from which the parallel loop pays, by layer. A region costs about 1.5 us under omp and
#: 4 us under tbb: there Adam of float32 on two quiet cores takes 1.16 of one thread's time for 32k
#: elements, 0.84 for 65k, 0.58 for 131k; beside a busy process 1.0 to 1.1 for all of them. Under
#: workqueue, which aborts the process when two threads meet in it, a step never does.
CUTOVER = {"omp": 15_000, "tbb": 60_000, "workqueue": sys.maxsize}


def _load_tbb() -> None:
    """Load the tbb wheel's library, which Numba's own search misses in virtual environments.

    Only where Numba has not chosen yet and no other layer is asked for.
    """
    from numba import config

    if config.THREADING_LAYER in ("omp", "workqueue"):
        return
    names = {"win32": "Library/bin/tbb12.dll", "darwin": "lib/libtbb.12.dylib"}
    library = Path(sys.prefix) / names.get(sys.platform, "lib/libtbb.so.12")
    if library.exists():
        try:
            ctypes.CDLL(str(library))
        except OSError:
            return  # a tbb that cannot be loaded: Numba goes on to the next layer by itself


@functools.cache
def layer() -> str:
    """Numba's threading layer, chosen now if it was not yet (no parallel region runs for it)."""
    import numba

    try:
        return str(numba.threading_layer())
    except ValueError:  # not chosen yet
        _load_tbb()
    numba.get_num_threads()
    return str(numba.threading_layer())


def parallel_from() -> int:
    """The number of elements from which a step runs in parallel."""
    return CUTOVER[layer()]


def thread_count() -> int:
    """The number of threads that Numba gives the calling thread's parallel loops.

    Asked without Numba's own locks, which a fork may find taken: one of them is shared by all
    processes.
    """
    from numadam._jit import private

    layer()
    return private.thread_count()


def wants_parallel(total: int) -> bool:
    """Whether a step over `total` elements runs in parallel. Small ones never ask Numba.

    On one thread the parallel form takes 8 % longer for 100,000 elements.
    """
    if total < min(CUTOVER.values()):
        return False
    from numba import config

    return config.NUMBA_NUM_THREADS > 1 and total >= parallel_from()
