"""Threads of our own, where Numba has none that are safe: they run parts of a compiled loop.

Each is a Python thread inside one compiled call that never returns. It has no GIL and asks for
none: it sleeps on a lock of Python's, runs parts, and sleeps again. So nothing spins, a program
that keeps the GIL delays no step, and the end of the interpreter finds these threads asleep.

A job is a function, an argument and a number of parts. Its caller takes parts, too, and waits for
no thread that has taken none: if all of them come late, it has run everything itself::

    caller   set up a job, wake a thread, take parts until none is left, wait for the last to end
    thread   sleep, wake two others, take parts until none is left, tell who ran the last one

Two callers at once: the second one finds the pool busy and runs its parts alone.
"""

from __future__ import annotations

import ctypes
import functools
import os
import threading
from _thread import start_new_thread
from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba import int64, types
from numba.core import cgutils
from numba.extending import intrinsic

from numadam._jit.functions import jit_once
from numadam._jit.loops import callback_address
from numadam._jit.pointers import emitted, inner, record_at
from numadam._jit.process import defer_interrupts

_NUMBER, _CACHE_LINE = np.dtype(np.int64), 64

#: The memory of a pool is a job and a record for each thread. What all threads write lies on a
#: cache line of its own.
_JOB = np.dtype(
    [
        ("function", _NUMBER),  # address of the compiled ``body(q, argument)``
        ("argument", _NUMBER),
        ("parts", _NUMBER),
        ("threads", _NUMBER),  # at most so many run it, with the caller
        ("finished", _NUMBER),  # lock: released when a thread has run the last part
        ("busy", _NUMBER),  # 1 while a caller has the pool
        ("unused", _NUMBER, 2),
        ("untaken", _NUMBER),  # parts that nobody has taken; below 0 where threads came late
        ("unfinished", _NUMBER),  # parts that are not done
        ("unused_too", _NUMBER, 6),
    ]
)
_THREAD = np.dtype(
    [
        ("pool", _NUMBER),
        ("number", _NUMBER),
        ("lock", _NUMBER),  # the thread sleeps on it
        ("woken", _NUMBER),  # 1 from the release of the lock until the thread runs
        ("unused", _NUMBER, 4),
    ]
)
_OF_JOB: Any = _JOB.fields
_OF_THREAD: Any = _THREAD.fields
_BUSY, _UNTAKEN, _UNFINISHED = (_OF_JOB[name][1] for name in ("busy", "untaken", "unfinished"))
_WOKEN, _JOB_BYTES, _THREAD_BYTES = _OF_THREAD["woken"][1], _JOB.itemsize, _THREAD.itemsize


def _atomic(operation: str) -> Any:
    @emitted(int64(int64, int64))
    def change(context: Any, builder: Any, address: Any, value: Any) -> Any:
        where = builder.inttoptr(address, ir.IntType(64).as_pointer())
        return builder.atomic_rmw(operation, where, value, "seq_cst")

    return change


#: ``(address, value)``: write or add a number and return the old one, with no other thread between.
_exchange, _add = _atomic("xchg"), _atomic("add")


def _python(name: str, *flags: int) -> Any:
    """A function of Python's C API that takes a lock, and needs no GIL."""

    @emitted(types.void(int64))
    def call(context: Any, builder: Any, lock: Any) -> None:
        word = ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [cgutils.voidptr_t, *[word] * len(flags)])
        function = cgutils.get_or_insert_function(builder.module, kind, name)
        lock = builder.inttoptr(lock, cgutils.voidptr_t)
        builder.call(function, [lock, *(word(flag) for flag in flags)])

    return call


#: ``(lock)``: sleep until it is released and take it; release it, whoever took it.
_wait_for, _release = _python("PyThread_acquire_lock", 1), _python("PyThread_release_lock")


@intrinsic
def _address_of(typingctx: Any, body: Any) -> Any:
    """The address of a compiled ``body(q, argument)``."""
    body.get_call_type(typingctx, (int64, int64), {})

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        compiled = body.dispatcher.get_compile_result(types.void(int64, int64))
        context.active_code_library.add_linking_library(compiled.library)
        function = context.declare_function(builder.module, compiled.fndesc)
        return builder.ptrtoint(function, ir.IntType(64))

    return int64(body), codegen


@emitted(types.void(int64, int64, int64))
def _call(context: Any, builder: Any, address: Any, q: Any, argument: Any) -> None:
    """Call a compiled ``body(q, argument)`` at its address. It must not raise."""
    convention, kinds = context.call_conv, [int64, int64]
    kind = convention.get_function_type(types.none, kinds).as_pointer()
    body = builder.inttoptr(address, kind)
    convention.call_function(builder, body, types.none, kinds, [q, argument])


@inner
def _wake(pool_at, k):
    """Wake thread k, where the job is for so many."""
    if k < record_at(pool_at, _JOB).threads - 1:
        thread_at = pool_at + _JOB_BYTES + k * _THREAD_BYTES
        if _exchange(thread_at + _WOKEN, 1) == 0:
            _release(record_at(thread_at, _THREAD).lock)


