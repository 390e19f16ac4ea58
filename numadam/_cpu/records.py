"""Records that compiled loops read: memory of arrays, and the fields of NumPy's own objects."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np

from numadam._core.plan import CHECKED, SLOTS
from numadam._jit.functions import linked
from numadam._jit.pointers import (
    load32,
    load64,
    offset_of,
    record_at,
    store32,
    store64,
)

# --- memory that Python and compiled code share --------------------------------------------------
# A record is a NumPy dtype. Python writes ``meta["count"]``, compiled code
# ``record_at(address, META).count``, which is one load. A step gets two addresses, `META` and the
# ids of its arrays, and finds everything else from there::
#
#   META ──► leaves      CPU_LEAF[count + 1]; the last ends `start` and `first_block`
#        ├─► dims        int64: of each leaf shape, order of axes, and strides of each checked slot
#        ├─► spans       SPAN[spans_size]: the ranges a step writes; from the end those it reads
#        ├─► control     float64[groups, columns]: the control block, written by Python
#        ├─► scalars     float64[groups, width]: what the step computes from it
#        ├─► factors     float64[3, count + 1]: clip factor in two steps, norm; last of all leaves
#        ├─► partials    int64[blocks, 2]: a partial sum for each block of each gradient
#        ├─► sums        int64[norms, ranks, 2]: in their place, a sum of each process for each norm
#        └─► products    float64[groups, n]: see `_core/scalars.py`; they follow META, then state
#
# With ``count="row"`` a leaf has a table float64[distinct + 1, width + 1]: the scalars of a count,
# and last that count plus 1, the number of the step; the row behind is for products.

#: A field's type: an address is a number, too, but says where to read on.
NUMBER, POINTER = np.dtype(np.int64), np.dtype(np.int64)

#: Of an optimiser. The counters are last: they, the running products and the state arrays
#: lie in one block, so that loading a state is one copy, from `steps` on.
META = np.dtype(
    [
        ("home", POINTER),  # META itself; of one that serves a step of rows, that with the counters
        ("count", NUMBER),  # leaves
        ("groups", NUMBER),  # groups, the rows of the control block
        ("part", NUMBER),  # iterations of the loop in one parallel part
        ("ndarray", POINTER),  # type object of numpy.ndarray
        ("absent", POINTER, CHECKED),  # id that stands for no array, of each checked slot
        ("kind", NUMBER, CHECKED),  # dtype of each checked slot, see `kind_of`
        ("item", NUMBER, CHECKED),  # bytes of an element of each checked slot
        ("validator", POINTER),  # machine code of `validate`
        ("settle", POINTER),  # of `denormals.settle`
        ("overlap_search", POINTER),  # of `kernel.search`, 0 until many arrays need it
        ("strided_arrays", POINTER),  # of `kernel.handle`, 0 until an array needs it
        ("leaves", POINTER),
        ("dims", POINTER),
        ("dims_size", NUMBER),
        ("spans", POINTER),
        ("order", POINTER),  # order of the spans at the last step, by their begin
        ("spans_size", NUMBER),
        ("fixed", NUMBER),  # spans of the back end's own memory, at the front
        ("written", NUMBER),  # spans of this step
        ("read", NUMBER),
        ("sorted", NUMBER),  # spans in `order`, 0 before the first step
        ("strided", NUMBER),  # arrays of this step that go through a work array
        ("control", POINTER),
        ("scalars", POINTER),
        ("factors", POINTER),
        ("partials", POINTER),
        ("sums", POINTER),
        ("ranks", NUMBER),  # processes whose sums are added
        ("exchange", POINTER),  # fetches the sums of all processes, 0 where there is one alone
        ("products", POINTER),
        ("guard", NUMBER),  # policy for gradients that are not finite: PROPAGATE, RAISE or SKIP
        ("steps", NUMBER),  # steps taken
        ("skipped", NUMBER),  # steps that the guard skipped
        ("in_a_row", NUMBER),  # those of them since the last step taken
    ]
)

#: Of one parameter array.
CPU_LEAF = np.dtype(
    [
        ("start", NUMBER),  # first iteration of the loop over all leaves
        ("group", NUMBER),  # row of the control block
        ("ndim", NUMBER),
        ("place", NUMBER),  # first entry in `dims`
        ("subtype", POINTER),  # type object of the parameter, where it is a subclass of ndarray
        ("rows", POINTER),  # row numbers of a sparse gradient, 0 where it is dense
        ("width", NUMBER),  # iterations in one of these rows
        ("table", POINTER),  # scalars for each count of its rows, 0 where there are none
        ("distinct", NUMBER),  # different counts in it
        ("classes", POINTER),  # the place in it of each row of a sparse gradient
        ("marked", NUMBER),  # rows of the sparse gradient, where they are counted
        ("counts", POINTER),  # the steps of each row of the parameter, which the step counts
        ("first_block", NUMBER),  # first partial sum of the norm
        ("exponent", NUMBER),  # of the sum of squares, see `norms`
        ("address", POINTER, SLOTS),  # of each slot's array, as the loop reads or writes it
        ("work", POINTER, CHECKED),  # dense copy of a strided array, 0 where there is none
        ("source", POINTER, CHECKED),  # the strided array itself
    ]
)

#: Of the squares of a gradient in one process: the two words of a partial sum (see `norms`).
NORM_SUM = np.dtype([("high", NUMBER), ("low", NUMBER), ("exponent", NUMBER)])

#: Bytes of an array that a step writes: from `low` to before `high`; both 0 where it is empty.
SPAN = np.dtype([("low", POINTER), ("high", POINTER)])

# CPython's object head is longer in free-threaded builds.
_HEAD = object.__basicsize__


def _c_struct(**fields: tuple[type, int]) -> np.dtype[Any]:
    """A record of fields by name, each with its type and offset in bytes."""
    formats, offsets = zip(*fields.values(), strict=True)
    described: Any = {"names": list(fields), "formats": formats, "offsets": offsets}
    record: np.dtype[Any] = np.dtype(described)
    return record


#: NumPy's ``PyArrayObject``, as far as its ABI fixes it.
NDARRAY = _c_struct(
    type=(np.int64, _HEAD - 8),  # address of the type object
    data=(np.int64, _HEAD),  # address of the first element
    ndim=(np.int32, _HEAD + 8),
    shape=(np.int64, _HEAD + 16),  # address of int64[ndim]
    strides=(np.int64, _HEAD + 24),  # address of int64[ndim], in bytes
    descr=(np.int64, _HEAD + 40),  # address of the dtype object
    flags=(np.int32, _HEAD + 48),
)

#: Stands for no array among the arrays of a step: an object that no caller can hand over.
ABSENT = object()

#: Bytes from the begin of a tuple to its items, which are the ids of objects.
TUPLE_ITEMS = tuple.__basicsize__

#: NumPy's ``PyArray_Descr``: kind, type, byteorder, flags and type_num are 8 bytes together.
DESCR = _c_struct(kind=(np.int64, _HEAD + 8))


# --- NumPy's array headers -----------------------------------------------------------------------
# An ``ndarray`` is a C struct whose first fields belong to NumPy's fixed ABI (`records.NDARRAY`).
# Reading them in compiled code checks a thousand arrays in 5 us; the same checks in Python take
# 220 us, ``a.ctypes.data`` alone 1000 us.

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
        else:  # complex128
            store64(there, load64(here))
            store64(there + 8, load64(here + 8))
