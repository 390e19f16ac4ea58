"""Bytes of an MPI run: what a rank holds, and what it sends."""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from mpi4py import MPI


def resident() -> int:
    """Bytes of this process, a page that k processes share as a k-th (Linux: PSS)."""
    for line in Path("/proc/self/smaps_rollup").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == "Pss":
            return int(value.split()[0]) * 1024
    raise RuntimeError("/proc/self/smaps_rollup: has no line Pss.")


def _give_back() -> None:
    """Give freed memory back to the system, as far as the C library can."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def growth(comm: MPI.Intracomm, make: Callable[[], Any]) -> list[int]:
    """Bytes by which each rank has grown once `make` has made what it returns. Collective.

    Pages that ranks share count a k-th on each, so that the sum is that of the node.
    """
    _give_back()
    comm.Barrier()
    before = resident()
    comm.Barrier()
    made = make()
    _give_back()
    comm.Barrier()  # every rank has touched its pages
    grown = resident() - before
    comm.Barrier()
    del made
    return comm.allgather(grown)


def _bytes(message: Any) -> int:
    """Bytes of a buffer as mpi4py takes it: an array, or a list [data, (counts,) datatype]."""
    if isinstance(message, np.ndarray):
        return message.nbytes
    if isinstance(message, (list, tuple)):
        data, kind = message[0], message[-1]
        if len(message) == 2 and not isinstance(kind, MPI.Datatype):
            return np.asarray(data).nbytes
        counts = message[1] if len(message) > 2 else None
        count = counts[0] if isinstance(counts, (list, tuple)) else counts
        if isinstance(count, (int, np.integer)) and isinstance(kind, MPI.Datatype):
            return int(count) * kind.Get_size()
        return _bytes(data)
    return memoryview(message).nbytes


class Counting(MPI.Intracomm):
    """A communicator that counts what this rank sends; its copies and parts count, too.

    A collective that numadam does not use is refused: it would not be counted.
    """

    sent: int = 0
    messages: int = 0

    @classmethod
    def reset(cls) -> None:
        cls.sent = cls.messages = 0

    @classmethod
    def _count(cls, message: Any, times: int = 1) -> None:
        Counting.sent += times * _bytes(message)
        Counting.messages += times

    def Isend(self, buf: Any, dest: int, tag: int = 0) -> MPI.Request:
        self._count(buf)
        return super().Isend(buf, dest, tag)

    def Send(self, buf: Any, dest: int, tag: int = 0) -> None:
        self._count(buf)
        super().Send(buf, dest, tag)

    def Iallgather(self, sendbuf: Any, recvbuf: Any) -> MPI.Request:
        if sendbuf is MPI.IN_PLACE:  # this rank's words are in its row
            Counting.sent += (self.size - 1) * _bytes(recvbuf) // self.size
            Counting.messages += self.size - 1
        else:
            self._count(sendbuf, self.size - 1)
        return super().Iallgather(sendbuf, recvbuf)

    def Ialltoallv(self, sendbuf: Any, recvbuf: Any) -> MPI.Request:
        self._count_pieces(sendbuf[1], sendbuf[-1])
        return super().Ialltoallv(sendbuf, recvbuf)

    def Iallgatherv(self, sendbuf: Any, recvbuf: Any) -> MPI.Request:
        if sendbuf is not MPI.IN_PLACE:
            raise NotImplementedError("Iallgatherv: is counted in place only.")
        own = recvbuf[1][self.rank]  # goes to all others
        self._count_pieces([own] * (self.size - 1), recvbuf[-1])
        return super().Iallgatherv(sendbuf, recvbuf)

    @classmethod
    def _count_pieces(cls, counts: list[int], kind: MPI.Datatype) -> None:
        Counting.sent += sum(counts) * kind.Get_size()
        Counting.messages += sum(count > 0 for count in counts)

    def Split(self, color: int = 0, key: int = 0) -> MPI.Intracomm:
        return Counting(super().Split(color, key))

    def Split_type(self, split_type: int, key: int = 0, info: Any = MPI.INFO_NULL) -> MPI.Intracomm:
        return Counting(super().Split_type(split_type, key, info))


def _refused(name: str) -> Callable[..., Any]:
    def refuse(self: Counting, *arguments: Any, **options: Any) -> Any:
        raise NotImplementedError(f"{name}: is not counted yet. Count it in mpi_memory.py.")

    return refuse


for _name in (
    "Allgather", "Allgatherv", "Allreduce", "Alltoall", "Alltoallv", "Bcast", "Gather", "Gatherv",
    "Iallreduce", "Ialltoall", "Ibcast", "Igather", "Igatherv",
    "Ireduce", "Ireduce_scatter", "Ireduce_scatter_block", "Iscatter", "Iscatterv", "Reduce",
    "Reduce_scatter", "Reduce_scatter_block", "Rsend_init", "Scatter", "Scatterv", "Send_init",
    "Sendrecv", "Isendrecv", "Issend", "Ssend",
):  # fmt: skip
    setattr(Counting, _name, _refused(_name))
