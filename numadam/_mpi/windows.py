"""Memory that the ranks of a machine share, and copies of parameters that they check."""

from __future__ import annotations

import ctypes
import errno
import math
import mmap
import operator
import os
import sys
import weakref
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
from mpi4py import MPI

from numadam._arrays import checks as ar
from numadam._arrays.interop import is_cupy, to_host
from numadam._mpi.cut import share
from numadam._mpi.ranks import RankError, Ranks, digest, first_unlike, ranks_of

# --- memory that the ranks of a node share -------------------------------------------------------
# To free a window is collective: all ranks of the node have to call it together. Arrays are
# collected when their owner drops them, at another moment on each rank, so the next `Window` on the
# same communicator asks which ones all ranks have dropped, and frees those. What is left at exit
# goes with the processes: a rank that waited there for the others would wait for ever for one that
# raised.

#: Bytes of a page, and of a cache line. Segments of different ranks lie on different pages; a rank
#: that is alone may get memory that begins anywhere.
_MAPPED, _ALIGNED = 4_096, 64


class Local:
    """Ranks that share memory, and their windows. Each knows the same, in the same order.

    `comm` is a communicator of the library's own, which `close` frees; `group` are its ranks, also
    then. `entries` are windows of MPI that are not freed, each with a weak reference to its
    `Window`.
    """

    def __init__(self, comm: MPI.Intracomm) -> None:
        self.comm, self.group = comm, comm.Get_group()
        self.entries: list[tuple[MPI.Win, weakref.ref[Window]]] = []

    def free_unused(self) -> None:
        """Free the windows that no rank uses any more. Collective."""
        used = np.array([user() is not None for _, user in self.entries], np.int8)
        self.comm.Allreduce(MPI.IN_PLACE, used, MPI.MAX)
        for entry, still in zip(list(self.entries), used, strict=True):
            if not still:
                window, _ = entry
                window.Unlock_all()
                window.Free()
                self.entries.remove(entry)

    def close(self) -> None:
        """Free what can be, and the communicator. Collective; windows in use stay for ever."""
        self.free_unused()
        self.comm.Free()


