"""Transport of arrays between ranks: by the host, or by MPI from the GPU."""

from __future__ import annotations

import ctypes
import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, get_args

import numpy as np

from numadam._core.hyper import Transport, check_choice
from numadam._mpi.ranks import Ranks

# --- transports of arrays between ranks ----------------------------------------------------------
# A transport begins the two collectives of a step, and never computes. It is chosen once
# (see below). Arrays have one axis and are contiguous; messages are bytes, so any dtype goes. CuPy
# arrays are meant in the order of CuPy's current stream, which the host waits for: MPI knows
# nothing of streams.

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
    """Arrays through an MPI that takes their memory, on a communicator of the library's own."""

    name = "mpi"

    def __init__(self, comm: Any) -> None:
        self._comm = comm

    def empty(self, size: int, dtype: Any) -> Any:
        """New memory for pieces."""
        return np.empty(size, dtype)

    def finish(self) -> None:
        """Wait until arrays are written, and their memory is free: NumPy's are."""

    def alltoall(self, sent: Pieces, received: Pieces) -> Wait:
        """Begin to send each rank its piece, and to receive the pieces that they have for this."""
        self.finish()
        wait: Wait = self._comm.Ialltoallv(sent.message(), received.message()).Wait
        return wait

    def allgather(self, pieces: Pieces) -> Wait:
        """Begin to bring the piece of each rank to all of them, in place."""
        from mpi4py import MPI

        self.finish()
        wait: Wait = self._comm.Iallgatherv(MPI.IN_PLACE, pieces.message()).Wait
        return wait


class CudaAware(Direct):
    """CuPy arrays through an MPI that takes the memory of a GPU."""

    def empty(self, size: int, dtype: Any) -> Any:
        import cupy

        return cupy.empty(size, dtype)

    def finish(self) -> None:
        import cupy

        cupy.cuda.get_current_stream().synchronize()


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
        arrived = super().alltoall(out, come)

        def wait() -> None:
            arrived()
            _copy(received, come, every, to_host=False)
            self.finish()
            self._free += [room, other]

        return wait

    def allgather(self, pieces: Pieces) -> Wait:
        """As `alltoall`: of this rank to the host, of the others to the GPU."""
        own, (copied, room) = self._comm.rank, self._staged(pieces)
        _copy(pieces, copied, [own], to_host=True)
        arrived = super().allgather(copied)

        def wait() -> None:
            arrived()
            others = [rank for rank in range(len(pieces.counts)) if rank != own]
            _copy(pieces, copied, others, to_host=False)
            self.finish()
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


def _copy(pieces: Pieces, room: Pieces, ranks: Sequence[int], to_host: bool) -> None:
    """Begin to copy the pieces of some ranks between the GPU and the host."""
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


# --- choice of the transport for CuPy arrays -----------------------------------------------------
# MPI itself comes first, where it takes the memory of a GPU; then the memory of the host. What a
# rank can do is found by asking its library, never by trying: an MPI without CUDA ends the process
# when it meets such memory.

#: What a user may ask for.
ASKED: tuple[str, ...] = get_args(Transport)
#: `MPIX_GPU_SUPPORT_CUDA` of MPICH and HPE Cray MPI.
_CUDA_SUPPORT = 0
#: Variables that switch it on in libraries that have no function to ask, by what their version
#: text contains. With the first, MPI does not start where it was built without CUDA.
_VARIABLES = {"CRAY MPICH": "MPICH_GPU_SUPPORT_ENABLED", "MVAPICH2": "MV2_USE_CUDA"}


def check_asked(asked: Any, home: str) -> None:
    """Check the option `transport`, for arrays of a library."""
    check_choice("transport", asked, Transport)
    if home == "NumPy" and asked not in ("auto", "mpi"):
        raise ValueError(
            f"transport: {asked!r} is for CuPy arrays; NumPy's go through MPI. Leave it out."
        )


def transport_of(ranks: Ranks, asked: str, home: str) -> type[Direct]:
    """The kind of transport for arrays of a library. Collective for CuPy's.

    Raises, on all ranks, where what was asked for cannot be.
    """
    if home == "NumPy":
        return Direct
    takes = takes_gpu_memory(ranks.comm)
    name = decide(ranks.gather(np.array([ASKED.index(asked), -1 if takes is None else takes])))
    return CudaAware if name == "mpi" else Staged


