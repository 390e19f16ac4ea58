"""Addresses of the arrays of a step in a table, and ranges of bytes that must not meet."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
from numba import from_dtype, int64, types

from numadam._cpu.loop import AT, IN_TABLE
from numadam._jit.build import compiled

#: Leaves whose addresses one call notes: a call takes 0.1 us.
TOGETHER = 4


def _note(x, block, word, span, size):  # type: ignore[no-untyped-def]  # Numba types it
    first, item = x.ctypes.data, x.itemsize
    if x.size != size or (size > 1 and x.strides[0] != item) or first % min(item, 8) != 0:
        return False
    block[word] = first
    if size > 0:
        block[span], block[span + 1] = first, first + item * size
    return True


def _apart(block, order, written):  # type: ignore[no-untyped-def]  # Numba types it
    for k in range(1, written):  # in order after the first time
        place, j = order[k], k
        while j > 0 and block[order[j - 1]] > block[place]:
            order[j] = order[j - 1]
            j -= 1
        order[j] = place
    for k in range(1, written):
        if block[order[k - 1] + 1] > block[order[k]]:
            return False
    for k in range(written, len(order)):
        first, last = block[order[k]], block[order[k] + 1]
        low, high = 0, written  # the first written range that ends behind the first byte
        while low < high:
            middle = (low + high) // 2
            if block[order[middle] + 1] <= first:
                low = middle + 1
            else:
                high = middle
        if low < written and first < last and block[order[low]] < last:
            return False
    return True


@functools.cache
def noter(dtypes: tuple[np.dtype[Any], ...], leaves: int = 1) -> Callable[..., int]:
    """``note(block, word, width, span, sizes, leaf, order, written, *arrays) -> at``.

    It notes so many leaves of a `StepMemory.block`, which have arrays of one axis and these dtypes:
    their addresses in the table, of which a row of `width` words begins in `word`, and the ranges
    of their bytes from word `span` on. Returns 0 where the length of an array is not that of
    `sizes`, from `leaf` on, or its elements do not lie one behind the other. Reading an address
    from Python takes 4 times as long.

    Where `written` is not 0, these are the last arrays: 0, too, where one of the first so many
    ranges of `order`, the words in which they begin, meets any other of it; else the address of the
    frame. Empty ranges are 0, 0. These first ranges are sorted in place by their first byte.
    """
    count = len(dtypes)
    names = [f"x{k}" for k in range(count * leaves)]
    places = [
        f"word + {k // count} * width + {k % count}, span + {2 * k}, sizes[leaf + {k // count}]"
        for k in range(count * leaves)
    ]
    notes = [f"write({x}, block, {at})" for x, at in zip(names, places, strict=True)]
    text = f"""\
def note(block, word, width, span, sizes, leaf, order, written, {", ".join(names)}):
    if not ({" and ".join(notes)}):
        return 0
    if written and not apart(block, order, written):
        return 0
    block[{AT.table}], block[{AT.only}] = block.ctypes.data + {8 * len(AT)}, {IN_TABLE}
    return block.ctypes.data
"""
    words = types.Array(types.int64, 1, "C")
    arrays = [types.Array(from_dtype(dtype), 1, "A", readonly=True) for dtype in dtypes]
    numbers = words, int64, int64, int64, words, int64, words, int64
    signature = int64(*numbers, *arrays * leaves)
    scope = {"write": _note, "apart": _apart}
    name = f"note-{len(names)}-{dtypes[0].name}"
    return compiled(name, text, scope, signature, entry="note", nogil=False)


def meet(written: list[tuple[int, int]], read: list[tuple[int, int]]) -> bool:
    """Whether a range of bytes that is written meets another one; empty ranges are 0, 0.

    For arrays of any strides, before an exact comparison.
    """
    end_of_written = end = 0
    ranges = [(*span, True) for span in written] + [(*span, False) for span in read]
    for low, high, is_written in sorted(ranges):
        if low < high and (low < end_of_written or (is_written and low < end)):
            return True
        end = max(end, high)
        end_of_written = max(end_of_written, high if is_written else 0)
    return False
