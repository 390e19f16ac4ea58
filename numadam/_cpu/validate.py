"""The door of the compiled step: every array of a step is checked here, each time, in one call.

Nothing that was read at an earlier step is trusted: type, dtype, flags, shape, strides, address
and overlap of every array are looked at again. Arrays whose memory order differs from the
parameter's go through kept work arrays. Entering happens under the GIL, so that no thread can
change a header meanwhile; what follows uses only what was noted here.

One compiled function for all rules and dtypes. Steps call it through its address: linked into
each step it would be compiled again with it (2 s more for a step).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import carray, int64, types
from numba.extending import intrinsic

from numadam._core.plan import CHECKED, OUT, SLOTS, G, P
from numadam._cpu import numpy_abi as abi
from numadam._jit.pointers import as_pointer, inner, load32, load64

# --- the table: int64 blocks of one optimiser, so that a step passes few arguments --------------
# `meta`: scalars, the addresses of the other blocks, and last the counters, so that they lie
# beside the state and are loaded with it in one copy
COUNT, NDARRAY, PART, FIXED, STRIDED, SORTED, TABLE, DIMS, NDIMS, SPANS, NSPANS, DOOR = range(12)
# control block and its number of rows, running products and scalars of each row, clip factors,
# partial sums
CONTROL, GROUPS, PRODUCTS, SCALARS, FACTORS, PARTIALS = range(12, 18)
# gradients of a mean, what to do about one that is not finite, whether a mean is cut short
EVERY, GUARD, FLUSHING = range(18, 21)
KIND, ITEM = 24, 32  # of each checked slot: dtype, bytes of an element
# steps taken, gradients in the sum, steps skipped in all and in a row
STEPS, CALLS, SKIPPED, IN_A_ROW = range(60, 64)
META = 64
# rows of the table, COUNT + 1 long: first turn of the loop, number of axes, place in `dims`,
# subclass, row of the control block, rows of a sparse gradient (address) and their length, first
# partial sum and scale of the norm; then for each slot the address that the loop uses, and for
# each slot that is checked the work array and where the data lie
START, ND, PLACE, SUBTYPE, ROW, INDEX, WIDTH, BLOCK, EXPONENT = range(9)
ADDRESS = 9
WORK = ADDRESS + SLOTS
SOURCE = WORK + CHECKED
ROWS = SOURCE + CHECKED
# `dims` has for each leaf: shape, order of axes, and noted strides of each slot
# rows of the spans: bounds of every array that a step writes, and their order at the last step
LOW, HIGH, ORDER = range(3)

# --- what the door answers: 0, or what + 16 * (slot + 8 * leaf) ---------------------------------
OK, BAD_TYPE, BAD_DTYPE, READ_ONLY, BAD_SHAPE, NEEDS_WORK, SELF_OVERLAP, OVERLAP = range(8)
NOT_FINITE = 8
#: what GUARD may hold
PROPAGATE, RAISE, SKIP = range(3)
ENTER, LEAVE = range(2)


def unpack_status(status: int) -> tuple[int, int, int]:
    """(what, slot, leaf) of an answer."""
    return status % 16, status // 16 % 8, status // 128


@inner
def _check_array(o, slot, j, written, meta, table, dims):
    """One header against the table; notes the address, or that of the work array."""
    kind = load64(o + abi.TYPE)
    if kind != meta[NDARRAY] and kind != table[SUBTYPE, j]:
        return BAD_TYPE
    if load64(load64(o + abi.DESCR) + abi.KIND) != meta[KIND + slot]:
        return BAD_DTYPE
    flags = load32(o + abi.FLAGS)
    if written and flags & abi.WRITEABLE == 0:
        return READ_ONLY
    nd, place, item = table[ND, j], table[PLACE, j], meta[ITEM + slot]
    if load32(o + abi.NDIM) != nd:
        return BAD_SHAPE
    shape, strides = load64(o + abi.SHAPE), load64(o + abi.STRIDES)
    for k in range(nd):
        if load64(shape + 8 * k) != dims[place + k]:
            return BAD_SHAPE
    table[ADDRESS + slot, j] = load64(o + abi.DATA)
    if flags & abi.ALIGNED != 0 and abi.is_dense(shape, strides, dims[place + nd :], nd, item):
        return OK
    if written and abi.overlaps_itself(shape, strides, nd, item):
        return SELF_OVERLAP
    if table[WORK + slot, j] == 0:
        return NEEDS_WORK
    table[SOURCE + slot, j] = table[ADDRESS + slot, j]
    table[ADDRESS + slot, j] = table[WORK + slot, j]
    for k in range(nd):
        dims[place + (2 + slot) * nd + k] = load64(strides + 8 * k)
    meta[STRIDED] += 1
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
def _find_overlap(meta, ids, g1, only_out, spans, count):
    """OVERLAP where two written arrays, or a written one and one that is read, may share bytes."""
    low, high, order = spans[LOW], spans[HIGH], spans[ORDER]
    if meta[SORTED] != count:
        for k in range(count):
            order[k] = k
        meta[SORTED] = count
    _sort(low, order, count)
    for k in range(1, count):
        if high[order[k - 1]] > low[order[k]]:
            return OVERLAP
    for slot in range(P if only_out else G, G + 1):
        for j in range(meta[COUNT]):
            o = g1 if slot == G and g1 != 0 else ids[slot, j]
            if o == 0:  # the constructor checks the parameters alone
                continue
            first, last = abi.bounds(o, meta[ITEM + slot])
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
def _check(meta, ids, g1, table, dims, spans, apart):
    leaves = meta[COUNT]
    only_out = leaves > 0 and ids[OUT, 0] != 0  # the parameters are then only read
    meta[STRIDED] = 0
    count = meta[FIXED]
    for slot in range(CHECKED):
        written = slot != G and not (slot == P and only_out)
        for j in range(leaves):
            o = g1 if slot == G and g1 != 0 else ids[slot, j]
            if o == 0:
                if slot == OUT:
                    table[ADDRESS + OUT, j] = 0
                continue
            what = _check_array(o, slot, j, written, meta, table, dims)
            if what != OK:
                return what + 16 * (slot + 8 * j)
            if written:
                spans[LOW, count], spans[HIGH, count] = abi.bounds(o, meta[ITEM + slot])
                count += 1
    return OK if apart != 0 else _find_overlap(meta, ids, g1, only_out, spans, count)


@inner
def _move_strided(stage, meta, ids, g1, table, dims):
    """Gather every strided array into its work array on entering, scatter it on leaving."""
    only_out = ids[OUT, 0] != 0
    for slot in range(CHECKED):
        if slot == OUT if stage == ENTER else (slot == G or (slot == P and only_out)):
            continue
        for j in range(meta[COUNT]):
            present = ids[slot, j] != 0 or (slot == G and g1 != 0)
            work = table[WORK + slot, j]
            if present and work != 0 and table[ADDRESS + slot, j] == work:
                nd, place = table[ND, j], table[PLACE, j]
                abi.copy(
                    table[SOURCE + slot, j],
                    dims[place:],
                    dims[place + nd :],
                    dims[place + (2 + slot) * nd :],
                    nd,
                    meta[ITEM + slot],
                    work,
                    stage == ENTER,
                )


#: stage, addresses of meta and ids, object address of the only gradient, apart -> status
SIGNATURE = int64(int64, int64, int64, int64, int64)


def door(stage, meta_at, ids_at, g1, apart):
    """Check all arrays and gather the strided ones (ENTER), or scatter them (LEAVE).

    ``ids[slot, leaf]`` is the object address of an array: 0 where its owner has fixed the
    address in the table, or where there is none. `g1` is the only gradient's, by value: no
    signal handler can change it. `apart` says that Python has looked at arrays whose bounds
    overlap and found no shared element.
    """
    meta = carray(as_pointer(meta_at), META, np.int64)
    count = meta[COUNT]
    ids = carray(as_pointer(ids_at), (CHECKED, count), np.int64)
    table = carray(as_pointer(meta[TABLE]), (ROWS, count + 1), np.int64)
    dims = carray(as_pointer(meta[DIMS]), meta[NDIMS], np.int64)
    spans = carray(as_pointer(meta[SPANS]), (3, meta[NSPANS]), np.int64)
    if stage == ENTER:
        status = _check(meta, ids, g1, table, dims, spans, apart)
        if status != OK:
            return status
    if meta[STRIDED] != 0:
        _move_strided(stage, meta, ids, g1, table, dims)
    return OK


@intrinsic
def call_validator(
    typingctx: Any, address: Any, stage: Any, meta: Any, ids: Any, g1: Any, apart: Any
) -> Any:
    """Call the door at `address` from compiled code."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        word = ir.IntType(64)
        function = ir.FunctionType(word, [word] * 5).as_pointer()
        return builder.call(builder.inttoptr(args[0], function), args[1:])

    return types.int64(*[types.int64] * 6), codegen
