"""What a fork must leave whole: locks that no thread holds, and no use of threads that died.

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

#: Set in a forked child where Numba's threads are lost: only serial twins are safe there. Under
#: GNU OpenMP the child's first parallel region kills it; tbb cannot shut down for a fork while
#: other threads of the parent hold on to it.
serial_only = False

#: Seconds a fork waits for steps under way, so that the child gets whole ones. Bounded: a step
#: may itself wait for the forking thread, in a schedule of the user's.
_PATIENCE = 1.0

# A plain dict: its single operations cannot be interrupted, and so need no lock of their own.
_owners: dict[int, weakref.ref[Any]] = {}
_fork = threading.local()  # what one fork's hooks, all in one thread, hand on to each other


def give_lock(owner: Any) -> None:
    """Give `owner` a ``_lock`` for its steps that is free in every forked child."""
    owner._lock = threading.RLock()
    key = id(owner)
    _owners[key] = weakref.ref(owner, lambda _: _owners.pop(key, None))


def _live() -> list[Any]:
    return [owner for ref in list(_owners.values()) if (owner := ref()) is not None]


def _before() -> None:
    _fork.threads = threading.active_count()
    _fork.held = held = []
    deadline = time.monotonic() + _PATIENCE
    for owner in _live():
        lock = owner._lock
        if lock.acquire(timeout=max(0.0, deadline - time.monotonic())):
            held.append(lock)


def _in_parent() -> None:
    for lock in _fork.held:
        lock.release()


def _in_child() -> None:
    global serial_only
    for owner in _live():
        owner._lock = threading.RLock()  # another thread may have held the old one
    layer = None
    with contextlib.suppress(AttributeError, ValueError):  # not imported, or none chosen yet
        layer = sys.modules["numba"].threading_layer() if "numba" in sys.modules else None
    serial_only = serial_only or layer == "omp" or (layer == "tbb" and _fork.threads > 1)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before, after_in_parent=_in_parent, after_in_child=_in_child)
