"""Memory that the ranks of a node share: MPI windows as plain arrays.

To free a window is collective: all ranks of the node have to call it together. Arrays are collected
when their owner drops them, at another moment on each rank, so an array that dies only marks its
window; the next `Window` on the same communicator asks which ones all ranks have dropped, and frees
those. What is left at exit goes with the processes: a rank that waited there for the others would
wait for ever for one that raised.
"""

from __future__ import annotations

import weakref
from typing import Any

import numpy as np
from mpi4py import MPI

#: Bytes of a page, and of a cache line. Segments of different ranks lie on different pages; a rank
#: that is alone may get memory that begins anywhere.
_MAPPED, _ALIGNED = 4_096, 64


class _Entry:
    """An MPI window and whether an array of this rank still uses it."""

    def __init__(self, window: MPI.Win) -> None:
        self.window, self.used = window, True

    def drop(self) -> None:
        self.used = False


#: Windows that are not freed, by the Fortran handle of their communicator, in the order of their
#: making. An address would be that of a Python object, and so of another communicator later.
_open: dict[int, list[_Entry]] = {}


def _free_unused(local: MPI.Intracomm) -> None:
    """Collective: free the windows that no rank uses any more."""
    entries = _open.setdefault(local.py2f(), [])
    used = np.array([entry.used for entry in entries], np.int8)
    local.Allreduce(MPI.IN_PLACE, used, MPI.MAX)
    for entry, still in zip(list(entries), used, strict=True):
        if not still:
            entry.window.Unlock_all()
            entry.window.Free()
            entries.remove(entry)


class Window:
    """Shared memory, a segment of zeros for each rank of a node. Making one is collective.

    Parameters
    ----------
    local : mpi4py communicator
        Of ranks that share memory; it has to live as long as the process.
    nbytes : int
        Bytes of this rank's own segment.

    Attributes
    ----------
    local : mpi4py communicator
    """

    def __init__(self, local: MPI.Intracomm, nbytes: int) -> None:
        _free_unused(local)
        self.local = local
        info = MPI.Info.Create({"alloc_shared_noncontig": "true"})
        # a multiple of a page: neighbouring segments share no cache line
        size = -(-(nbytes + _ALIGNED) // _MAPPED) * _MAPPED
        entry = _Entry(MPI.Win.Allocate_shared(size, 1, info, local))
        info.Free()
        self._window, self._nbytes = entry.window, nbytes
        # one epoch from now to the end: loads and stores are all that is done in it
        entry.window.Lock_all(MPI.MODE_NOCHECK)
        _open[local.py2f()].append(entry)
        weakref.finalize(self, entry.drop).atexit = False

    def segment(self, rank: int, nbytes: int) -> np.ndarray:
        """The first bytes of a rank's segment; the array keeps the window."""
        memory, _ = self._window.Shared_query(rank)
        return np.asarray(_Segment(self, memory, nbytes))

    def sync(self) -> None:
        """Make own stores visible to the others, and theirs to this rank: a memory fence."""
        self._window.Sync()


class _Segment:
    """What NumPy takes for the owner of a segment's memory."""

    def __init__(self, window: Window, memory: MPI.buffer, nbytes: int) -> None:
        self.window = window
        # memory of several ranks is mapped by pages, so that this is the same place for all
        first = -(-memory.address // _ALIGNED) * _ALIGNED
        self.__array_interface__ = {
            "data": (first, False),
            "shape": (nbytes,),
            "typestr": "|u1",
            "version": 3,
        }


def window_of(array: Any) -> Window | None:
    """The window that an array, or what it is a view of, lies in."""
    while isinstance(array, np.ndarray):
        array = array.base
    return array.window if isinstance(array, _Segment) else None
