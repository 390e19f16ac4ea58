"""Norms of the gradients on the GPU: the kernels.

1. `make_sums`: the sum of squares of each part of an array, one block of threads a part;
2. `make_combine`: these added up to one total, or one an array;
3. `make_finalize_norms`: norms and clip factors of the totals, and whether all are finite. Where
   there is one total, it also does the work of the second.

The host waits for them where a guard asks whether all are finite. What a part contains depends on
the array's size alone, so the bits do not depend on grid, stream, layout or alignment.

An element passes at most 16 additions in its thread and 8 in its block, all in float64; longer
sums are added up together with what each addition loses. The norm is within 8 ulp whatever the
numbers are.

Squares of float64 may leave its range. So a float64 plan has three sums in the place of one
(`SUMS`), as Blue's algorithm: numbers whose squares could overflow or vanish are scaled by a power
of two, and added up by themselves.

Source: J. L. Blue, A portable Fortran program to find the Euclidean norm of a vector, ACM TOMS 4
(1978); E. Anderson, Algorithm 978: safe scaling in the level 1 BLAS, ACM TOMS 44 (2017).
"""
# mypy: disallow-untyped-defs=False, disallow-untyped-calls=False

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
from numba import cuda
from numba.cuda import libdevice

from numadam._core import plan as pl
from numadam._core.element import make_norm_gradient
from numadam._core.norms import clip_factor, norm
from numadam._core.plan import Plan
from numadam._core.scalars import tiny
from numadam._cuda import launch as policy
from numadam._cuda.kernel import (
    LEAF,
    KernelSource,
    Pass,
    device_jit,
    make_each,
    make_load_addresses,
    make_scalars,
    make_tiles,
    scalars_type,
    tile_iterations,
)
from numadam._cuda.memory import doubles, load_int, longs, make_array_view, make_load_fields
from numadam._jit.functions import linked

# --- partial sums --------------------------------------------------------------------------------


#: Sums of squares of a float64 plan: of numbers as they are, of large and of small ones, scaled.
SUMS = 3
#: The exponent of a scale. Scaled by 2**-600 or 2**600, no large or small number leaves the range.
SHIFT = 600
# Exponents, as a float64 holds them, of numbers that are added up as they are: from 2**-480, whose
# square is no denormal, to 2**480, of whose squares 2**60 may be added up.
_LOWEST, _HIGHEST = 1023 - 480, 1023 + 480
#: Partial sums of one array at most: one block of threads adds them up.
_MOST_PARTS = 8_192


def _add_exact(sums, y):
    """Sums of squares with one more, of a float32: exact in float64."""
    return sums[0] + y * y, sums[1], sums[2]


def _add_scaled(sums, y):
    """Sums of squares with one more, of a float64."""
    middle, high, low = sums
    # integers, since most GPUs have few units for float64
    exponent = (libdevice.double2hiint(y) >> 20) & 0x7FF
    # each square is rounded before it is added, as on the CPU
    if exponent > _HIGHEST:  # inf and NaN, too
        y *= 2.0**-SHIFT
        high += libdevice.dmul_rn(y, y)
    elif exponent < _LOWEST:
        y *= 2.0**SHIFT
        low += libdevice.dmul_rn(y, y)
    else:
        middle += libdevice.dmul_rn(y, y)
    return middle, high, low


def sums_of(plan: Plan) -> int:
    """Sums of squares that each part has."""
    return SUMS if plan.real == np.float64 else 1


def norm_slots(plan: Plan) -> tuple[int, ...]:
    """The arrays of a norm; parameters and bounds, since at an active bound no gradient counts."""
    slots = [pl.G]
    if plan.bounds:
        slots.append(pl.P)
    return *slots, *((pl.LOW, pl.HIGH) if plan.bounds == "array" else ())


def round_size() -> int:
    """Numbers that a block of threads adds up in one round."""
    return policy.THREADS * policy.SUMMED_PER_THREAD


