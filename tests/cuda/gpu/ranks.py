"""Ranks that are threads, each on a GPU of its own where there are several; their messages."""

from __future__ import annotations

import collections
from unittest import mock

import numpy as np

from numadam._mpi import decomposition
from tests.rank_threads import ThreadRanks
from tests.rank_threads import on_ranks as on_threads


class Comm:
    """Messages as an MPI has them that takes the memory of a GPU.

    The bytes are read when the other side waits for them, in the order of no other stream: what is
    sent has to be there before, and what is received may not be in use.
    """

    def __init__(self, ranks):
        self._group, self._rank, self.log = ranks.group, ranks.rank, []
        self._sent, self._wanted = collections.Counter(), collections.Counter()

    def Isend(self, message, dest):
        """Offer bytes to another rank."""
        letter = {"bytes": self._bytes("Isend", message, dest)}
        self._letters()[self._rank, dest, self._sent[dest]] = letter
        self._sent[dest] += 1
        return Request(lambda: self._group.until(lambda: "taken" in letter))

    def Irecv(self, message, source):
        """Take the bytes of as many messages later as were asked for before."""
        room = self._bytes("Irecv", message, source)
        key = source, self._rank, self._wanted[source]
        self._wanted[source] += 1
        return Request(lambda: self._take(key, room))

    def _take(self, key, room):
        letters = self._letters()
        self._group.until(lambda: key in letters)
        letter = letters.pop(key)
        assert letter["bytes"].nbytes == room.nbytes
        copy(letter["bytes"], room)
        letter["taken"] = True
        self._group.until(lambda: True)

    def _letters(self):
        """Messages of the group on their way, by both ranks and the number of the message."""
        return self._group.__dict__.setdefault("letters", {})

    def _bytes(self, name, message, other):
        """The array of a message; MPI is called where the stream has nothing left to do."""
        import cupy
        from mpi4py import MPI

        array, kind = message
        assert kind == MPI.BYTE
        assert array.dtype == np.uint8
        assert array.flags.c_contiguous
        assert cupy.cuda.get_current_stream().done
        self.log.append((name, other, array.nbytes, type(array)))
        return array


class Request:
    def __init__(self, wait):
        self.Wait = wait


def copy(source, target):
    """Copy bytes, on the host or between GPUs."""
    import cupy

    if type(target) is np.ndarray:
        target[...] = source
        return
    with target.device, cupy.cuda.Stream(non_blocking=True) as stream:
        target.data.copy_from_device_async(source.data, source.nbytes, stream)
        stream.synchronize()


def on_ranks(size, work):
    """Results of ``work(ranks)`` on each rank, which takes `ranks` as communicator of mpi4py.

    MPI does not say whether it takes the memory of a GPU; it does, where it is asked to.
    """
    import cupy

    from numadam._mpi import choose
    from numadam.mpi import sharded

    count = cupy.cuda.runtime.getDeviceCount()

    def on_gpu(ranks: ThreadRanks):
        ranks.comm = Comm(ranks)
        # each process would have streams of its own
        with cupy.cuda.Device(ranks.rank % count), cupy.cuda.Stream(non_blocking=True) as stream:
            result = work(ranks)
            stream.synchronize()
            return result

    with (
        mock.patch.object(decomposition, "ranks_of", lambda comm: comm),
        mock.patch.object(sharded, "ranks_of", lambda comm: comm),
        mock.patch.object(choose, "takes_gpu_memory", return_value=None),
    ):
        return on_threads(size, on_gpu)
