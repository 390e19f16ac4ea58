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
#: Allows LLVM to leave out products by the zeros that an unknown's derivatives begin with. They are
#: a third of the time. No branch and no value depends on a derivative, so a NaN spoils itself alone.
_FLAGS = ("nnan", "nsz")


class Dual(types.Type):
    """Type of a number of some type with derivatives by `width` unknowns."""

    def __init__(self, dtype: Any, width: int) -> None:
        self.dtype, self.width = dtype, width
        super().__init__(name=f"unknown({dtype}, {width} derivatives)")

    def can_convert_from(self, typingctx: Any, other: Any) -> Any:
        """Conversion of a number to a constant, never an exact one.

        A user's function that is compiled for both is then called as it was.
        """
        kind = other.dtype if isinstance(other, Dual) else other
        found = typingctx.can_convert(kind, self.dtype) if isinstance(kind, REAL) else None
        return None if found is None else max(found, type(found).safe)

    def unify(self, typingctx: Any, other: Any) -> Any:
        kind = other.dtype if isinstance(other, Dual) else other
        if not isinstance(kind, REAL):
            return None
        kind = typingctx.unify_pairs(self.dtype, kind)
        return None if kind is None else Dual(kind, self.width)

    def __reduce__(self) -> tuple[Any, ...]:
        """Name alone: what a user's cache on disk keeps for a dual number is never found again.

        It would hold the derivatives of another version of numadam.
        """
        return str, (self.name,)


@register_model(Dual)
class _DualModel(models.StructModel):
    def __init__(self, manager: Any, kind: Dual) -> None:
        tangents = types.UniTuple(types.float64, kind.width)
        super().__init__(manager, kind, [("value", kind.dtype), ("tangents", tangents)])


def is_scalar(*kinds: Any) -> bool:
    """Whether all are dual or real numbers."""
    return all(isinstance(kind, (Dual, *REAL)) for kind in kinds)


def is_dual(*kinds: Any) -> bool:
    """Whether all are numbers, and one at least is a dual one."""
    return is_scalar(*kinds) and any(isinstance(kind, Dual) for kind in kinds)


def make_dual(context: Any, builder: Any, kind: Dual, value: Any, tangents: list[Any]) -> Any:
    """LLVM's value of a dual number."""
    dual = builder.insert_value(context.get_constant_null(kind), value, 0)
    for k, tangent in enumerate(tangents):
        dual = builder.insert_value(dual, tangent, (1, k))
    return dual


@lower_cast(types.Float, Dual)
@lower_cast(types.Integer, Dual)
@lower_cast(types.Boolean, Dual)
def _from_number(context: Any, builder: Any, kind: Any, to: Dual, number: Any) -> Any:
    return make_dual(context, builder, to, context.cast(builder, number, kind, to.dtype), [])


@lower_cast(Dual, Dual)
def _from_dual(context: Any, builder: Any, kind: Dual, to: Dual, dual: Any) -> Any:
    value = context.cast(builder, builder.extract_value(dual, 0), kind.dtype, to.dtype)
    tangents = [builder.extract_value(dual, (1, k)) for k in range(to.width)]
    return make_dual(context, builder, to, value, tangents)


@intrinsic
def value(typingctx: Any, x: Any) -> Any:
    """Value of a dual number; a real number is its own."""
    if not isinstance(x, Dual):
        return x(x), lambda context, builder, signature, values: values[0]

    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        return builder.extract_value(values[0], 0)

    return x.dtype(x), codegen


@intrinsic
def ratio(typingctx: Any, a: Any, b: Any) -> Any:
    """Quotient in float64 that never raises, whatever a user's function does where b is 0."""

    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        pairs = zip(values, signature.args, strict=True)
        return builder.fdiv(*(context.cast(builder, x, kind, types.float64) for x, kind in pairs))

    return types.float64(a, b), codegen


Terms = list[tuple[Any, Any, Any]]


