"""Memory that Python and compiled code share: every record is declared here, once.

A record is a NumPy dtype. Python writes ``meta["count"]``, compiled code
``record_at(address, META).count``, which is one load. A step gets two addresses, `META` and the
ids of its arrays, and finds everything else from there::

    META ──► leaves      CPU_LEAF[count + 1]; the last ends `start` and `first_block`
         ├─► dims        int64: of each leaf shape, order of axes, and strides of each checked slot
         ├─► spans       SPAN[spans_size]: the ranges a step writes; from the end those it reads
         ├─► control     float64[groups, columns]: the control block, written by Python
         ├─► scalars     float64[groups, width]: what the step computes from it
         ├─► factors     float64[3, count + 1]: clip factor in two steps, norm; last of all leaves
         ├─► partials    int64[blocks, 2]: a partial sum for each block of each gradient
         ├─► sums        int64[norms, ranks, 2]: in their place, a sum of each process for each norm
         └─► products    float64[groups, n]: see `products`; they follow META, then the state
"""

from __future__ import annotations

from typing import Any

import numpy as np

from numadam._core.plan import CHECKED, SLOTS

#: A field's type: an address is a number, too, but says where to read on.
NUMBER, POINTER = np.dtype(np.int64), np.dtype(np.int64)

#: Of an optimiser. The counters are last: they, the running products and the state arrays
#: lie in one block, so that loading a state is one copy, from `steps` on.
META = np.dtype(
    [
        ("count", NUMBER),  # leaves
        ("groups", NUMBER),  # groups, the rows of the control block
        ("part", NUMBER),  # iterations of the loop in one parallel part
        ("ndarray", POINTER),  # type object of numpy.ndarray
        ("absent", POINTER, CHECKED),  # id that stands for no array, of each checked slot
        ("kind", NUMBER, CHECKED),  # dtype of each checked slot, see `numpy_abi.kind_of`
        ("item", NUMBER, CHECKED),  # bytes of an element of each checked slot
        ("validator", POINTER),  # machine code of `validate`
        ("pool", POINTER),  # of the threads that a pooled step runs in
        ("threads", NUMBER),  # so many of them
        ("overlap_search", POINTER),  # of `overlap.search`, 0 until many arrays need it
        ("strided_arrays", POINTER),  # of `strided.handle`, 0 until an array needs it
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
        ("every", NUMBER),  # gradients in a mean
        ("flushing", NUMBER),  # 1 where a mean is cut short
        ("guard", NUMBER),  # policy for gradients that are not finite: PROPAGATE, RAISE or SKIP
        ("steps", NUMBER),  # steps taken
        ("calls", NUMBER),  # gradients in the sum
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


def offset_of(record: np.dtype[Any], field: str) -> int:
    """Bytes from the begin of a record to a field."""
    fields: Any = record.fields
    return int(fields[field][1])


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
