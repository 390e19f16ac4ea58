"""Parameters that all ranks hold: what has to be the same on all of them."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np

from numadam._arrays import checks as ar
from numadam._arrays.interop import is_cupy, to_host
from numadam._mpi.errors import RankError
from numadam._mpi.ranks import Ranks
from numadam._mpi.windows import Window, window_of

Made = TypeVar("Made")


def together(ranks: Ranks, what: str, make: Callable[[], Made]) -> Made:
    """Call a function of this rank's arguments; where one rank raises, all do. Collective."""
    try:
        made = make()
    except Exception as error:
        ranks.agree(error, what)
        raise  # not reached: `agree` raises it
    ranks.agree(None, what)
    return made


def check_leaves(leaves: Sequence[Any], names: Sequence[str]) -> None:
    """Refuse parameters of other types, dtypes and memory orders.

    Raises
    ------
    TypeError, ValueError
        With the name of the array.
    """
    if leaves and is_cupy(leaves[0]):
        from numadam._mpi.on_device import check_device_leaves

        check_device_leaves(leaves, names)
        return
    for leaf, name in zip(leaves, names, strict=True):
        if not ar.is_numpy(leaf):
            raise TypeError(f"{name}: {ar.describe(leaf, 'NumPy')}")
    ar.common_dtype(leaves, names)
    for leaf, name in zip(leaves, names, strict=True):
        if not leaf.flags.c_contiguous or not leaf.flags.aligned:
            raise ValueError(
                f"{name}: expected an array in C order, of which each rank steps a part. Use "
                "numpy.ascontiguousarray(x), and keep that as your array."
            )
        if not leaf.flags.writeable:
            raise ValueError(f"{name}: is read-only. Pass a writable array, e.g. a copy.")
    named = list(zip(names, leaves, strict=True))
    if problem := ar.shared_memory(named, named):
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
    word = zlib.crc32(repr(about).encode())
    rows = ranks.gather(np.array([word], np.int64))
    if (rows != rows[0]).any():
        other = int(np.flatnonzero(rows[:, 0] != rows[0, 0])[0])
        raise RankError(
            f"{what} differ between rank 0 and rank {other}. Pass the same on all ranks."
        )


def check_values(ranks: Ranks, leaves: Sequence[Any], names: Sequence[str]) -> None:
    """Refuse arrays whose bits differ between ranks, on all of them. Collective."""
    words = np.array([digest(leaf) for leaf in leaves], np.int64).reshape(-1)
    rows = ranks.gather(words)
    unlike = np.argwhere(rows != rows[0])
    if len(unlike):
        leaf = int(unlike[:, 1].min()) // 2
        rank = int(unlike[unlike[:, 1] // 2 == leaf][0, 0])
        raise RankError(
            f"{names[leaf]}: differs between rank 0 and rank {rank}. All ranks have to begin with "
            "the same parameters, e.g. comm.Bcast(x)."
        )


def digest(leaf: Any) -> tuple[int, int]:
    """Two sums over the bits of an array, at the speed of memory: no cryptographic hash."""
    raw = to_host(leaf).reshape(-1).view(np.uint8)
    whole = raw[: len(raw) // 8 * 8].view(np.uint64)
    rest = int.from_bytes(raw[len(whole) * 8 :].tobytes(), "little")
    exclusive = int(np.bitwise_xor.reduce(whole)) ^ rest
    total = (int(np.add.reduce(whole)) + rest) % 2**64
    return tuple(value - 2**63 for value in (exclusive, total))  # type: ignore[return-value]