def _combined(
    context: Any, builder: Any, result: Dual, number: Any, terms: Terms, bounded: bool = True
) -> Any:
    """Dual number of this value and the derivatives ``sum(factor * x')`` of terms.

    A term is the factor, float64, a type, and the number x of that type. A factor that may be
    infinite (not `bounded`) leaves 0 where x' is 0.
    """
    sums: list[Any] = []
    zero = context.get_constant(types.float64, 0.0)
    for factor, kind, x in terms:
        if not isinstance(kind, Dual):
            continue
        tangents = [builder.extract_value(x, (1, k)) for k in range(kind.width)]
        products = [builder.fmul(factor, tangent, flags=_FLAGS) for tangent in tangents]
        if not bounded:
            products = [
                builder.select(builder.fcmp_unordered("==", tangent, zero), zero, product)
                for tangent, product in zip(tangents, products, strict=True)
            ]
        pairs = zip(sums, products, strict=True) if sums else ()
        sums = [builder.fadd(*pair, flags=_FLAGS) for pair in pairs] or products
    return make_dual(context, builder, result, number, sums)


def _width(*kinds: Any) -> int:
    return next(kind.width for kind in kinds if isinstance(kind, Dual))


def _number_of(builder: Any, kind: Any, x: Any) -> tuple[Any, Any]:
    """Type and value of a number without its derivatives."""
    return (kind.dtype, builder.extract_value(x, 0)) if isinstance(kind, Dual) else (kind, x)


def make_sum(function: Any, *signs: float) -> Any:
    """Intrinsic of a sum or difference, or of a product, which has no signs."""

    def typed(typingctx: Any, *kinds: Any) -> Any:
        plain = typingctx.resolve_function_type(
            function, tuple(getattr(kind, "dtype", kind) for kind in kinds), {}
        )
        result = Dual(plain.return_type, _width(*kinds))

        def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            numbers = [
                _number_of(builder, kind, x) for kind, x in zip(kinds, values, strict=True)
            ]
            items = [
                context.cast(builder, number, kind, to)
                for (kind, number), to in zip(numbers, plain.args, strict=True)
            ]
            number = context.get_function(function, plain)(builder, items)
            factors = [context.get_constant(types.float64, sign) for sign in signs] or [
                context.cast(builder, number, kind, types.float64) for kind, number in numbers[::-1]
            ]
            terms = list(zip(factors, kinds, values, strict=True))
            return _combined(context, builder, result, number, terms)

        return result(*kinds), codegen

    if len(signs) == 1:
        return intrinsic(lambda typingctx, x: typed(typingctx, x))
    return intrinsic(lambda typingctx, x, y: typed(typingctx, x, y))


def _chain(bounded: bool) -> Any:
    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        kinds = signature.args
        terms = [
            (context.cast(builder, values[k], kinds[k], types.float64), kinds[k + 1], values[k + 1])
            for k in range(1, len(values), 2)
        ]
        return _combined(context, builder, signature.return_type, values[0], terms, bounded)

    return codegen


@intrinsic
def chain(typingctx: Any, v: Any, a: Any, x: Any) -> Any:
    """Dual number of value v and derivatives ``a * x'``."""
    return Dual(v, _width(x))(v, a, x), _chain(True)


@intrinsic
def chain_from_0(typingctx: Any, v: Any, a: Any, x: Any) -> Any:
    """The same with 0 where x' is 0, although a may be infinite."""
    return Dual(v, _width(x))(v, a, x), _chain(False)


@intrinsic
def chain2(typingctx: Any, v: Any, a: Any, x: Any, b: Any, y: Any) -> Any:
    """Dual number of value v and derivatives ``a * x' + b * y'``; one of them may be real."""
    return Dual(v, _width(x, y))(v, a, x, b, y), _chain(True)


@intrinsic
def chain2_from_0(typingctx: Any, v: Any, a: Any, x: Any, b: Any, y: Any) -> Any:
    """The same with 0 where x' and y' are 0, although a and b may be infinite."""
    return Dual(v, _width(x, y))(v, a, x, b, y), _chain(False)
