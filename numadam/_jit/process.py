"""State of the process: Ctrl-C between calls that belong together, and forked children."""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # `signal` takes longer to import
import contextlib
import functools
import operator
import os
import sys
import threading
import time
import weakref

# what `signal.signal` and `signal.getsignal` call: their enums take 4 of the 15 us of a GPU step
from _signal import SIGINT, getsignal, signal
from _thread import interrupt_main, start_new_thread
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from importlib import _bootstrap
from typing import Any, TypeVar

# --- several calls that have to happen together --------------------------------------------------

#: Seconds after which Ctrl-C that came in the middle of llvmlite is tried again.
_RETRY = 0.01

#: Calls for `at_once`.
Writes = list[Callable[[], Any]]


def at_once(calls: Iterable[Callable[[], Any]]) -> None:
    """Call C functions with no bytecode between them: no exception from outside comes there.

    Signal handlers, and exceptions that another thread sets in this one, run between bytecodes
    alone. Whatever the calls need is bound before: `functools.partial` of C functions, with no
    method or descriptor that is written in Python.
    """
    deque(map(operator.call, list(calls)), maxlen=0)


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
# A fork copies the forking thread alone. What another thread is in the middle of stays so for ever
# in the child, so a fork waits, a bounded time, until no other thread compiles and none steps.

Kind = TypeVar("Kind")

#: Set in a forked child where Numba's threads are lost: only serial loops are safe there. Under
#: GNU OpenMP the child's first parallel region kills it; tbb cannot shut down for a fork while
#: other threads of the parent hold on to it.
serial_only = False

#: Seconds a fork waits for steps under way, so that the child gets whole ones. Bounded: a step
#: may itself wait for the forking thread, in a schedule of the user's.
_PATIENCE = 1.0

#: Seconds it waits for what other threads compile or load: a loop takes 0.1 to 5 s, and 15 on a
#: machine that is busy. Ctrl-C ends this wait within `_TURN` seconds.
_COMPILE_PATIENCE = 30.0
_TURN = 0.1

#: Locks of Numba, LLVM and our lines on a terminal: a module, and attributes from there.
_LOCKS = (
    "numadam._jit.reports _printing",
    "numba.core.compiler_lock global_compiler_lock _lock",
    "numba.core.registry CPUTarget _toplevel_target_context _lock",
    "numba.core.registry CPUTarget _toplevel_typing_context _lock",
    "numba.np.ufunc.parallel _backend_init_thread_lock",
    "llvmlite.binding.ffi lib _lock _lock",
)

#: What Numba imports, also in the middle of a call and outside of its lock: see `_importing`.
_IMPORTED = sys.stdlib_module_names | {"numadam", "numba", "llvmlite", "numpy", "scipy"}

_compiling = threading.RLock()
#: Set in a child that was forked in the middle of it: Numba and LLVM stay half changed.
_compile_cut_off = _import_cut_off = False

# Plain dicts: their single operations cannot be interrupted, and so need no lock of their own. No
# weak set either: its callbacks are Python code, in which an interrupt would be lost.
_locks: dict[weakref.ref[Any], None] = {}
_purge_at = 64


class _Fork(threading.local):
    """State that the hooks of one fork share: they run in one thread."""

    def __init__(self) -> None:
        self.under_way = False
        self.threads = 1
        self.importing = self.compiling = False
        self.interrupts = defer_interrupts()
        self.compiler: Sequence[Any] = ()
        self.acquired: list[Any] = []


_fork = _Fork()


def give_lock(owner: Any) -> None:
    """Give `owner` a ``_lock`` for its steps that is free in every forked child."""
    global _purge_at
    lock = owner._lock = threading.RLock()  # noqa: SLF001  # this module makes and frees it
    _locks[weakref.ref(lock)] = None
    if len(_locks) >= _purge_at:
        for ref in list(_locks):
            if ref() is None:
                _locks.pop(ref, None)
        _purge_at = 64 + 2 * len(_locks)


@contextlib.contextmanager
def compile_lock() -> Iterator[None]:
    """Hold the lock of all that is compiled, or loaded, or imported with Numba.

    Ctrl-C waits for calls of llvmlite.

    Raises
    ------
    RuntimeError
        In a child that was forked while another thread did so, after the fork has waited in vain.
    """
    if _compile_cut_off:
        raise _error("compile or load a loop", "compiling")
    with _compiling, outside_llvmlite():
        yield


def check_imports() -> None:
    """Raise where a fork has cut off an import of Numba, for which another would wait for ever."""
    if _import_cut_off:
        raise _error("be imported", "importing Numba")


def _error(what: str, other: str) -> RuntimeError:
    return RuntimeError(
        f"numadam cannot {what} in this process: it was forked while another thread was {other}, "
        f"and a fork waits {_COMPILE_PATIENCE:g} s for that, or until Ctrl-C. Fork when nothing is "
        "being compiled, take a step of each kind before the fork, or start processes by 'spawn' "
        "or 'forkserver'."
    )


class cached_property(functools.cached_property[Kind]):
    """As in `functools`, less the lock of Python 3.11, which a child may find held for ever."""

    def __init__(self, compute: Callable[[Any], Kind]) -> None:
        super().__init__(compute)
        self.lock = contextlib.nullcontext()


