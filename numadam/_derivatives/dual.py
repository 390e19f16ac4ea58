"""Dual number as a type of Numba: a value, and its derivatives by some unknowns at once.

The value has the type that it has without derivatives, and is computed by the same operations. The
derivatives are float64.
"""

from __future__ import annotations

from typing import Any

from numba import types
from numba.extending import intrinsic, lower_cast, models, register_model

from numadam._jit.private import ir

#: What arithmetic with a dual number takes as a constant.
REAL = (types.Float, types.Integer, types.Boolean)
NUMBERS = (*REAL, types.Complex)
#: Allows LLVM to leave out products by the zeros that an unknown's derivatives begin with, a third
#: of the time. No branch and no value depends on a derivative, so a NaN spoils itself alone.
_FLAGS = ("nnan", "nsz")
#: Numbers in a vector of derivatives; up to so many are numbers, which the compiler leaves out.
VECTOR_SIZE = 8
_INT, _DOUBLE = ir.IntType(32), ir.DoubleType()
_VECTOR = ir.VectorType(_DOUBLE, VECTOR_SIZE)


class _Vector(types.Type):  # type: ignore[misc]  # Numba has no types
    """Type of eight derivatives, with which a processor computes at once."""

    def __init__(self) -> None:
        super().__init__(name="derivatives")


@register_model(_Vector)
class _VectorModel(models.PrimitiveModel):  # type: ignore[misc]  # untyped
    """In memory eight numbers: that of Numba is not aligned as a vector is."""

    def __init__(self, manager: Any, kind: _Vector) -> None:
        super().__init__(manager, kind, _VECTOR)

    def get_data_type(self) -> Any:
        return ir.ArrayType(_DOUBLE, VECTOR_SIZE)

    def as_data(self, builder: Any, value: Any) -> Any:
        data = self.get_data_type()(None)
        for k in range(VECTOR_SIZE):
            data = builder.insert_value(data, builder.extract_element(value, _INT(k)), k)
        return data

    def from_data(self, builder: Any, value: Any) -> Any:
        return vector(builder, [builder.extract_value(value, k) for k in range(VECTOR_SIZE)])


