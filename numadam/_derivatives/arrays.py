"""Arrays of unknowns and of residuals, as a function with derivatives gets them."""

from __future__ import annotations

import operator
from typing import Any

from numba import errors, types
from numba.extending import intrinsic, models, overload, overload_attribute, register_model

from numadam._derivatives.dual import Dual, is_scalar, make_dual, parts, plain, value

_POINTER_FIELDS, _COUNT_FIELDS = ("data", "jacobian"), ("size", "first", "step", "rows", "columns")
_FIELD = {name: place for place, name in enumerate(_POINTER_FIELDS + _COUNT_FIELDS)}


class _Wrapped(types.Type):  # type: ignore[misc]  # Numba has no types
    """Type of an array of numbers with derivatives by `width` unknowns, from the first one on.

    It holds addresses of arrays that somebody else keeps: counting references takes 30 ns a call.
    Where the unknowns are all (`whole`), the compiler knows that the first is number 0. Indices are
    checked where the user's function asks for it.
    """

    name_of = ""

    def __init__(self, dtype: Any, width: int, *flags: bool) -> None:
        self.dtype, self.dual = dtype, Dual(dtype, width)
        self.whole, self.is_checked, self.is_flat, self.is_row = flags
        super().__init__(name=f"{self.name_of}({', '.join(map(str, (dtype, width, *flags)))})")


class Unknowns(_Wrapped):
    """Of x: an element gets its derivative of 1 where it is read."""

    name_of = "unknowns"


class Residuals(_Wrapped):
    """Of r: a number goes into r, its derivatives into a row of J."""

    name_of = "residuals"


@register_model(Unknowns)
@register_model(Residuals)
class _WrappedModel(models.StructModel):  # type: ignore[misc]  # untyped
    def __init__(self, manager: Any, kind: _Wrapped) -> None:
        members = [(name, types.CPointer(kind.dtype)) for name in _POINTER_FIELDS]
        super().__init__(manager, kind, [*members, *((name, types.intp) for name in _COUNT_FIELDS)])


def make_wraps(n: int, width: int, is_checked: bool) -> tuple[Any, Any]:
    """``unknowns(x, first)`` and ``residuals(r, first, J)``; J may be a row.

    The values of x are copied to where no other array can overlap them: the compiler keeps them in
    registers.
    """

    def wrapped(context: Any, builder: Any, kind: Any, **fields: Any) -> Any:
        struct = context.get_constant_null(kind)
        for name, item in fields.items():
            struct = builder.insert_value(struct, item, _FIELD[name])
        return struct

    @intrinsic
    def unknowns(typingctx: Any, x: Any, first: Any) -> Any:
        kind = Unknowns(x.dtype, width, n == width, is_checked, True, False)

        def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            source, first = context.make_array(x)(context, builder, values[0]), values[1]
            step = builder.extract_value(source.strides, 0)
            with builder.goto_entry_block():
                copy = builder.alloca(context.get_data_type(x.dtype), first.type(n))
            for k in map(first.type, range(n)):
                number = _at(context, builder, source.data, builder.mul(k, step))
                builder.store(builder.load(number), builder.gep(copy, [k]))
            return wrapped(context, builder, kind, data=copy, size=first.type(n), first=first)

        return kind(x, types.intp), codegen

    @intrinsic
    def residuals(typingctx: Any, r: Any, first: Any, J: Any) -> Any:
        flags = n == width, is_checked, r.layout == "C", J.layout == "C"
        kind = Residuals(r.dtype, width, *flags)

        def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            array, matrix = (
                context.make_array(of)(context, builder, values[k]) for k, of in ((0, r), (2, J))
            )
            steps = [builder.extract_value(matrix.strides, axis) for axis in (0, J.ndim - 1)]
            return wrapped(
                context,
                builder,
                kind,
                data=array.data,
                jacobian=matrix.data,
                size=builder.extract_value(array.shape, 0),
                first=values[1],
                step=builder.extract_value(array.strides, 0),
                rows=steps[0],
                columns=steps[1],
            )

        return kind(r, types.intp, J), codegen

    return unknowns, residuals


def _at(context: Any, builder: Any, pointer: Any, offset: Any) -> Any:
    """Address that is so many bytes further."""
    in_bytes = builder.bitcast(pointer, context.get_value_type(types.voidptr))
    return builder.bitcast(builder.gep(in_bytes, [offset]), pointer.type)


def _field(builder: Any, wrapped: Any, name: str) -> Any:
    return builder.extract_value(wrapped, _FIELD[name])


def _place(context: Any, builder: Any, kind: Any, wrapped: Any, i: Any, of: Any) -> tuple[Any, Any]:
    """Index that counts from the start, of one of type `of`, and the address of that number."""
    i, size = context.cast(builder, i, of, types.intp), _field(builder, wrapped, "size")
    i = builder.select(builder.icmp_signed("<", i, i.type(0)), builder.add(i, size), i)
    if kind.is_checked:
        with builder.if_then(builder.icmp_unsigned(">=", i, size)):
            message = ("index is out of bounds",)
            context.call_conv.return_user_exc(builder, IndexError, message)
    data = _field(builder, wrapped, "data")
    if kind.is_flat:  # neighbours, as the compiler then knows
        return i, builder.gep(data, [i])
    return i, _at(context, builder, data, builder.mul(i, _field(builder, wrapped, "step")))


