"""Validation of the arrays of a step, in compiled code: each array, at every step, in one call.

Nothing that was read at an earlier step is trusted: type, dtype, flags, shape, strides, address
and overlap of every array are read anew. Arrays whose memory order differs from the parameter's
go through work arrays, which are kept. Validation runs under the GIL, so that no thread can
change a header meanwhile; the step uses only what was noted here.

One compiled function for all rules and dtypes. Steps call it through its address: linked into
each step it would be compiled again with it (2 s more for a step).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import carray, int64, types
from numba.extending import intrinsic

from numadam._core.plan import CHECKED, OUT, G, P
from numadam._cpu import numpy_abi as abi
from numadam._cpu.records import CPU_LEAF, DESCR, META, NDARRAY, SPAN
from numadam._jit.pointers import as_pointer, inner, load64, record_at

# --- status: 0, or what + 16 * (slot + 8 * leaf) ------------------------------------------------
OK, BAD_TYPE, BAD_DTYPE, READ_ONLY, BAD_SHAPE, NEEDS_WORK, SELF_OVERLAP, OVERLAP = range(8)
#: not from validation, but from the step: its guard found a gradient that is not finite
NOT_FINITE = 8

#: policies of a guard
PROPAGATE, RAISE, SKIP = range(3)

#: when `validate` is called: to check and gather, or to scatter what was written
BEFORE_STEP, AFTER_STEP = range(2)

#: stage, addresses of META and ids, id of the only gradient, known_disjoint -> status
VALIDATE = int64(int64, int64, int64, int64, int64)


def unpack_status(status: int) -> tuple[int, int, int]:
    """(what, slot, leaf) of a status."""
    return status % 16, status // 16 % 8, status // 128


@inner
def _check_array(o, slot, leaf, written, meta, dims):
    """Check one header; note the array's address in the leaf, or that of its work array."""
    array = record_at(o, NDARRAY)
    if array.type != meta.ndarray and array.type != leaf.subtype:
        return BAD_TYPE
    if record_at(array.descr, DESCR).kind != meta.kind[slot]:
        return BAD_DTYPE
    flags = array.flags
    if written and flags & abi.WRITEABLE == 0:
        return READ_ONLY
    nd, place, item = leaf.ndim, leaf.place, meta.item[slot]
    if array.ndim != nd:
        return BAD_SHAPE
    shape, strides = array.shape, array.strides
    for k in range(nd):
        if load64(shape + 8 * k) != dims[place + k]:
            return BAD_SHAPE
    leaf.address[slot] = array.data
    if flags & abi.ALIGNED != 0 and abi.is_dense(shape, strides, dims[place + nd :], nd, item):
        return OK
    if written and abi.overlaps_itself(shape, strides, nd, item):
        return SELF_OVERLAP
    if leaf.work[slot] == 0:
        return NEEDS_WORK
    leaf.source[slot] = leaf.address[slot]
    leaf.address[slot] = leaf.work[slot]
    for k in range(nd):
        dims[place + (2 + slot) * nd + k] = load64(strides + 8 * k)
    meta.strided += 1
    return OK


@inner
def _sort(low, order, count):
    """Sort `order` by `low` (Shell's way), from the order of the last step: mostly one sweep."""
    gap = 0
    for k in range(1, count):
        if low[order[k - 1]] > low[order[k]]:
            gap = 1
            break
    while gap > 0 and gap < count // 3:
        gap = 3 * gap + 1
    while gap > 0:
        for k in range(gap, count):
            moving = order[k]
            i = k - gap
            while i >= 0 and low[order[i]] > low[moving]:
                order[i + gap] = order[i]
                i -= gap
            order[i + gap] = moving
        gap //= 3


