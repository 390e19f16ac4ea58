"""Choice of the transport for CuPy arrays: one for all ranks of a communicator.

MPI itself comes first, where it takes the memory of a GPU; then the memory of the host. What a rank
can do is found by asking its library, never by trying: an MPI without CUDA ends the process when it
meets such memory.
"""

from __future__ import annotations

import ctypes
import os
from typing import Any, get_args

import numpy as np

from numadam._core import choices
from numadam._mpi.ranks import Ranks
from numadam._mpi.transport import CudaAware, Direct, Staged

#: What a user may ask for.
ASKED: tuple[str, ...] = get_args(choices.Transport)
#: `MPIX_GPU_SUPPORT_CUDA` of MPICH and HPE Cray MPI.
_CUDA_SUPPORT = 0
#: Variables that switch it on in libraries that have no function to ask, by what their version
#: text contains. With the first, MPI does not start where it was built without CUDA.
_VARIABLES = {"CRAY MPICH": "MPICH_GPU_SUPPORT_ENABLED", "MVAPICH2": "MV2_USE_CUDA"}


def check_asked(asked: Any, home: str) -> None:
    """Check the option `transport`, for arrays of a library."""
    choices.check("transport", asked, choices.Transport)
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
