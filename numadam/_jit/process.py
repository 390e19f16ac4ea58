"""State of the process: Ctrl-C between calls that belong together, and forked children."""

from __future__ import annotations

import contextlib
import functools
import operator
import os
import sys
import threading
import time
import weakref

# what `signal.signal` and `signal.getsignal` call: their enums take 4 of the 15 us of a GPU step
from _signal import SIGINT, getsignal, signal  # type: ignore[import-not-found]
from _thread import interrupt_main, start_new_thread
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

# --- several calls that have to happen together --------------------------------------------------

#: Seconds after which Ctrl-C that came in the middle of llvmlite is tried again.
_RETRY = 0.01

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


class _Handler:
    """A handler of Ctrl-C inside a block; in the main thread, the only one that runs handlers."""

    _handler: Any = None

    def __enter__(self) -> None:
        if threading.current_thread() is threading.main_thread():
            handler = getsignal(SIGINT)
            if callable(handler):  # not ignored, nor the system's own, which run no Python code
                self._handler = handler
                signal(SIGINT, self._interrupt)

    def __exit__(self, *error: object) -> None:
        if self._handler is not None:
            signal(SIGINT, self._handler)

    def _interrupt(self, number: int, frame: Any) -> None:
        raise NotImplementedError


class defer_interrupts(_Handler):
    """Defer Ctrl-C: its handler runs when the block is done.

    Handlers of other signals that raise (a SIGALRM timeout, say) and exceptions that C code sets in
    a thread from outside are not deferred.
    """

    def __init__(self) -> None:
        self.caught: list[Any] = []

    def __exit__(self, *error: object) -> None:
        if self.end():
            self._handler(*self.caught[-1])

    def end(self) -> bool:
        """Put the handler back; whether it has to be called."""
        super().__exit__()
        return bool(self.caught)

    def _interrupt(self, number: int, frame: Any) -> None:
        self.caught.append((number, frame))


class outside_llvmlite(_Handler):
    """Let Ctrl-C wait, inside the block, while llvmlite itself runs; compiling goes on meanwhile.

    llvmlite hands objects over to LLVM in one call and notes it in the next. An exception between
    the two makes it free an object that LLVM frees, too: the process crashes.
    """

    def _interrupt(self, number: int, frame: Any) -> None:
        caller = frame
        while caller is not None:
            if caller.f_globals.get("__name__", "").startswith("llvmlite.binding"):
                start_new_thread(_interrupt_again, ())
                return
            caller = caller.f_back
        self._handler(number, frame)


def _interrupt_again() -> None:
    time.sleep(_RETRY)
    interrupt_main()


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

    Ctrl-C waits for calls of llvmlite.

    Raises
    ------
    RuntimeError
        In a child that was forked while another thread did so.
    """
    if _compile_cut_off:
        raise _error("compile or load a loop", "was compiling")
    with _compiling, outside_llvmlite():
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
        if owner is not None and not _is_free(owner._lock):  # noqa: SLF001
            owner._lock = _LostLock()  # noqa: SLF001
    layer = None
    with contextlib.suppress(AttributeError, ValueError):  # not imported, or none chosen yet
        layer = sys.modules["numba"].threading_layer() if "numba" in sys.modules else None
    serial_only = serial_only or layer == "omp" or (layer == "tbb" and _threads_before_fork > 1)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before, after_in_child=_in_child)
