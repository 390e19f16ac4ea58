"""Norms of the gradients on the CPU: partial sums, clip factors, and the guard.

Each gradient is cut into blocks of `norms.NORM_BLOCK` numbers, and each block gives one partial
sum. Blocks are numbered through all leaves: those of leaf j begin at ``leaves[j].first_block``. The
exponents of a step are those with which the next one begins: a second pass is seldom needed.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

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
from numadam._jit.pointers import array_at, array_of, call_c1, record_at

#: Blocks of a norm that a thread takes at a time.
CHUNK = 4

#: Results of `finalize_norms`: all finite; some exponents are new, so form the partial sums once
#: more; a gradient that is not finite; no step, as the exchange with other processes failed.
NORMS_FINITE, NORMS_AGAIN, NORMS_NOT_FINITE, NORMS_REFUSED = range(4)

#: ``sums_of(meta)``: the sums of each process.
sums_of = array_of(META, "sums", NORM_SUM, ("ranks", 0), ("norms", 0))


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


def _make_put_sum(wrap: Any) -> Any:
    """``put_sum(leaves, j, after, partials, place)``: of leaves j to `after`, in this process."""

    def put_sum(leaves, j, after, partials, place):
        begin = leaves[j].first_block
        high, low, large = norms.combine(partials, begin, leaves[after].first_block - begin)
        place.high, place.low = norms.words_of(high, low, large)
        place.exponent = leaves[j].exponent

    return wrap(put_sum)


def _make_settle(plan: Plan, wrap: Any) -> Any:
    """``settle(leaves, j, after, factors, sums, n, control, place)``: a norm, and its factors.

    Leaves j to `after` are taken as one array; the sums of all processes are added.
    """
    of_all, small, ranged = plan.norm == "all", tiny(plan.real), plan.real == np.float64
    column = op.COLUMN.clip_norm if of_all else op.COLUMN.clip_array_norm
    margin = op.COLUMN.margin

    def settle(leaves, j, after, factors, sums, n, control, place):
        high, low, large = 0, 0, 0.0
        tried = most = sums[0, n].exponent
        for rank in range(len(sums)):
            one = sums[rank, n]
            high, low, large = norms.add_sum(high, low, large, one.high, one.low)
            tried, most = min(tried, one.exponent), max(most, one.exponent)
        exponent = most  # sums of unlike units cannot be added: all take the largest
        if tried == most:
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
        return NORMS_FINITE if math.isfinite(total) else NORMS_NOT_FINITE

    return wrap(settle)


def make_finalize_norms(plan: Plan, wrap: Any) -> Any:
    """``finalize_norms(meta_at)``: norms and clip factors from the partial sums, and a status.

    One process and many go the same way: with more than one, a call fetches the sums of the others.
    """
    of_all, control_of = plan.norm == "all", make_control_of(plan)
    put_sum, settle = _make_put_sum(wrap), _make_settle(plan, wrap)

    def finalize_norms(meta_at):
        meta = record_at(meta_at, META)
        count, leaves, factors = meta.count, leaves_of(meta), factors_of(meta)
        control, sums, rank = control_of(meta), sums_of(meta), meta.rank
        partials = array_at(meta.partials, 2 * leaves[count].first_block, np.int64)
        for n in range(meta.norms):
            put_sum(leaves, 0 if of_all else n, count if of_all else n + 1, partials, sums[rank, n])
        if meta.exchange != 0 and call_c1(meta.exchange, meta_at) != 0:
            return NORMS_REFUSED
        if of_all:
            return settle(leaves, 0, count, factors, sums, 0, control, count)
        found = NORMS_FINITE
        for j in range(count):
            of_leaf = settle(leaves, j, j + 1, factors, sums, j, control, j)
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
