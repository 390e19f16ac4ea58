"""Norms of the gradients on the GPU: clip factor and verdict are formed there too.

Three kernels, no wait of the host: sums of squares, one for each part of an array; these added
up to one total, or one an array; and one that makes clip factors of the totals, decides whether
the step is taken, and counts it. What a part holds depends on the array's size alone, so the bits
do not depend on grid, stream, layout or alignment.

An element passes at most 16 additions in its thread and 8 in its block, all in float64; the sums
are added up with what each addition lost. The norm is within 8 ulp whatever the numbers are.
Squares of float64 that leave the range are added up once more, scaled: by the same kernels, which
end at once where that is not needed.
"""
# mypy: disallow-untyped-defs=False, disallow-untyped-calls=False

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
from numba import cuda

from numadam._core import norms
from numadam._core import options as op
from numadam._core import plan as pl
from numadam._core.element import make_norm_gradient
from numadam._core.plan import Plan
from numadam._core.scalars import tiny
from numadam._cuda import launch as policy
from numadam._cuda.kernel import make_rooms
from numadam._cuda.kernel_spec import (
    ADDRESS,
    RECORD,
    ROW,
    SUMS_FIRST,
    SUMS_SIZE,
    SUMS_TILED,
    Made,
    Pass,
    tile_iterations,
    wrapper,
)
from numadam._cuda.memory import SIMULATED, make_line, make_numbers, plain
from numadam._cuda.scalar_kernels import (
    COUNTS,
    FINITE,
    GO,
    IN_A_ROW,
    SKIPPED,
    T,
    control_width,
    make_advance_all,
    make_scalars,
    scalars_type,
)

_DOUBLE, _LONG, _INT = np.dtype(np.float64), np.dtype(np.int64), np.dtype(np.int32)

if SIMULATED:

    def _square(x):
        return x * x

else:
    from numba.cuda import libdevice

    def _square(x):
        return libdevice.dmul_rn(x, x)


def norm_slots(plan: Plan) -> tuple[int, ...]:
    """The arrays of a norm; parameters and bounds, since at an active bound no gradient counts."""
    slots = [pl.G, pl.SUM] if plan.accumulate else [pl.G]
    if plan.bounds:
        slots.append(pl.MASTER if plan.master else pl.P)
    return *slots, *((pl.LOW, pl.HIGH) if plan.bounds == "array" else ())


def part_size() -> int:
    """Numbers in one part of a gradient."""
    return policy.BLOCK * policy.SUMMED


