"""Dual number as a type of Numba: a value, and its derivatives by some unknowns at once.

The value has the type that it has without derivatives, and is computed by the same operations. The
derivatives are float64.
"""

from __future__ import annotations

from typing import Any

from numba import types
from numba.extending import intrinsic, lower_cast, models, register_model

#: What arithmetic with a dual number takes as a constant.
REAL = (types.Float, types.Integer, types.Boolean)
#: Allows LLVM to leave out products by the zeros that an unknown's derivatives begin with, a third
#: of the time. No branch and no value depends on a derivative, so a NaN spoils itself alone.
_FLAGS = ("nnan", "nsz")


class Dual(types.Type):  # type: ignore[misc]  # Numba has no types
    """Type of a number of some type with derivatives by `width` unknowns."""

    def __init__(self, dtype: Any, width: int) -> None:
        self.dtype, self.width = dtype, width
        super().__init__(name=f"unknown({dtype}, {width} derivatives)")

    def can_convert_from(self, typingctx: Any, other: Any) -> Any:
        """Conversion of a number to a constant, never an exact one.

        A user's function that is compiled for both is then called as it was.
        """
        kind = plain(other)
        found = typingctx.can_convert(kind, self.dtype) if isinstance(kind, REAL) else None
        return None if found is None else max(found, type(found).safe)

    def unify(self, typingctx: Any, other: Any) -> Any:
        kind = plain(other)
        kind = typingctx.unify_pairs(self.dtype, kind) if isinstance(kind, REAL) else None
        return None if kind is None else Dual(kind, self.width)

    def __reduce__(self) -> tuple[Any, ...]:
        """Name alone: what a user's cache on disk keeps for a dual number is never found again.

        It would hold the derivatives of another version of numadam.
        """
        return str, (self.name,)


@register_model(Dual)
class _DualModel(models.StructModel):  # type: ignore[misc]  # untyped
    def __init__(self, manager: Any, kind: Dual) -> None:
        tangents = types.UniTuple(types.float64, kind.width)
        super().__init__(manager, kind, [("value", kind.dtype), ("tangents", tangents)])


def plain(kind: Any) -> Any:
    """Type of a number without its derivatives."""
    return kind.dtype if isinstance(kind, Dual) else kind


def is_scalar(*kinds: Any) -> bool:
    """Whether all are dual or real numbers."""
    return all(isinstance(kind, (Dual, *REAL)) for kind in kinds)


def is_dual(*kinds: Any) -> bool:
    """Whether all are numbers, and one at least is a dual one."""
    return is_scalar(*kinds) and any(isinstance(kind, Dual) for kind in kinds)


def parts(context: Any, builder: Any, kind: Any, x: Any, dtype: Any) -> tuple[Any, list[Any]]:
    """LLVM's value of a dual or real number, as that type, and its derivatives, if any."""
    if not isinstance(kind, Dual):
        return context.cast(builder, x, kind, dtype), []
    value = context.cast(builder, builder.extract_value(x, 0), kind.dtype, dtype)
    return value, [builder.extract_value(x, (1, k)) for k in range(kind.width)]


def make_dual(context: Any, builder: Any, kind: Dual, value: Any, tangents: list[Any]) -> Any:
    """LLVM's dual number; a constant without derivatives."""
    dual = builder.insert_value(context.get_constant_null(kind), value, 0)
    for k, tangent in enumerate(tangents):
        dual = builder.insert_value(dual, tangent, (1, k))
    return dual


@lower_cast(types.Float, Dual)
@lower_cast(types.Integer, Dual)
@lower_cast(types.Boolean, Dual)
@lower_cast(Dual, Dual)
def _cast(context: Any, builder: Any, kind: Any, to: Dual, x: Any) -> Any:
    return make_dual(context, builder, to, *parts(context, builder, kind, x, to.dtype))


@intrinsic
def value(typingctx: Any, x: Any) -> Any:
    """Value of a dual number; a real number is its own."""

    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        return parts(context, builder, x, values[0], plain(x))[0]

    return plain(x)(x), codegen


@intrinsic
def ratio(typingctx: Any, a: Any, b: Any) -> Any:
    """Quotient in float64 that never raises, whatever a user's function does where b is 0."""

    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        pairs = zip(values, (a, b), strict=True)
        return builder.fdiv(*(context.cast(builder, x, kind, types.float64) for x, kind in pairs))

    return types.float64(a, b), codegen


@intrinsic
def chain(typingctx: Any, v: Any, a: Any, x: Any, b: Any, y: Any) -> Any:
    """Dual number of value v and derivatives ``a * x' + b * y'``; one of x and y may be real."""
    result = Dual(v, (x if isinstance(x, Dual) else y).width)

    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        sums: list[Any] = []
        for k, kind, of in ((1, a, x), (3, b, y)):
            factor = context.cast(builder, values[k], kind, types.float64)
            tangents = parts(context, builder, of, values[k + 1], plain(of))[1]
            terms = [builder.fmul(factor, tangent, flags=_FLAGS) for tangent in tangents]
            if sums and terms:
                pairs = zip(sums, terms, strict=True)
                terms = [builder.fadd(*pair, flags=_FLAGS) for pair in pairs]
            sums = terms or sums
        return make_dual(context, builder, result, values[0], sums)

    return result(v, a, x, b, y), codegen
