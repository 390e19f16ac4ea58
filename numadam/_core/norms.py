"""The sum of squares behind the norms and the finite check: deterministic, and safe in range.

An array is cut into blocks of ``BLOCK`` elements. Each block gives one float64, its partial, and
the partials are added up in their order. What a block gives depends on its elements alone, so
neither parts, threads nor threading layer change a bit.

No element passes more than 9 roundings inside a block, and the sum over blocks is compensated:
the norm is within 4 ulp of ``sqrt(math.fsum(x * x))`` whatever the numbers are.

float32 and shorter cannot leave the range of float64 when squared. float64 can::

    total = combine(partials, first, count)   # of block(..., k)
    e = exponent_of(total)                    # 0: the total can be trusted
    if e != 0:                                # seldom: all elements are looked at again
        total = combine(partials, first, count)   # of scaled(..., (k, power(-e)))

Then ``norm == sqrt(total) * 2**e``, and a total that is not finite means an element that is not.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import carray, njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from numadam._jit.pointers import inner

#: Elements added side by side. The loop over them is elementwise, which the compiler packs; it
#: may not reorder one running sum (7 times slower). Loops over 32 lanes were unrolled, not packed:
#: 3 times slower.
LANES = 64

#: Elements of one partial: 4 rows of lanes. 16 rows are a quarter faster within the cache, but
#: let an element pass 21 roundings and the norm be off by 7 ulp.
BLOCK = 4 * LANES

#: Partials from which they too are added in lanes: one sum after another takes 4 cycles each.
_LANES_FROM = 16 * LANES

_SHIFT = 600
_LOWEST, _HIGHEST = 2.0**-900, 2.0**1000
_UP, _DOWN = 2.0**_SHIFT, 2.0**-_SHIFT

_WIDTH = 8  # elements of the vectors in `_fold`: a register of AVX-512, two of AVX2

#: Called from compiled code, and from Python when a report or a test asks.
_both = njit(error_model="numpy", no_cfunc_wrapper=True)


@intrinsic
def _scratch(typingctx: Any) -> Any:
    """Room for one row of lanes on the stack: an array would be allocated at every call."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        # not cgutils.alloca_once, which writes zeros there first
        with builder.goto_entry_block():
            room = builder.alloca(ir.ArrayType(ir.DoubleType(), LANES))
            room.align = 64
        return builder.bitcast(room, cgutils.voidptr_t)

    return types.voidptr(), codegen


