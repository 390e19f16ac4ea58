"""Sum of the gradients of several ranks, formed in a step, a few elements at a time.

A pass of its own would write the sum to memory and read it again, and one through a buffer in the
cache would leave the memory idle while it steps: blocks are as small as what the processor reads
ahead. The sum is formed in the order of the ranks, that of this node's ranks for itself::

    (before[0] + before[1] + ...) + (own[0] + own[1] + ...) + after[0] + after[1] + ...
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from llvmlite import ir
from numba import int64, types
from numba.extending import intrinsic

from numadam._arrays.layout import address_of
from numadam._cpu.records import ADDING, META, NUMBER
from numadam._jit.functions import linked
from numadam._jit.pointers import array_at, record_at, view_of

#: Bytes of a block of gradients.
BLOCK = 2_048

#: address of META, of the own gradient, first number, numbers, place of the sum, 0 -> 0
ADD = int64(int64, int64, int64, int64, int64, int64)


@intrinsic
def block_memory(typingctx: Any) -> Any:
    """The address of a block on the stack, with room for a shift by one element."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        with builder.goto_entry_block():
            memory = builder.alloca(ir.ArrayType(ir.IntType(8), BLOCK + 64))
            memory.align = 64
        return builder.ptrtoint(memory, ir.IntType(64))

    return types.int64(), codegen


def make_adder(dtype: np.dtype) -> Callable[..., int]:
    """The function that sums up a block of real numbers of this dtype."""
    view, item = view_of(dtype), dtype.itemsize

    def first_two(to, one, other):
        for i in range(to.size):
            to[i] = one[i] + other[i]

    def one_more(to, other):
        for i in range(to.size):
            to[i] += other[i]

    two, more = linked(first_two), linked(one_more)

    def add_all(to, n, total, sources, first, last, skip):
        """Add sources to a total, which may lie elsewhere at first; where it lies then."""
        for k in range(first, last):
            if total == 0:
                total = sources[k] + skip
            elif total == to:
                more(view(to, n), view(sources[k] + skip, n))
            else:
                two(view(to, n), view(total, n), view(sources[k] + skip, n))
                total = to
        return total

    add = linked(add_all)

    def adder(meta_at, own_at, low, n, to, _):
        table = record_at(record_at(meta_at, META).adding, ADDING)
        begin = table.before
        middle, end = begin + table.own, begin + table.own + table.after
        sources, skip = array_at(table.sources, end, NUMBER), (low - table.first) * item
        total = add(to, n, int64(0), sources, int64(0), begin, skip)
        own = own_at
        if table.own > 0:
            apart = block_memory() if begin > 0 else to
            own = add(apart, n, int64(0), sources, begin, middle, skip)
        if total == 0:
            total = own
        elif total == to:
            more(view(to, n), view(own, n))
        else:
            two(view(to, n), view(total, n), view(own, n))
            total = to
        total = add(to, n, total, sources, middle, end, skip)
        numbers = view(to, n)
        if total != to:
            given = view(total, n)
            for i in range(n):
                numbers[i] = given[i]
        if table.divisor != 1.0:
            divisor = dtype.type(table.divisor)
            for i in range(n):
                numbers[i] /= divisor
        return 0

    return adder


class Adding:
    """Addresses of the gradients that a step adds up, for compiled code.

    Parameters
    ----------
    divisor : int
        By which the sum is divided.
    """

    def __init__(self, divisor: int) -> None:
        self._record = np.zeros(1, ADDING)
        self._record["divisor"] = divisor
        self._sources: list[np.ndarray] = []
        self._addresses = np.zeros(1, np.int64)

    @property
    def address(self) -> int:
        """The address of the record."""
        return address_of(self._record)

    def set(
        self,
        first: int,
        before: Sequence[np.ndarray],
        own: Sequence[np.ndarray],
        after: Sequence[np.ndarray],
    ) -> None:
        """Take the gradients from iteration `first` of a step on, by node.

        `own` is empty where this node has one rank, whose gradients the leaves are bound to. The
        arrays are flat, have to live until the step is done, and are those of real numbers.
        """
        self._sources = [*before, *own, *after]
        self._addresses = np.array([*map(address_of, self._sources), 0], np.int64)
        record = self._record
        record["before"], record["own"], record["after"] = len(before), len(own), len(after)
        record["first"], record["sources"] = first, address_of(self._addresses)

    def pair(
        self, grads: np.ndarray, starts: np.ndarray, stride: int
    ) -> tuple[np.ndarray, np.ndarray] | None:
        """The addresses of each leaf's gradients, where they are two and their sum is taken.

        A loop reads two arrays faster than a sum in blocks. `starts` are the leaves' first
        iterations, `stride` the bytes between two.
        """
        record = self._record[0]
        leafwise = record["own"] == 0
        if len(self._sources) + leafwise != 2 or record["divisor"] != 1.0:
            return None
        item = self._sources[0].real.itemsize
        begins = starts * stride - int(record["first"]) * item
        flat = [address + begins for address in self._addresses[:-1]]
        if leafwise:
            flat.insert(int(record["before"]), grads)
        return flat[0], flat[1]
