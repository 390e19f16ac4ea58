"""What a fork must leave whole: locks that no thread holds, and no use of threads that died.

Registered by ``import numadam`` itself, so that it holds also where NumPy-only code forks before
the first optimiser is made. Imports neither numba nor numpy.
"""

from __future__ import annotations

import os
import sys
import threading
import weakref
from typing import Any

#: Set in a forked child where Numba's threads are lost: only serial twins are safe there. Under
#: GNU OpenMP the child's first parallel region kills it; tbb cannot shut down for a fork while
#: other threads of the parent hold on to it.
serial_only = False

_owners: weakref.WeakSet[Any] = weakref.WeakSet()
_owners_lock = threading.Lock()
_held: list[Any] = []
_parent_had_threads = False


def give_lock(owner: Any) -> None:
    """Give `owner` a ``_lock`` for its steps that is free in every forked child."""
    owner._lock = threading.RLock()
    with _owners_lock:
        _owners.add(owner)


def _before() -> None:
    global _parent_had_threads
    _parent_had_threads = threading.active_count() > 1
    # a fork waits for the steps under way: the child gets whole steps
    _owners_lock.acquire()
    _held.append(_owners_lock)
    for owner in list(_owners):
        owner._lock.acquire()
        _held.append(owner._lock)


def _release() -> None:
    while _held:
        _held.pop().release()


def _in_child() -> None:
    global serial_only
    _release()
    threading_layer = getattr(sys.modules.get("numba"), "threading_layer", None)
    if threading_layer is None:
        return
    try:
        layer = threading_layer()
    except ValueError:  # no layer chosen yet: the child may choose its own
        return
    serial_only = serial_only or layer == "omp" or (layer == "tbb" and _parent_had_threads)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before, after_in_parent=_release, after_in_child=_in_child)
