"""Transports of CuPy arrays between ranks: through MPI, or the memory of the host.

A transport sends and receives pieces, arrays with one axis and contiguous, and never computes:
sums of pieces are formed where they arrive, in the order of the ranks. It is chosen once
(`choose`). Messages are bytes, so any dtype goes, and any number of elements.

`begin` returns at once where it can. `wait` of what it returns comes before the pieces received
are read, and before those sent are written again. Both are meant in the order of CuPy's current
stream, which the host waits for only where MPI needs it to.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

#: The other rank, and the piece that it gets or sends.
Message = tuple[int, Any]


class Pending(NamedTuple):
    """Messages on their way; `wait` is called once."""

    wait: Callable[[], None]


class Transport(Protocol):
    """Way of pieces between ranks; `name` is what the user may ask for, and `info` tells."""

    name: str

    def begin(self, sends: Sequence[Message], receives: Sequence[Message]) -> Pending:
        """Send and receive pieces; all ranks begin and wait in the same order."""


def _bytes(messages: Sequence[Message]) -> list[Message]:
    """The pieces as bytes, without those that have none: MPI knows few dtypes."""
    return [(rank, piece.view(np.uint8)) for rank, piece in messages if piece.size]


def _start(comm: Any, sends: Sequence[Message], receives: Sequence[Message]) -> list[Any]:
    """Nonblocking requests for pieces of bytes; those to receive are posted first."""
    from mpi4py import MPI

    waiting = [comm.Irecv([piece, MPI.BYTE], source=rank) for rank, piece in receives]
    return waiting + [comm.Isend([piece, MPI.BYTE], dest=rank) for rank, piece in sends]


def _finish(requests: list[Any]) -> None:
    for request in requests:
        request.Wait()


class CudaAware:
    """CuPy arrays through an MPI that takes the memory of a GPU.

    MPI knows nothing of streams: the host waits until the pieces to be sent have been written, and
    those to be received are not used any more.

    Parameters
    ----------
    comm : mpi4py.MPI.Intracomm
        A communicator of the library's own.
    """

    name = "mpi"

    def __init__(self, comm: Any) -> None:
        self._comm = comm

    def begin(self, sends: Sequence[Message], receives: Sequence[Message]) -> Pending:
        """Wait for the stream, then start the messages."""
        import cupy

        cupy.cuda.get_current_stream().synchronize()
        requests = _start(self._comm, _bytes(sends), _bytes(receives))
        return Pending(lambda: _finish(requests))


class Staged:
    """CuPy arrays through pinned memory of the host, and MPI.

    Parameters
    ----------
    comm : mpi4py.MPI.Intracomm
        A communicator of the library's own.
    """

    name = "host"

    def __init__(self, comm: Any) -> None:
        self._comm = comm
        self._free: list[Any] = []

    def begin(self, sends: Sequence[Message], receives: Sequence[Message]) -> Pending:
        """Copy what is to be sent to the host, then start the messages."""
        import cupy

        sends, receives = _bytes(sends), _bytes(receives)
        room = self._room(sum(piece.size for _, piece in (*sends, *receives)))
        copies, first = list[Message](), 0
        for rank, piece in (*sends, *receives):
            copies.append((rank, room[first : first + piece.size]))
            first += piece.size
        sent, received = copies[: len(sends)], copies[len(sends) :]
        stream = cupy.cuda.get_current_stream()
        for (_, piece), (_, copy) in zip(sends, sent, strict=True):
            piece.get(stream=stream, out=copy, blocking=False)
        stream.synchronize()
        requests = _start(self._comm, sent, received)

        def wait() -> None:
            _finish(requests)
            stream = cupy.cuda.get_current_stream()
            for (_, piece), (_, copy) in zip(receives, received, strict=True):
                piece.set(copy, stream=stream)
            if receives:
                stream.synchronize()  # only then may the pinned memory be used again
            self._free.append(room)

        return Pending(wait)

    def _room(self, nbytes: int) -> Any:
        """Pinned memory that no message uses: the largest there is, or more."""
        from numadam._cuda.scalars import empty_pinned

        free = self._free.pop() if self._free else None
        if free is None or free.size < nbytes:
            free = empty_pinned((max(nbytes, 1),), np.uint8)
        return free