@intrinsic
def _fold(typingctx: Any, room: Any) -> Any:
    """Add the second half of the lanes to the first, until one is left.

    Written as vectors: the compiler unrolls so short a loop before it could pack it.
    """
    index = ir.IntType(32)

    def half(builder: Any, vector: Any, first: int, width: int) -> Any:
        mask = ir.Constant(ir.VectorType(index, width), [index(first + k) for k in range(width)])
        return builder.shuffle_vector(vector, ir.Constant(vector.type, ir.Undefined), mask)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        kind = ir.VectorType(ir.DoubleType(), _WIDTH)
        base = builder.bitcast(args[0], kind.as_pointer())
        vectors = []
        for k in range(LANES // _WIDTH):
            vectors.append(builder.load(builder.gep(base, [index(k)])))
            vectors[-1].align = 64
        while len(vectors) > 1:
            middle = len(vectors) // 2
            pairs = zip(vectors[:middle], vectors[middle:], strict=True)
            vectors = [builder.fadd(a, b) for a, b in pairs]
        (vector,), width = vectors, _WIDTH
        while width > 1:
            width //= 2
            low, high = half(builder, vector, 0, width), half(builder, vector, width, width)
            vector = builder.fadd(low, high)
        return builder.extract_element(vector, index(0))

    return types.float64(types.voidptr), codegen


@intrinsic
def _add_square(typingctx: Any, total: Any, x: Any) -> Any:
    """``total + x * x`` in float64.

    The square of a float32 is exact there, so that one rounding is left whether or not the
    compiler makes one instruction of the two: it may (15 % faster). Squares of float64 round.
    """

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        so_far, value = args
        if signature.args[1] != types.float32:
            return builder.fadd(so_far, builder.fmul(value, value))
        value = builder.fpext(value, ir.DoubleType())
        square = builder.fmul(value, value, flags=("contract",))
        return builder.fadd(so_far, square, flags=("contract",))

    return types.float64(types.float64, x), codegen


def _make_value(gradient: Any, scaled: bool) -> Any:
    # arguments are spelled out: with *arrays, a loop over four of them was not packed
    def times(i, p, g, acc, lo, hi, k):
        return np.float64(gradient(i, p, g, acc, lo, hi, k[0])) * k[1]

    return times if scaled else gradient


def make_block(gradient: Any, wrap: Callable[[Any], Any], scaled: bool = False) -> Any:
    """The partial of one block of the elements that `gradient` gives.

    Parameters
    ----------
    gradient : compiled function
        ``gradient(i, p, g, acc, lo, hi, k)``: element i as the step uses it; i is a uint64. The
        loop is packed if all that it reads is read before any condition.
    wrap : callable
        Compiles a function, as `jit_once` does.
    scaled : bool
        Whether the block is for the second pass.

    Returns
    -------
    compiled function
        ``block(first, n, p, g, acc, lo, hi, k) -> float64``: the sum of the squares of `n`
        elements from `first` on, n <= BLOCK. Absent arrays are None. If scaled, it takes
        ``(k, scale)`` for k, and the elements times scale.
    """
    value = wrap(_make_value(gradient, True)) if scaled else gradient

    def block(first, n, p, g, acc, lo, hi, k):
        room = _scratch()
        lanes = carray(room, LANES, np.float64)
        for i in range(LANES):
            lanes[i] = 0.0
        # unsigned: a signed index may count from the end, and such a loop is not packed
        at, left, row = np.uint64(first), np.uint64(n), np.uint64(LANES)
        for _ in range(left // row):
            for i in range(row):
                lanes[i] = _add_square(lanes[i], value(at + i, p, g, acc, lo, hi, k))
            at += row
        for i in range(left % row):
            lanes[i] = _add_square(lanes[i], value(at + i, p, g, acc, lo, hi, k))
        return _fold(room)

    return wrap(block)


@_both
def blocks(n):
    """How many blocks, and so partials, an array of n elements has."""
    return (n + BLOCK - 1) // BLOCK


@inner
def two_sum(a, b):
    """The rounded sum of a and b, and what the rounding lost, exactly (Knuth)."""
    total = a + b
    of_b = total - a
    return total, (a - (total - of_b)) + (b - of_b)


@_both
def combine(partials, first, count):
    """The sum of `count` partials from `first` on: as exact as one rounding, however many.

    Infinity where one of them is infinite or the sum overflows, NaN where one is NaN.
    """
    sums, losses = carray(_scratch(), LANES, np.float64), carray(_scratch(), LANES, np.float64)
    at, left, row = np.uint64(first), np.uint64(count), np.uint64(LANES)
    total = lost = 0.0
    if count >= _LANES_FROM:
        for i in range(LANES):
            sums[i] = losses[i] = 0.0
        for _ in range(left // row):
            for i in range(row):
                sums[i], loss = two_sum(sums[i], partials[at + i])
                losses[i] += loss
            at += row
        left = left % row
        for i in range(row):
            total, loss = two_sum(total, sums[i])
            lost += loss + losses[i]
    for i in range(left):
        total, loss = two_sum(total, partials[at + i])
        lost += loss
    # inf - inf has made `lost` NaN where the total is infinite
    return total if math.isnan(lost) else total + lost


@_both
def exponent_of(total):
    """The exponent with which float64 elements are to be added once more; 0: the total stands.

    Squares below 2**-1022 lose digits and above 2**1024 are infinite. Outside 2**-900..2**1000
    that may matter, so a total there asks for the elements times ``power(-exponent)``: then none
    overflows, and none that matters is lost. Zero asks too: squares below 2**-1075 vanish.
    """
    if total < _LOWEST:
        return -_SHIFT
    return 0 if total <= _HIGHEST else _SHIFT  # NaN: whether an infinity was one is not known


@_both
def power(exponent):
    """``2.0**exponent``, for what `exponent_of` returns and its negative."""
    if exponent == 0:
        return 1.0
    return _UP if exponent > 0 else _DOWN


@_both
def norm(total, exponent):
    """The norm: infinite where it is beyond float64, though the elements are finite."""
    return math.sqrt(total) * power(exponent)


@_both
def clip_factor(total, exponent, limit, margin, tiny):
    """What elements are multiplied by so that their norm is `limit` at most: (pre, factor).

    The factor is ``min(1, limit / (norm + margin))``, and pre is 1. A factor below `tiny`, the
    smallest normal number of the arrays' dtype, would lose digits or be 0: then ``pre = tiny``,
    a power of two, and ``x * pre * factor`` keeps the direction. An infinite limit clips nothing.
    The factor is NaN where the norm is: no gradient becomes 0 in silence.

    `total` and `exponent` are from `combine` and `exponent_of` (0 for float32 and shorter), the
    limit is at least 0, and the margin 1e-6 as in torch, or 0.
    """
    if limit == math.inf:
        return 1.0, 1.0
    if not math.isfinite(total) or math.isnan(limit):
        return 1.0, math.nan
    if total == 0.0:
        return 1.0, 1.0
    if limit == 0.0:
        return 1.0, 0.0
    # norm and quotient may leave the range: mantissas and exponents are divided apart
    below, down = math.frexp(math.sqrt(total) + margin * power(-exponent))
    above, up = math.frexp(limit)
    quotient, shift = above / below, up - down - exponent
    if shift > 0 or (shift == 0 and quotient >= 1.0):
        return 1.0, 1.0
    factor = math.ldexp(quotient, shift)
    if factor >= tiny:
        return 1.0, factor
    return tiny, math.ldexp(quotient, shift - math.frexp(tiny)[1] + 1)
