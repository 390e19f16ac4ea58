"""Choice of the transport for CuPy arrays: one for all ranks of a communicator.

MPI itself comes first, where it takes the memory of a GPU; then NCCL, where every rank has a GPU
to itself; then the memory of the host. What a rank can do is found by asking its libraries, never
by trying: an MPI without CUDA ends the process when it meets such memory.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import socket
import warnings
from typing import Any, get_args
from weakref import WeakKeyDictionary

import numpy as np

from numadam._core import choices
from numadam._mpi.ranks import Ranks
from numadam._mpi.transport import CudaAware, Nccl, Staged, Transport

#: What a user may ask for.
ASKED: tuple[str, ...] = get_args(choices.Transport)
#: `MPIX_GPU_SUPPORT_CUDA` of MPICH and HPE Cray MPI.
_CUDA_SUPPORT = 0
#: Variables that switch it on in libraries that have no function to ask, by what their version
#: text contains. With the first, MPI does not start where it was built without CUDA.
_VARIABLES = {"CRAY MPICH": "MPICH_GPU_SUPPORT_ENABLED", "MVAPICH2": "MV2_USE_CUDA"}

#: Transports that were made before, by what each rank asked for and could do.
_known: WeakKeyDictionary[Ranks, dict[bytes, Transport]] = WeakKeyDictionary()


def check_asked(asked: Any, home: str) -> None:
    """Check the option `transport`, for arrays of a library."""
    choices.check("transport", asked, choices.Transport)
    if home == "NumPy" and asked not in ("auto", "mpi"):
        raise ValueError(
            f"transport: {asked!r} is for CuPy arrays; NumPy's go through MPI. Leave it out."
        )


def device_transport(ranks: Ranks, asked: str, device: int) -> Transport:
    """The transport of CuPy arrays on GPU `device` of this rank. Collective.

    Raises, on all ranks, where what was asked for cannot be. The current GPU is `device`.
    """
    able = np.array([ASKED.index(asked), _of_mpi(ranks.comm), has_nccl(), _identity(device)])
    table = ranks.gather(able)
    known = _known.setdefault(ranks, {})
    if table.tobytes() not in known:  # the same on all ranks
        known[table.tobytes()] = _make(ranks, decide(table))
    return known[table.tobytes()]


def _make(ranks: Ranks, found: str) -> Transport:
    if found == "nccl":
        return Nccl(_nccl_communicator(ranks))
    return CudaAware(ranks.comm) if found == "mpi" else Staged(ranks.comm)


def decide(table: np.ndarray) -> str:
    """The transport of all ranks, from a row of each: the same row for the same table.

    Columns are the number in `ASKED`; whether MPI takes memory of a GPU (-1: it does not say);
    whether there is NCCL; what tells GPUs apart.
    """
    asked, mpi, nccl, device = table.T
    unlike = np.flatnonzero(asked != asked[0])
    if len(unlike):
        k = int(unlike[0])
        pair = f"rank 0 got {ASKED[asked[0]]!r}, rank {k} {ASKED[asked[k]]!r}"
        raise ValueError(f"transport: {pair}. Pass the same on all ranks.")
    twin = _twin(device)
    return {"auto": _best, "mpi": _mpi, "nccl": _nccl, "host": lambda *_: "host"}[ASKED[asked[0]]](
        mpi, nccl, twin
    )


def _twin(device: np.ndarray) -> tuple[int, int] | None:
    """Two ranks with the same GPU."""
    first: dict[int, int] = {}
    for rank, one in enumerate(device.tolist()):
        if one in first:
            return first[one], rank
        first[one] = rank
    return None


def _best(mpi: np.ndarray, nccl: np.ndarray, twin: tuple[int, int] | None) -> str:
    if np.all(mpi == 1):
        return "mpi"
    return "nccl" if np.all(nccl == 1) and twin is None else "host"


def _mpi(mpi: np.ndarray, nccl: np.ndarray, twin: tuple[int, int] | None) -> str:
    """MPI, as it was asked for: also where it does not say what it can."""
    without = np.flatnonzero(mpi == 0)
    if len(without):
        raise ValueError(
            f"transport: got 'mpi', but that of rank {without[0]} says that it takes no memory of "
            "a GPU. Start one built with CUDA, with its CUDA support on, or pass 'auto'."
        )
    return "mpi"


def _nccl(mpi: np.ndarray, nccl: np.ndarray, twin: tuple[int, int] | None) -> str:
    without = np.flatnonzero(nccl != 1)
    if len(without):
        raise ValueError(
            f"transport: got 'nccl', but CuPy finds no NCCL on rank {without[0]}. Install it, for "
            "CUDA 13 with `pip install nvidia-nccl-cu13`, or pass 'auto'."
        )
    if twin is not None:
        raise ValueError(
            f"transport: got 'nccl', but ranks {twin[0]} and {twin[1]} use the same GPU, which "
            "NCCL refuses. Give each its own, with cupy.cuda.Device(local_rank).use() before "
            "params are made, or pass 'auto'."
        )
    return "nccl"


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


def _of_mpi(comm: Any) -> int:
    takes = takes_gpu_memory(comm)
    return -1 if takes is None else int(takes)


def has_nccl() -> bool:
    """Whether CuPy has an NCCL that sends and receives."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # CuPy's, that it finds no library
        try:
            from cupy.cuda import nccl
        except ImportError:
            return False
        # send and receive came with 2.7
        return bool(nccl.available) and nccl.get_version() >= 2700


def _identity(device: int) -> int:
    """A number that no other GPU of the program has: of the machine's name and the bus."""
    import cupy

    name = f"{socket.gethostname()}/{cupy.cuda.runtime.deviceGetPCIBusId(device)}"
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:7], "little")


def _nccl_communicator(ranks: Ranks) -> Any:
    """A communicator of NCCL over the same ranks. Collective."""
    from cupy.cuda import nccl

    words, error = np.zeros(129, np.int64), None
    if ranks.rank == 0:
        try:
            made = nccl.get_unique_id()  # bytes, before CuPy 14 a tuple of numbers
            words[0], words[1:] = isinstance(made, bytes), list(made)
        except Exception as raised:
            error = raised
    ranks.agree(error, "transport")
    is_bytes, *numbers = ranks.gather(words)[0].tolist()
    comm, error = None, None
    try:
        comm = nccl.NcclCommunicator(
            ranks.size, bytes(numbers) if is_bytes else tuple(numbers), ranks.rank
        )
    except Exception as raised:
        error = raised
    ranks.agree(error, "transport")
    return comm