def rounds_of(numbers: Any) -> Any:
    """Rounds of each part of arrays of so many numbers: 1 up to 33 million."""
    return np.maximum(-(-numbers // (round_size() * _MOST_PARTS)), 1)


def norm_iterations(plan: Plan) -> int:
    """Numbers that a thread takes at a time."""
    return max(1, tile_iterations(plan, norm_slots(plan)) * plan.numbers // plan.unit)


def _make_squares(plan: Plan, wrap: Any) -> tuple[Any, Any]:
    """Two functions ``squares(a, i, sums, k)``: for a tile of numbers, and for one number.

    They add the squares of the gradient, as the norm takes it, to `sums`.
    """
    slots, width = norm_slots(plan), norm_iterations(plan)
    gradient = make_norm_gradient(plan, wrap)
    add = wrap(_add_scaled if sums_of(plan) > 1 else _add_exact)
    # every number by itself: parts of complex ones are numbers here
    numbers = Pass(dataclasses.replace(plan, modulus=False), slots, slots, (), None)
    order = (pl.P, pl.G, pl.LOW, pl.HIGH)

    def one(n, tiles, k, sums):
        return add(sums, np.float64(gradient(n, *tiles, k)))

    one = wrap(one)

    def make(count):
        read, _ = make_tiles(numbers, count, order)
        each = make_each(one, count, wrap)

        def squares(a, i, sums, k):
            return each(0, read(a, i, i), k, sums)

        return wrap(squares)

    return make(width), make(1)


@linked
def two_sum(a, b):
    """The rounded sum of a and b, and its rounding error, exactly (Knuth's TwoSum)."""
    total = a + b
    of_b = total - a
    return total, (a - (total - of_b)) + (b - of_b)


@linked
def with_lost(total, lost):
    """A sum with what its additions have lost."""
    # inf - inf has made `lost` NaN where the sum is infinite
    return total if math.isnan(lost) else total + lost


def _make_fold(count: int, wrap: Any) -> Any:
    """``fold(sums, lane)``: add up `count` sums of all threads; those of thread 0 are the totals.

    Pairs are the same at every launch, so that the bits are.
    """
    threads = policy.THREADS

    def fold(sums, lane):
        half = threads // 2
        cuda.syncthreads()
        while half > 0:
            if lane < half:
                for k in range(count):
                    sums[k * threads + lane] += sums[k * threads + lane + half]
            cuda.syncthreads()
            half //= 2

    return wrap(fold)


def _make_add_part(plan: Plan, by_value: bool, wrap: Any) -> Any:
    """``add_part(a, block, first, size, tiled, rounds, rows, row, partials)``.

    The threads of a block add up the squares of one part of an array, in `rounds` of
    `round_size()` numbers. The sums become the partial sums of `block`.
    """
    whole, single = _make_squares(plan, wrap)
    scalars, read = make_scalars(plan, by_value, wrap)
    width, count = norm_iterations(plan), sums_of(plan)
    fold = _make_fold(count, wrap)
    threads, numbers, in_shared = policy.THREADS, round_size(), count * policy.THREADS
    steps = policy.SUMMED_PER_THREAD // width

    def add_part(a, block, first, size, tiled, rounds, rows, row, partials):
        _, k = read(scalars(rows, 0, row))
        lane, shared = np.int64(cuda.threadIdx.x), cuda.shared.array(in_shared, np.float64)
        totals, lost = cuda.shared.array(count, np.float64), cuda.shared.array(count, np.float64)
        if lane < count:
            totals[lane] = lost[lane] = 0.0
        begin = (block - first) * rounds * numbers
        for _ in range(rounds):
            sums = 0.0, 0.0, 0.0
            for step in range(steps):
                i = begin + (step * threads + lane) * width  # neighbours take neighbouring tiles
                if tiled != 0 and i + width <= size:
                    sums = whole(a, i, sums, k)
                else:
                    for j in range(i, min(i + width, size)):
                        sums = single(a, j, sums, k)
            shared[lane] = sums[0]
            if count > 1:
                shared[threads + lane], shared[2 * threads + lane] = sums[1], sums[2]
            fold(shared, lane)
            if lane < count:
                totals[lane], loss = two_sum(totals[lane], shared[lane * threads])
                lost[lane] += loss
            cuda.syncthreads()  # before the next round writes
            begin += numbers
        if lane < count:
            place = partials + 8 * (block * count + lane)
            doubles(place, 1)[0] = with_lost(totals[lane], lost[lane])

    return wrap(add_part)


def make_sums(plan: Plan, by_value: bool, many: bool) -> KernelSource:
    """Partial sums for each block of threads, which adds up one part of an array.

    Over one leaf ``sums(addresses, size, tiled, rounds, partials, rows)``, over many ``sums(table,
    leaves, partials, rows)``.
    """
    wrap = device_jit()
    add_part = _make_add_part(plan, by_value, wrap)
    addresses = make_load_addresses(norm_slots(plan))
    names = "group", "first_part", "norm_size", "norm_tiled", "norm_rounds"
    fields, record, i8 = make_load_fields(LEAF, *names), LEAF.itemsize, cuda.types.int64

    def over_one(a, size, tiled, rounds, partials, rows):
        add_part(a, np.int64(cuda.blockIdx.x), 0, size, tiled, rounds, rows, 0, partials)

    def over_many(table, leaves, partials, rows):
        block = np.int64(cuda.blockIdx.x)
        place = table + np.int64(load_int(leaves + 4 * block)[0]) * record
        group, first, size, tiled, rounds = fields(place)
        a = addresses(place)
        add_part(a, block, first, size, tiled, rounds, rows, group, partials)

    of_rows = scalars_type(plan, by_value)
    if many:
        return over_many, cuda.types.void(*[i8] * 3, of_rows)
    of_addresses = cuda.types.UniTuple(i8, len(norm_slots(plan)))
    return over_one, cuda.types.void(of_addresses, *[i8] * 4, of_rows)


# --- totals, norms and clip factors --------------------------------------------------------------


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
    """``finalize_norms(partials, firsts, totals, exponents, limit, margin, largest, ...)``.

    Then come `finite`, `factors`, `norms`, `sums`. In one block of threads: norms and clip factors
    of all totals, with `combines` the only total itself before. The number at `finite` is 1 where
    all gradients are finite and no norm is above `largest`, else 0.
    """
    reals, small = make_array_view(plan.real), tiny(plan.real)
    threads, combine_total = policy.THREADS, _make_combine_total(plan)

    def finalize_norms(
        partials, firsts, totals, exponents, limit, margin, largest, finite, factors, norms_at, sums
    ):
        if combines:
            combine_total(0, partials, firsts, totals, exponents)
        lane, good = np.int64(cuda.threadIdx.x), longs(finite, 1)
        if lane == 0:
            good[0] = 1
        cuda.syncthreads()
        all_totals, all_exponents = doubles(totals, sums), longs(exponents, sums)
        out, found = reals(factors, 2 * sums), doubles(norms_at, sums)
        for j in range(lane, sums, threads):
            total, exponent = all_totals[j], int(all_exponents[j])
            found[j] = norm(total, exponent)
            pre, factor = clip_factor(total, exponent, limit, margin, small)
            out[2 * j], out[2 * j + 1] = pre, factor
            if not (math.isfinite(total) and min(found[j], limit) <= largest):
                good[0] = 0  # by any number of threads: all write the same

    i8, f8 = cuda.types.int64, cuda.types.float64
    return finalize_norms, cuda.types.void(*[i8] * 4, *[f8] * 3, *[i8] * 4)