class Window:
    """Shared memory, a segment of zeros for each rank of a node. Making one is collective.

    `nbytes` are those of this rank's own segment.
    """

    def __init__(self, local: Local, nbytes: int) -> None:
        local.free_unused()
        self.local = local
        info = MPI.Info.Create({"alloc_shared_noncontig": "true"})
        # a multiple of a page: neighbouring segments share no cache line
        size = -(-(nbytes + _ALIGNED) // _MAPPED) * _MAPPED
        self._window = MPI.Win.Allocate_shared(size, 1, info, local.comm)
        info.Free()
        # one epoch from now to the end: loads and stores are all that is done in it
        self._window.Lock_all(MPI.MODE_NOCHECK)
        local.entries.append((self._window, weakref.ref(self)))

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
    """
    if sys.platform == "linux" and memory.size:
        begin = memory.ctypes.data // mmap.PAGESIZE * mmap.PAGESIZE
        size = memory.ctypes.data + memory.size - begin
        libc = ctypes.CDLL(None, use_errno=True)
        failed = libc.madvise(ctypes.c_void_p(begin), ctypes.c_size_t(size), _POPULATE)
        if failed and ctypes.get_errno() in (errno.EFAULT, errno.ENOMEM):
            raise _no_room(memory.size)
    memory[:] = 0


def _no_room(nbytes: int) -> MemoryError:
    return MemoryError(
        f"shared memory: there is no room for {nbytes} bytes more. Containers often "
        "limit it to 64 MB: start them with more, e.g. docker run --shm-size=8g."
    )


def _check_room(nbytes: int) -> None:
    """Refuse more shared memory than is free: asked for page by page, it would fill the machine."""
    if sys.platform != "linux":
        return
    with suppress(OSError):  # no such folder: MPI finds another place
        place = os.statvfs("/dev/shm")
        if nbytes > place.f_bavail * place.f_frsize:
            raise _no_room(nbytes)


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


# --- nodes ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Nodes:
    """The ranks of a communicator as nodes of equally many ranks."""

    local: Local | None  # the ranks of this node, where they are several
    across: Any  # communicator of the ranks of this number on every node, by node
    node: int  # number of this node
    place: int  # of this rank on it
    count: int  # of nodes
    each: int  # of ranks on each


def nodes_of(ranks: Ranks, window: Window | None) -> Nodes:
    """The nodes of a communicator: the ranks that share `window`, or each rank by itself.

    Collective. The number of a node follows from its first rank.
    """
    # each rank's node, named by its first rank, and what is wrong with it
    first, problem = ranks.rank, 0
    if window is not None:
        group, whole = window.local.group, ranks.comm.Get_group()
        numbers = MPI.Group.Translate_ranks(group, list(range(group.size)), whole)
        whole.Free()
        problem = int(MPI.UNDEFINED in numbers)
        first = min(numbers)
    rows = ranks.gather(np.array([first, problem, window is None], np.int64))
    if rows[:, 1].any():
        raise ValueError(
            "params: lie in a shared array of other ranks than those of comm. Make it with "
            "numadam.mpi.shared_array(comm, ...) of the same communicator, or of parts of it."
        )
    leaders, sizes = np.unique(rows[:, 0], return_counts=True)
    if len(set(rows[:, 2])) > 1 or len(set(sizes)) > 1:
        raise ValueError(
            f"comm: expected equally many ranks on each node, got {sizes.tolist()}. Start as many "
            "ranks on every node, or use plain arrays as params."
        )
    key = "nodes", rows.tobytes()
    if key not in ranks.made:
        ranks.made[key] = _split(ranks, leaders.tolist(), rows[:, 0].tolist())
    nodes: Nodes = ranks.made[key]
    return nodes


def _split(ranks: Ranks, leaders: list[int], firsts: list[int]) -> Nodes:
    comm, me = ranks.comm, ranks.rank
    node, place = leaders.index(firsts[me]), firsts[:me].count(firsts[me])
    each = len(firsts) // len(leaders)
    # a communicator that is not needed would cost memory on each of many ranks
    if each == 1:
        return Nodes(None, comm, node, place, len(leaders), each)
    local, across = Local(comm.Split(node, me)), comm.Split(place, node)
    ranks.on_close(local.close)
    ranks.on_close(across.Free)
    return Nodes(local, across, node, place, len(leaders), each)


# --- parameters that all ranks hold --------------------------------------------------------------


def check_leaves(leaves: Sequence[Any], names: Sequence[str]) -> None:
    """Refuse parameters of other types, dtypes, memory orders and GPUs."""
    named = list(zip(names, leaves, strict=True))
    on_gpu = bool(leaves) and is_cupy(leaves[0])
    if on_gpu:
        from numadam._cuda import arrays as ca

        ca.check_params(leaves, names)
    else:
        ar.check_params(leaves, names)
    for name, leaf in named:
        if not leaf.flags.c_contiguous or not (on_gpu or leaf.flags.aligned):
            raise ValueError(
                f"{name}: expected an array in C order, of which each rank steps a part. Use "
                f"{'cupy' if on_gpu else 'numpy'}.ascontiguousarray(x), and keep that as your "
                "array."
            )
        if not on_gpu and not leaf.flags.writeable:
            raise ValueError(f"{name}: is read-only. Pass a writable array, e.g. a copy.")
    if on_gpu:
        ca.check_overlap(named, [])
    elif problem := ar.shared_memory(named, named):
        raise ValueError(problem)


def common_window(leaves: Sequence[Any], names: Sequence[str]) -> Window | None:
    """The window of the first array; None for plain ones. All have to be of the same ranks."""
    windows = [window_of(leaf) for leaf in leaves]
    first = windows[0]
    for window, name in zip(windows, names, strict=True):
        if (window is None) != (first is None):
            alone, other = (name, names[0]) if window is None else (names[0], name)
            raise ValueError(
                f"{alone}: is a plain array, but {other} is shared by the ranks of this machine. "
                "Make all of them with numadam.mpi.shared_array, or none."
            )
        if window is not None and first is not None and window.local is not first.local:
            raise ValueError(
                f"{name}: is shared by other ranks than {names[0]}. Make all of them with the same "
                "communicator."
            )
    return first


def check_same(ranks: Ranks, about: tuple[Any, ...], what: str) -> None:
    """Refuse arguments that differ between ranks, on all of them. Collective."""
    word = digest(repr(about).encode(errors="backslashreplace"))
    differ = first_unlike(ranks.gather(np.array([word], np.int64)))
    if differ is not None:
        _, rank = differ
        raise RankError(
            f"{what} differ between rank 0 and rank {rank}. Pass the same on all ranks."
        )


def check_values(ranks: Ranks, leaves: Sequence[Any], names: Sequence[str]) -> None:
    """Refuse arrays whose bits differ between ranks, on all of them. Collective."""
    words = np.array([digest_of_array(leaf) for leaf in leaves], np.int64).reshape(-1)
    differ = first_unlike(ranks.gather(words))
    if differ is not None:
        column, rank = differ
        raise RankError(
            f"{names[column // 2]}: differs between rank 0 and rank {rank}. All ranks have to "
            "begin with the same parameters, e.g. comm.Bcast(x)."
        )


def digest_of_array(leaf: Any) -> tuple[int, int]:
    """Two sums over the bits of an array, at the speed of memory: no cryptographic hash."""
    raw = to_host(leaf).reshape(-1).view(np.uint8)
    whole = raw[: len(raw) // 8 * 8].view(np.uint64)
    rest = int.from_bytes(raw[len(whole) * 8 :].tobytes(), "little")
    exclusive = int(np.bitwise_xor.reduce(whole)) ^ rest
    total = (int(np.add.reduce(whole)) + rest) % 2**64
    return tuple(value - 2**63 for value in (exclusive, total))  # type: ignore[return-value]


# --- `numadam.mpi.shared_array` ------------------------------------------------------------------

_MAKING_ARRAY = "numadam.mpi.shared_array"


def shared_array(comm: Any, shape: int | Sequence[int], dtype: Any = float) -> np.ndarray:
    """Make an array of zeros that all ranks of `comm` on one machine share.

    The other ranks can read what one rank writes after both have passed a barrier. Passed to
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
        If `comm` is not a communicator of mpi4py, or the dtype holds objects.
    MemoryError
        If shared memory has no room (known on Linux 5.14 and newer).
    RankError
        If another rank failed, or passed another shape or dtype.

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
    with ranks.all_or_none(_MAKING_ARRAY):
        wanted, kind = _checked(shape, dtype)
    check_same(ranks, (wanted, kind.str, kind.descr), f"{_MAKING_ARRAY}: shape or dtype")
    if "local" not in ranks.made:
        local = Local(ranks.comm.Split_type(MPI.COMM_TYPE_SHARED, ranks.rank))
        ranks.made["local"] = local
        ranks.on_close(local.close)
    with ranks.all_or_none(_MAKING_ARRAY):
        window, array = _zeros(ranks.made["local"], wanted, kind)
    window.sync()
    return array


def _zeros(local: Local, shape: tuple[int, ...], dtype: np.dtype) -> tuple[Window, np.ndarray]:
    """An array of all ranks of a node. Collective; a barrier has to follow."""
    nbytes, place = math.prod(shape) * dtype.itemsize, local.comm.rank
    window = Window(local, nbytes if place == 0 else 0)
    memory = window.segment(0, nbytes)
    # each rank touches the part that it will step, which then lies near its processor
    low, high = share(0, nbytes, place, local.comm.size)
    zero(memory[low:high])
    window.sync()
    return window, memory.view(dtype).reshape(shape)


def _checked(shape: Any, dtype: Any) -> tuple[tuple[int, ...], np.dtype]:
    try:
        wanted = tuple(map(operator.index, [shape] if np.ndim(shape) == 0 else shape))
    except TypeError:
        raise TypeError(f"shape: expected whole numbers, got {shape!r:.80}.") from None
    if min(wanted, default=0) < 0:
        raise ValueError(f"shape: expected lengths >= 0, got {wanted}.")
    kind: np.dtype = np.dtype(dtype)
    if kind.hasobject:
        raise TypeError("dtype: objects cannot be shared; use a dtype of numbers.")
    _check_room(math.prod(wanted) * kind.itemsize)
    return wanted, kind