def safe(serial: Any, parallel: Any) -> Any:
    """The parallel form of a loop, or the serial one where a fork has lost Numba's threads."""
    return serial if serial_only else parallel


def _compiler_locks() -> Iterator[Any]:
    """Our lock and those of Numba and LLVM, as far as they are imported; LLVM's is the last.

    They are Python's own. LLVM's is held in each call into it, so that whoever holds it finds no
    other thread in its midst.
    """
    yield _compiling
    for place in _LOCKS:
        name, *path = place.split()
        # not imported, or a version that has no such lock
        with contextlib.suppress(KeyError, AttributeError):
            found: Any = sys.modules[name]
            for attribute in path:  # of a class itself `getattr` would call the property
                found = (
                    vars(found)[attribute] if isinstance(found, type) else getattr(found, attribute)
                )
            yield found


def _importing() -> bool:
    """Whether another thread imports what a child may import, which would wait for ever."""
    # Python offers no other way
    module_locks = _bootstrap._module_locks  # type: ignore[attr-defined]  # noqa: SLF001
    locks = [ref() for ref in list(module_locks.values())]
    return any(
        lock.name.partition(".")[0] in _IMPORTED
        for lock in locks
        if lock is not None and lock.owner not in (None, threading.get_ident())
    )


def _acquire(lock: Any, deadline: float = 0.0) -> bool:
    acquired: bool = lock.acquire(timeout=max(0.0, deadline - time.monotonic()))
    if acquired:
        _fork.acquired.append(lock)
    return acquired


def _acquire_all(locks: Sequence[Any], deadline: float) -> bool:
    """Acquire all of these locks or none: others take them in another order."""
    first = locks[0]
    while _acquire(first, deadline):
        taken = next((lock for lock in locks if lock is not first and not _acquire(lock)), None)
        if taken is None:
            return True
        _release_all()
        first = taken  # wait for that one first
    return False


def _acquire_steps() -> None:
    """Acquire the locks of all optimisers that can be had in a while."""
    deadline = time.monotonic() + _PATIENCE
    for ref in list(_locks):
        if (lock := ref()) is not None:
            _acquire(lock, deadline)


def _release_all() -> None:
    while _fork.acquired:
        _fork.acquired.pop().release()


@contextlib.contextmanager
def _logging_free() -> Iterator[None]:
    """Release the lock of `logging`: its hook may have run first, and who compiles may log."""
    lock: Any = getattr(sys.modules.get("logging"), "_lock", None)
    held = lock is not None and lock._is_owned()  # noqa: SLF001  # by its hook, in this thread
    if held:
        lock.release()
    try:
        yield
    finally:
        if held:
            lock.acquire()


def _before() -> None:
    # Python prints what a hook raises, and forks: whatever comes here, the other hooks need these.
    _fork.acquired, _fork.compiler = [], list(_compiler_locks())
    _fork.threads, _fork.importing, _fork.compiling = threading.active_count(), False, True
    _fork.interrupts = defer_interrupts()
    _fork.under_way = True
    with contextlib.ExitStack() as stack:
        stack.enter_context(_fork.interrupts)
        with _logging_free():
            _wait()
        stack.pop_all()  # deferred until after the fork


def _wait() -> None:
    """Wait until no other thread compiles or steps, so long as there is patience."""
    deadline = time.monotonic() + _COMPILE_PATIENCE
    while True:
        _fork.importing, _fork.compiler = _importing(), list(_compiler_locks())
        turn = min(deadline, time.monotonic() + _TURN)
        if not _fork.importing and _acquire_all(_fork.compiler, turn):
            _acquire_steps()
            _fork.importing = _importing()  # one may have begun meanwhile
            if not _fork.importing:
                _fork.compiling = False
                return
            _release_all()
        if time.monotonic() >= deadline or _fork.interrupts.caught:
            _acquire(_fork.compiler[-1], time.monotonic() + _PATIENCE)  # a call into LLVM is short
            _acquire_steps()
            return
        time.sleep(0.001)


def _interrupt_soon() -> None:
    """Send Ctrl-C to the main thread when the hook is done, which would lose its exception."""
    time.sleep(0.01)
    _signal.pthread_kill(threading.main_thread().ident, _signal.SIGINT)


def _in_parent() -> None:
    if _fork.under_way:
        _fork.under_way = False
        _release_all()
        if _fork.interrupts.end():
            start_new_thread(_interrupt_soon, ())


def _in_child() -> None:
    global serial_only, _compile_cut_off, _import_cut_off
    if not _fork.under_way:
        return
    _fork.under_way = False
    _fork.interrupts.end()  # Ctrl-C before the fork was for the parent
    _compile_cut_off = _compile_cut_off or _fork.compiling
    _import_cut_off = _import_cut_off or _fork.importing
    acquired = set(map(id, _fork.acquired))
    for lock in (*_fork.compiler, *(ref() for ref in list(_locks))):
        if lock is not None and id(lock) not in acquired:
            lock._at_fork_reinit()  # noqa: SLF001  # as CPython renews its own: its thread is not here
    _release_all()
    layer = None
    with contextlib.suppress(AttributeError, ValueError):  # not imported, or none chosen yet
        layer = sys.modules["numba"].threading_layer() if "numba" in sys.modules else None
    serial_only = serial_only or layer == "omp" or (layer == "tbb" and _fork.threads > 1)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before, after_in_parent=_in_parent, after_in_child=_in_child)
