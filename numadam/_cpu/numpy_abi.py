"""NumPy's array headers, read in compiled code: where an array lies and how.

An ``ndarray`` is a C struct whose first fields belong to NumPy's fixed ABI (`records.NDARRAY`).
Reading them in compiled code checks a thousand arrays in 5 us; the same checks in Python take
220 us, ``a.ctypes.data`` alone 1000 us.
"""

from __future__ import annotations

import ctypes

import numpy as np

from numadam._cpu.records import DESCR, NDARRAY, offset_of
from numadam._jit.functions import linked
from numadam._jit.pointers import (
    load16,
    load32,
    load64,
    record_at,
    store16,
    store32,
    store64,
)

_KIND = offset_of(DESCR, "kind")

#: Bits of ``flags``.
ALIGNED, WRITEABLE = 0x100, 0x400


def kind_of(dtype: np.dtype) -> int:
    """The 8 bytes of a dtype that tell native dtypes apart, as compiled code reads them."""
    return ctypes.c_int64.from_address(id(dtype) + _KIND).value


@linked
def bounds(o, item):
    """Lowest address and one past the highest; (0, 0) for an array without elements."""
    array = record_at(o, NDARRAY)
    shape, strides, low = array.shape, array.strides, array.data
    high = low + item
    for k in range(array.ndim):
        n, stride = load64(shape + 8 * k), load64(strides + 8 * k)
        if n == 0:
            return 0, 0
        if stride < 0:
            low += (n - 1) * stride
        else:
            high += (n - 1) * stride
    return low, high


@linked
def overlaps_itself(shape, strides, nd, item):
    """Whether two elements may share bytes (windows, broadcasts): such an array is not written.

    They may not where each stride is longer than all the axes with shorter strides together.
    """
    for k in range(nd):
        stride = abs(load64(strides + 8 * k))
        reach = item
        for i in range(nd):
            other = abs(load64(strides + 8 * i))
            if other < stride or (other == stride and i < k):
                reach += (load64(shape + 8 * i) - 1) * other
        if load64(shape + 8 * k) > 1 and stride < reach:
            return True
    return False


@linked
def copy(data, shape, order, strides, nd, item, work, into_work):
    """Copy elements of any strides to a dense array, in the given order of axes, or back."""
    rows, length, stride = 1, 1, item
    if nd > 0:
        length, stride = shape[order[nd - 1]], strides[order[nd - 1]]
    for k in range(nd - 1):
        rows *= shape[order[k]]
    for row in range(rows):
        where, rest = data, row
        for k in range(nd - 2, -1, -1):
            n = shape[order[k]]
            where += (rest % n) * strides[order[k]]
            rest //= n
        there = work + item * row * length
        if into_work:
            _copy_row(there, item, where, stride, length, item)
        else:
            _copy_row(where, stride, there, item, length, item)


@linked
def _copy_row(to, to_stride, of, of_stride, length, item):
    for i in range(length):
        there, here = to + to_stride * i, of + of_stride * i
        if item == 4:
            store32(there, load32(here))
        elif item == 8:
            store64(there, load64(here))
        elif item == 2:
            store16(there, load16(here))
        else:  # complex128
            store64(there, load64(here))
            store64(there + 8, load64(here + 8))
