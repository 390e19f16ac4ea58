"""Threads that a step may use: Numba's threading layer is read and obeyed, never set.

Numba chooses one layer for the whole process at the first parallel call: tbb, then omp, then
workqueue. Figures behind the choices are in ``docs/benchmarks``.
"""

from __future__ import annotations

import ctypes
import functools
import sys
from pathlib import Path

import numba
from numba.core import config

#: Elements from which the parallel loop pays, by layer. A region costs about 1.5 us under omp and
#: 4 us under tbb. Under workqueue it would cost 65-220 us, and an abort when two threads meet:
#: there the threads are our own (see `pool`).
CUTOVER = {"omp": 15_000, "tbb": 60_000, "workqueue": 1_000_000}


def _load_tbb() -> None:
    """Load the tbb wheel's library, which Numba's own search misses in virtual environments.

    Only where Numba has not chosen yet and no other layer is asked for.
    """
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
    try:
        return str(numba.threading_layer())
    except ValueError:  # not chosen yet
        _load_tbb()
    numba.get_num_threads()
    return str(numba.threading_layer())


def parallel_from() -> int:
    """The number of elements from which a step runs in parallel."""
    return CUTOVER[layer()]


def count() -> int:
    """The number of threads that Numba gives the calling thread's parallel loops.

    Asked without Numba's own locks, which a fork may find taken: one of them is shared by all
    processes.
    """
    from numba.np.ufunc import parallel  # 20 ms, which a small step does not need

    layer()
    return int(parallel._get_num_threads())  # noqa: SLF001  # Numba offers it with its locks only


def wants_parallel(total: int) -> bool:
    """Whether a step over `total` elements runs in parallel. Small ones never ask Numba."""
    return total >= min(CUTOVER.values()) and total >= parallel_from()