def _derivative(context: Any, builder: Any, kind: Any, wrapped: Any, k: Any, number: int) -> Any:
    """Address of that derivative in row k of J."""
    j, columns = k.type(number), _field(builder, wrapped, "columns")
    if not kind.whole:
        j = builder.add(_field(builder, wrapped, "first"), j)
    if kind.is_row:  # neighbours, which the compiler may store together
        columns = k.type(kind.dtype.bitwidth // 8)
    offset = builder.add(builder.mul(k, _field(builder, wrapped, "rows")), builder.mul(j, columns))
    return _at(context, builder, _field(builder, wrapped, "jacobian"), offset)


@intrinsic
def _unknown(typingctx: Any, x: Any, i: Any) -> Any:
    """Element i of the unknowns, as a dual number."""

    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        at, number = _place(context, builder, x, values[0], values[1], i)
        if not x.whole:
            at = builder.sub(at, _field(builder, values[0], "first"))
        one, zero = (context.get_constant(types.float64, real) for real in (1.0, 0.0))
        places = map(at.type, range(x.dual.width))
        seeds = [builder.select(builder.icmp_signed("==", at, k), one, zero) for k in places]
        return make_dual(context, builder, x.dual, builder.load(number), seeds)

    return x.dual(x, i), codegen


@intrinsic
def _residual(typingctx: Any, r: Any, i: Any) -> Any:
    """Residual i with the derivatives that its row of J has."""

    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        k, number = _place(context, builder, r, values[0], values[1], i)
        places = (
            _derivative(context, builder, r, values[0], k, column) for column in range(r.dual.width)
        )
        tangents = [
            context.cast(builder, builder.load(place), r.dtype, types.float64) for place in places
        ]
        return make_dual(context, builder, r.dual, builder.load(number), tangents)

    return r.dual(r, i), codegen


def _store(context: Any, builder: Any, r: Any, wrapped: Any, k: Any, tangents: list[Any]) -> None:
    """Write the derivatives of a number, or zeros, into row k of J."""
    for column in range(r.dual.width):
        tangent = context.get_constant(r.dtype, 0.0)
        if tangents:
            tangent = context.cast(builder, tangents[column], types.float64, r.dtype)
        builder.store(tangent, _derivative(context, builder, r, wrapped, k, column))


@intrinsic
def _write(typingctx: Any, r: Any, i: Any, x: Any) -> Any:
    """Write a number into r, and its derivatives into J."""

    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        k, number = _place(context, builder, r, values[0], values[1], i)
        real, tangents = parts(context, builder, x, values[2], r.dtype)
        builder.store(real, number)
        _store(context, builder, r, values[0], k, tangents)
        return context.get_dummy_value()

    return types.void(r, i, x), codegen


@intrinsic
def write_gradient(typingctx: Any, row: Any, f: Any) -> Any:
    """Write the derivatives of a number into the only row of J."""
    if not is_scalar(f):
        raise errors.TypingError(f"{write_gradient.__name__}: {f} is no number")

    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        k = context.get_constant(types.intp, 0)
        _store(
            context, builder, row, values[0], k, parts(context, builder, f, values[1], plain(f))[1]
        )
        return context.get_dummy_value()

    return types.void(row, f), codegen


@intrinsic
def _size(typingctx: Any, array: Any) -> Any:
    return types.intp(array), lambda context, builder, signature, values: _field(
        builder, values[0], "size"
    )


@overload(operator.getitem)
def _get(x, i):
    if isinstance(i, types.Integer) and isinstance(x, _Wrapped):
        read = _unknown if isinstance(x, Unknowns) else _residual
        return lambda x, i: read(x, i)
    return None


@overload(operator.setitem)
def _set(r, i, x):
    if isinstance(r, Residuals) and isinstance(i, types.Integer) and is_scalar(x):
        return lambda r, i, x: _write(r, i, x)
    return None


@overload(len)
def _len(x):
    return (lambda x: _size(x)) if isinstance(x, _Wrapped) else None


for _kind in (Unknowns, Residuals):
    overload_attribute(_kind, "size")(lambda x: lambda x: _size(x))
    overload_attribute(_kind, "shape")(lambda x: lambda x: (_size(x),))
    overload_attribute(_kind, "ndim")(lambda x: lambda x: 1)


# --- derivatives by hand, beside exact ones ------------------------------------------------------


class Values(types.Type):  # type: ignore[misc]  # untyped
    """Type of an array into which the values of dual numbers go."""

    def __init__(self, array: Any) -> None:
        self.array = array
        super().__init__(name=f"values({array})")


@register_model(Values)
class _ValuesModel(models.StructModel):  # type: ignore[misc]  # untyped
    def __init__(self, manager: Any, kind: Values) -> None:
        super().__init__(manager, kind, [("array", kind.array)])


@intrinsic
def values_of(typingctx: Any, array: Any) -> Any:
    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        struct = context.get_constant_null(signature.return_type)
        context.nrt.incref(builder, array, values[0])
        return builder.insert_value(struct, values[0], 0)

    return Values(array)(array), codegen


@intrinsic
def _array(typingctx: Any, wrapped: Any) -> Any:
    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        array = builder.extract_value(values[0], 0)
        context.nrt.incref(builder, wrapped.array, array)
        return array

    return wrapped.array(wrapped), codegen


@overload(operator.getitem)
def _get_value(x, i):
    return (lambda x, i: _array(x)[i]) if isinstance(x, Values) else None


@overload(operator.setitem)
def _set_value(g, i, x):
    if not isinstance(g, Values):
        return None

    def write(g, i, x):
        _array(g)[i] = value(x)

    return write


overload_attribute(Values, "size")(lambda x: lambda x: _array(x).size)
overload_attribute(Values, "shape")(lambda x: lambda x: _array(x).shape)
