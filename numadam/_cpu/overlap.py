"""Overlap of the arrays of a step: addresses in a table, and ranges of bytes that must not meet."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
from numba import from_dtype, int64, types, void

from numadam._jit.build import compiled

#: What `meets` returns: no ranges meet; two do; `order` is not sorted.
APART, MEET, UNSORTED = range(3)

_TABLE, _WORDS = types.Array(types.int64, 2, "C"), types.Array(types.int64, 1, "C")


def _note(array, table, spans, leaf, column, place):
    first = array.ctypes.data
    table[leaf, column] = first
    if array.size > 0:
        spans[place, 0] = first
        spans[place, 1] = first + array.size * array.itemsize


def _meets(spans, order, written):
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


@functools.cache
def noter(dtype: np.dtype[Any]) -> Callable[..., None]:
    """``note(array, table, spans, leaf, column, place)`` for flat arrays of a dtype.

    The address of an array goes into a table, and the range of its bytes into `spans`, which is
    zero at first. Reading an address from Python takes 4 times as long.
    """
    flat = types.Array(from_dtype(dtype), 1, "C", readonly=True)
    signature = void(flat, _TABLE, _TABLE, int64, int64, int64)
    text = "def note(array, table, spans, leaf, column, place):\n"
    text += "    write(array, table, spans, leaf, column, place)\n"
    return compiled(f"note-{dtype.name}", text, {"write": _note}, signature, entry="note")


@functools.cache
def meets() -> Callable[..., int]:
    """``meets(spans, order, written)``: whether a range that is written meets any other one.

    The first `written` of `spans` are; `order` sorts them by their begin. Empty ranges are 0, 0.
    """
    text = "def meets(spans, order, written):\n    return find(spans, order, written)\n"
    signature = int64(_TABLE, _WORDS, int64)
    return compiled("overlap", text, {"find": _meets}, signature, entry="meets")


def sorted_by_begin(spans: np.ndarray, written: int) -> np.ndarray:
    """The order of the ranges that are written."""
    return np.argsort(spans[:written, 0], kind="stable")
