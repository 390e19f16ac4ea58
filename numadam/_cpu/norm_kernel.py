"""Norms of the gradients on the CPU: partial sums, clip factors, and the guard.

Each gradient is cut into blocks of `norms.NORM_BLOCK` numbers, and each block gives one partial
sum. Blocks are numbered through all leaves: those of leaf j begin at ``leaves[j].first_block``. The
exponents of a step are those with which the next one begins: a second pass is seldom needed.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import int64

from numadam._core import norms
from numadam._core import options as op
from numadam._core import plan as pl
from numadam._core.element import make_norm_gradient
from numadam._core.plan import Plan
from numadam._core.scalars import make_scalars, tiny, width_of
from numadam._cpu.parts import (
    factors_of,
    find_leaf,
    leaves_of,
    make_control_of,
    make_scalars_of,
    make_views,
    part_of,
)
from numadam._cpu.records import META, NORM_SUM
from numadam._jit.pointers import array_at, call_c1, record_at

#: Blocks of a norm that a thread takes at a time.
CHUNK = 4

#: Results of `finalize_norms`: all finite; some exponents are new, so form the partial sums once
#: more; a gradient that is not finite; no step, as the exchange with other processes failed.
NORMS_FINITE, NORMS_AGAIN, NORMS_NOT_FINITE, NORMS_REFUSED = range(4)

#: address of META, address of NORM_SUM[norms], norms -> 0
SUM_UP = int64(int64, int64, int64)


def make_norm(plan: Plan, wrap: Any) -> Any:
    """``norm_part(q, meta_at)``: partial sums of chunk q, of gradients as the rule sees them."""
    gradient, ranged = make_norm_gradient(plan, wrap), plan.real == np.float64
    block = norms.make_block(gradient, wrap, ranged)
    width = width_of(plan)
    scalars, scalars_of = make_scalars(plan), make_scalars_of(width)
    views, _, numbers = make_views(plan)
    slot_x = pl.MASTER if plan.master else pl.P
    view_x, view_g, view_total = views[slot_x], views[pl.G], views[pl.SUM]
    view_low, view_high, each = views[pl.LOW], views[pl.HIGH], numbers[pl.G]
    view_own = views[pl.OWNED]

    def norm_part(q, meta_at):
        meta = record_at(meta_at, META)
        count, leaves, factors = meta.count, leaves_of(meta), factors_of(meta)
        rows, begins = scalars_of(meta), leaves.first_block
        partials = array_at(meta.partials, 2 * begins[count], np.int64)
        b, end = part_of(q, CHUNK, begins[count])
        j = find_leaf(begins, count, b)
        while b < end:
            while b == begins[j + 1]:
                j += 1
            leaf = leaves[j]
            first, size = leaf.first_block, (leaves[j + 1].start - leaf.start) * each
            _, k = scalars(rows[leaf.group], factors[0, j], factors[1, j])
            at, unit = leaf.address, norms.unit(leaf.exponent, ranged)
            x, g = view_x(at[slot_x], size), view_g(at[pl.G], size)
            total = view_total(at[pl.SUM], size)
            lo, hi = view_low(at[pl.LOW], size), view_high(at[pl.HIGH], size)
            own = view_own(at[pl.OWNED], size)
            last = end if end < begins[j + 1] else begins[j + 1]
            while b < last:
                e = (b - first) * norms.NORM_BLOCK
                n = size - e if size - e < norms.NORM_BLOCK else norms.NORM_BLOCK
                if n <= 0:  # a sparse gradient has fewer blocks
                    partials[2 * b] = partials[2 * b + 1] = 0
                else:
                    block(e, n, x, g, total, lo, hi, own, k, unit, partials, b)
                b += 1

    return wrap(norm_part)


def sum_up(meta_at, norms_at, count):
    """The sum of each of `count` norms in this process, as a NORM_SUM each, for the others.

    A C function of its own: only what has an exchange compiles it.
    """
    meta = record_at(meta_at, META)
    leaves, sums = leaves_of(meta), array_at(norms_at, count, NORM_SUM)
    partials = array_at(meta.partials, 2 * leaves[meta.count].first_block, np.int64)
    for n in range(count):
        begin, after = leaves[n].first_block, n + 1 if count > 1 else meta.count
        sum_of = norms.combine(partials, begin, leaves[after].first_block - begin)
        sums[n].high, sums[n].low = norms.words_of(*sum_of)
        sums[n].exponent = leaves[n].exponent
    return 0


def make_finalize_norms(plan: Plan, wrap: Any) -> Any:
    """``finalize_norms(meta_at)``: norms and clip factors from the partial sums, and a status.

    With other processes, a call puts one sum of each process in the place of the partial sums.
    """
    of_all, small, ranged = plan.norm == "all", tiny(plan.real), plan.real == np.float64
    column = op.COLUMN.clip_norm if of_all else op.COLUMN.clip_array_norm
    margin, most, control_of = op.COLUMN.margin, op.COLUMN.most, make_control_of(plan)

    def finalize(leaves, j, after, factors, sums, ranks, control, place):
        """Leaves j to `after`, taken as one array, whose norm goes to `place`."""
        begin, tried = leaves[j].first_block, leaves[j].exponent
        count = leaves[after].first_block - begin
        if ranks != 0:
            begin, count = j * ranks, ranks
        high, low, large = norms.combine(sums, begin, count)
        exponent = norms.next_exponent(high, low, large, tried, ranged)
        if exponent != tried:
            for i in range(j, after):
                leaves[i].exponent = exponent
            return NORMS_AGAIN
        total, exponent = norms.total_of(high, low, large), norms.forget(exponent)
        factors[2, place] = norms.norm(total, exponent)
        row = control[0]
        pre, factor = norms.clip_factor(total, exponent, row[column], row[margin], small)
        for i in range(j, after):
            factors[0, i], factors[1, i] = pre, factor
        fits = math.isfinite(total) and min(factors[2, place], row[column]) <= row[most]
        return NORMS_FINITE if fits else NORMS_NOT_FINITE

    one = wrap(finalize)

    def finalize_norms(meta_at):
        meta = record_at(meta_at, META)
        count, leaves, factors = meta.count, leaves_of(meta), factors_of(meta)
        control, ranks = control_of(meta), 0
        sums = array_at(meta.partials, 2 * leaves[count].first_block, np.int64)
        if meta.exchange != 0:
            found = call_c1(meta.exchange, meta_at)
            if found != NORMS_FINITE:
                return found
            ranks = meta.ranks
            sums = array_at(meta.sums, 2 * ranks * (1 if of_all else count), np.int64)
        if of_all:
            return one(leaves, 0, count, factors, sums, ranks, control, count)
        found = NORMS_FINITE
        for j in range(count):
            of_leaf = one(leaves, j, j + 1, factors, sums, ranks, control, j)
            if NORMS_AGAIN in (of_leaf, found):
                found = NORMS_AGAIN
            else:
                found = max(found, of_leaf)
        return found

    return wrap(finalize_norms)


# of their own and without slices, which take long to compile
def reset_factors(meta_at):
    """Clip factors of 1, with which the partial sums are formed."""
    meta = record_at(meta_at, META)
    factors = factors_of(meta)
    for j in range(meta.count + 1):
        factors[0, j] = factors[1, j] = 1.0


def reset_exponents(meta_at):
    """The exponents of the last step, with which the first pass over the gradients begins."""
    meta = record_at(meta_at, META)
    leaves = leaves_of(meta)
    for j in range(meta.count + 1):
        leaves[j].exponent = norms.forget(leaves[j].exponent)
