"""`numadam.mpi.shared_array`: one array for all ranks of a node."""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
from mpi4py import MPI

from numadam._mpi.cut import share
from numadam._mpi.ranks import Ranks, ranks_of
from numadam._mpi.replicas import check_same, together
from numadam._mpi.windows import Local, Window, zero

#: The ranks of this node, of each communicator.
_nodes: WeakKeyDictionary[Ranks, Local] = WeakKeyDictionary()
_MAKING_ARRAY = "numadam.mpi.shared_array"


def shared_array(comm: Any, shape: int | Sequence[int], dtype: Any = float) -> np.ndarray:
    """Make an array of zeros that all ranks of `comm` on one machine share.

    What one rank writes the others read, as soon as both have passed a barrier. Passed to
    `Sharded`, such arrays exist once on each machine, and each rank steps a part of them in place.

    Collective: all ranks of `comm` call it, with the same shape and dtype.

    Parameters
    ----------
    comm : mpi4py.MPI.Intracomm
        Its ranks on one machine share an array; with several machines each has its own.
    shape : int or sequence of int
    dtype : dtype, default float

    Returns
    -------
    numpy.ndarray
        A plain array in C order. Copies and pickles of it are private. Its memory is freed when
        all ranks have dropped it: at the next call for the same communicator, when that is freed,
        or at exit.

    Raises
    ------
    TypeError
        Where `comm` is no communicator of mpi4py, or the dtype holds objects.
    MemoryError
        Where shared memory has no room (known on Linux 5.14 and newer).
    RankError
        Where another rank failed, or passed another shape or dtype.

    Notes
    -----
    The sum of the parameters' memory is limited by that of shared memory (on Linux
    ``/dev/shm``), which containers often set to 64 MB: start them with more
    (``docker run --shm-size=8g``).

    One array, filled by one rank::

        comm = MPI.COMM_WORLD
        x = na.mpi.shared_array(comm, (1000, 1000), np.float32)
        if comm.rank == 0:
            x[...] = start
        comm.Barrier()
        opt = na.mpi.Sharded(na.Adam, x, comm, lr=1e-3)
    """
    ranks = ranks_of(comm)
    wanted, kind = together(ranks, _MAKING_ARRAY, lambda: (_lengths(shape), _numbers(dtype)))
    check_same(ranks, (wanted, kind.str, kind.descr), f"{_MAKING_ARRAY}: shape or dtype")
    local = _nodes.get(ranks)
    if local is None:
        local = Local(ranks.comm.Split_type(MPI.COMM_TYPE_SHARED, ranks.rank))
        _nodes[ranks] = local
        ranks.on_close(local.close)
    nbytes = math.prod(wanted) * kind.itemsize
    window, memory = together(ranks, _MAKING_ARRAY, lambda: _zeros(local, nbytes))
    window.sync()
    array: np.ndarray = memory.view(kind).reshape(wanted)
    return array


def _zeros(local: Local, nbytes: int) -> tuple[Window, np.ndarray]:
    """Memory of all ranks of a node. Collective; a barrier has to follow."""
    place, size = local.comm.rank, local.comm.size
    window = Window(local, nbytes if place == 0 else 0)
    memory = window.segment(0, nbytes)
    # each rank touches the part that it will step, which then lies near its processor
    low, high = share(0, nbytes, place, size)
    zero(memory[low:high])
    window.sync()
    return window, memory


def _lengths(shape: Any) -> tuple[int, ...]:
    try:
        wanted = tuple(map(operator.index, [shape] if np.ndim(shape) == 0 else shape))
    except TypeError:
        raise TypeError(f"shape: expected whole numbers, got {shape!r:.80}.") from None
    if min(wanted, default=0) < 0:
        raise ValueError(f"shape: expected lengths >= 0, got {wanted}.")
    return wanted


def _numbers(dtype: Any) -> np.dtype:
    kind: np.dtype = np.dtype(dtype)
    if kind.hasobject:
        raise TypeError("dtype: objects cannot be shared; use a dtype of numbers.")
    return kind
