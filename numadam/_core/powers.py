"""Powers beta^t of the bias corrections: the same bits in every loop and on every platform.

A library's `pow` differs from platform to platform, and takes 12 to 40 ns. Here a number is an
integer of 128 bits, its highest bit set, times a power of two, as (high, low, exponent): ``(high
2^64 + low) 2^(exponent - 128)``. A product errs by less than 2^-125 of it, so after t of them, or
the 2 log2(t) of repeated squaring, the double next to it is the right one but for about one case
in 2^40 (as long as t < 2^30). They are operations on integers, which no compiler contracts.
"""

from __future__ import annotations

import math
from typing import Any

from llvmlite import ir
from numba import config, types
from numba.core import cgutils
from numba.extending import intrinsic

from numadam._jit.functions import compiles, linked

#: Numbers of 8 bytes in which `make_power` keeps the last power: beta, t, high, low, exponent.
KEPT = 5

#: Smaller powers are 0: nothing that adds them to 1 can tell. They are, where beta^t <
#: exp(-(1 - beta) t) < exp(-89).
_LEAST, _CUT = 2.0**-128, 89.0

_WORD, _WIDE, _DOUBLE = ir.IntType(64), ir.IntType(128), ir.DoubleType()


def _times(a: tuple[int, int], b: tuple[int, int]) -> tuple[int, int]:
    """The product of two numbers (high 2^64 + low, exponent), less their low words' product."""
    (a_high, a_low), (b_high, b_low) = divmod(a[0], 2**64), divmod(b[0], 2**64)
    product = a_high * b_high + (a_high * b_low >> 64) + (a_low * b_high >> 64)
    shift = 1 - (product >> 127)
    return product << shift, a[1] + b[1] - shift


def _in_python(beta: float, t: float, kept: Any, place: int) -> float:
    """``power``, for interpreted code."""
    if beta < _LEAST or (1.0 - beta) * t > _CUT:
        return 0.0
    fraction, exponent = math.frexp(beta)
    square = found = int(math.ldexp(fraction, 53)) << 75, exponent
    left = int(t) - 1
    while left:
        if left % 2:
            found = _times(found, square)
        left, square = left // 2, _times(square, square)
    mantissa, exponent = found
    return 0.0 if exponent < -127 else mantissa / 2 ** (128 - exponent)


# The same in LLVM's language. In Numba's it would take 0.15 s more of the first step to compile.


def _multiply(builder: Any, x: Any, y: Any) -> list[Any]:
    def words(a: Any, b: Any) -> tuple[Any, Any]:
        product = builder.mul(builder.zext(a, _WIDE), builder.zext(b, _WIDE))
        high = builder.trunc(builder.lshr(product, _WIDE(64)), _WORD)
        return high, builder.trunc(product, _WORD)

    high, low = words(x[0], y[0])
    for cross in (words(x[0], y[1])[0], words(x[1], y[0])[0]):
        low = builder.add(low, cross)
        carry = builder.icmp_unsigned("<", low, cross)
        high = builder.add(high, builder.zext(carry, _WORD))
    normal = builder.icmp_signed("<", high, _WORD(0))  # its highest bit is set
    double = builder.or_(builder.shl(high, _WORD(1)), builder.lshr(low, _WORD(63)))
    high = builder.select(normal, high, double)
    low = builder.select(normal, low, builder.shl(low, _WORD(1)))
    exponent = builder.add(builder.add(x[2], y[2]), builder.select(normal, _WORD(0), _WORD(-1)))
    return [high, low, exponent]


def _select(builder: Any, condition: Any, x: Any, y: Any) -> list[Any]:
    return [builder.select(condition, a, b) for a, b in zip(x, y, strict=True)]


def _phis(builder: Any, *sources: Any) -> list[Any]:
    """Numbers that come from several blocks: `sources` are (numbers, block)."""
    found = [builder.phi(_WORD) for _ in sources[0][0]]
    for numbers, block in sources:
        for phi, number in zip(found, numbers, strict=True):
            phi.add_incoming(number, block)
    return found


