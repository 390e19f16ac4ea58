"""From the partial sums of squares to norms, clip factors and the decision to take the step.

The second and third kernel of a norm (`norms` has the first).
"""
# mypy: disallow-untyped-defs=False, disallow-untyped-calls=False

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import cuda

from numadam._core import options as op
from numadam._core.norms import clip_factor, norm
from numadam._core.plan import Plan
from numadam._core.scalars import tiny
from numadam._cuda import launch as policy
from numadam._cuda.kernel_spec import KernelSource
from numadam._cuda.memory import make_array_view
from numadam._cuda.norms import SHIFT, sums_of, two_sum, with_lost
from numadam._cuda.scalar_kernels import COUNTERS, control_width, make_advance_all
from numadam._jit.functions import linked


@linked
def scaled_total(middle, high, low):
    """The total of the three sums of a float64 plan, and the exponent of its scale."""
    if high != 0.0:  # NaN, too
        return high + middle * 2.0 ** (-2 * SHIFT), SHIFT
    if middle != 0.0:
        return middle + low * 2.0 ** (-2 * SHIFT), 0
    return low, -SHIFT


def _make_combine_total(plan: Plan) -> Any:
    """``combine_total(which, partials, firsts, totals, exponents)``, for a block of threads.

    `firsts` says where the partial sums of each total begin, and last where they end. Every
    addition is an error-free transformation: what it loses is added up beside it.
    """
    doubles, longs = make_array_view(np.dtype(np.float64)), make_array_view(np.dtype(np.int64))
    threads, count = policy.THREADS, sums_of(plan)
    in_shared = threads * count

    def combine_total(which, partials, firsts, totals, exponents):
        lane, ends = np.int64(cuda.threadIdx.x), longs(firsts + 8 * which, 2)
        sums = cuda.shared.array(in_shared, np.float64)
        lost = cuda.shared.array(in_shared, np.float64)
        numbers = doubles(partials, count * ends[1])
        for k in range(count):
            total, losses = 0.0, 0.0
            for i in range(ends[0] + lane, ends[1], threads):
                total, loss = two_sum(total, numbers[count * i + k])
                losses += loss
            sums[k * threads + lane], lost[k * threads + lane] = total, losses
        half = threads // 2
        cuda.syncthreads()
        while half > 0:
            if lane < half:
                for k in range(count):
                    at = k * threads + lane
                    sums[at], loss = two_sum(sums[at], sums[at + half])
                    lost[at] += lost[at + half] + loss
            cuda.syncthreads()
            half //= 2
        if lane == 0:
            total, exponent = with_lost(sums[0], lost[0]), 0
            if count > 1:
                high = with_lost(sums[threads], lost[threads])
                low = with_lost(sums[2 * threads], lost[2 * threads])
                total, exponent = scaled_total(total, high, low)
            doubles(totals + 8 * which, 1)[0] = total
            longs(exponents + 8 * which, 1)[0] = exponent

    return cuda.jit(device=True)(combine_total)


def make_combine(plan: Plan) -> KernelSource:
    """``combine(partials, firsts, totals, exponents)``: a block of threads a total."""
    combine_total = _make_combine_total(plan)

    def combine(partials, firsts, totals, exponents):
        combine_total(np.int64(cuda.blockIdx.x), partials, firsts, totals, exponents)

    return combine, cuda.types.void(*[cuda.types.int64] * 4)


def make_finalize_norms(plan: Plan, combines: bool) -> KernelSource:
    """``finalize_norms(partials, firsts, totals, exponents, control, products, counters, ...)``.

    Then come `factors`, `norms`, `sums`, `groups`, `t`, `guard`. In one block of threads: norms and
    clip factors of all totals, with `combines` the only total itself before, then whether the step
    is taken. With `guard` 0 it is whatever the gradients are; else only if they are finite. A step
    that is taken is counted as number `t` (0: the one after those counted), in the counters and in
    the running products of `groups` rows. It is one long function, since its threads meet at
    barriers.
    """
    doubles, longs = make_array_view(np.dtype(np.float64)), make_array_view(np.dtype(np.int64))
    reals, records = make_array_view(plan.real), make_array_view(COUNTERS)
    columns, of_margin = op.COLUMN, op.COLUMN.margin
    column = columns.clip_array_norm if plan.norm == "array" else columns.clip_norm
    advance, wide, small = make_advance_all(plan), control_width(plan), tiny(plan.real)
    threads, combine_total = policy.THREADS, _make_combine_total(plan)

    def finalize_norms(
        partials, firsts, totals, exponents, control, products, counters, factors, norms_at, sums,
        groups, t, guard,
    ):  # fmt: skip
        if combines:
            combine_total(0, partials, firsts, totals, exponents)
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
            found[j] = norm(total, exponent)
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

    return finalize_norms, cuda.types.void(*[cuda.types.int64] * 13)
