"""Lanes in which the squares of a block are added: many running sums side by side.

Written in LLVM's language, since loops of Numba over lanes took 0.3 s to compile. `norms` says what
the lanes hold.
"""

from __future__ import annotations

import functools
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

#: Independent running sums of a block. A loop over lanes is elementwise, so the compiler vectorises
#: it; one running sum it may not reorder (7 times slower). With 16 lanes the loop was unrolled
#: instead of vectorised: 4 times slower.
NORM_LANES = 64

LOW_DIGITS = 46  # of the sum of a lane, besides the 52 of a float
_VECTOR = 8  # elements of the vectors of lanes: a register of AVX-512, two of AVX2
_REAL, _BITS = ir.DoubleType(), ir.IntType(64)


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


@intrinsic
def begin_lanes(typingctx: Any, sums: Any, rests: Any, start: Any, low: Any) -> Any:
    """First values of the lanes of a block."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        for memory, value in (args[::2], args[1::2]):
            each = _in_each(builder, value)
            for place in _words_in(builder, memory, _REAL):
                builder.store(each, place).align = 64
        return context.get_dummy_value()

    kinds = types.voidptr, types.voidptr, types.float64, types.float64
    return types.void(*kinds), codegen


@intrinsic
def fold_lanes(typingctx: Any, sums: Any, rests: Any, start: Any, middle: Any, times: Any) -> Any:
    """Digits ``(high, low, large)`` of the lanes of a block, as `combine` returns them.

    `times` is how often the lanes of low digits hold `middle`.
    """
    lists = types.Tuple([types.int64, types.int64, types.float64])

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        sums, rests, start, middle, times = args

        def load(memory: Any, kind: Any) -> list[Any]:
            vectors = [builder.load(place) for place in _words_in(builder, memory, kind)]
            for vector in vectors:
                vector.align = 64
            return vectors

        def total(vectors: list[Any], add: Any) -> Any:
            numbers = [functools.reduce(add, vectors)]
            return functools.reduce(
                add, [builder.extract_element(*numbers, ir.IntType(32)(i)) for i in range(_VECTOR)]
            )

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
        return context.make_tuple(builder, lists, [high, low, large])

    kinds = types.voidptr, types.voidptr, types.float64, types.float64, types.int64
    return lists(*kinds), codegen


@intrinsic
def bits_of(typingctx: Any, x: Any) -> Any:
    """The bits of a float64 as int64."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.bitcast(args[0], _BITS)

    return types.int64(types.float64), codegen


@intrinsic
def number_of(typingctx: Any, bits: Any) -> Any:
    """The float64 of these bits."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.bitcast(args[0], _REAL)

    return types.float64(types.int64), codegen


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
