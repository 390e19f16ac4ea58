"""Overlap of the arrays of a step: addresses in a table, and ranges of bytes that must not meet."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numba import boolean, from_dtype, int64, types

from numadam._jit.build import compiled

#: What `meets` returns: no ranges meet; two do; `order` is not sorted.
APART, MEET, UNSORTED = range(3)

_PAIRS, _LIST = types.Array(types.int64, 2, "C"), types.Array(types.int64, 1, "C")


def _note(x, table, spans, leaf, column, place, size):  # type: ignore[no-untyped-def]  # Numba types it
    first, item = x.ctypes.data, x.itemsize
    if x.size != size or (size > 1 and x.strides[0] != item) or first % min(item, 8) != 0:
        return False
    table[leaf, column] = first
    if size > 0:
        spans[place, 0], spans[place, 1] = first, first + item * size
    return True


def _meets(spans, order, written):  # type: ignore[no-untyped-def]  # Numba types it
    for k in range(1, written):
        if spans[order[k - 1], 0] > spans[order[k], 0]:
            return UNSORTED
    for k in range(1, written):
        if spans[order[k - 1], 1] > spans[order[k], 0]:
            return MEET
    for k in range(written, len(spans)):
        first, last = spans[k, 0], spans[k, 1]
        low, high = 0, written  # the first written range that ends behind the first byte
        while low < high:
            middle = (low + high) // 2
            if spans[order[middle], 1] <= first:
                low = middle + 1
            else:
                high = middle
        if low < written and first < last and spans[order[low], 0] < last:
            return MEET
    return APART


#: Leaves whose addresses one call notes: a call takes 0.1 us.
TOGETHER = 4


@functools.cache
def noter(dtype: np.dtype[Any]) -> Callable[..., bool]:
    """``note(p, g, p, g, ..., table, spans, sizes, leaf)`` for `TOGETHER` leaves from one on.

    It puts the addresses of arrays of one axis and this dtype into the first columns of a table,
    and the ranges of their bytes into `spans`, behind the first: those of the parameters, then
    those of the gradients. False where the length of an array is not that of `sizes`, or its
    elements do not lie one behind the other. Reading an address from Python takes 4 times as long.
    """
    names, notes = [], []
    for k in range(TOGETHER):
        names += [f"p{k}", f"g{k}"]
        at, size = f"leaf + {k}", f"sizes[leaf + {k}]"
        notes += [f"write(p{k}, table, spans, {at}, 0, 1 + {at}, {size})"]
        notes += [f"write(g{k}, table, spans, {at}, 1, 1 + len(sizes) + {at}, {size})"]
    text = f"def note({', '.join(names)}, table, spans, sizes, leaf):\n"
    text += f"    return {' and '.join(notes)}\n"
    signature = _signature((dtype,) * len(names), _LIST, int64)
    scope = {"write": _note}
    return compiled(f"note-{dtype.name}", text, scope, signature, entry="note", nogil=False)


def _apart(spans, written):  # type: ignore[no-untyped-def]  # Numba types it
    for i in range(len(spans)):
        for j in range(i):
            meet = spans[i, 0] < spans[j, 1] and spans[j, 0] < spans[i, 1]
            if meet and (written >> i | written >> j) & 1:
                return False
    return True


@functools.cache
def collector(dtypes: tuple[np.dtype[Any], ...]) -> Callable[..., bool]:
    """``collect(*arrays, table, spans, size, written)``: as `noter`, of all arrays of one leaf.

    They are the columns of a table. False, too, where one that is written (a bit of `written`)
    shares memory with another.
    """
    names = [f"x{k}" for k in range(len(dtypes))]
    notes = [f"write({x}, table, spans, 0, {k}, {k}, size)" for k, x in enumerate(names)]
    text = f"def collect({', '.join(names)}, table, spans, size, written):\n"
    text += f"    return {' and '.join(notes)} and apart(spans, written)\n"
    name = f"collect-{len(dtypes)}-{dtypes[0].name}"
    scope = {"write": _note, "apart": _apart}
    return compiled(
        name, text, scope, _signature(dtypes, int64, int64), entry="collect", nogil=False
    )


def _signature(dtypes: Sequence[np.dtype[Any]], *others: Any) -> Any:
    arrays = [types.Array(from_dtype(dtype), 1, "A", readonly=True) for dtype in dtypes]
    return boolean(*arrays, _PAIRS, _PAIRS, *others)


@functools.cache
def meets() -> Callable[..., int]:
    """``meets(spans, order, written)``: whether a range that is written meets any other one.

    The first `written` of `spans` are; `order` sorts them by their begin. Empty ranges are 0, 0.
    """
    text = "def meets(spans, order, written):\n    return find(spans, order, written)\n"
    signature = int64(_PAIRS, _LIST, int64)
    return compiled("overlap", text, {"find": _meets}, signature, entry="meets", nogil=False)
