"""Sums of squares for the norms and the finite check: deterministic, and safe in range.

Two levels, in float64. An array is cut into blocks of ``NORM_BLOCK`` elements; the sum of squares
of a block is a partial. Inside a block, element i is added to lane ``i % NORM_LANES``, and the
lanes are then added pairwise (`_fold`). The partials are added in their order with compensation
(`combine`). A partial depends on its elements alone, so the split into parts, the threads and the
threading layer change no bit.

Error: an element passes at most 9 roundings inside a block, 3 in its lane (4 rows) and 6 in the
fold of 64 lanes, and the compensated sum over blocks adds less than one: the norm is within 4 ulp
of ``sqrt(math.fsum(x * x))`` for any input.

Range: squares of float32 and shorter types neither overflow nor underflow in float64. Squares of
float64 can, so a total outside the safe range is computed again from scaled elements::

    total = combine(partials, first, count)   # of block(..., k)
    e = exponent_of(total)                    # 0: the total is accurate
    if e != 0:                                # seldom: a second pass over the elements
        total = combine(partials, first, count)   # of scaled(..., (k, power(-e)))

Then ``norm == sqrt(total) * 2**e``, and a total that is not finite means an element that is not.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from numadam._jit.functions import linked
from numadam._jit.pointers import array_at

#: Independent running sums of a block. A loop over lanes is elementwise, so the compiler vectorises
#: it; one running sum it may not reorder (7 times slower). With 32 lanes the loop was unrolled
#: instead of vectorised: 3 times slower.
NORM_LANES = 64

#: Elements of one partial: 4 rows of lanes. 16 rows are a quarter faster within the cache, but then
#: an element passes 21 roundings and the norm is off by up to 7 ulp.
NORM_BLOCK = 4 * NORM_LANES

#: Partials from which `combine` uses lanes too: each addition to one running sum takes 4 cycles.
_BY_LANES_FROM = 16 * NORM_LANES

# A total in [_LOWEST, _HIGHEST] has lost no digit that counts: squares below 2**-1022 are denormal,
# above 2**1024 infinite, and the margins allow for the number of elements. Scaling by 2**600 brings
# every float64 total back into it.
_SHIFT = 600
_LOWEST, _HIGHEST = 2.0**-900, 2.0**1000
_UP, _DOWN = 2.0**_SHIFT, 2.0**-_SHIFT

_VECTOR = 8  # elements of the vectors in `_fold`: a register of AVX-512, two of AVX2

#: For functions that compiled code calls, and Python too (`grad_norm`, tests).
_both = njit(error_model="numpy", no_cfunc_wrapper=True)


@intrinsic
def lane_memory(typingctx: Any) -> Any:
    """Memory for one row of lanes, on the stack: an array would be allocated at every call.

    Aligned to a cache line and not initialised.
    """

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        # not cgutils.alloca_once, which writes zeros there first
        with builder.goto_entry_block():
            memory = builder.alloca(ir.ArrayType(ir.DoubleType(), NORM_LANES))
            memory.align = 64
        return builder.bitcast(memory, cgutils.voidptr_t)

    return types.voidptr(), codegen


@intrinsic
def _fold(typingctx: Any, memory: Any) -> Any:
    """Pairwise sum of the lanes: the second half is added to the first, until one is left.

    Written with vector types: the compiler would unroll so short a loop before vectorising it. The
    order of additions is fixed, whatever vectors the machine has.
    """
    index = ir.IntType(32)

    def half(builder: Any, vector: Any, first: int, width: int) -> Any:
        mask = ir.Constant(ir.VectorType(index, width), [index(first + k) for k in range(width)])
        return builder.shuffle_vector(vector, ir.Constant(vector.type, ir.Undefined), mask)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        kind = ir.VectorType(ir.DoubleType(), _VECTOR)
        base = builder.bitcast(args[0], kind.as_pointer())
        vectors = []
        for k in range(NORM_LANES // _VECTOR):
            vectors.append(builder.load(builder.gep(base, [index(k)])))
            vectors[-1].align = 64
        while len(vectors) > 1:
            middle = len(vectors) // 2
            pairs = zip(vectors[:middle], vectors[middle:], strict=True)
            vectors = [builder.fadd(a, b) for a, b in pairs]
        (vector,), width = vectors, _VECTOR
        while width > 1:
            width //= 2
            low, high = half(builder, vector, 0, width), half(builder, vector, width, width)
            vector = builder.fadd(low, high)
        return builder.extract_element(vector, index(0))

    return types.float64(types.voidptr), codegen


@intrinsic
def _add_square(typingctx: Any, total: Any, x: Any) -> Any:
    """``total + x * x`` in float64.

    The square of a float32 is exact in float64 (24 + 24 digits of 53), so a fused multiply-add has
    the same bits as two instructions; the compiler may contract (15 % faster). Squares of float64
    round, so there it may not: bits would depend on the machine.
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
    # arguments are spelled out: with *arrays, a loop over four of them was not vectorised
    def times(i, p, g, acc, lo, hi, k):
        return np.float64(gradient(i, p, g, acc, lo, hi, k[0])) * k[1]

    return times if scaled else gradient


