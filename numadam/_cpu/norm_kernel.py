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
from numadam._core.plan import PROPAGATE, SKIP, Plan
from numadam._core.scalars import make_scalars, tiny, width_of
from numadam._cpu.parts import (
    factors_of,
    find_leaf,
    leaves_of,
    make_control_of,
    make_leaf_views,
    make_scalars_of,
    part_of,
)
from numadam._cpu.records import META, NORM_SUM
from numadam._cpu.validate import NORMS_AGAIN, NOT_FINITE, OK
from numadam._jit.functions import linked
from numadam._jit.pointers import array_at, call_c1, record_at

#: Blocks of a norm that a thread takes at a time.
CHUNK = 4

#: address of META, address of NORM_SUM[norms], norms -> 0
SUM_UP = int64(int64, int64, int64)


def make_norm(plan: Plan) -> Any:
    """``norm_part(q, meta_at)``: partial sums of chunk q, of gradients as the rule sees them."""
    gradient, ranged = make_norm_gradient(plan, linked), plan.real == np.float64
    block = norms.make_block(gradient, linked, ranged)
    scalars, scalars_of = make_scalars(plan), make_scalars_of(width_of(plan))
    views, each = make_leaf_views(plan, False), plan.numbers // plan.unit

    def norm_part(q, meta_at):
        meta = record_at(meta_at, META)
        count, leaves, rows = meta.count, leaves_of(meta), scalars_of(meta)
        begins = leaves.first_block
        partials = array_at(meta.partials, 2 * begins[count], np.int64)
        b, end = part_of(q, CHUNK, begins[count])
        j = find_leaf(begins, count, b)
        while b < end:
            while b == begins[j + 1]:
                j += 1
            leaf, unit = leaves[j], norms.unit(leaves[j].exponent, ranged)
            first, iterations = leaf.first_block, leaves[j + 1].start - leaf.start
            _, k = scalars(rows[leaf.group], 1.0, 1.0)
            arrays, size = views(leaf, 0, 0, iterations), iterations * each
            x, g = arrays[pl.P], arrays[pl.G]
            low, high = arrays[pl.LOW], arrays[pl.HIGH]
            last = end if end < begins[j + 1] else begins[j + 1]
            while b < last:
                e = (b - first) * norms.NORM_BLOCK
                n = size - e if size - e < norms.NORM_BLOCK else norms.NORM_BLOCK
                if n <= 0:  # a sparse gradient has fewer blocks
                    partials[2 * b] = partials[2 * b + 1] = 0
                else:
                    block(e, n, x, g, low, high, k, unit, partials, b)
                b += 1

    return linked(norm_part)


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


def make_finalize_norms(plan: Plan) -> Any:
    """``finalize_norms(meta_at)``: norms and clip factors from the partial sums, and a status.

    It counts a step that the guard skips. With other processes, a call puts one sum of each process
    in the place of the partial sums.
    """
    of_each, small, ranged = plan.norm == "array", tiny(plan.real), plan.real == np.float64
    column = op.COLUMN.clip_array_norm if of_each else op.COLUMN.clip_norm
    margin, control_of = op.COLUMN.margin, make_control_of(plan)
    of_largest = op.COLUMN.largest_norm

    def finalize_norms(meta_at):
        meta = record_at(meta_at, META)
        leaves, factors, control = leaves_of(meta), factors_of(meta), control_of(meta)
        count, ranks, status = meta.count if of_each else 1, 0, OK
        sums = array_at(meta.partials, 2 * leaves[meta.count].first_block, np.int64)
        if meta.exchange != 0:
            status = call_c1(meta.exchange, meta_at)
            if status != OK:
                return status
            ranks = meta.ranks
            sums = array_at(meta.sums, 2 * ranks * count, np.int64)
        for n in range(count):  # of leaves n to before `after`, taken as one array
            after, place = (n + 1, n) if of_each else (meta.count, meta.count)
            begin, tried = leaves[n].first_block, leaves[n].exponent
            size = leaves[after].first_block - begin
            if ranks != 0:
                begin, size = n * ranks, ranks
            high, low, large = norms.combine(sums, begin, size)
            exponent = norms.next_exponent(high, low, large, tried, ranged)
            if exponent != tried:
                for j in range(n, after):
                    leaves[j].exponent = exponent
                status = NORMS_AGAIN
                continue
            total, exponent = norms.total_of(high, low, large), norms.forget(exponent)
            factors[2, place] = norms.norm(total, exponent)
            limit, more = control[0, column], control[0, margin]
            pre, factor = norms.clip_factor(total, exponent, limit, more, small)
            for j in range(n, after):
                factors[0, j], factors[1, j] = pre, factor
            largest = control[0, of_largest]
            if not (math.isfinite(total) and min(factors[2, place], limit) <= largest):
                status = max(status, NOT_FINITE)
        if status == NOT_FINITE and meta.guard == PROPAGATE:
            return OK
        if status == NOT_FINITE and meta.guard == SKIP:
            home = record_at(meta.home, META)
            home.skipped += 1
            home.in_a_row += 1
        return status

    return linked(finalize_norms)


# of its own and without slices, which take long to compile
def begin_norms(meta_at):
    """Begin with clip factors of 1 and the exponents of the last step."""
    meta = record_at(meta_at, META)
    leaves, factors = leaves_of(meta), factors_of(meta)
    for j in range(meta.count + 1):
        factors[0, j] = factors[1, j] = 1.0
        leaves[j].exponent = norms.forget(leaves[j].exponent)
