"""From the partial sums of squares to norms, clip factors and the decision to take the step.

The second and third kernel of a norm (`norms` has the first).
"""
# mypy: disallow-untyped-defs=False, disallow-untyped-calls=False

from __future__ import annotations

import math

import numpy as np
from numba import cuda  # here and not in a function: the simulator swaps the module's global

from numadam._core import norms
from numadam._core import options as op
from numadam._core.plan import Plan
from numadam._core.scalars import tiny
from numadam._cuda import launch as policy
from numadam._cuda.kernel_spec import KernelSource
from numadam._cuda.memory import make_array_view, plain
from numadam._cuda.norms import exponent_of
from numadam._cuda.scalar_kernels import COUNTERS, control_width, make_advance_all
from numadam._jit.functions import linked


@linked
def two_sum(a, b):
    """The rounded sum of a and b, and its rounding error, exactly (Knuth's TwoSum)."""
    total = a + b
    of_b = total - a
    return total, (a - (total - of_b)) + (b - of_b)


def make_combine(plan: Plan) -> KernelSource:
    """``combine(partials, firsts, totals, exponents, scaled)``: a block of threads a total.

    `firsts` says where the partial sums of each begin, and last where they end. Every addition is
    an error-free transformation: what it loses is added up beside it.
    """
    add, exponent = plain(two_sum), plain(exponent_of)
    doubles, longs = make_array_view(np.dtype(np.float64)), make_array_view(np.dtype(np.int64))
    threads, both, i8 = policy.THREADS, 2 * policy.THREADS, cuda.types.int64
    scales = plan.real == np.float64

    def combine(partials, firsts, totals, exponents, scaled):
        which, lane = np.int64(cuda.blockIdx.x), np.int64(cuda.threadIdx.x)
        of_total = longs(exponents + 8 * which, 1)
        if scaled != 0 and of_total[0] == 0:
            return
        ends = longs(firsts + 8 * which, 2)
        sums = cuda.shared.array(both, np.float64)  # of each thread, then what these have lost
        numbers, total, lost = doubles(partials, ends[1]), 0.0, 0.0
        for i in range(ends[0] + lane, ends[1], threads):
            total, loss = add(total, numbers[i])
            lost += loss
        sums[lane], sums[threads + lane] = total, lost
        half = threads // 2
        cuda.syncthreads()
        while half > 0:
            if lane < half:
                total, loss = add(sums[lane], sums[lane + half])
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
                of_total[0] = exponent(total) if scales else 0

    return combine, cuda.types.void(*[i8] * 5)


def make_finalize_norms(plan: Plan) -> KernelSource:
    """``finalize_norms(control, products, counters, totals, exponents, factors, norms, ...)``.

    Then come `sums`, `groups`, `t`, `guard`. In one block of threads: norms and clip factors of
    all sums, then whether the step is taken. With `guard` 0 it is whatever the gradients are; else
    only if they are finite. A step that is taken is counted as number `t` (0: the one after those
    counted), in the counters and in the running products of `groups` rows. It is one long
    function, since its threads meet at barriers.
    """
    power_norm, clip_factor = plain(norms.norm), plain(norms.clip_factor)
    doubles, longs = make_array_view(np.dtype(np.float64)), make_array_view(np.dtype(np.int64))
    reals, records = make_array_view(plan.real), make_array_view(COUNTERS)
    columns, of_margin = op.COLUMN, op.COLUMN.margin
    column = columns.clip_array_norm if plan.norm == "array" else columns.clip_norm
    advance, wide, small = make_advance_all(plan), control_width(plan), tiny(plan.real)
    threads, i8 = policy.THREADS, cuda.types.int64

    def finalize_norms(
        control, products, counters, totals, exponents, factors, norms_at, sums, groups, t, guard
    ):
        lane, row = np.int64(cuda.threadIdx.x), doubles(control, wide)
        limit, margin = row[column], row[of_margin]
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
                    advance(products, r)
                counted.t = t
                counted.skipped_in_a_row = 0
            else:
                counted.skipped += 1
                counted.skipped_in_a_row += 1

    return finalize_norms, cuda.types.void(*[i8] * 11)
