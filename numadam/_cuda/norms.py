"""Partial sums of the gradients' squares on the GPU: the first of three kernels of a norm.

1. `make_sums`: the sum of squares of each part of an array, one block of threads a part;
2. `norm_totals.make_combine`: these added up to one total, or one an array;
3. `norm_totals.make_finalize_norms`: norms and clip factors of the totals; it decides whether the
   step is taken, and counts it.

The host waits for none of them. What a part contains depends on the array's size alone, so the
bits do not depend on grid, stream, layout or alignment.

An element passes at most 16 additions in its thread and 8 in its block, all in float64; the
partial sums are added up together with what each addition loses. The norm is within 8 ulp whatever
the numbers are. Squares of float64 that leave the range are added up a second time, scaled by a
power of two: by the same kernels, which return at once where that is not needed.
"""
# mypy: disallow-untyped-defs=False, disallow-untyped-calls=False

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from numba import cuda  # here and not in a function: the simulator swaps the module's global

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
from numadam._cuda.memory import SIMULATED, make_array_view, make_load, make_load_fields, plain
from numadam._cuda.scalar_kernels import (
    make_scalars,
    scalars_type,
)
from numadam._jit.functions import linked

# A total in [_LOWEST, _HIGHEST] has lost no digit that counts: squares below 2**-1022 are denormal,
# above 2**1024 infinite, and the margins allow for the number of elements. Scaling by 2**600 brings
# every float64 total back into it.
_SHIFT = 600
_LOWEST, _HIGHEST = 2.0**-900, 2.0**1000


@linked
def exponent_of(total):
    """The exponent by which float64 elements have to be scaled for a second pass, or 0 for none.

    A zero total needs it too: squares below 2**-1075 vanish. So does NaN: it may come from squares
    that overflow.
    """
    if total < _LOWEST:
        return -_SHIFT
    return 0 if total <= _HIGHEST else _SHIFT


@linked
def power(exponent):
    """``2.0**exponent``, for what `exponent_of` returns and its negative."""
    if exponent == 0:
        return 1.0
    return 2.0**_SHIFT if exponent > 0 else 2.0**-_SHIFT


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
    slots += [pl.LOW, pl.HIGH] if plan.bounds == "array" else []
    return *slots, *((pl.OWNED,) if plan.owned else ())


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
    order = (of_x, pl.G, pl.SUM, pl.LOW, pl.HIGH, pl.OWNED)
    ax, ag, at, al, ah, ao = (slots.index(slot) if slot in slots else 0 for slot in order)

    def make(count):
        reads, _ = make_tile_access(numbers, count, wrap)
        rx, rg, rt, rl, rh, ro = (reads[slot] for slot in order)

        def one(e, x, g, total, low, high, own, scale, k):
            y = np.float64(gradient(e, x, g, total, low, high, own, k))
            return square(y * scale) if scales else y * y

        one = wrap(one)

        def squares(a, i, added, scale, k):
            x, g, total = rx(a[ax], i), rg(a[ag], i), rt(a[at], i)
            low, high, own = rl(a[al], i), rh(a[ah], i), ro(a[ao], i)
            # unrolled by hand, as the pass is: tiles stay in registers
            added += one(0, x, g, total, low, high, own, scale, k)
            if count > 1:
                added += one(1, x, g, total, low, high, own, scale, k)
            if count > 2:
                added += one(2, x, g, total, low, high, own, scale, k)
                added += one(3, x, g, total, low, high, own, scale, k)
            if count > 4:
                added += one(4, x, g, total, low, high, own, scale, k)
                added += one(5, x, g, total, low, high, own, scale, k)
                added += one(6, x, g, total, low, high, own, scale, k)
                added += one(7, x, g, total, low, high, own, scale, k)
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
    width, fold, scale_of = norm_iterations(plan), wrap(_fold), plain(power)
    threads, part = policy.THREADS, part_size()
    rounds = policy.SUMMED_PER_THREAD // width
    doubles = make_array_view(np.dtype(np.float64))

    def add_part(a, block, first, size, tiled, rows, row, partials, exponent, scaled):
        if scaled != 0 and exponent == 0:
            return
        scale = scale_of(-exponent) if scaled != 0 else 1.0
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


def make_sums(plan: Plan, by_value: bool, many: bool) -> KernelSource:
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