class Dual(types.Type):  # type: ignore[misc]  # Numba has no types
    """Type of a number of some type with derivatives by `width` real unknowns.

    Those of a complex number are real parts, then imaginary parts.
    """

    def __init__(self, dtype: Any, width: int) -> None:
        self.dtype, self.width = dtype, width
        self.piece = types.float64 if width <= VECTOR_SIZE else _Vector()
        self.pieces = width if width <= VECTOR_SIZE else -(-width // VECTOR_SIZE)
        super().__init__(name=f"unknown({dtype}, {width} derivatives)")

    def can_convert_from(self, typingctx: Any, other: Any) -> Any:
        """Conversion of a number to a constant, never an exact one.

        A user's function that is compiled for both is then called as it was.
        """
        kind = plain(other)
        found = typingctx.can_convert(kind, self.dtype) if isinstance(kind, NUMBERS) else None
        return None if found is None else max(found, type(found).safe)

    def unify(self, typingctx: Any, other: Any) -> Any:
        kind = plain(other)
        kind = typingctx.unify_pairs(self.dtype, kind) if isinstance(kind, NUMBERS) else None
        return None if kind is None else Dual(kind, self.width)

    def __reduce__(self) -> tuple[Any, ...]:
        """Name alone: what a user's cache on disk keeps for a dual number is never found again.

        It would hold the derivatives of another version of numadam.
        """
        return str, (self.name,)


@register_model(Dual)
class _DualModel(models.StructModel):  # type: ignore[misc]  # untyped
    def __init__(self, manager: Any, kind: Dual) -> None:
        tangents = types.UniTuple(kind.piece, kind.pieces * (1 + is_complex(kind)))
        super().__init__(manager, kind, [("value", kind.dtype), ("tangents", tangents)])


def plain(kind: Any) -> Any:
    """Type of a number without its derivatives."""
    return kind.dtype if isinstance(kind, Dual) else kind


def is_complex(*kinds: Any) -> bool:
    """Whether any is a complex number, dual or not."""
    return any(isinstance(plain(kind), types.Complex) for kind in kinds)


def is_scalar(*kinds: Any) -> bool:
    """Whether all are dual or other numbers."""
    return all(isinstance(kind, (Dual, *NUMBERS)) for kind in kinds)


def is_dual(*kinds: Any) -> bool:
    """Whether all are numbers, and one at least is a dual one."""
    return is_scalar(*kinds) and any(isinstance(kind, Dual) for kind in kinds)


def vector(builder: Any, numbers: list[Any]) -> Any:
    """Up to eight derivatives as LLVM's vector."""
    result = _VECTOR(None)
    for k, number in enumerate(numbers):
        result = builder.insert_element(result, number, _INT(k))
    return result


def pack(builder: Any, numbers: list[Any]) -> list[Any]:
    """Pieces in which so many derivatives are kept."""
    if len(numbers) <= VECTOR_SIZE:
        return numbers
    starts = range(0, len(numbers), VECTOR_SIZE)
    return [vector(builder, numbers[start : start + VECTOR_SIZE]) for start in starts]


def unpack(builder: Any, kind: Dual, pieces: list[Any]) -> list[Any]:
    """Numbers in the pieces of a real dual number."""
    if kind.width <= VECTOR_SIZE:
        return pieces
    places = (divmod(k, VECTOR_SIZE) for k in range(kind.width))
    return [builder.extract_element(pieces[k], _INT(lane)) for k, lane in places]


def parts(context: Any, builder: Any, kind: Any, x: Any, dtype: Any) -> tuple[Any, list[Any]]:
    """LLVM's value of a number, as that type, and its derivatives, if any."""
    if not isinstance(kind, Dual):
        return context.cast(builder, x, kind, dtype), []
    value = context.cast(builder, builder.extract_value(x, 0), kind.dtype, dtype)
    count = kind.pieces * (1 + is_complex(kind))
    tangents = [builder.extract_value(x, (1, k)) for k in range(count)]
    if is_complex(dtype) and not is_complex(kind):
        tangents += [tangent.type(None) for tangent in tangents]
    return value, tangents


def make_dual(context: Any, builder: Any, kind: Dual, value: Any, tangents: list[Any]) -> Any:
    """LLVM's dual number; a constant without derivatives."""
    dual = builder.insert_value(context.get_constant_null(kind), value, 0)
    for k, tangent in enumerate(tangents):
        dual = builder.insert_value(dual, tangent, (1, k))
    return dual


@lower_cast(types.Number, Dual)
@lower_cast(types.Boolean, Dual)
@lower_cast(Dual, Dual)
def _cast(context: Any, builder: Any, kind: Any, to: Dual, x: Any) -> Any:
    return make_dual(context, builder, to, *parts(context, builder, kind, x, to.dtype))


@intrinsic
def value(typingctx: Any, x: Any) -> Any:
    """Value of a dual number; another number is the value."""

    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        return parts(context, builder, x, values[0], plain(x))[0]

    return plain(x)(x), codegen


def _part_of(place: int) -> Any:
    @intrinsic
    def part(typingctx: Any, x: Any) -> Any:
        kind = Dual(x.dtype.underlying_float, x.width)

        def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            number, tangents = parts(context, builder, x, values[0], x.dtype)
            those = tangents[place * kind.pieces :][: kind.pieces]
            return make_dual(context, builder, kind, builder.extract_value(number, place), those)

        return kind(x), codegen

    return part


#: Real and imaginary part of a complex dual number, with derivatives.
real_part, imaginary_part = _part_of(0), _part_of(1)


@intrinsic
def quotient(typingctx: Any, a: Any, b: Any) -> Any:
    """Quotient in float64 that never raises, whatever a user's function does where b is 0."""

    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        pairs = zip(values, (a, b), strict=True)
        return builder.fdiv(*(context.cast(builder, x, kind, types.float64) for x, kind in pairs))

    return types.float64(a, b), codegen


def _spread(builder: Any, number: Any, kind: Any) -> Any:
    """A number as often as a piece has numbers."""
    if kind != _VECTOR:
        return number
    first = builder.insert_element(_VECTOR(None), number, _INT(0))
    return builder.shuffle_vector(first, first, ir.VectorType(_INT, VECTOR_SIZE)(None))


def _multiply_add(builder: Any, a: Any, b: Any, c: Any) -> Any:
    """``a * b + c``, rounded once where the processor does that: the same wherever it stands."""
    suffix = f"v{VECTOR_SIZE}f64" if a.type == _VECTOR else "f64"
    name, kind = f"llvm.fmuladd.{suffix}", ir.FunctionType(a.type, [a.type] * 3)
    function = builder.module.globals.get(name) or ir.Function(builder.module, kind, name)
    return builder.call(function, [a, b, c], fastmath=_FLAGS)


def _accumulate(
    builder: Any, factors: list[Any], tangents: list[Any], sums: list[Any]
) -> list[Any]:
    """Sums, if any, and derivatives times a real number, or complex ones times a complex number."""

    def add(factor: Any, part: list[Any], sums: list[Any]) -> list[Any]:
        spread = _spread(builder, factor, part[0].type)
        if not sums:
            return [builder.fmul(spread, tangent, flags=_FLAGS) for tangent in part]
        return [_multiply_add(builder, spread, t, c) for t, c in zip(part, sums, strict=True)]

    sums = add(factors[0], tangents, sums)
    if len(factors) == 2:
        half = len(tangents) // 2
        crossed = [builder.fneg(tangent) for tangent in tangents[half:]] + tangents[:half]
        sums = add(factors[1], crossed, sums)
    return sums


@intrinsic
def chain(typingctx: Any, v: Any, a: Any, x: Any, b: Any, y: Any) -> Any:
    """Dual number of value v and derivatives ``a * x' + b * y'``; x or y may have none."""
    result = Dual(v, (x if isinstance(x, Dual) else y).width)
    factor = types.complex128 if is_complex(v) else types.float64

    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        sums: list[Any] = []
        for k, kind, of in ((1, a, x), (3, b, y)):
            tangents = parts(context, builder, of, values[k + 1], v)[1]
            if tangents:
                slope = context.cast(builder, values[k], kind, factor)
                split = (
                    [builder.extract_value(slope, p) for p in (0, 1)] if is_complex(v) else [slope]
                )
                sums = _accumulate(builder, split, tangents, sums)
        return make_dual(context, builder, result, values[0], sums)

    return result(v, a, x, b, y), codegen
