"""Transports of arrays between ranks: MPI with the arrays themselves, or copies on the host.

A transport begins the two collectives of a step, and never computes. It is chosen once (`choose`).
Arrays have one axis and are contiguous; messages are bytes, so any dtype goes. CuPy arrays are
meant in the order of CuPy's current stream, which the host waits for: MPI knows nothing of streams.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

#: Ends a collective that has begun: called once, before pieces are read or written again.
Wait = Callable[[], None]


class Pieces(NamedTuple):
    """Parts of an array, one for each rank: where it begins, and how many elements it has."""

    array: Any
    begins: Sequence[int]
    counts: Sequence[int]

    def message(self) -> list[Any]:
        """The parts as mpi4py takes them."""
        from mpi4py import MPI

        item = self.array.itemsize
        counts, begins = ([n * item for n in numbers] for numbers in (self.counts, self.begins))
        return [self.array.view(np.uint8), counts, begins, MPI.BYTE]


class Direct:
    """Arrays through an MPI that takes their memory.

    Parameters
    ----------
    comm : mpi4py.MPI.Intracomm
        A communicator of the library's own.
    """

    name = "mpi"

    def __init__(self, comm: Any) -> None:
        self._comm = comm

    def empty(self, size: int, dtype: Any) -> Any:
        """New memory for pieces."""
        return np.empty(size, dtype)

    def alltoall(self, sent: Pieces, received: Pieces) -> Wait:
        """Begin to send each rank its piece, and to receive the pieces that they have for this."""
        wait: Wait = self._comm.Ialltoallv(sent.message(), received.message()).Wait
        return wait

    def allgather(self, pieces: Pieces) -> Wait:
        """Begin to bring the piece of each rank to all of them, in place."""
        from mpi4py import MPI

        wait: Wait = self._comm.Iallgatherv(MPI.IN_PLACE, pieces.message()).Wait
        return wait


class CudaAware(Direct):
    """CuPy arrays through an MPI that takes the memory of a GPU."""

    def empty(self, size: int, dtype: Any) -> Any:
        """New memory on the current GPU."""
        import cupy

        return cupy.empty(size, dtype)

    def alltoall(self, sent: Pieces, received: Pieces) -> Wait:
        """Wait until the pieces are written and their memory is free, then as in `Direct`."""
        _finish()
        return super().alltoall(sent, received)

    def allgather(self, pieces: Pieces) -> Wait:
        """Wait until the piece is written, then as in `Direct`."""
        _finish()
        return super().allgather(pieces)


class Staged(CudaAware):
    """CuPy arrays through pinned memory of the host, and MPI."""

    name = "host"

    def __init__(self, comm: Any) -> None:
        super().__init__(comm)
        self._free: list[Any] = []

    def alltoall(self, sent: Pieces, received: Pieces) -> Wait:
        """Copy what is to be sent to the host and begin; the wait copies to the GPU."""
        every = range(len(sent.counts))
        (out, room), (come, other) = self._staged(sent), self._staged(received)
        _copy(sent, out, every, to_host=True)
        arrived = Direct.alltoall(self, out, come)

        def wait() -> None:
            arrived()
            _copy(received, come, every, to_host=False)
            self._free += [room, other]

        return wait

    def allgather(self, pieces: Pieces) -> Wait:
        """As `alltoall`: of this rank to the host, of the others to the GPU."""
        own, (copied, room) = self._comm.rank, self._staged(pieces)
        _copy(pieces, copied, [own], to_host=True)
        arrived = Direct.allgather(self, copied)

        def wait() -> None:
            arrived()
            others = [rank for rank in range(len(pieces.counts)) if rank != own]
            _copy(pieces, copied, others, to_host=False)
            self._free.append(room)

        return wait

    def _staged(self, pieces: Pieces) -> tuple[Pieces, Any]:
        """Pieces one after the other in pinned memory that no message uses, and that memory."""
        from numadam._cuda.scalars import empty_pinned

        ends = np.cumsum([0, *pieces.counts]).tolist()
        nbytes = ends[-1] * pieces.array.itemsize
        room = self._free.pop() if self._free else None
        if room is None or room.size < nbytes:
            room = empty_pinned((max(nbytes, 1),), np.uint8)
        return Pieces(room[:nbytes].view(pieces.array.dtype), ends[:-1], pieces.counts), room


def _finish() -> None:
    import cupy

    cupy.cuda.get_current_stream().synchronize()


def _copy(pieces: Pieces, room: Pieces, ranks: Sequence[int], to_host: bool) -> None:
    """Copy the pieces of some ranks between the GPU and the host, and wait for the copies."""
    import cupy

    stream = cupy.cuda.get_current_stream()
    for rank in ranks:
        count, begin, at = pieces.counts[rank], pieces.begins[rank], room.begins[rank]
        if count:
            part, copied = pieces.array[begin : begin + count], room.array[at : at + count]
            if to_host:
                part.get(stream=stream, out=copied, blocking=False)
            else:
                part.set(copied, stream=stream)
    stream.synchronize()