def decide(table: np.ndarray) -> str:
    """The transport of all ranks, from a row of each: the same name for the same table.

    Columns are the number in `ASKED`, and whether MPI takes memory of a GPU (-1: it does not say).
    """
    asked, mpi = table.T
    unlike = np.flatnonzero(asked != asked[0])
    if len(unlike):
        k = int(unlike[0])
        pair = f"rank 0 got {ASKED[asked[0]]!r}, rank {k} {ASKED[asked[k]]!r}"
        raise ValueError(f"transport: {pair}. Pass the same on all ranks.")
    name, without = ASKED[int(asked[0])], np.flatnonzero(mpi == 0)
    if name == "auto":
        return "mpi" if np.all(mpi == 1) else "host"
    if name == "mpi" and len(without):  # an MPI that does not say is the user's to know
        raise ValueError(
            f"transport: got 'mpi', but that of rank {without[0]} says that it takes no memory of "
            "a GPU. Start one built with CUDA, with its CUDA support on, or pass 'auto'."
        )
    return name


# --- what this process can do ---------------------------------------------------------------------


def takes_gpu_memory(comm: Any) -> bool | None:
    """Whether MPI takes the memory of a CUDA GPU; None where it does not say."""
    if "cuda" in _memory_kinds(comm):
        return True
    from mpi4py import MPI

    # of the module and what it is linked with, then of all that the program has loaded
    for file in (MPI.__file__, None):
        asked = _ask(ctypes.CDLL(file))
        if asked is not None:
            return asked
    version = MPI.Get_library_version().upper()
    for library, variable in _VARIABLES.items():
        if library in version:
            return os.environ.get(variable) == "1"
    return None


def _memory_kinds(comm: Any) -> set[str]:
    """Kinds of memory that MPI 4.1 says it takes. One that is not there may still be taken."""
    info = comm.Get_info()
    kinds = (info.get("mpi_memory_alloc_kinds") or "").split(",")
    info.Free()
    split = [kind.strip().split(":") for kind in kinds]
    return {kind for kind, *only in split if not only or "device" in only}


def _ask(library: Any) -> bool | None:
    """Ask MPICH's function, then Open MPI's; both see how MPI was built, and what is on.

    In this order: early versions of MPICH 4 have both, and the second one ends the process there.
    """
    try:
        query = library.MPIX_GPU_query_support
    except AttributeError:
        try:
            return bool(library.MPIX_Query_cuda_support())
        except AttributeError:
            return None
    found = ctypes.c_int(0)
    return query(ctypes.c_int(_CUDA_SUPPORT), ctypes.byref(found)) == 0 and bool(found.value)


# --- the MPI that mpi4py finds -------------------------------------------------------------------

#: Names of the variables by which a launcher tells a process its rank begin with these.
_LAUNCHERS = ("PMI", "PRTE", "OMPI_COMM", "OMPI_UNIVERSE", "HYD", "MPIEXEC", "MPI_LOCAL", "SLURM_")
#: Seconds for the start of MPI.
_START_SECONDS = 30


def describe() -> str:
    """MPI's name and version, and the transport of CuPy arrays, in one line.

    MPI is started in a process of its own, as one rank: on the login node of a cluster its start
    may end the process that asks.
    """
    if importlib.util.find_spec("mpi4py") is None:
        return "none found: pip install mpi4py"
    alone = {key: value for key, value in os.environ.items() if not key.startswith(_LAUNCHERS)}
    command = [sys.executable, "-m", "numadam._mpi.transport"]
    try:
        done = subprocess.run(
            command, env=alone, capture_output=True, text=True, timeout=_START_SECONDS, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return "mpi4py is installed, but its MPI does not start here as a single process"
    return done.stdout.strip().splitlines()[-1]


def _line() -> str:
    """The line, in this process, which starts MPI."""
    from mpi4py import MPI

    name, version = MPI.get_vendor()
    takes = takes_gpu_memory(MPI.COMM_SELF)
    way = "MPI" if takes else "the host's memory"
    why = {True: "", False: " (MPI takes no memory of a GPU)", None: " (MPI does not say)"}[takes]
    return f"{name} {'.'.join(map(str, version))}; CuPy arrays go through {way}{why}"


if __name__ == "__main__":
    print(_line())
