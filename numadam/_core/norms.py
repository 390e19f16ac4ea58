"""Norms of gradients: exact sums of squares, one by one and in vectors."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from numadam._jit.functions import linked
from numadam._jit.pointers import emitted

# --- lanes in which the squares of a block are added ---------------------------------------------
# Written in LLVM's language, since loops of Numba over lanes took 0.3 s to compile. `norms` says
# what the lanes hold.

#: Independent running sums of a block. A loop over lanes is elementwise, so the compiler vectorises
#: it; one running sum it may not reorder (7 times slower). With 16 lanes the loop was unrolled
#: instead of vectorised: 4 times slower.
NORM_LANES = 64

LOW_DIGITS = 46  # of the sum of a lane, besides the 52 of a float
_VECTOR = 8  # elements of the vectors of lanes: a register of AVX-512, two of AVX2
_REAL, _BITS = ir.DoubleType(), ir.IntType(64)


@emitted(types.voidptr())
def lane_memory(context: Any, builder: Any) -> Any:
    """Memory for one row of lanes, on the stack: an array would be allocated at every call.

    Aligned to a cache line and not initialised.
    """
    # not cgutils.alloca_once, which writes zeros there first
    with builder.goto_entry_block():
        memory = builder.alloca(ir.ArrayType(ir.DoubleType(), NORM_LANES))
        memory.align = 64
    return builder.bitcast(memory, cgutils.voidptr_t)


def _words_in(builder: Any, memory: Any, kind: Any) -> list[Any]:
    """Places of a row of lanes, as vectors of this kind."""
    base = builder.bitcast(memory, ir.VectorType(kind, _VECTOR).as_pointer())
    return [builder.gep(base, [ir.IntType(32)(i)]) for i in range(NORM_LANES // _VECTOR)]


def _in_each(builder: Any, value: Any) -> Any:
    """A vector that holds a number in each place."""
    kind = ir.VectorType(value.type, _VECTOR)
    first = builder.insert_element(ir.Constant(kind, ir.Undefined), value, ir.IntType(32)(0))
    mask = ir.Constant(ir.VectorType(ir.IntType(32), _VECTOR), [0] * _VECTOR)
    return builder.shuffle_vector(first, first, mask)


@emitted(types.void(types.voidptr, types.voidptr, types.float64, types.float64))
def begin_lanes(context: Any, builder: Any, sums: Any, rests: Any, start: Any, low: Any) -> None:
    """First values of the lanes of a block."""
    for memory, value in ((sums, start), (rests, low)):
        each = _in_each(builder, value)
        for place in _words_in(builder, memory, _REAL):
            builder.store(each, place).align = 64


_DIGITS = types.Tuple([types.int64, types.int64, types.float64])


@emitted(_DIGITS(types.voidptr, types.voidptr, types.float64, types.float64, types.int64))
def fold_lanes(
    context: Any, builder: Any, sums: Any, rests: Any, start: Any, middle: Any, times: Any
) -> Any:
    """Digits ``(high, low, large)`` of the lanes of a block, as `combine` returns them.

    `times` is how often the lanes of low digits hold `middle`.
    """

    def load(memory: Any, kind: Any) -> list[Any]:
        vectors = [builder.load(place) for place in _words_in(builder, memory, kind)]
        for vector in vectors:
            vector.align = 64
        return vectors

    def total(vectors: list[Any], add: Any) -> Any:
        lanes, places = functools.reduce(add, vectors), map(ir.IntType(32), range(_VECTOR))
        return functools.reduce(add, [builder.extract_element(lanes, k) for k in places])

    of_start, of_middle = (builder.bitcast(value, _BITS) for value in (start, middle))
    first = _in_each(builder, of_start)
    # neighbouring floats have neighbouring bits
    digits = [builder.sub(word, first) for word in load(sums, _BITS)]
    digits_of_word = _in_each(builder, _BITS(52))
    high = total(digits, builder.add)
    low = builder.sub(total(load(rests, _BITS), builder.add), builder.mul(times, of_middle))
    outside = total([builder.ashr(word, digits_of_word) for word in digits], builder.or_)
    each = _in_each(builder, start)
    about = total([builder.fsub(lane, each) for lane in load(sums, _REAL)], builder.fadd)
    # a lane has left its binade, or is not finite
    is_large = builder.icmp_signed("!=", outside, _BITS(0))
    large = builder.select(is_large, builder.fdiv(about, start), _REAL(0.0))
    high = builder.add(high, builder.ashr(low, _BITS(LOW_DIGITS)))
    low = builder.and_(low, _BITS(2**LOW_DIGITS - 1))
    return context.make_tuple(builder, _DIGITS, [high, low, large])


@emitted(types.int64(types.float64))
def bits_of(context: Any, builder: Any, x: Any) -> Any:
    """The bits of a float64 as int64."""
    return builder.bitcast(x, _BITS)


@emitted(types.float64(types.int64))
def number_of(context: Any, builder: Any, bits: Any) -> Any:
    """The float64 of such bits."""
    return builder.bitcast(bits, _REAL)


@intrinsic
def add_square(typingctx: Any, sums: Any, rests: Any, i: Any, x: Any, middle: Any) -> Any:
    """``x * x`` to the high digits of lane i, and what this sum loses by rounding to the low ones.

    Of float64: a lane of low digits is an integer, to which the bits of ``middle + lost`` are
    added. Rounding a lane of floats could depend on the order where `lost` is half a unit exactly.

    Of float32: a lane of low digits is a float that begins with `middle` (one operation less: 10 %
    of the pass). Here nothing is half a unit: an odd integer times 2**q has the square of an odd
    integer times 2**2q, and half a unit is an odd power of two. Its square is exact in float64 (24
    + 24 digits of 53), so a fused multiply-add has the same bits as two instructions. Squares of
    float64 round, so they are not fused: bits would depend on the machine.
    """

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        sums, rests, i, value, middle = args

        def lane(memory: Any, kind: Any) -> Any:
            return builder.gep(builder.bitcast(memory, kind.as_pointer()), [i])

        of_high, of_low = lane(sums, _REAL), lane(rests, _BITS)
        high = builder.load(of_high)
        if signature.args[3] == types.float32:
            of_low = lane(rests, _REAL)
            value, three = (
                builder.fpext(value, _REAL),
                ir.FunctionType(_REAL, [_REAL] * 3),
            )
            fused = builder.module.declare_intrinsic("llvm.fmuladd", [_REAL], three)
            total = builder.call(fused, [value, value, high])
            lost = builder.call(fused, [value, value, builder.fsub(high, total)])
            low = builder.fadd(builder.load(of_low), lost)
        else:
            square = builder.fmul(value, value)
            total = builder.fadd(high, square)
            lost = builder.fsub(square, builder.fsub(total, high))
            low = builder.bitcast(builder.fadd(middle, lost), _BITS)
            low = builder.add(builder.load(of_low), low)
        builder.store(total, of_high)
        builder.store(low, of_low)
        return context.get_dummy_value()

    kinds = types.voidptr, types.voidptr, types.uint64, x, types.float64
    return types.void(*kinds), codegen


# --- sums of squares for norms and the finite check ----------------------------------------------
# A plain sum depends on its order, and with it the norm would depend on memory layout, parts and
# threads. So the squares are added exactly, as integers on a fixed grid (the idea of Demmel and
# Nguyen, "Parallel Reproducible Summation", 2015). With an `exponent` e, the digits of a sum are
# two integers, high in units of 2**(2e - 36), low of 2**(2e - 82)::
#
#     sum of squares = (high + low * 2**-46) * 2**(2e - 36),   0 <= low < 2**46
#
# Each square is rounded once, to the last of these digits. What follows is exact, so it does not
# matter how the numbers are cut into blocks, and in which order blocks, arrays and processes are
# added (`block`, `combine`). The exponent is the smallest multiple of 8 with which the sum is
# below half of what `high` holds: it depends on the numbers alone, too. It is not known before the
# pass, so a pass takes the exponent of the last one, and `next_exponent` says whether to repeat
# it::
#
#     high, low, large = combine(partials, first, count)   # of block(..., unit(e, ranged))
#     e = next_exponent(high, low, large, e, ranged)       # the same: done
#     norm(total_of(high, low, large), forget(e))          # sqrt(total) * 2**e
#
# Error: the norm is within 1 ulp of ``sqrt(math.fsum(x * x))``, up to 2**29 numbers, whatever they
# are: a square of float64 is rounded by half an ulp, then to 2**-82 of 2**2e, while the sum is at
# least 2**(2e - 1).
#
# Range: float64 numbers are scaled by a power of two before they are squared, so that nothing
# overflows, and nothing that counts underflows. Squares of float32 need no scale in float64.

#: Elements of one block: 64 rows of lanes, as many as the low digits of a lane have room for.
NORM_BLOCK = 64 * NORM_LANES

# A lane begins with `start` = 2**(2e + 16), and adding a square to it rounds to 2**-52 of that: the
# high digits. What is lost in rounding is known exactly (Dekker's FastTwoSum), and rounded to
# 2**-98 of `start` in the same way: the low digits.
_START_AT = 16  # log2 of `start`, where 2**2e is 1
_START_AT_FLOAT64 = -48  # the same for float64, whose numbers are scaled instead
_HIGH = 36  # digits of `high` after the point, where 2**2e is 1
_TOO_LARGE = 2 ** (_HIGH + _START_AT - 1)  # high digits with which the exponent is too small
_MIDDLE = 1.5 * 2.0**-LOW_DIGITS  # times `start`: to it the low digits are added

# Exponents are multiples of 8. An odd one says that the one below is known to be too small.
_EIGHT = 8
_JUMP = 512
# Of float64, the least one of float32, and the most: the square of the smallest number is a whole
# unit, and no square overflows.
_LEAST_FLOAT64, _LEAST_FLOAT32, _MOST_FLOAT64 = -1040, -112, 1040
_DOUBTFUL = 1 + 2.0**-20  # what rounding at another exponent may change, with a margin

#: For functions that compiled code calls, and Python too (`grad_norm`, tests).
_both = njit(error_model="numpy", no_cfunc_wrapper=True)


def _make_value(gradient: Any, ranged: bool) -> Any:
    # arguments are spelled out: with *arrays, a loop over four of them was not vectorised
    def times(i, p, g, lo, hi, k, scale):
        return np.float64(gradient(i, p, g, lo, hi, k)) * scale

    def plain(i, p, g, lo, hi, k, scale):
        return gradient(i, p, g, lo, hi, k)

    return times if ranged else plain


def make_block(gradient: Any, wrap: Callable[[Any], Any], ranged: bool) -> Any:
    """Make the function that adds up the squares of one block of elements.

    `gradient` is compiled, ``gradient(i, p, g, lo, hi, k)``: element i as the step uses it; i is a
    uint64. The loop is vectorised only if all loads come before any condition. `ranged` says
    whether the elements are float64.

    ``block(first, n, p, g, lo, hi, k, unit, partials, b)``: the digits of the sum of the
    squares of `n` elements from `first` on, n <= NORM_BLOCK, become partial sum `b`. Absent arrays
    are None.
    """
    value = wrap(_make_value(gradient, ranged))

    def block(first, n, p, g, lo, hi, k, unit, partials, b):
        start, scale = (2.0**_START_AT_FLOAT64, unit) if ranged else (unit, 1.0)
        sums, rests, middle = lane_memory(), lane_memory(), start * _MIDDLE
        begin_lanes(sums, rests, start, 0.0 if ranged else middle)
        # unsigned: a signed index may count from the end, which prevents vectorising
        at, left, row = np.uint64(first), np.uint64(n), np.uint64(NORM_LANES)
        for _ in range(left // row):
            for i in range(row):
                x = value(at + i, p, g, lo, hi, k, scale)
                add_square(sums, rests, i, x, middle)
            at += row
        for i in range(left % row):
            x = value(at + i, p, g, lo, hi, k, scale)
            add_square(sums, rests, i, x, middle)
        high, low, large = fold_lanes(sums, rests, start, middle, n if ranged else NORM_LANES)
        if large != 0.0:
            high, low = -1, bits_of(large)
        partials[2 * b], partials[2 * b + 1] = high, low

    return wrap(block)


@_both
def blocks(n):
    """Number of blocks of an array of n elements; each has a partial sum of two int64.

    ``(high, low)``, or where the exponent is too small -1 and the bits of about the sum, a float64
    in units of `start`. A thread or a process may pass on its own sum in the same two numbers.
    """
    return (n + NORM_BLOCK - 1) // NORM_BLOCK


@_both
def words(n):
    """Number of int64 of the partial sums of an array of n elements, and of one exponent."""
    return 2 * blocks(n) + 1


@linked
def combine(partials, first, count):
    """The sum of `count` partial sums from `first` on, as ``(high, low, large)``.

    `large` is 0 where the exponent is large enough; otherwise about the sum, in units of `start`,
    and not finite where a number is not.
    """
    high, low, large = 0, 0, 0.0
    for b in range(first, first + count):
        more, rest = partials[2 * b], partials[2 * b + 1]
        if more < 0:
            large += number_of(rest)
        else:
            low += rest
            high += more + (low >> LOW_DIGITS)
            low &= 2**LOW_DIGITS - 1
        if high >= _TOO_LARGE:
            large += high * 2.0 ** (-_HIGH - _START_AT)
            high = 0
    return high, low, large


@linked
def words_of(high, low, large):
    """A sum in the two words of a partial sum, for `combine` in another process."""
    return (high, low) if large == 0.0 else (-1, bits_of(large))


@linked
def total_of(high, low, large):
    """The sum of squares as a float64, divided by ``2**2e``: one rounding, at the last exponent."""
    if large != 0.0:
        return large * 2.0**_START_AT
    return (high + low * 2.0**-LOW_DIGITS) * 2.0**-_HIGH


@linked
def next_exponent(high, low, large, exponent, ranged):
    """The exponent for the next pass, or the same one where this sum is the result.

    The smallest one that is large enough. Where the sum is too small to be sure of that, the
    exponent below is tried, and an odd exponent notes that it was: see `forget`.
    """
    least, known = _LEAST_FLOAT64 if ranged else _LEAST_FLOAT32, exponent & 1
    even = exponent - known
    if large != 0.0:
        if math.isnan(large) or (large == math.inf and not (ranged and even < _MOST_FLOAT64)):
            return exponent
        if large == math.inf:  # squares overflow
            return min(even + _JUMP, _MOST_FLOAT64)
        # steps with which the sum is below a half
        steps = (math.frexp(large)[1] + 2 * _EIGHT) // (2 * _EIGHT)
        return even + 1 + _EIGHT if steps <= 1 else even + steps * _EIGHT
    total = total_of(high, low, large)
    if known or even == least or total >= 0.5 * _DOUBTFUL:
        return exponent
    if total == 0.0:
        return max(even - _JUMP, least)
    steps = (_START_AT - 1 - math.frexp(total)[1]) // (2 * _EIGHT)
    return max(even - max(steps, 1) * _EIGHT, least)


@linked
def forget(exponent):
    """The exponent with which to begin on other numbers."""
    return exponent & ~1


@linked
def unit(exponent, ranged):
    """The argument of `block`: a scale for float64 numbers, the first value of float32 sums."""
    even = forget(exponent)
    if ranged:
        return math.ldexp(1.0, -even - (_START_AT - _START_AT_FLOAT64) // 2)
    return math.ldexp(1.0, 2 * even + _START_AT)


@_both
def norm(total, exponent):
    """The norm: infinite where it is beyond float64, though the elements are finite."""
    return math.ldexp(math.sqrt(total), exponent)


@_both
def clip_factor(total, exponent, limit, margin, tiny):
    """The clip factor for a norm of at most `limit`, as ``(pre, factor)``: x becomes x*pre*factor.

    It is ``min(1, limit / (norm + margin))``, and pre is 1. A factor below `tiny`, the smallest
    normal number of the arrays' dtype, would lose digits or be 0: then ``pre = tiny``, a power of
    two, which is exact. An infinite limit clips nothing. The factor is NaN where the norm is not
    finite: no gradient becomes 0 in silence.

    The norm is ``sqrt(total) * 2**exponent``, the limit is at least 0, and the margin 1e-6 as in
    torch, or 0.
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
    below, down = math.frexp(math.sqrt(total) + math.ldexp(margin, -exponent))
    above, up = math.frexp(limit)
    quotient, shift = above / below, up - down - exponent
    if shift > 0 or (shift == 0 and quotient >= 1.0):
        return 1.0, 1.0
    factor = math.ldexp(quotient, shift)
    if factor >= tiny:
        return 1.0, factor
    return tiny, math.ldexp(quotient, shift - math.frexp(tiny)[1] + 1)
