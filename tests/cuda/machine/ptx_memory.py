"""The memory of the PTX machine: what each thread may touch, and who came when.

* An access is aligned to all of its bytes, and lies in one allocation.
* What one thread writes no other thread of the launch reads or writes, unless they are of one
  block and it waited at a barrier between. In shared memory threads may write the same number.
* A block's or a thread's own memory is read where it has been written.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np

from tests.cuda.machine.ptx_parse import PtxError

#: The memory of this process from here on, as a kernel addresses it.
_LOWEST = 4096
_HIGHEST = 2**47


class MemoryFault(PtxError):
    """An access that hardware would refuse, or that leaves the arrays."""

    def __init__(self, lane: int, what: str) -> None:
        super().__init__(what)
        self.lane = lane


class Access(NamedTuple):
    """One instruction's numbers of one size in memory, for some threads."""

    places: np.ndarray  # in bytes
    values: np.ndarray | None  # None where they are read
    size: int
    lanes: np.ndarray
    epochs: np.ndarray
    pc: int


class Space:
    """A space of memory, as the threads of one launch see it.

    Parameters
    ----------
    spans : iterable of (address, bytes)
    memory : numpy.ndarray of uint8
    base : int
        Address of its first byte.
    strides : numpy.ndarray, optional
        By thread where its own or its block's copy of the memory begins.
    """

    def __init__(
        self, spans: Iterable[tuple[int, int]], memory: np.ndarray, base: int, strides: Any = None
    ) -> None:
        known = sorted(spans)
        # an empty span stands before them all, for addresses below
        self._low = np.array([0] + [low for low, _ in known], np.uint64)
        self._high = np.array([0] + [low + size for low, size in known], np.uint64)
        self._views = {size: memory.view(f"u{size}") for size in (1, 2, 4, 8)}
        self._base, self._strides = base, strides
        self.log: list[Access] = []
        self._written = np.zeros(len(memory), bool) if strides is not None else None

    def load(
        self, address: np.ndarray, size: int, count: int, lanes: Any, epochs: Any, pc: int
    ) -> list[np.ndarray]:
        """`count` neighbours of `size` bytes for each thread."""
        found = []
        for places in self._places(address, size, count, lanes):
            if self._written is not None:
                at = places[:, None] + np.arange(size)
                self._demand(self._written[at].all(axis=1), lanes, "reads what nobody wrote", at)
            self.log.append(Access(places, None, size, lanes, epochs, pc))
            found.append(self._views[size][places // size])
        return found

    def store(
        self, address: np.ndarray, values: list[np.ndarray], lanes: Any, epochs: Any, pc: int
    ) -> None:
        """Write one number of each of `values` side by side, for each thread."""
        size = values[0].itemsize
        places = self._places(address, size, len(values), lanes)
        for place, value in zip(places, values, strict=True):
            self.log.append(Access(place, value, size, lanes, epochs, pc))
            self._views[size][place // size] = value
            if self._written is not None:
                self._written[place[:, None] + np.arange(size)] = True

    def _demand(self, good: np.ndarray, lanes: np.ndarray, what: str, address: np.ndarray) -> None:
        if not good.all():
            k = int(np.argmin(good))
            raise MemoryFault(int(lanes[k]), f"{what}: address {np.ravel(address[k])[0]:#x}")

    def _places(self, address: np.ndarray, size: int, count: int, lanes: Any) -> list[np.ndarray]:
        """Place of each number in the memory, once all is checked."""
        whole = size * count
        self._demand(address % np.uint64(whole) == 0, lanes, f"{whole} bytes not aligned", address)
        span = np.searchsorted(self._low, address, side="right") - 1
        high = self._high[span]
        inside = (address < high) & (high - address >= whole)
        self._demand(inside, lanes, f"{whole} bytes outside of all arrays", address)
        first = address.astype(np.int64) - self._base
        if self._strides is not None:
            first = first + self._strides[lanes]
        return [first + k * size for k in range(count)]


def global_space(allocations: Iterable[tuple[int, int]]) -> Space:
    """The host's own memory, where it belongs to these arrays."""
    raw = (ctypes.c_char * (_HIGHEST - _LOWEST)).from_address(_LOWEST)
    return Space(allocations, np.frombuffer(raw, np.uint8), _LOWEST)


#: Bytes between two arrays of such memory, and before the first.
_GAP = 64


def own_space(
    arrays: dict[str, tuple[int, int]], copy_of: np.ndarray
) -> tuple[Space, dict[str, int]]:
    """Memory of which each block or thread has a copy of its own, and where its arrays begin."""
    begins, end = {}, _GAP
    for name, (size, align) in arrays.items():
        begins[name] = -(-end // align) * align
        end = begins[name] + size + _GAP
    end = -(-end // 16) * 16
    spans = [(begins[name], size) for name, (size, _) in arrays.items()]
    memory = np.zeros(end * (int(copy_of[-1]) + 1), np.uint8)
    return Space(spans, memory, 0, copy_of.astype(np.int64) * end), begins


# --- races ----------------------------------------------------------------------------------------


def _grains(log: list[Access], grain: int) -> dict[str, np.ndarray]:
    """Every access as grains of so many bytes."""
    columns: dict[str, list[np.ndarray]] = {}
    for one in log:
        n, parts = len(one.places), one.size // grain
        at = one.places[:, None] // grain + np.arange(parts)
        values = np.zeros((n, parts), f"u{grain}")
        if one.values is not None:
            values = np.ascontiguousarray(one.values).view(f"u{grain}").reshape(n, parts)
        row = {
            "at": at, "value": values, "lane": np.repeat(one.lanes, parts),
            "epoch": np.repeat(one.epochs, parts), "pc": np.full(n * parts, one.pc),
            "writes": np.full(n * parts, one.values is not None),
        }  # fmt: skip
        for name, column in row.items():
            columns.setdefault(name, []).append(column.ravel())
    return {name: np.concatenate(parts) for name, parts in columns.items()}


def race(
    log: list[Access], block_of: np.ndarray, alike_is_fine: bool
) -> tuple[int, int, int, int] | None:
    """Two threads and where each was in the program, if they raced."""
    if not any(one.values is not None for one in log):
        return None
    found = _grains(log, min(one.size for one in log))
    touched = np.isin(found["at"], found["at"][found["writes"]])
    found = {name: column[touched] for name, column in found.items()}
    block = block_of[found["lane"]]
    order = np.lexsort((found["lane"], found["epoch"], block, found["at"]))
    found, block = {name: column[order] for name, column in found.items()}, block[order]

    new = np.diff(found["at"], prepend=-1) != 0
    apart = _differ(block, new) & _any(found["writes"], new)
    if apart.any():
        return _pair(found, new, int(np.argmax(apart)), block)
    new |= (np.diff(block, prepend=-1) != 0) | (np.diff(found["epoch"], prepend=-1) != 0)
    apart = _differ(found["lane"], new) & _any(found["writes"], new)
    if alike_is_fine:
        apart &= _differ(found["value"], new) | _any(~found["writes"], new)
    return _pair(found, new, int(np.argmax(apart)), found["lane"]) if apart.any() else None


def _any(column: np.ndarray, new: np.ndarray) -> np.ndarray:
    return np.logical_or.reduceat(column, np.flatnonzero(new))


def _differ(column: np.ndarray, new: np.ndarray) -> np.ndarray:
    begins = np.flatnonzero(new)
    return np.minimum.reduceat(column, begins) != np.maximum.reduceat(column, begins)


def _pair(
    found: dict[str, np.ndarray], new: np.ndarray, group: int, by: np.ndarray
) -> tuple[int, int, int, int]:
    """A write of the group, and an access of another thread or block."""
    ends = [*np.flatnonzero(new), len(new)]
    rows = np.arange(ends[group], ends[group + 1])
    one = rows[np.argmax(found["writes"][rows])]
    other = rows[np.argmax(by[rows] != by[one])]
    return tuple(int(found[name][k]) for name in ("lane", "pc") for k in (one, other))