@inner
def _find_overlap(meta, ids, grad_id, only_out, spans, count):
    """OVERLAP where two written arrays, or a written one and one that is read, may share bytes."""
    low, high = spans.low, spans.high
    order = carray(as_pointer(meta.order), meta.spans_size, np.int64)
    if meta.sorted != count:
        for k in range(count):
            order[k] = k
        meta.sorted = count
    _sort(low, order, count)
    for k in range(1, count):
        if high[order[k - 1]] > low[order[k]]:
            return OVERLAP
    for slot in range(P if only_out else G, G + 1):
        for j in range(meta.count):
            o = grad_id if slot == G and grad_id != 0 else ids[slot, j]
            if o == 0:  # the constructor checks the parameters alone
                continue
            first, last = abi.bounds(o, meta.item[slot])
            a, b = 0, count  # the first written span that ends behind the array's start
            while a < b:
                c = (a + b) // 2
                if high[order[c]] <= first:
                    a = c + 1
                else:
                    b = c
            if a < count and first < last and low[order[a]] < last:
                return OVERLAP
    return OK


@inner
def _check(meta, ids, grad_id, leaves, dims, known_disjoint):
    """Check all arrays, slot by slot, then the memory that they cover."""
    count = meta.count
    only_out = count > 0 and ids[OUT, 0] != 0  # the parameters are then only read
    spans = carray(as_pointer(meta.spans), meta.spans_size, SPAN)
    meta.strided = 0
    writes = meta.fixed
    for slot in range(CHECKED):
        written = slot != G and not (slot == P and only_out)
        for j in range(count):
            o = grad_id if slot == G and grad_id != 0 else ids[slot, j]
            if o == 0:
                if slot == OUT:
                    leaves[j].address[OUT] = 0
                continue
            what = _check_array(o, slot, leaves[j], written, meta, dims)
            if what != OK:
                return what + 16 * (slot + 8 * j)
            if written:
                spans[writes].low, spans[writes].high = abi.bounds(o, meta.item[slot])
                writes += 1
    if known_disjoint != 0:
        return OK
    return _find_overlap(meta, ids, grad_id, only_out, spans, writes)


@inner
def _move_strided(stage, meta, ids, grad_id, leaves, dims):
    """Gather every strided array into its work array before a step, scatter it after."""
    only_out = ids[OUT, 0] != 0
    for slot in range(CHECKED):
        if slot == OUT if stage == BEFORE_STEP else (slot == G or (slot == P and only_out)):
            continue
        for j in range(meta.count):
            leaf = leaves[j]
            present = ids[slot, j] != 0 or (slot == G and grad_id != 0)
            work = leaf.work[slot]
            if present and work != 0 and leaf.address[slot] == work:
                nd, place = leaf.ndim, leaf.place
                abi.copy(
                    leaf.source[slot],
                    dims[place:],
                    dims[place + nd :],
                    dims[place + (2 + slot) * nd :],
                    nd,
                    meta.item[slot],
                    work,
                    stage == BEFORE_STEP,
                )


def validate(stage, meta_at, ids_at, grad_id, known_disjoint):
    """Check all arrays and gather the strided ones (BEFORE_STEP), or scatter them (AFTER_STEP).

    ``ids[slot, leaf]`` is the object address of an array: 0 where its owner has fixed the data's
    address in the leaf, or where there is none. `grad_id` is the only gradient's, by value: no
    signal handler can change it. `known_disjoint` says that Python has compared arrays whose
    bounds overlap and found no shared element.
    """
    meta = record_at(meta_at, META)
    count = meta.count
    ids = carray(as_pointer(ids_at), (CHECKED, count), np.int64)
    leaves = carray(as_pointer(meta.leaves), count + 1, CPU_LEAF)
    dims = carray(as_pointer(meta.dims), meta.dims_size, np.int64)
    if stage == BEFORE_STEP:
        status = _check(meta, ids, grad_id, leaves, dims, known_disjoint)
        if status != OK:
            return status
    if meta.strided != 0:
        _move_strided(stage, meta, ids, grad_id, leaves, dims)
    return OK


@intrinsic
def call_validator(
    typingctx: Any, address: Any, stage: Any, meta: Any, ids: Any, grad: Any, disjoint: Any
) -> Any:
    """Call `validate` at its address from compiled code."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        word = ir.IntType(64)
        function = ir.FunctionType(word, [word] * 5).as_pointer()
        return builder.call(builder.inttoptr(args[0], function), args[1:])

    return types.int64(*[types.int64] * 6), codegen
