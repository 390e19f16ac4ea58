"""What the stop tests look at, in compiled code: the largest of many numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import carray

from numadam._core.norms import LANES, _scratch

#: Numbers from which they are compared in lanes, which the compiler packs: one after another they
#: wait for each other.
_LANES_FROM = 4 * LANES


def projected(i, x, g, low, high, lo, hi):
    """Element i of the projected gradient, ``x - clip(x - g, low, high)``; NaN stays."""
    d = g[i]
    if low is not None:
        lo, hi = low[i], high[i]
    if lo is not None:
        down, up = x[i] - lo, x[i] - hi
        d = down if d > down else d
        d = up if d < up else d
    return d


def moved(i, x, y, low, high, lo, hi):
    """How far element i has moved from y to x."""
    return x[i] - y[i]


def itself(i, x, y, low, high, lo, hi):
    """Element i."""
    return x[i]


def make_largest(element: Any, wrap: Any) -> Any:
    """``largest(n, x, y, low, high, lo, hi)``: the largest ``|element|``, NaN where one is."""
    one = wrap(element)

    def largest(n, x, y, low, high, lo, hi):
        top = 0.0
        at, left, row = np.uint64(0), np.uint64(n), np.uint64(LANES)
        if n >= _LANES_FROM:
            lanes = carray(_scratch(), LANES, np.float64)
            for i in range(LANES):
                lanes[i] = 0.0
            for _ in range(left // row):
                for i in range(row):
                    a, b = abs(np.float64(one(at + i, x, y, low, high, lo, hi))), lanes[i]
                    lanes[i] = a if a > b or a != a else b
                at += row
            left = left % row
            for i in range(LANES):
                a = lanes[i]
                top = a if a > top or a != a else top
        for i in range(left):
            a = abs(np.float64(one(at + i, x, y, low, high, lo, hi)))
            top = a if a > top or a != a else top
        return top

    return wrap(largest, forceinline=True)