def norm_iterations(plan: Plan) -> int:
    """Numbers that a thread takes at a time."""
    return max(1, tile_iterations(plan, norm_slots(plan)) * plan.numbers // plan.unit)


def _make_squares(plan: Plan, wrap: Any) -> tuple[Any, Any]:
    """``squares(a, i, total, scale, k)``: the squares of a tile of numbers, and of one number."""
    slots, turns = norm_slots(plan), norm_iterations(plan)
    seen, square, ranged = make_norm_gradient(plan, wrap), wrap(_square), plan.real == np.float64
    # every number by itself: parts of complex ones are numbers here
    single = Pass(_as_numbers(plan), slots, slots, (), None)
    of_x = pl.MASTER if plan.master else pl.P
    order = (of_x, pl.G, pl.SUM, pl.LOW, pl.HIGH)
    ax, ag, at, al, ah = (slots.index(slot) if slot in slots else 0 for slot in order)

    def make(count):
        fetches, _ = make_rooms(single, count, wrap)
        fx, fg, ft, fl, fh = (fetches[slot] for slot in order)

        def one(e, x, g, total, low, high, scale, k):
            y = np.float64(seen(e, x, g, total, low, high, k))
            return square(y * scale) if ranged else y * y

        one = wrap(one)

        def squares(a, i, added, scale, k):
            x, g, total = fx(a[ax], i), fg(a[ag], i), ft(a[at], i)
            low, high = fl(a[al], i), fh(a[ah], i)
            added += one(0, x, g, total, low, high, scale, k)
            if count > 1:
                added += one(1, x, g, total, low, high, scale, k)
            if count > 2:
                added += one(2, x, g, total, low, high, scale, k)
                added += one(3, x, g, total, low, high, scale, k)
            if count > 4:
                added += one(4, x, g, total, low, high, scale, k)
                added += one(5, x, g, total, low, high, scale, k)
                added += one(6, x, g, total, low, high, scale, k)
                added += one(7, x, g, total, low, high, scale, k)
            return added

        return wrap(squares)

    return make(turns), make(1)


def _as_numbers(plan: Plan) -> Plan:
    """The plan with complex numbers as pairs of real ones, which a norm does not tell apart."""
    return dataclasses.replace(plan, modulus=False)


def _fold(sums, lane, lanes):
    """Add the second half of the lanes to the first, until one is left."""
    half = lanes // 2
    cuda.syncthreads()
    while half > 0:
        if lane < half:
            sums[lane] += sums[lane + half]
        cuda.syncthreads()
        half //= 2


def make_sums(plan: Plan, by_value: bool, many: bool) -> Made:
    """A partial sum for each block of threads, which adds up one part of an array.

    Over one array ``sums(addresses, size, tiled, partials, exponents, again, rows)``, over many
    ``sums(table, leaves, partials, exponents, again, rows)``.
    """
    wrap = wrapper()
    whole, single = _make_squares(plan, wrap)
    scalars, read = make_scalars(plan, by_value, wrap)
    turns, fold = norm_iterations(plan), wrap(_fold)
    power = plain(norms.power)
    block, part, summed, record = policy.BLOCK, part_size(), policy.SUMMED, 8 * RECORD
    line, longs = make_line(_DOUBLE), make_line(_LONG)
    in_record = make_numbers(_LONG, [ADDRESS + slot for slot in norm_slots(plan)])
    facts = make_numbers(_LONG, (ROW, SUMS_FIRST, SUMS_SIZE, SUMS_TILED))
    leaf_of, i8 = make_numbers(_INT, (0,)), cuda.types.int64
    of_each = 1 if plan.norm == "array" else 0

    def add_part(a, mine, first, size, tiled, rows, row, partials, exponent, again):
        if again != 0 and exponent == 0:
            return
        scale = power(-exponent) if again != 0 else 1.0
        _, k = read(scalars(rows, 0, row))
        lane, added = np.int64(cuda.threadIdx.x), 0.0
        begin = (mine - first) * part
        for step in range(summed // turns):
            i = begin + (step * block + lane) * turns
            if tiled != 0 and i + turns <= size:
                added = whole(a, i, added, scale, k)
            else:
                for j in range(i, min(i + turns, size)):
                    added = single(a, j, added, scale, k)
        shared = cuda.shared.array(block, np.float64)
        shared[lane] = added
        fold(shared, lane, block)
        if lane == 0:
            line(partials + 8 * mine, 1)[0] = shared[0]

    add_part = wrap(add_part)

    def over_one(a, size, tiled, partials, exponents, again, rows):
        mine = np.int64(cuda.blockIdx.x)
        exponent = longs(exponents, 1)[0]
        add_part(a, mine, 0, size, tiled, rows, 0, partials, exponent, again)

    def over_many(table, leaves, partials, exponents, again, rows):
        mine = np.int64(cuda.blockIdx.x)
        leaf = np.int64(leaf_of(leaves + 4 * mine)[0])
        at = table + leaf * record
        row, first, size, tiled = facts(at)
        exponent = longs(exponents + 8 * leaf * of_each, 1)[0]
        a = in_record(at)
        add_part(a, mine, first, size, tiled, rows, row, partials, exponent, again)

    of_rows = scalars_type(plan, by_value)
    if many:
        return over_many, cuda.types.void(*[i8] * 5, of_rows)
    addresses = cuda.types.UniTuple(i8, len(norm_slots(plan)))
    return over_one, cuda.types.void(addresses, *[i8] * 5, of_rows)


def make_combine(plan: Plan) -> Made:
    """``combine(partials, firsts, totals, exponents, again)``: a block for each total.

    `firsts` says where the partial sums of each begin, and last where they end. Each addition
    keeps what it loses.
    """
    two_sum, exponent_of = plain(norms.two_sum), plain(norms.exponent_of)
    lines, longs, block = make_line(_DOUBLE), make_line(_LONG), policy.BLOCK
    ranged, i8, both = plan.real == np.float64, cuda.types.int64, 2 * policy.BLOCK

    def combine(partials, firsts, totals, exponents, again):
        which, lane = np.int64(cuda.blockIdx.x), np.int64(cuda.threadIdx.x)
        of_total = longs(exponents + 8 * which, 1)
        if again != 0 and of_total[0] == 0:
            return
        ends = longs(firsts + 8 * which, 2)
        sums = cuda.shared.array(both, np.float64)
        numbers, total, lost = lines(partials, ends[1]), 0.0, 0.0
        for i in range(ends[0] + lane, ends[1], block):
            total, loss = two_sum(total, numbers[i])
            lost += loss
        sums[lane], sums[block + lane] = total, lost
        half = block // 2
        cuda.syncthreads()
        while half > 0:
            if lane < half:
                total, loss = two_sum(sums[lane], sums[lane + half])
                sums[lane] = total
                sums[block + lane] += sums[block + lane + half] + loss
            cuda.syncthreads()
            half //= 2
        if lane == 0:
            total, lost = sums[0], sums[block]
            # inf - inf has made `lost` NaN where the total is infinite
            total = total if math.isnan(lost) else total + lost
            lines(totals + 8 * which, 1)[0] = total
            if again == 0:
                of_total[0] = exponent_of(total) if ranged else 0

    return combine, cuda.types.void(*[i8] * 5)


def make_settle(plan: Plan) -> Made:
    """``settle(control, products, counts, totals, exponents, factors, norms, sums, groups, ...)``.

    In one block of threads: norms and clip factors of all sums, then the verdict. With
    `guard` 0 the step is taken whatever the gradients are; else only if they are finite. A step
    that is taken is counted as number `t` (0: the one after those counted), in the counters and
    in the running products of `groups` rows.
    """
    power_norm, clip_factor = plain(norms.norm), plain(norms.clip_factor)
    lines, longs, reals = make_line(_DOUBLE), make_line(_LONG), make_line(plan.real)
    column = op.CLIP_ARRAY if plan.norm == "array" else op.CLIP_NORM
    advance, wide, small = make_advance_all(plan), control_width(plan), tiny(plan.real)
    block, i8 = policy.BLOCK, cuda.types.int64

    def settle(
        control, products, counts, totals, exponents, factors, norms_at, sums, groups, t, guard
    ):
        lane, row = np.int64(cuda.threadIdx.x), lines(control, wide)
        limit, margin = row[column], row[op.MARGIN]
        bad, counted = cuda.shared.array(1, np.int64), longs(counts, COUNTS)
        if lane == 0:
            bad[0] = 0
        if t == 0:
            t = counted[T] + 1
        cuda.syncthreads()
        all_totals, all_exponents = lines(totals, sums), longs(exponents, sums)
        out, found = reals(factors, 2 * sums), lines(norms_at, sums)
        for j in range(lane, sums, block):
            total, exponent = all_totals[j], int(all_exponents[j])
            found[j] = power_norm(total, exponent)
            pre, factor = clip_factor(total, exponent, limit, margin, small)
            out[2 * j], out[2 * j + 1] = pre, factor
            if not math.isfinite(total):
                bad[0] = 1
        cuda.syncthreads()
        if lane == 0:
            counted[FINITE] = 1 - bad[0]
            taken = bad[0] == 0 or guard == 0
            counted[GO] = 1 if taken else 0
            if taken:
                for r in range(groups):
                    advance(products, control, r, np.float64(t))
                counted[T] = t
                counted[IN_A_ROW] = 0
            else:
                counted[SKIPPED] += 1
                counted[IN_A_ROW] += 1

    return settle, cuda.types.void(*[i8] * 11)
