"""The CPU loop, once, for every rule: over a table of arrays, a part of the elements at a time.

Loops hold no arithmetic: that is in `turn` and in the rule's ``element``. Rules hold no loop.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numba import carray, float64, int64, prange

from numadam._core import norms
from numadam._core import options as op
from numadam._core import plan as pl
from numadam._core.element import make_add, make_seen, make_turn
from numadam._core.plan import Plan
from numadam._cpu import validate as dr
from numadam._jit.functions import (
    find_leaf,
    make_advance,
    make_fill,
    make_scalars,
    make_views,
    release_gil,
    shared,
    take_gil,
    tiny,
    width_of,
)
from numadam._jit.pointers import as_pointer, load64

#: addresses of meta and ids, object address of the only gradient, apart, lr -> status (see
#: `door`). Two addresses instead of two arrays spare a call 0.15 us.
SIGNATURE = int64(int64, int64, int64, int64, float64)

#: Elements from which a step lets other Python threads run (2 us on). Below, waiting for the GIL
#: again would cost more than they could do meanwhile.
_RELEASE_FROM = 5_000
#: Blocks of a norm that a thread takes at a time.
_CHUNK = 64
#: What `settle` finds.
_SETTLED, _AGAIN, _NOT_FINITE = range(3)


def make_run(plan: Plan, wrap: Any) -> Any:
    """The loop over contiguous elements: serial, and vectorised by the compiler."""
    turn = make_turn(plan, wrap)

    def run(n, p, g, s0, s1, s2, out, total, average, low, high, rate, master, h, k):
        # counts from 0: a loop from `low` to `high` does not vectorise (8x slower)
        for i in range(n):
            turn(i, p, g, s0, s1, s2, out, total, average, low, high, rate, master, h, k)

    # a call would push 70 words: 0.1 us for each of many arrays
    return wrap(run, forceinline=True)


def _make_part(plan: Plan, wrap: Any) -> Any:
    """The serial work on one part of the elements: it may cross from one array into the next."""
    run, scalars = make_run(plan, wrap), make_scalars(width_of(plan), plan.real)
    (vp, vg, v0, v1, v2, vo, vt, va, vl, vh, vr, vm), b, c = make_views(plan)
    per_array = plan.norm == "array"

    def part(q, table, count, size, rows, factors):
        start, at = table[dr.START], table[dr.ADDRESS :]
        low, end = q * size, q * size + size
        if end > start[count]:
            end = start[count]
        j = find_leaf(start, count, low)
        r = table[dr.ROW, j]
        h, k = scalars(rows[r], factors, j)
        while low < end:
            n = (end if end < start[j + 1] else start[j + 1]) - low
            e = low - start[j]
            i = e  # of the parameter, while e is of its gradient
            if table[dr.INDEX, j] != 0:  # a sparse gradient: one of its rows at a time
                width = table[dr.WIDTH, j]
                inside = e % width
                n = n if n < width - inside else width - inside
                i = load64(table[dr.INDEX, j] + 8 * (e // width)) * width + inside
            if per_array or table[dr.ROW, j] != r:  # 0.1 us less for each of many arrays
                r = table[dr.ROW, j]
                h, k = scalars(rows[r], factors, j)
            p, g = vp(at[0, j] + i * b[0], n * c[0]), vg(at[1, j] + e * b[1], n * c[1])
            s0, s1 = v0(at[2, j] + i * b[2], n * c[2]), v1(at[3, j] + i * b[3], n * c[3])
            s2, total = v2(at[4, j] + i * b[4], n * c[4]), vt(at[6, j] + i * b[6], n * c[6])
            average, lo = va(at[7, j] + i * b[7], n * c[7]), vl(at[8, j] + i * b[8], n * c[8])
            hi, rate = vh(at[9, j] + i * b[9], n * c[9]), vr(at[10, j] + i * b[10], n * c[10])
            master = vm(at[11, j] + i * b[11], n * c[11])
            if at[pl.OUT, j] == 0:
                run(n, p, g, s0, s1, s2, None, total, average, lo, hi, rate, master, h, k)
            else:
                out = vo(at[5, j] + i * b[5], n * c[5])
                run(n, p, g, s0, s1, s2, out, total, average, lo, hi, rate, master, h, k)
            low += n
            j += low == start[j + 1]

    return wrap(part)


def _make_sum(plan: Plan, wrap: Any) -> Any:
    """The work of a call that only adds its gradient to the sum, on one part of the elements."""
    add, scalars = make_add(plan, wrap), make_scalars(width_of(plan), plan.real)
    views, strides, numbers = make_views(plan)
    view_g, view_total = views[pl.G], views[pl.SUM]
    byte_g, byte_total, each = strides[pl.G], strides[pl.SUM], numbers[pl.G]

    def add_part(q, table, count, size, rows, factors, first):
        start, at = table[dr.START], table[dr.ADDRESS :]
        low, end = q * size, q * size + size
        if end > start[count]:
            end = start[count]
        j = find_leaf(start, count, low)
        while low < end:
            n = (end if end < start[j + 1] else start[j + 1]) - low
            e = low - start[j]
            _, k = scalars(rows[table[dr.ROW, j]], factors, j)
            g = view_g(at[pl.G, j] + e * byte_g, n * each)
            total = view_total(at[pl.SUM, j] + e * byte_total, n * each)
            for i in range(n * each):
                add(i, first, g, total, k)
            low += n
            j += low == start[j + 1]

    return wrap(add_part)


def _make_norm(plan: Plan, wrap: Any) -> Any:
    """The partial sums of some blocks of the gradients, as the rule will see them."""
    seen, ranged = make_seen(plan, wrap), plan.real == np.float64
    block = norms.make_block(seen, wrap, scaled=ranged)
    scalars = make_scalars(width_of(plan), plan.real)
    views, _, numbers = make_views(plan)
    slot_x = pl.MASTER if plan.master else pl.P
    view_x, view_g, view_total = views[slot_x], views[pl.G], views[pl.SUM]
    view_low, view_high, each = views[pl.LOW], views[pl.HIGH], numbers[pl.G]

    def norm_part(q, table, count, rows, factors, partials):
        start, at, first = table[dr.START], table[dr.ADDRESS :], table[dr.BLOCK]
        b, end = q * _CHUNK, q * _CHUNK + _CHUNK
        if end > first[count]:
            end = first[count]
        j = find_leaf(first, count, b)
        while b < end:
            while b == first[j + 1]:
                j += 1
            size = (start[j + 1] - start[j]) * each
            _, k = scalars(rows[table[dr.ROW, j]], factors, j)
            x, g = view_x(at[slot_x, j], size), view_g(at[pl.G, j], size)
            total = view_total(at[pl.SUM, j], size)
            lo, hi = view_low(at[pl.LOW, j], size), view_high(at[pl.HIGH, j], size)
            last = end if end < first[j + 1] else first[j + 1]
            while b < last:
                e = (b - first[j]) * norms.BLOCK
                n = size - e if size - e < norms.BLOCK else norms.BLOCK
                if n <= 0:  # a sparse gradient has fewer blocks
                    partials[b] = 0.0
                elif ranged:
                    scale = norms.power(-table[dr.EXPONENT, j])
                    partials[b] = block(e, n, x, g, total, lo, hi, (k, scale))
                else:
                    partials[b] = block(e, n, x, g, total, lo, hi, k)
                b += 1

    return wrap(norm_part)


def _make_settle(plan: Plan, wrap: Any) -> Any:
    """``settle(table, count, factors, partials, control)``: norms, clip factors, and the guard."""
    of_all, small, ranged = plan.norm == "all", tiny(plan.real), plan.real == np.float64
    column = op.CLIP_NORM if of_all else op.CLIP_ARRAY

    def settle_one(table, j, after, factors, partials, control, place):
        """Leaves j to `after`, taken as one array, whose norm goes to `place`."""
        begin = table[dr.BLOCK, j]
        total = norms.combine(partials, begin, table[dr.BLOCK, after] - begin)
        exponent = table[dr.EXPONENT, j]
        if ranged and exponent == 0:
            exponent = norms.exponent_of(total)
            if exponent != 0:
                table[dr.EXPONENT, j:after] = exponent
                return _AGAIN
        factors[2, place] = norms.norm(total, exponent)
        row = control[0]
        pre, factor = norms.clip_factor(total, exponent, row[column], row[op.MARGIN], small)
        for i in range(j, after):
            factors[0, i], factors[1, i] = pre, factor
        return _SETTLED if math.isfinite(total) else _NOT_FINITE

    one = wrap(settle_one)

    def settle(table, count, factors, partials, control):
        if of_all:
            return one(table, 0, count, factors, partials, control, count)
        found = _SETTLED
        for j in range(count):
            verdict = one(table, j, j + 1, factors, partials, control, j)
            found = _AGAIN if _AGAIN in (verdict, found) else max(found, verdict)
        return found

    return wrap(settle)


# apart from the step and without slices, which take long to compile
def _no_clip(count, factors):
    for j in range(count + 1):
        factors[0, j] = factors[1, j] = 1.0


def _clear(table, count, factors):
    for j in range(count + 1):
        factors[0, j] = factors[1, j] = 1.0
        table[dr.EXPONENT, j] = 0


def make_steps(plan: Plan) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """The whole compiled step, serial and parallel: door, scalars, norm, every part, t last.

    An element depends on nothing but its own values and the norm, which is formed in blocks of
    fixed size, so neither the parts nor the threads change a bit. The twins share the compiled
    parts.
    """
    wrap = shared
    part, fill, advance = _make_part(plan, wrap), make_fill(plan, wrap), make_advance(plan, wrap)
    accumulates, normed, wide = plan.accumulate, plan.norm != "", op.RULE + plan.rule.width
    add_part = _make_sum(plan, wrap) if accumulates else part
    norm_part = _make_norm(plan, wrap) if normed else part
    settle = _make_settle(plan, wrap) if normed else part
    clear, no_clip = wrap(_clear), wrap(_no_clip)

    def twin(each: Any) -> Callable[..., Any]:
        def step(meta_at, ids_at, g1, apart, lr):
            meta = carray(as_pointer(meta_at), dr.META, np.int64)
            count, size = meta[dr.COUNT], meta[dr.PART]
            status = dr.through_door(meta[dr.DOOR], dr.ENTER, meta_at, ids_at, g1, apart)
            if status != dr.OK:
                return status
            table = carray(as_pointer(meta[dr.TABLE]), (dr.ROWS, count + 1), np.int64)
            factors = carray(as_pointer(meta[dr.FACTORS]), (3, count + 1), np.float64)
            if normed:
                clear(table, count, factors)
            rows = fill(meta, lr)
            total = table[dr.START, count]
            parts = (total + size - 1) // size
            thread = release_gil() if total >= _RELEASE_FROM else 0
            if accumulates and meta[dr.CALLS] + 1 < meta[dr.EVERY] and meta[dr.FLUSHING] == 0:
                first = meta[dr.CALLS] == 0
                for q in each(parts):
                    add_part(int64(q), table, count, size, rows, factors, first)
                meta[dr.CALLS] += 1
                if total >= _RELEASE_FROM:
                    take_gil(thread)
                return dr.OK
            if normed:
                control = carray(as_pointer(meta[dr.CONTROL]), (meta[dr.GROUPS], wide), np.float64)
                blocks = table[dr.BLOCK, count]
                partials = carray(as_pointer(meta[dr.PARTIALS]), blocks + 1, np.float64)
                verdict = _AGAIN
                while verdict == _AGAIN:
                    no_clip(count, factors)
                    for q in each((blocks + _CHUNK - 1) // _CHUNK):
                        norm_part(int64(q), table, count, rows, factors, partials)
                    verdict = settle(table, count, factors, partials, control)
                if verdict == _NOT_FINITE and meta[dr.GUARD] != dr.PROPAGATE:
                    if meta[dr.GUARD] == dr.SKIP:
                        meta[dr.SKIPPED] += 1
                        meta[dr.IN_A_ROW] += 1
                        meta[dr.CALLS] = 0
                    if total >= _RELEASE_FROM:
                        take_gil(thread)
                    return dr.NOT_FINITE
            for q in each(parts):
                part(int64(q), table, count, size, rows, factors)
            if meta[dr.STRIDED] != 0:
                dr.through_door(meta[dr.DOOR], dr.LEAVE, meta_at, ids_at, g1, apart)
            advance(meta)
            meta[dr.CALLS] = 0
            meta[dr.IN_A_ROW] = 0
            meta[dr.STEPS] += 1
            if total >= _RELEASE_FROM:
                take_gil(thread)
            return status

        step.__qualname__ = f"{plan.name}.{'serial' if each is range else 'parallel'}.step"
        return step

    return twin(range), twin(prange)
