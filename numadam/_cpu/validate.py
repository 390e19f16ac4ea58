"""Validation of the arrays of a step, in compiled code: each array, at every step, in one call.

Nothing that was read at an earlier step is trusted: type, dtype, flags, shape, strides, address
and overlap of every array are read anew. Arrays whose memory order differs from the parameter's
go through work arrays, which are kept. Validation runs under the GIL, so that no thread can
change a header meanwhile; the step uses only what was noted here.

One compiled function for all rules and dtypes. Steps call it through its address: linked into
each step it would be compiled again with it. Two parts of it are compiled when first needed, since
most processes never do: `kernel.handle` for strided arrays, `kernel.search` for many.
"""

from __future__ import annotations

import numpy as np
from numba import int64

from numadam._core.plan import CHECKED, OUT, G, P
from numadam._cpu import records as abi
from numadam._cpu.parts import leaves_of
from numadam._cpu.records import DESCR, META, NDARRAY, SPAN
from numadam._jit.functions import linked
from numadam._jit.pointers import array_at, array_of, call_c1, call_c6, load64, record_at

# --- status: 0, or what + 16 * (slot + 8 * leaf) ------------------------------------------------
OK, BAD_TYPE, BAD_DTYPE, READ_ONLY, BAD_SHAPE, NEEDS_WORK, SELF_OVERLAP, OVERLAP = range(8)
#: not from validation, but from the step: its guard found a gradient that is not finite
NOT_FINITE = 8
#: `meta.overlap_search` or `meta.strided_arrays` has to be set first
NEEDS_SEARCH, NEEDS_STRIDED = 9, 10
#: from the step: its exchange with other processes failed
EXCHANGE_FAILED = 11
#: inside a step: some exponents of norms are new, so the partial sums are formed once more. The
#: greatest number: of several norms it is what counts
NORMS_AGAIN = 12

#: from the step: rows with counts of their own need their scalars, of the steps taken so far
NEEDS_ROWS = 13

#: Written spans up to which pairs are compared, without a search.
PAIRS = 16

#: Stages of `kernel.handle`: check one array, gather all before a step, scatter all after it.
CHECK, BEFORE_STEP, AFTER_STEP = range(3)

#: addresses of META and ids, id of the only gradient, known_disjoint -> status
VALIDATE = int64(int64, int64, int64, int64)

#: ``dims_of(meta)``, ``spans_of(meta)``: see `records`.
dims_of = array_of(META, "dims", np.dtype(np.int64), ("dims_size", 0))
spans_of = array_of(META, "spans", SPAN, ("spans_size", 0))


def unpack_status(status: int) -> tuple[int, int, int]:
    """(what, slot, leaf) of a status."""
    return status % 16, status // 16 % 8, status // 128


@linked
def note_span(meta, written, low, high):
    """Note the bytes of an array: the written ones from the front, the others from the end."""
    spans = spans_of(meta)
    if written:
        k = meta.written
        meta.written = k + 1
    else:
        meta.read += 1
        k = meta.spans_size - meta.read
    span = spans[k]
    span.low = low
    span.high = high


@linked
def _check_array(o, slot, leaf, written, meta):
    """Check one header; note where the array lies. NEEDS_STRIDED: `kernel.handle` has to go on."""
    array = record_at(o, NDARRAY)
    if array.type != meta.ndarray and array.type != leaf.subtype:
        return BAD_TYPE
    if record_at(array.descr, DESCR).kind != meta.kind[slot]:
        return BAD_DTYPE
    flags = array.flags
    if written and flags & abi.WRITEABLE == 0:
        return READ_ONLY
    nd, dims = leaf.ndim, dims_of(meta)[leaf.place :]
    if array.ndim != nd:
        return BAD_SHAPE
    shape, strides, size, dense = array.shape, array.strides, meta.item[slot], True
    for k in range(nd - 1, -1, -1):
        axis = dims[nd + k]
        n = load64(shape + 8 * axis)
        if n != dims[axis]:
            return BAD_SHAPE
        if n != 1:
            dense = dense and load64(strides + 8 * axis) == size
            size *= n
    if size != 0 and not (dense and flags & abi.ALIGNED != 0):
        return NEEDS_STRIDED
    low = array.data
    leaf.address[slot] = low
    if size == 0:
        low = 0
    note_span(meta, written, low, low + size)
    return OK


@linked
def _check_pairs(meta):
    """OVERLAP where two written arrays, or a written one and one that is read, may share bytes."""
    spans, size, written = spans_of(meta), meta.spans_size, meta.written
    for i in range(written):
        low, high = spans[i].low, spans[i].high
        for k in range(i + 1, written + meta.read):
            other = spans[k if k < written else size + written - 1 - k]
            if low < other.high and other.low < high:
                return OVERLAP
    return OK


@linked
def _check(meta_at, ids_at, grad_id, known_disjoint):
    """Check all arrays, slot by slot, then the memory that they cover."""
    meta = record_at(meta_at, META)
    count, leaves = meta.count, leaves_of(meta)
    ids = array_at(ids_at, (CHECKED, count), np.int64)
    only_out = count > 0 and ids[OUT, 0] != meta.absent[OUT]  # the parameters are then only read
    meta.strided = 0
    meta.written = meta.fixed
    meta.read = 0
    for slot in range(CHECKED):
        written, absent = slot != G and not (slot == P and only_out), meta.absent[slot]
        for j in range(count):
            o = grad_id if slot == G and grad_id != 0 else ids[slot, j]
            if o == absent:
                continue
            what = _check_array(o, slot, leaves[j], written, meta)
            if what == NEEDS_STRIDED and meta.strided_arrays != 0:
                what = call_c6(meta.strided_arrays, CHECK, meta_at, ids_at, o, slot, j)
            if what != OK:
                return what + 16 * (slot + 8 * j)
    if known_disjoint != 0:
        return OK
    if meta.written <= PAIRS:
        return _check_pairs(meta)
    if meta.overlap_search == 0:
        return NEEDS_SEARCH
    return call_c1(meta.overlap_search, meta_at)


def validate(meta_at, ids_at, grad_id, known_disjoint):
    """Check all arrays and gather the strided ones.

    ``ids[slot, leaf]`` is the object address of an array: ``meta.absent[slot]`` where its owner
    has fixed the data's address in the leaf, or where there is none. `grad_id` is the only
    gradient's, by value: no signal handler can change it. `known_disjoint` says that Python has
    compared arrays whose bounds overlap and found no shared element.
    """
    status = _check(meta_at, ids_at, grad_id, known_disjoint)
    meta = record_at(meta_at, META)
    if status == OK and meta.strided != 0:
        call_c6(meta.strided_arrays, BEFORE_STEP, meta_at, ids_at, grad_id, 0, 0)
    return status