def make_block(gradient: Any, wrap: Callable[[Any], Any], scaled: bool = False) -> Any:
    """Make the function that computes the partial of one block of elements.

    Parameters
    ----------
    gradient : compiled function
        ``gradient(i, p, g, acc, lo, hi, k)``: element i as the step uses it; i is a uint64. The
        loop is vectorised only if all loads come before any condition.
    wrap : callable
        Compiles a function, as `jit_once` does.
    scaled : bool
        Whether the block is for the second pass.

    Returns
    -------
    compiled function
        ``block(first, n, p, g, acc, lo, hi, k) -> float64``: the sum of the squares of `n`
        elements from `first` on, n <= NORM_BLOCK. Absent arrays are None. If scaled, it takes
        ``(k, scale)`` for k, and the elements times scale.
    """
    value = wrap(_make_value(gradient, True)) if scaled else gradient

    def block(first, n, p, g, acc, lo, hi, k):
        memory = lane_memory()
        lanes = array_at(memory, NORM_LANES, np.float64)
        for i in range(NORM_LANES):
            lanes[i] = 0.0
        # unsigned: a signed index may count from the end, which prevents vectorising
        at, left, row = np.uint64(first), np.uint64(n), np.uint64(NORM_LANES)
        for _ in range(left // row):
            for i in range(row):
                lanes[i] = _add_square(lanes[i], value(at + i, p, g, acc, lo, hi, k))
            at += row
        for i in range(left % row):
            lanes[i] = _add_square(lanes[i], value(at + i, p, g, acc, lo, hi, k))
        return _fold(memory)

    return wrap(block)


@_both
def blocks(n):
    """Number of blocks, and so of partials, of an array of n elements."""
    return (n + NORM_BLOCK - 1) // NORM_BLOCK


@linked
def two_sum(a, b):
    """The rounded sum of a and b, and its rounding error, exactly (Knuth's TwoSum)."""
    total = a + b
    of_b = total - a
    return total, (a - (total - of_b)) + (b - of_b)


@_both
def combine(partials, first, count):
    """The compensated sum of `count` partials from `first` on: about one rounding, however many.

    The errors of all additions are summed in `lost` and added at the end (Kahan-Babuska). Infinity
    where one partial is infinite or the sum overflows, NaN where one is NaN.
    """
    sums, losses = (
        array_at(lane_memory(), NORM_LANES, np.float64),
        array_at(lane_memory(), NORM_LANES, np.float64),
    )
    at, left, row = np.uint64(first), np.uint64(count), np.uint64(NORM_LANES)
    total = lost = 0.0
    if count >= _BY_LANES_FROM:
        for i in range(NORM_LANES):
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
    # for an infinite total `lost` is NaN, from inf - inf
    return total if math.isnan(lost) else total + lost


@_both
def exponent_of(total):
    """The exponent by which float64 elements have to be scaled for a second pass, or 0 for none.

    Squares below 2**-1022 lose digits and above 2**1024 are infinite. Outside 2**-900..2**1000
    that may matter, so there the elements are squared again times ``power(-exponent)``: then none
    overflows, and none that matters is lost. A zero total needs it too: squares below 2**-1075
    vanish.
    """
    if total < _LOWEST:
        return -_SHIFT
    return (
        0 if total <= _HIGHEST else _SHIFT
    )  # also for NaN: it may come from squares that overflow


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
    """The clip factor for a norm of at most `limit`, as ``(pre, factor)``: x becomes x*pre*factor.

    It is ``min(1, limit / (norm + margin))``, and pre is 1. A factor below `tiny`, the smallest
    normal number of the arrays' dtype, would lose digits or be 0: then ``pre = tiny``, a power of
    two, which is exact. An infinite limit clips nothing. The factor is NaN where the norm is not
    finite: no gradient becomes 0 in silence.

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
    # norm and quotient may be outside of float64's range: divide mantissas, subtract exponents
    below, down = math.frexp(math.sqrt(total) + margin * power(-exponent))
    above, up = math.frexp(limit)
    quotient, shift = above / below, up - down - exponent
    if shift > 0 or (shift == 0 and quotient >= 1.0):
        return 1.0, 1.0
    factor = math.ldexp(quotient, shift)
    if factor >= tiny:
        return 1.0, factor
    return tiny, math.ldexp(quotient, shift - math.frexp(tiny)[1] + 1)