@inner
def _take_parts(pool_at):
    """Run parts until none is left; whether the last one of the job was among them."""
    last = False
    while True:
        # The job is read after one of its parts was taken: it stays until that part is done.
        untaken = _add(pool_at + _UNTAKEN, -1)
        if untaken <= 0:
            return last
        job = record_at(pool_at, _JOB)
        _call(job.function, job.parts - untaken, job.argument)
        last = _add(pool_at + _UNFINISHED, -1) == 1


def _work(thread_at):
    """The life of a thread."""
    thread = record_at(thread_at, _THREAD)
    pool_at, k = thread.pool, thread.number
    while pool_at != 0:  # always: Numba compiles no function without an end
        _wait_for(thread.lock)
        _exchange(thread_at + _WOKEN, 0)
        _wake(pool_at, 2 * k + 1)
        _wake(pool_at, 2 * k + 2)
        if _take_parts(pool_at):
            _release(record_at(pool_at, _JOB).finished)


@inner
def _run(pool_at, threads, function, parts, argument):
    """Run all parts in threads of the pool, or alone where another caller has it."""
    if threads < 2 or parts < 2 or _exchange(pool_at + _BUSY, 1) != 0:
        for q in range(parts):
            _call(function, q, argument)
        return
    job = record_at(pool_at, _JOB)
    job.function, job.argument, job.parts = function, argument, parts
    job.threads = min(threads, parts)
    _exchange(pool_at + _UNFINISHED, parts)
    _exchange(pool_at + _UNTAKEN, parts)  # from here on threads may take them
    _wake(pool_at, 0)
    if not _take_parts(pool_at):
        _wait_for(job.finished)
    _exchange(pool_at + _BUSY, 0)


def make_spread(body: Any) -> Any:
    """``spread(pool, threads, parts, argument)``: ``body(q, argument)`` for all q below `parts`."""

    def spread(pool_at, threads, parts, argument):
        _run(pool_at, threads, _address_of(body), parts, argument)

    return jit_once(spread)


@functools.cache
def work_at() -> int:
    """The address of what a thread runs; compiled or loaded at the first call."""
    return callback_address(_work, types.void(int64), "pool", "_jit")


# of their own: those of `ctypes.pythonapi` are everybody's, with the types that another has set
_new = ctypes.PYFUNCTYPE(ctypes.c_void_p)(("PyThread_allocate_lock", ctypes.pythonapi))
_take = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_int)(
    ("PyThread_acquire_lock", ctypes.pythonapi)
)
_zeros = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t)(
    ("PyMem_RawCalloc", ctypes.pythonapi)
)


def _new_lock() -> int:
    """A lock of Python's, taken."""
    lock = int(_new())
    _take(lock, 1)
    return lock


class _Pool:
    """A process's pool, and its threads as far as they are started.

    Its memory and locks are never freed, for the threads never end.
    """

    def __init__(self) -> None:
        most = numba.config.NUMBA_NUM_THREADS - 1
        size = _JOB_BYTES + most * _THREAD_BYTES
        block = int(_zeros(size + _CACHE_LINE, 1))
        self.address = block + -block % _CACHE_LINE
        memory = np.frombuffer((ctypes.c_uint8 * size).from_address(self.address), np.uint8)
        memory[:_JOB_BYTES].view(_JOB)["finished"] = _new_lock()
        self._records = memory[_JOB_BYTES:].view(_THREAD)
        self.threads = 1  # that of a caller

    def start(self, threads: int) -> None:
        """Start threads until there are so many, or as many as the system allows."""
        run = ctypes.CFUNCTYPE(None, ctypes.c_int64)(work_at())
        while self.threads < threads:
            k = self.threads - 1
            record = self._records[k]
            record["pool"], record["number"] = self.address, k
            record["lock"] = record["lock"] or _new_lock()
            where = self.address + _JOB_BYTES + k * _THREAD_BYTES
            # No `threading.Thread`: its `start` waits until the thread runs Python code, for ever
            # where an exception ends that code. One that is set in the caller from outside can:
            # until a new thread runs, Python takes its state for the caller's.
            try:
                start_new_thread(run, (where,))
            except RuntimeError:  # too many, or the interpreter ends: those that run are enough
                return
            self.threads = k + 2


_lock = threading.RLock()  # while threads are started; a signal handler may step, too
_pool: _Pool | None = None


def started(threads: int) -> tuple[int, int]:
    """The address of this process's pool, and so many threads of it, or as many as there are."""
    global _pool
    if _pool is None or _pool.threads < threads:
        with _lock, defer_interrupts():
            _pool = _pool or _Pool()
            _pool.start(threads)
    return _pool.address, min(_pool.threads, threads)


def _in_child() -> None:
    global _lock, _pool
    _lock, _pool = threading.RLock(), None  # a fork copies no other thread


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)
