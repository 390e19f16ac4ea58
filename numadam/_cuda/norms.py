"""Partial sums of the gradients' squares on the GPU: the first kernel of a norm.

1. `make_sums`: the sum of squares of each part of an array, one block of threads a part;
2. `norm_totals.make_combine`: these added up to one total, or one an array;
3. `norm_totals.make_finalize_norms`: norms and clip factors of the totals; it decides whether the
   step is taken, and counts it. Where there is one total, it also does the work of the second.

The host waits for none of them. What a part contains depends on the array's size alone, so the
bits do not depend on grid, stream, layout or alignment.

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
from numadam._core.plan import Plan
from numadam._cuda import launch as policy
from numadam._cuda.kernel import make_tile_access
from numadam._cuda.kernel_spec import (
    LEAF,
    KernelSource,
    Pass,
    device_jit,
    make_load_addresses,
    tile_iterations,
)
from numadam._cuda.memory import make_array_view, make_load, make_load_fields
from numadam._cuda.scalar_kernels import (
    make_scalars,
    scalars_type,
)
from numadam._jit.functions import linked

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
    slots = [pl.G, pl.SUM] if plan.accumulate else [pl.G]
    if plan.bounds:
        slots.append(pl.MASTER if plan.master else pl.P)
    slots += [pl.LOW, pl.HIGH] if plan.bounds == "array" else []
    return *slots, *((pl.OWNED,) if plan.owned else ())


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
    of_x = pl.MASTER if plan.master else pl.P
    order = (of_x, pl.G, pl.SUM, pl.LOW, pl.HIGH, pl.OWNED)
    ax, ag, at, al, ah, ao = (slots.index(slot) if slot in slots else 0 for slot in order)

    def make(count):
        reads, _ = make_tile_access(numbers, count, wrap)
        rx, rg, rt, rl, rh, ro = (reads[slot] for slot in order)

        def one(e, x, g, total, low, high, own, sums, k):
            return add(sums, np.float64(gradient(e, x, g, total, low, high, own, k)))

        one = wrap(one)

        def squares(a, i, sums, k):
            x, g, total = rx(a[ax], i), rg(a[ag], i), rt(a[at], i)
            low, high, own = rl(a[al], i), rh(a[ah], i), ro(a[ao], i)
            # unrolled by hand, as the pass is: tiles stay in registers
            sums = one(0, x, g, total, low, high, own, sums, k)
            if count > 1:
                sums = one(1, x, g, total, low, high, own, sums, k)
            if count > 2:
                sums = one(2, x, g, total, low, high, own, sums, k)
                sums = one(3, x, g, total, low, high, own, sums, k)
            if count > 4:
                sums = one(4, x, g, total, low, high, own, sums, k)
                sums = one(5, x, g, total, low, high, own, sums, k)
                sums = one(6, x, g, total, low, high, own, sums, k)
                sums = one(7, x, g, total, low, high, own, sums, k)
            return sums

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
    fold, doubles = _make_fold(count, wrap), make_array_view(np.dtype(np.float64))
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
    addresses, leaf_of = make_load_addresses(norm_slots(plan)), make_load(np.dtype(np.int32), (0,))
    names = "group", "first_part", "norm_size", "norm_tiled", "norm_rounds"
    fields, record, i8 = make_load_fields(LEAF, *names), LEAF.itemsize, cuda.types.int64

    def over_one(a, size, tiled, rounds, partials, rows):
        add_part(a, np.int64(cuda.blockIdx.x), 0, size, tiled, rounds, rows, 0, partials)

    def over_many(table, leaves, partials, rows):
        block = np.int64(cuda.blockIdx.x)
        place = table + np.int64(leaf_of(leaves + 4 * block)[0]) * record
        group, first, size, tiled, rounds = fields(place)
        a = addresses(place)
        add_part(a, block, first, size, tiled, rounds, rows, group, partials)

    of_rows = scalars_type(plan, by_value)
    if many:
        return over_many, cuda.types.void(*[i8] * 3, of_rows)
    of_addresses = cuda.types.UniTuple(i8, len(norm_slots(plan)))
    return over_one, cuda.types.void(of_addresses, *[i8] * 4, of_rows)
