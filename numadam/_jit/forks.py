"""State of a forked child: locks that no thread holds, and no use of threads that died.

Registered by ``import numadam`` itself, so that it holds also where other code forks before the
first optimiser is made. Imports neither numba nor numpy.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
import weakref
from typing import Any

#: Set in a forked child where Numba's threads are lost: only serial loops are safe there. Under
#: GNU OpenMP the child's first parallel region kills it; tbb cannot shut down for a fork while
#: other threads of the parent hold on to it.
serial_only = False

#: Seconds a fork waits for steps under way, so that the child gets whole ones. Bounded: a step
#: may itself wait for the forking thread, in a schedule of the user's.
_PATIENCE = 1.0

# A plain dict: its single operations cannot be interrupted, and so need no lock of their own.
_locks: dict[int, tuple[weakref.ref[Any], Any]] = {}
_fork = threading.local()  # shared by the hooks of one fork, which run in one thread


def give_lock(owner: Any) -> None:
    """Give `owner` a ``_lock`` for its steps that is free in every forked child."""
    lock = owner._lock = threading.RLock()  # noqa: SLF001  # this module makes and renews it
    key = id(owner)
    _locks[key] = weakref.ref(owner, lambda _: _locks.pop(key, None)), lock


def safe(serial: Any, parallel: Any) -> Any:
    """The parallel form of a loop, or the serial one where a fork has lost Numba's threads."""
    return serial if serial_only else parallel


def _before() -> None:
    _fork.threads = threading.active_count()
    _fork.acquired = acquired = []
    deadline = time.monotonic() + _PATIENCE
    for _, lock in list(_locks.values()):
        if lock.acquire(timeout=max(0.0, deadline - time.monotonic())):
            acquired.append(lock)


def _in_parent() -> None:
    for lock in _fork.acquired:
        lock.release()


def _in_child() -> None:
    global serial_only
    for ref, _ in list(_locks.values()):
        if (owner := ref()) is not None:
            give_lock(owner)  # another thread may have held the old one
    layer = None
    with contextlib.suppress(AttributeError, ValueError):  # not imported, or none chosen yet
        layer = sys.modules["numba"].threading_layer() if "numba" in sys.modules else None
    serial_only = serial_only or layer == "omp" or (layer == "tbb" and _fork.threads > 1)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before, after_in_parent=_in_parent, after_in_child=_in_child)
