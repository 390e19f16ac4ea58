"""The CPU loop, once, for every rule: over a table of arrays, a part of the elements at a time.

Loops hold no arithmetic: that is in `turn` and in the rule's ``element``. Rules hold no loop.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numba import carray, float64, int64, prange

from numadam._core import options as op
from numadam._core import plan as pl
from numadam._core.element import make_add, make_element_update
from numadam._core.plan import Plan
from numadam._core.scalars import make_scalars
from numadam._cpu import norm_kernel as nk
from numadam._cpu import validate as dr
from numadam._cpu.parts import find_leaf, make_advance, make_fill, make_views
from numadam._jit.functions import jit_once, release_gil, take_gil
from numadam._jit.pointers import as_pointer, load64

#: addresses of meta and ids, object address of the only gradient, apart, lr -> status (see
#: `door`). Two addresses instead of two arrays spare a call 0.15 us.
SIGNATURE = int64(int64, int64, int64, int64, float64)

#: Elements from which a step lets other Python threads run (2 us on). Below, waiting for the GIL
#: again would cost more than they could do meanwhile.
_RELEASE_FROM = 5_000


def make_run(plan: Plan, wrap: Any) -> Any:
    """The loop over contiguous elements: serial, and vectorised by the compiler."""
    turn = make_element_update(plan, wrap)

    def run(n, p, g, s0, s1, s2, out, total, average, low, high, rate, master, h, k):
        # counts from 0: a loop from `low` to `high` does not vectorise (8x slower)
        for i in range(n):
            turn(i, p, g, s0, s1, s2, out, total, average, low, high, rate, master, h, k)

    # a call would push 70 words: 0.1 us for each of many arrays
    return wrap(run, forceinline=True)


def _make_part(plan: Plan, wrap: Any) -> Any:
    """The serial work on one part of the elements: it may cross from one array into the next."""
    run, scalars = make_run(plan, wrap), make_scalars(plan)
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
    add, scalars = make_add(plan, wrap), make_scalars(plan)
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


def make_steps(plan: Plan) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """The whole compiled step, serial and parallel: door, scalars, norm, every part, t last.

    An element depends on nothing but its own values and the norm, which is formed in blocks of
    fixed size, so neither the parts nor the threads change a bit. The twins share the compiled
    parts.
    """
    wrap = jit_once
    part, fill, advance = _make_part(plan, wrap), make_fill(plan, wrap), make_advance(plan, wrap)
    accumulates, normed, wide = plan.accumulate, plan.norm != "", op.RULE + plan.rule.width
    add_part = _make_sum(plan, wrap) if accumulates else part
    norm_part = nk.make_norm(plan, wrap) if normed else part
    settle = nk.make_settle(plan, wrap) if normed else part
    clear, no_clip = wrap(nk.clear), wrap(nk.no_clip)

    def twin(each: Any) -> Callable[..., Any]:
        def step(meta_at, ids_at, g1, apart, lr):
            meta = carray(as_pointer(meta_at), dr.META, np.int64)
            count, size = meta[dr.COUNT], meta[dr.PART]
            status = dr.call_validator(meta[dr.DOOR], dr.ENTER, meta_at, ids_at, g1, apart)
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
                verdict = nk.AGAIN
                while verdict == nk.AGAIN:
                    no_clip(count, factors)
                    for q in each((blocks + nk.CHUNK - 1) // nk.CHUNK):
                        norm_part(int64(q), table, count, rows, factors, partials)
                    verdict = settle(table, count, factors, partials, control)
                if verdict == nk.NOT_FINITE and meta[dr.GUARD] != dr.PROPAGATE:
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
                dr.call_validator(meta[dr.DOOR], dr.LEAVE, meta_at, ids_at, g1, apart)
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
