"""Ranks that are threads, each on a GPU of its own where there are several; their messages."""

from __future__ import annotations

import collections
from unittest import mock

import numpy as np

from numadam._mpi import ranks
from tests.rank_threads import ThreadRanks
from tests.rank_threads import on_ranks as on_threads


class Comm:
    """The two collectives of `Sharded` as an MPI has them that takes the memory of a GPU.

    The bytes are read when all ranks wait for them, in the order of no other stream: what is sent
    has to be there before, and what is received may not be in use.
    """

    def __init__(self, ranks):
        self._group, self.rank, self._calls, self.log = ranks.group, ranks.rank, 0, []

    def Ialltoallv(self, sent, received):
        """Offer each rank its piece; take the pieces for this one when the wait is called."""
        pieces = self._pieces("Ialltoallv", sent)
        rooms = self._pieces("room", received)
        return self._begin(pieces, rooms)

    def Iallgatherv(self, sent, pieces):
        """Offer the own piece to all."""
        from mpi4py import MPI

        assert sent is MPI.IN_PLACE
        rooms = self._pieces("room", pieces)
        own, rooms[self.rank] = rooms[self.rank], rooms[self.rank][:0]
        offered = [own[:0] if rank == self.rank else own for rank in range(len(rooms))]
        self.log += [("Iallgatherv", len(piece), type(own)) for piece in offered]
        return self._begin(offered, rooms)

    def _begin(self, pieces, rooms):
        call, self._calls = self._calls, self._calls + 1
        offers = self._group.__dict__.setdefault("offers", collections.defaultdict(dict))[call]
        taken = self._group.__dict__.setdefault("taken", collections.Counter())
        offers[self.rank] = pieces

        def wait():
            self._group.until(lambda: len(offers) == len(rooms))
            for rank, room in enumerate(rooms):
                piece = offers[rank][self.rank]
                assert piece.nbytes == room.nbytes
                if room.nbytes:
                    copy(piece, room)
            taken[call] += 1
            self._group.until(lambda: taken[call] == len(rooms))

        return Request(wait)

    def _pieces(self, name, message):
        """The pieces of a message; MPI is called where the stream has nothing left to do."""
        import cupy
        from mpi4py import MPI

        array, counts, begins, kind = message
        assert kind == MPI.BYTE
        assert array.dtype == np.uint8
        assert array.flags.c_contiguous
        assert cupy.cuda.get_current_stream().done
        if name != "room":
            self.log += [(name, count, type(array)) for count in counts]
        assert all(
            at >= 0 and at + n <= array.size for at, n in zip(begins, counts, strict=True) if n
        )
        return [array[at : at + n] for at, n in zip(begins, counts, strict=True)]


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

    from numadam._mpi import transport
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
        mock.patch.object(ranks, "ranks_of", lambda comm: comm),
        mock.patch.object(sharded, "ranks_of", lambda comm: comm),
        mock.patch.object(transport, "takes_gpu_memory", return_value=None),
    ):
        return on_threads(size, on_gpu)
