"""Norms of the gradients on the CPU: partial sums, clip factors, and the guard."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from numadam._core import norms
from numadam._core import options as op
from numadam._core import plan as pl
from numadam._core.element import make_norm_gradient
from numadam._core.plan import Plan
from numadam._core.scalars import make_scalars, tiny
from numadam._cpu import validate as dr
from numadam._cpu.parts import find_leaf, make_views

#: Blocks of a norm that a thread takes at a time.
CHUNK = 64


#: What `settle` finds.
SETTLED, AGAIN, NOT_FINITE = range(3)


def make_norm(plan: Plan, wrap: Any) -> Any:
    """The partial sums of some blocks of the gradients, as the rule will see them."""
    seen, ranged = make_norm_gradient(plan, wrap), plan.real == np.float64
    block = norms.make_block(seen, wrap, scaled=ranged)
    scalars = make_scalars(plan)
    views, _, numbers = make_views(plan)
    slot_x = pl.MASTER if plan.master else pl.P
    view_x, view_g, view_total = views[slot_x], views[pl.G], views[pl.SUM]
    view_low, view_high, each = views[pl.LOW], views[pl.HIGH], numbers[pl.G]

    def norm_part(q, table, count, rows, factors, partials):
        start, at, first = table[dr.START], table[dr.ADDRESS :], table[dr.BLOCK]
        b, end = q * CHUNK, q * CHUNK + CHUNK
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
                e = (b - first[j]) * norms.NORM_BLOCK
                n = size - e if size - e < norms.NORM_BLOCK else norms.NORM_BLOCK
                if n <= 0:  # a sparse gradient has fewer blocks
                    partials[b] = 0.0
                elif ranged:
                    scale = norms.power(-table[dr.EXPONENT, j])
                    partials[b] = block(e, n, x, g, total, lo, hi, (k, scale))
                else:
                    partials[b] = block(e, n, x, g, total, lo, hi, k)
                b += 1

    return wrap(norm_part)


def make_settle(plan: Plan, wrap: Any) -> Any:
    """``settle(table, count, factors, partials, control)``: norms, clip factors, and the guard."""
    of_all, small, ranged = plan.norm == "all", tiny(plan.real), plan.real == np.float64
    column = op.COLUMN.clip_norm if of_all else op.COLUMN.clip_array_norm
    margin = op.COLUMN.margin

    def settle_one(table, j, after, factors, partials, control, place):
        """Leaves j to `after`, taken as one array, whose norm goes to `place`."""
        begin = table[dr.BLOCK, j]
        total = norms.combine(partials, begin, table[dr.BLOCK, after] - begin)
        exponent = table[dr.EXPONENT, j]
        if ranged and exponent == 0:
            exponent = norms.exponent_of(total)
            if exponent != 0:
                table[dr.EXPONENT, j:after] = exponent
                return AGAIN
        factors[2, place] = norms.norm(total, exponent)
        row = control[0]
        pre, factor = norms.clip_factor(total, exponent, row[column], row[margin], small)
        for i in range(j, after):
            factors[0, i], factors[1, i] = pre, factor
        return SETTLED if math.isfinite(total) else NOT_FINITE

    one = wrap(settle_one)

    def settle(table, count, factors, partials, control):
        if of_all:
            return one(table, 0, count, factors, partials, control, count)
        found = SETTLED
        for j in range(count):
            verdict = one(table, j, j + 1, factors, partials, control, j)
            found = AGAIN if AGAIN in (verdict, found) else max(found, verdict)
        return found

    return wrap(settle)


# apart from the step and without slices, which take long to compile
def no_clip(count, factors):
    for j in range(count + 1):
        factors[0, j] = factors[1, j] = 1.0


def clear(table, count, factors):
    for j in range(count + 1):
        factors[0, j] = factors[1, j] = 1.0
        table[dr.EXPONENT, j] = 0