def _raise(builder: Any, base: Any, t: Any) -> Any:
    """``base^t`` by repeated squaring."""
    before, loop = builder.block, builder.append_basic_block("power")
    after = builder.append_basic_block("raised")
    begin = (*base, *base, builder.sub(t, _WORD(1)))
    builder.branch(loop)
    builder.position_at_end(loop)
    now = _phis(builder, (begin, before))
    found, square, left = now[:3], now[3:6], now[6]
    odd = builder.trunc(left, ir.IntType(1))
    found = _select(builder, odd, _multiply(builder, found, square), found)
    square, left = _multiply(builder, square, square), builder.lshr(left, _WORD(1))
    for phi, number in zip(now, (*found, *square, left), strict=True):
        phi.add_incoming(number, loop)
    builder.cbranch(builder.icmp_unsigned("==", left, _WORD(0)), after, loop)
    builder.position_at_end(after)
    return found


def _find(builder: Any, beta: Any, t: Any, last: Any) -> list[Any]:
    """``beta^t``: the power at `last`, the next one to it, or from the beginning."""
    bits = builder.bitcast(beta, _WORD)
    exponent = builder.sub(builder.lshr(bits, _WORD(52)), _WORD(1022))
    base = builder.or_(builder.shl(bits, _WORD(11)), _WORD(1 << 63)), _WORD(0), exponent
    if last is None:
        return list(_raise(builder, base, t))
    places = [builder.gep(last, [_WORD(k)]) for k in range(KEPT)]
    known, known_t, *kept = [builder.load(place) for place in places]
    gap = builder.sub(t, known_t)
    near = builder.and_(
        builder.icmp_unsigned("==", known, bits), builder.icmp_unsigned("<=", gap, _WORD(1))
    )
    with builder.if_else(near) as (then, otherwise):
        with then:
            one = builder.trunc(gap, ir.IntType(1))
            follows = _select(builder, one, _multiply(builder, kept, base), kept), builder.block
        with otherwise:
            anew = _raise(builder, base, t), builder.block
    found = _phis(builder, follows, anew)
    for word, place in zip((bits, t, *found), places, strict=True):
        builder.store(word, place)
    return found


def _round(builder: Any, high: Any, low: Any, exponent: Any) -> Any:
    """The double next to a number of at least 2^-128: rounded once, from 63 bits."""
    rest = builder.zext(builder.icmp_unsigned("!=", low, _WORD(0)), _WORD)
    odd = builder.or_(builder.and_(high, _WORD(1)), rest)  # stands for all bits behind
    rounded = builder.sitofp(builder.or_(builder.lshr(high, _WORD(1)), odd), _DOUBLE)
    bits = builder.shl(builder.add(exponent, _WORD(1023 - 63)), _WORD(52))
    power = builder.fmul(rounded, builder.bitcast(bits, _DOUBLE))
    tiny = builder.icmp_signed("<", exponent, _WORD(-127 & (2**64 - 1)))
    return builder.select(tiny, _DOUBLE(0.0), power)


def _compiled(typingctx: Any, beta: Any, t: Any, kept: Any, place: Any) -> Any:
    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        beta, t, array, place = args
        last = None
        if isinstance(kept, types.Array):
            first = context.make_array(kept)(context, builder, array).data
            last = builder.bitcast(builder.gep(first, [place]), _WORD.as_pointer())
        found = cgutils.alloca_once_value(builder, _DOUBLE(0.0))
        gone = builder.fmul(builder.fsub(_DOUBLE(1.0), beta), t)
        seen = builder.and_(
            builder.fcmp_ordered(">=", beta, _DOUBLE(_LEAST)),
            builder.fcmp_ordered("<=", gone, _DOUBLE(_CUT)),
        )
        with builder.if_then(seen):
            parts = _find(builder, beta, builder.fptosi(t, _WORD), last)
            builder.store(_round(builder, *parts), found)
        return builder.load(found)

    return types.float64(types.float64, types.float64, kept, types.int64), codegen


_in_llvm = intrinsic(_compiled)


def make_power(wrap: Any = linked) -> Any:
    """``power(beta, t, kept, place)``: beta^t for beta in [0, 1] and t a whole number from 1 on.

    `kept` is a contiguous float64 array, or None. From `place` on it has the bits of the last
    power, zeros before the first. From there the next is one multiplication, 5 ns, where one
    from the beginning takes 35 to 80. The result is the same.
    """
    return _in_llvm if compiles(wrap) and not config.DISABLE_JIT else _in_python
