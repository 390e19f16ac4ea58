"""Memory that the ranks of a node share: MPI windows as plain arrays.

To free a window is collective: all ranks of the node have to call it together. Arrays are collected
when their owner drops them, at another moment on each rank, so an array that dies only marks its
window; the next `Window` on the same communicator asks which ones all ranks have dropped, and frees
those. What is left at exit goes with the processes: a rank that waited there for the others would
wait for ever for one that raised.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import sys
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


class Local:
    """Ranks that share memory, and their windows. Each knows the same, in the same order.

    Parameters
    ----------
    comm : mpi4py communicator
        One of the library's own, which `close` frees.

    Attributes
    ----------
    comm : mpi4py communicator
    group : mpi4py group
        Its ranks, also when it is closed.
    entries : list
        Windows that are not freed.
    """

    def __init__(self, comm: MPI.Intracomm) -> None:
        self.comm, self.group = comm, comm.Get_group()
        self.entries: list[_Entry] = []

    def free_unused(self) -> None:
        """Free the windows that no rank uses any more. Collective."""
        used = np.array([entry.used for entry in self.entries], np.int8)
        self.comm.Allreduce(MPI.IN_PLACE, used, MPI.MAX)
        for entry, still in zip(list(self.entries), used, strict=True):
            if not still:
                entry.window.Unlock_all()
                entry.window.Free()
                self.entries.remove(entry)

    def close(self) -> None:
        """Free what can be, and the communicator. Collective; windows in use stay for ever."""
        self.free_unused()
        self.comm.Free()


class Window:
    """Shared memory, a segment of zeros for each rank of a node. Making one is collective.

    Parameters
    ----------
    local : Local
    nbytes : int
        Bytes of this rank's own segment.

    Attributes
    ----------
    local : Local
    """

    def __init__(self, local: Local, nbytes: int) -> None:
        local.free_unused()
        self.local = local
        info = MPI.Info.Create({"alloc_shared_noncontig": "true"})
        # a multiple of a page: neighbouring segments share no cache line
        size = -(-(nbytes + _ALIGNED) // _MAPPED) * _MAPPED
        entry = _Entry(MPI.Win.Allocate_shared(size, 1, info, local.comm))
        info.Free()
        self._window, self._nbytes = entry.window, nbytes
        # one epoch from now to the end: loads and stores are all that is done in it
        entry.window.Lock_all(MPI.MODE_NOCHECK)
        local.entries.append(entry)
        weakref.finalize(self, entry.drop).atexit = False

    def segment(self, rank: int, nbytes: int) -> np.ndarray:
        """The first bytes of a rank's segment; the array keeps the window."""
        memory, _ = self._window.Shared_query(rank)
        return np.asarray(_Segment(self, memory, nbytes))

    def sync(self) -> None:
        """Make own stores visible to the others, and theirs to this rank: a memory fence."""
        self._window.Sync()


#: `MADV_POPULATE_WRITE` of Linux 5.14.
_POPULATE = 23


def zero(memory: np.ndarray) -> None:
    """Write zeros into shared memory, where the machine has room for them.

    A store to a page that cannot be had ends the process by a signal, so the pages are asked for
    before; an older kernel does not know how.

    Raises
    ------
    MemoryError
        Where shared memory is full.
    """
    if sys.platform == "linux" and memory.size:
        begin = memory.ctypes.data // mmap.PAGESIZE * mmap.PAGESIZE
        size = memory.ctypes.data + memory.size - begin
        libc = ctypes.CDLL(None, use_errno=True)
        failed = libc.madvise(ctypes.c_void_p(begin), ctypes.c_size_t(size), _POPULATE)
        if failed and ctypes.get_errno() in (errno.EFAULT, errno.ENOMEM):
            raise MemoryError(
                f"shared memory: there is no room for {memory.size} bytes more. Containers often "
                "limit it to 64 MB: start them with more, e.g. docker run --shm-size=8g."
            )
    memory[:] = 0


class _Segment:
    """Owner of a segment's memory, as NumPy sees it."""

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
