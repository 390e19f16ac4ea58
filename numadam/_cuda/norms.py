"""Norms of the gradients on the GPU, the clip factors, and whether the step is taken.

Three kernels, without a wait of the host:

1. `make_sums`: the sum of squares of each part of an array, one block of threads a part;
2. `make_combine`: these added up to one total, or one an array;
3. `make_finalize_norms`: norms and clip factors of the totals; it decides whether the step is
   taken, and counts it.

What a part contains depends on the array's size alone, so the bits do not depend on grid, stream,
layout or alignment.

An element passes at most 16 additions in its thread and 8 in its block, all in float64; the
partial sums are added up together with what each addition loses. The norm is within 8 ulp whatever
the numbers are. Squares of float64 that leave the range are added up a second time, scaled by a
power of two: by the same kernels, which return at once where that is not needed.
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
from numadam._cuda.kernel import make_tile_access
from numadam._cuda.kernel_spec import (
    LEAF,
    Made,
    Pass,
    device_jit,
    make_load_addresses,
    tile_iterations,
)
from numadam._cuda.memory import SIMULATED, make_array_view, make_load, make_load_fields, plain
from numadam._cuda.scalar_kernels import (
    COUNTERS,
    control_width,
    make_advance_all,
    make_scalars,
    scalars_type,
)

if SIMULATED:

    def _square(x):
        return x * x

else:
    from numba.cuda import libdevice

    # of float64: rounded before it is added, as on the CPU. A float32's is exact in float64
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
    return policy.THREADS * policy.SUMMED_PER_THREAD


def norm_iterations(plan: Plan) -> int:
    """Numbers that a thread takes at a time."""
    return max(1, tile_iterations(plan, norm_slots(plan)) * plan.numbers // plan.unit)


def _make_squares(plan: Plan, wrap: Any) -> tuple[Any, Any]:
    """Two functions ``squares(a, i, added, scale, k)``: for a tile of numbers, and for one number.

    They add the squares of the gradient, as the norm takes it, to `added`.
    """
    slots, width = norm_slots(plan), norm_iterations(plan)
    gradient, square = make_norm_gradient(plan, wrap), wrap(_square)
    scales = plan.real == np.float64
    # every number by itself: parts of complex ones are numbers here
    numbers = Pass(dataclasses.replace(plan, modulus=False), slots, slots, (), None)
    of_x = pl.MASTER if plan.master else pl.P
    order = (of_x, pl.G, pl.SUM, pl.LOW, pl.HIGH)
    ax, ag, at, al, ah = (slots.index(slot) if slot in slots else 0 for slot in order)

    def make(count):
        reads, _ = make_tile_access(numbers, count, wrap)
        rx, rg, rt, rl, rh = (reads[slot] for slot in order)

        def one(e, x, g, total, low, high, scale, k):
            y = np.float64(gradient(e, x, g, total, low, high, k))
            return square(y * scale) if scales else y * y

        one = wrap(one)

        def squares(a, i, added, scale, k):
            x, g, total = rx(a[ax], i), rg(a[ag], i), rt(a[at], i)
            low, high = rl(a[al], i), rh(a[ah], i)
            # unrolled by hand, as the pass is: tiles stay in registers
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

    return make(width), make(1)


def _fold(sums, lane, lanes):
    """Add the second half of a block's sums to the first, until one is left.

    Pairs are the same at every launch, so that the bits are.
    """
    half = lanes // 2
    cuda.syncthreads()
    while half > 0:
        if lane < half:
            sums[lane] += sums[lane + half]
        cuda.syncthreads()
        half //= 2


def _make_add_part(plan: Plan, by_value: bool, wrap: Any) -> Any:
    """``add_part(a, block, first, size, tiled, rows, row, partials, exponent, scaled)``.

    The threads of a block add up the squares of one part of an array: numbers from
    ``(block - first) * part_size()`` on. Their sum becomes partial sum `block`.
    """
    whole, single = _make_squares(plan, wrap)
    scalars, read = make_scalars(plan, by_value, wrap)
    width, fold, power = norm_iterations(plan), wrap(_fold), plain(norms.power)
    threads, part = policy.THREADS, part_size()
    rounds = policy.SUMMED_PER_THREAD // width
    doubles = make_array_view(np.dtype(np.float64))

    def add_part(a, block, first, size, tiled, rows, row, partials, exponent, scaled):
        if scaled != 0 and exponent == 0:
            return
        scale = power(-exponent) if scaled != 0 else 1.0
        _, k = read(scalars(rows, 0, row))
        lane, added = np.int64(cuda.threadIdx.x), 0.0
        begin = (block - first) * part
        for step in range(rounds):
            i = begin + (step * threads + lane) * width  # neighbouring threads, neighbouring tiles
            if tiled != 0 and i + width <= size:
                added = whole(a, i, added, scale, k)
            else:
                for j in range(i, min(i + width, size)):
                    added = single(a, j, added, scale, k)
        shared = cuda.shared.array(threads, np.float64)
        shared[lane] = added
        fold(shared, lane, threads)
        if lane == 0:
            doubles(partials + 8 * block, 1)[0] = shared[0]

    return wrap(add_part)


def make_sums(plan: Plan, by_value: bool, many: bool) -> Made:
    """A partial sum for each block of threads, which adds up one part of an array.

    Over one leaf ``sums(addresses, size, tiled, partials, exponents, scaled, rows)``, over many
    ``sums(table, leaves, partials, exponents, scaled, rows)``. `scaled` 1: the second pass, where
    the exponent of a total says that its squares have left the range.
    """
    wrap = device_jit()
    add_part, longs = _make_add_part(plan, by_value, wrap), make_array_view(np.dtype(np.int64))
    addresses, leaf_of = make_load_addresses(norm_slots(plan)), make_load(np.dtype(np.int32), (0,))
    fields = make_load_fields(LEAF, "group", "first_part", "norm_size", "norm_tiled")
    record, i8, of_each = LEAF.itemsize, cuda.types.int64, 1 if plan.norm == "array" else 0

    def over_one(a, size, tiled, partials, exponents, scaled, rows):
        block = np.int64(cuda.blockIdx.x)
        exponent = longs(exponents, 1)[0]
        add_part(a, block, 0, size, tiled, rows, 0, partials, exponent, scaled)

    def over_many(table, leaves, partials, exponents, scaled, rows):
        block = np.int64(cuda.blockIdx.x)
        leaf = np.int64(leaf_of(leaves + 4 * block)[0])
        place = table + leaf * record
        group, first, size, tiled = fields(place)
        exponent = longs(exponents + 8 * leaf * of_each, 1)[0]
        a = addresses(place)
        add_part(a, block, first, size, tiled, rows, group, partials, exponent, scaled)

    of_rows = scalars_type(plan, by_value)
    if many:
        return over_many, cuda.types.void(*[i8] * 5, of_rows)
    of_addresses = cuda.types.UniTuple(i8, len(norm_slots(plan)))
    return over_one, cuda.types.void(of_addresses, *[i8] * 5, of_rows)


def make_combine(plan: Plan) -> Made:
    """``combine(partials, firsts, totals, exponents, scaled)``: a block of threads a total.

    `firsts` says where the partial sums of each begin, and last where they end. Every addition is
    an error-free transformation: what it loses is added up beside it.
    """
    two_sum, exponent_of = plain(norms.two_sum), plain(norms.exponent_of)
    doubles, longs = make_array_view(np.dtype(np.float64)), make_array_view(np.dtype(np.int64))
    threads, both = policy.THREADS, 2 * policy.THREADS
    scales, i8 = plan.real == np.float64, cuda.types.int64

    def combine(partials, firsts, totals, exponents, scaled):
        which, lane = np.int64(cuda.blockIdx.x), np.int64(cuda.threadIdx.x)
        of_total = longs(exponents + 8 * which, 1)
        if scaled != 0 and of_total[0] == 0:
            return
        ends = longs(firsts + 8 * which, 2)
        sums = cuda.shared.array(both, np.float64)  # of each thread, then what these have lost
        numbers, total, lost = doubles(partials, ends[1]), 0.0, 0.0
        for i in range(ends[0] + lane, ends[1], threads):
            total, loss = two_sum(total, numbers[i])
            lost += loss
        sums[lane], sums[threads + lane] = total, lost
        half = threads // 2
        cuda.syncthreads()
        while half > 0:
            if lane < half:
                total, loss = two_sum(sums[lane], sums[lane + half])
                sums[lane] = total
                sums[threads + lane] += sums[threads + lane + half] + loss
            cuda.syncthreads()
            half //= 2
        if lane == 0:
            total, lost = sums[0], sums[threads]
            # inf - inf has made `lost` NaN where the total is infinite
            total = total if math.isnan(lost) else total + lost
            doubles(totals + 8 * which, 1)[0] = total
            if scaled == 0:
                of_total[0] = exponent_of(total) if scales else 0

    return combine, cuda.types.void(*[i8] * 5)


def make_finalize_norms(plan: Plan) -> Made:
    """``finalize_norms(control, products, counters, totals, exponents, factors, norms, ...)``.

    Then come `sums`, `groups`, `t`, `guard`. In one block of threads: norms and clip factors of
    all sums, then whether the step is taken. With `guard` 0 it is whatever the gradients are; else
    only if they are finite. A step that is taken is counted as number `t` (0: the one after those
    counted), in the counters and in the running products of `groups` rows.
    """
    power_norm, clip_factor = plain(norms.norm), plain(norms.clip_factor)
    doubles, longs = make_array_view(np.dtype(np.float64)), make_array_view(np.dtype(np.int64))
    reals, records = make_array_view(plan.real), make_array_view(COUNTERS)
    column = op.CLIP_ARRAY if plan.norm == "array" else op.CLIP_NORM
    advance, wide, small = make_advance_all(plan), control_width(plan), tiny(plan.real)
    threads, i8 = policy.THREADS, cuda.types.int64

    def finalize_norms(
        control, products, counters, totals, exponents, factors, norms_at, sums, groups, t, guard
    ):
        lane, row = np.int64(cuda.threadIdx.x), doubles(control, wide)
        limit, margin = row[column], row[op.MARGIN]
        bad, counted = cuda.shared.array(1, np.int64), records(counters, 1)[0]
        if lane == 0:
            bad[0] = 0
        if t == 0:
            t = counted.t + 1
        cuda.syncthreads()
        all_totals, all_exponents = doubles(totals, sums), longs(exponents, sums)
        out, found = reals(factors, 2 * sums), doubles(norms_at, sums)
        for j in range(lane, sums, threads):
            total, exponent = all_totals[j], int(all_exponents[j])
            found[j] = power_norm(total, exponent)
            pre, factor = clip_factor(total, exponent, limit, margin, small)
            out[2 * j], out[2 * j + 1] = pre, factor
            if not math.isfinite(total):
                bad[0] = 1  # by any number of threads: all write the same
        cuda.syncthreads()
        if lane == 0:
            counted.finite = 1 - bad[0]
            taken = bad[0] == 0 or guard == 0
            counted.go = 1 if taken else 0
            if taken:
                for r in range(groups):
                    advance(products, control, r, np.float64(t))
                counted.t = t
                counted.skipped_in_a_row = 0
            else:
                counted.skipped += 1
                counted.skipped_in_a_row += 1

    return finalize_norms, cuda.types.void(*[i8] * 11)
