"""Compiled loops of a step on the CPU."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable
from typing import Any

import numpy as np
from numba import float64, int64, prange

from numadam._core.element import make_element_update
from numadam._core.plan import CHECKED, OUT, G, P, Plan
from numadam._core.scalars import make_scalars, width_of
from numadam._cpu import norm_kernel as norms
from numadam._cpu import records as abi
from numadam._cpu.denormals import SETTLE_MEMORY, make_settle, settle
from numadam._cpu.parts import (
    factors_of,
    find_leaf,
    leaves_of,
    make_advance,
    make_fill,
    make_leaf_views,
    make_prefetch,
    make_row_at,
    make_scalars_of,
    make_step_of,
    part_of,
)
from numadam._cpu.records import META, NDARRAY
from numadam._cpu.validate import (
    AFTER_STEP,
    BEFORE_STEP,
    CHECK,
    NEEDS_ROWS,
    NEEDS_WORK,
    NORMS_AGAIN,
    OK,
    OVERLAP,
    SELF_OVERLAP,
    VALIDATE,
    dims_of,
    note_span,
    spans_of,
    validate,
)
from numadam._jit.functions import linked, release_gil, take_gil
from numadam._jit.loops import (
    PARALLEL,
    SERIAL,
    CompiledLoop,
    callback_address,
    compiled_loop,
)
from numadam._jit.pointers import array_at, array_of, call_c4, call_c6, load64, record_at

# --- arrays whose memory order differs from the parameter's --------------------------------------
# They are gathered into dense work arrays before a step, and what the step wrote is scattered after
# it.

#: stage, addresses of META and ids, id of an array, its slot and leaf -> status
HANDLE = int64(int64, int64, int64, int64, int64, int64)


@linked
def _check(meta, o, slot, j, written):
    """Check an array that is not dense; note its address, strides and work array."""
    array, leaf, item = record_at(o, NDARRAY), leaves_of(meta)[j], meta.item[slot]
    nd, place, strides = leaf.ndim, leaf.place, array.strides
    if written and abi.overlaps_itself(array.shape, strides, nd, item):
        return SELF_OVERLAP
    if leaf.work[slot] == 0:
        return NEEDS_WORK
    leaf.source[slot] = array.data
    leaf.address[slot] = leaf.work[slot]
    dims = dims_of(meta)
    for k in range(nd):
        dims[place + (2 + slot) * nd + k] = load64(strides + 8 * k)
    meta.strided += 1
    low, high = abi.bounds(o, item)
    note_span(meta, written, low, high)
    return OK


@linked
def _move(stage, meta, ids, grad_id, only_out):
    """Gather every strided array into its work array before a step, scatter it after."""
    leaves, dims = leaves_of(meta), dims_of(meta)
    for slot in range(CHECKED):
        if slot == OUT if stage == BEFORE_STEP else (slot == G or (slot == P and only_out)):
            continue
        for j in range(meta.count):
            leaf = leaves[j]
            present = ids[slot, j] != meta.absent[slot] or (slot == G and grad_id != 0)
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


def handle(stage, meta_at, ids_at, o, slot, j):
    """Check one strided array (CHECK), gather all (BEFORE_STEP), or scatter them (AFTER_STEP).

    `o` is the array to be checked, and otherwise the only gradient or 0.
    """
    meta = record_at(meta_at, META)
    ids = array_at(ids_at, (CHECKED, meta.count), np.int64)
    only_out = ids[OUT, 0] != meta.absent[OUT]
    if stage == CHECK:
        return _check(meta, o, slot, j, slot != G and not (slot == P and only_out))
    _move(stage, meta, ids, o, only_out)
    return OK


# --- search for overlap among many arrays --------------------------------------------------------

#: address of META -> OK or OVERLAP
SEARCH = int64(int64)

_order_of = array_of(META, "order", np.dtype(np.int64), ("spans_size", 0))


@linked
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


def search(meta_at):
    """OVERLAP where two written arrays, or a written one and one that is read, may share bytes."""
    meta = record_at(meta_at, META)
    spans, order, count = spans_of(meta), _order_of(meta), meta.written
    low, high = spans.low, spans.high
    if meta.sorted != count:
        for k in range(count):
            order[k] = k
        meta.sorted = count
    _sort(low, order, count)
    for k in range(1, count):
        if high[order[k - 1]] > low[order[k]]:
            return OVERLAP
    for k in range(meta.spans_size - meta.read, meta.spans_size):
        first, last = low[k], high[k]
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


# --- the CPU loop --------------------------------------------------------------------------------
# Loops hold no arithmetic: that is in `make_element_update` and in the rule's formula. Rules
# hold no loop.
#
# The iterations of all leaves are numbered through, leaf j's from ``leaves[j].start`` on, and cut
# into parts of ``meta.part``. A part is one thread's work, and may cross from one leaf into the
# next: a thousand small arrays are a few parts, one large array is many::
#
#     leaves   |    0    |0|    2         |  3  |
#     parts    |  0  |  1  |  2  |  3  |  4  |

#: addresses of META and ids, id of the only gradient, known_disjoint, lr -> status (see
#: `validate`). Two addresses instead of two arrays spare a call 0.15 us.
STEP = int64(int64, int64, int64, int64, float64)

#: Iterations from which a step lets other Python threads run (2 us on). Below, waiting for the
#: GIL again would cost more than they could do meanwhile.
_RELEASE_FROM = 5_000

#: Rows of a sparse gradient by which their memory is asked for ahead: where they are scattered, the
#: loop over 10,000 of 16 numbers takes 0.6 ms instead of 1.1.
_ROWS_AHEAD = 16


def make_run(plan: Plan) -> Any:
    """The innermost loop, over contiguous elements: serial, and vectorised by the compiler."""
    update = make_element_update(plan, linked)

    def run(n, p, g, s0, s1, s2, out, average, low, high, rate, h, k):
        # counts from 0: a loop from `low` to `high` does not vectorise (8x slower)
        for i in range(n):
            update(i, p, g, s0, s1, s2, out, average, low, high, rate, h, k)

    # a call would push 70 words: 0.1 us for each of many arrays
    return linked(run, forceinline=True)


def _make_part(plan: Plan, run: Any, out: bool) -> Any:
    """``part(q, meta_at)``: `run` over the iterations of part q, then `make_settle`.

    All that `run` needs is read from memory into locals of this one function: for all that the
    compiler knows, the stores of `run` may change what lies behind an address, and one load of it
    inside the loop would stop the loop from vectorising. `h` and `k` are tuples of scalars, the
    views are pointers.
    """
    scalars, width = make_scalars(plan), width_of(plan)
    scalars_of, views = make_scalars_of(width), make_leaf_views(plan, out)
    prefetch = make_prefetch(plan)
    each, row_at = plan.norm == "array" or plan.by_row, make_row_at(plan)
    free, step_of = make_settle(plan, out), make_step_of(plan)

    def part(q, meta_at):
        meta = record_at(meta_at, META)
        count, size, leaves, factors = meta.count, meta.part, leaves_of(meta), factors_of(meta)
        rows = scalars_of(meta)
        low, end = part_of(q, size, leaves[count].start)
        j = find_leaf(leaves.start, count, low)
        r = leaves[j].group
        h, k = scalars(rows[r], factors[0, j], factors[1, j])
        while low < end:
            leaf, after = leaves[j], leaves[j + 1].start
            n = (end if end < after else after) - low
            e = low - leaf.start
            i = e  # of the parameter, while e is of its gradient
            if leaf.rows != 0:  # a sparse gradient: one of its rows at a time
                length = leaf.width
                inside = e % length
                n = n if n < length - inside else length - inside
                number = leaf.rows + 8 * (e // length)
                i = load64(number) * length + inside
                if e + _ROWS_AHEAD * length < after - leaf.start:
                    later = load64(number + 8 * _ROWS_AHEAD) * length
                    prefetch(leaf, later)
                    prefetch(leaf, later + length - 1)
            if each or leaf.group != r:  # 0.1 us less for each of many arrays
                r = leaf.group
                row = array_at(row_at(meta, leaf, e), width, np.float64)
                h, k = scalars(row, factors[0, j], factors[1, j])
            p, g, s0, s1, s2, to, average, lo, hi, rate = views(leaf, i, e, n)
            run(n, p, g, s0, s1, s2, to, average, lo, hi, rate, h, k)
            free(meta, leaf, i, n, step_of(meta, leaf, e))
            low += n
            j += low == after

    return linked(part)


def make_steps(plan: Plan, out: bool) -> tuple[Callable[..., Any], ...]:
    """The whole compiled step in every form: validation, scalars, norm, every part, t.

    An element depends on nothing but its own values and the norm, which is formed in blocks of
    fixed size, so neither the parts nor the threads change a bit.

    With `out` the step writes its direction, and leaves the parameters.
    """
    part = _make_part(plan, make_run(plan), out)
    fill, advance = make_fill(plan), make_advance(plan)
    normed, by_row = plan.norm != "", plan.by_row
    norm_part = finalize_norms = part
    if normed:
        norm_part = norms.make_norm(plan)
        finalize_norms = norms.make_finalize_norms(plan)
    # a call, for Numba moves a parallel loop past an assignment to a field: it sees no array there
    begin_norms = linked(norms.begin_norms)

    def make_step(form: str) -> Callable[..., Any]:
        each = prange if form == PARALLEL else range

        # one function: Numba spreads a prange over threads only in what it compiles as parallel.
        # Inside a prange stands an address, no record: it would be copied into each thread.
        def step(meta_at, ids_at, grad_id, known_disjoint, lr):
            meta = record_at(meta_at, META)
            status = call_c4(meta.validator, meta_at, ids_at, grad_id, known_disjoint)
            if status != OK:
                return status
            home = record_at(meta.home, META)
            if by_row and (leaves_of(meta)[0].table == 0 or meta.steps != home.steps):
                return NEEDS_ROWS
            last = leaves_of(meta)[meta.count]
            total, size = last.start, meta.part
            parts = (total + size - 1) // size
            chunks = (last.first_block + norms.CHUNK - 1) // norms.CHUNK
            if normed:
                begin_norms(meta_at)
            fill(meta_at, lr)
            thread = release_gil() if total >= _RELEASE_FROM else 0
            if normed:
                status = NORMS_AGAIN
                while status == NORMS_AGAIN:
                    for q in each(chunks):
                        norm_part(int64(q), meta_at)
                    status = finalize_norms(meta_at)
            if status == OK:
                for q in each(parts):
                    part(int64(q), meta_at)
                if meta.strided != 0:
                    call_c6(meta.strided_arrays, AFTER_STEP, meta_at, ids_at, grad_id, 0, 0)
                advance(meta_at)
            if total >= _RELEASE_FROM:
                take_gil(thread)
            return status

        step.__qualname__ = f"{plan.name}.{form}.step"
        return step

    return make_step(SERIAL), make_step(PARALLEL)


# --- the compiled functions of the CPU -----------------------------------------------------------


#: Functions that a step calls by their addresses, by the field of META, and `sum_up`: name in the
#: kernel cache, function, signature.
_C_FUNCTIONS: dict[str, tuple[str, Callable[..., Any], Any]] = {
    "validator": ("validate", validate, VALIDATE),
    "overlap_search": ("overlap", search, SEARCH),
    "strided_arrays": ("strided", handle, HANDLE),
    "settle": ("settle", settle, SETTLE_MEMORY),
    "sum_up": ("sum_up", norms.sum_up, norms.SUM_UP),
}


@functools.cache
def code_address(field: str) -> int:
    """The address of one of `_C_FUNCTIONS`; compiled or loaded at the first call."""
    name, function, signature = _C_FUNCTIONS[field]
    return callback_address(function, signature, name, "_cpu")


@functools.cache
def validator() -> Callable[[int, int, int, int], int]:
    """The compiled validation, for a call from Python."""
    # PYFUNCTYPE keeps the GIL: no other thread can change a header meanwhile
    return ctypes.PYFUNCTYPE(ctypes.c_int64, *[ctypes.c_int64] * 4)(code_address("validator"))


def compiled_step(plan: Plan, out: bool = False) -> CompiledLoop:
    """The compiled steps of a plan: options that do not change it share code.

    Those with `out` are compiled separately: few ever use them, and both together take 0.3 s more.
    """
    name = f"{plan.name}-out" if out else plan.name
    return compiled_loop(name, lambda: make_steps(plan, out), STEP)
