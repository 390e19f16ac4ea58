"""What a function with derivatives gets in place of its arrays of unknowns and residuals."""

from __future__ import annotations

import operator
from contextlib import nullcontext
from typing import Any

from numba import errors, types
from numba.extending import (
    intrinsic,
    models,
    overload,
    overload_attribute,
    register_model,
)

from numadam._derivatives.dual import Dual, is_scalar, make_dual


class Unknowns(types.Type):
    """Type of an array whose elements are dual numbers with derivatives by `width` of them.

    Only values are stored, in a copy that no other array can overlap: the compiler keeps them in
    registers. An element gets its derivative of 1 where it is read. The unknowns are those from a
    first one on; where they are all of them (`whole`), the compiler knows that it is 0.
    """

    fields = ("data", "size", "first")

    def __init__(self, dtype: Any, width: int, whole: bool) -> None:
        self.dtype, self.width, self.whole = dtype, width, whole
        self.dual = Dual(dtype, width)
        super().__init__(name=f"unknowns({dtype}, {width} derivatives, whole={whole})")


class Residuals(types.Type):
    """Type of an array of residuals: a dual number goes into r, its derivatives into a row of J."""

    fields = ("data", "size", "first", "jacobian", "count", "rows", "columns")

    def __init__(self, dtype: Any, contiguous: bool, width: int, whole: bool) -> None:
        self.dtype, self.contiguous, self.width, self.whole = dtype, contiguous, width, whole
        self.dual = Dual(dtype, width)
        name = f"residuals({dtype}, {width} derivatives, {contiguous=}, {whole=})"
        super().__init__(name=name)


@register_model(Unknowns)
@register_model(Residuals)
class _WrappedModel(models.StructModel):
    """Addresses of arrays that somebody else keeps: counting references takes 30 ns a call."""

    def __init__(self, manager: Any, kind: Any) -> None:
        pointer = types.CPointer(kind.dtype)
        of_name = {"data": pointer, "jacobian": pointer}
        members = [(name, of_name.get(name, types.intp)) for name in kind.fields]
        super().__init__(manager, kind, members)


def _struct(context: Any, builder: Any, kind: Any, items: list[Any]) -> Any:
    struct = context.get_constant_null(kind)
    for k, item in enumerate(items):
        struct = builder.insert_value(struct, item, k)
    return struct


def make_wraps(n: int, width: int) -> tuple[Any, Any, Any]:
    """``unknowns(x, first)``, ``residuals(r, first, J)``, ``gradient(g, first)``; contiguous."""
    whole = n == width

    def parts(context: Any, builder: Any, kind: Any, array: Any) -> Any:
        return context.make_array(kind)(context, builder, array)

    @intrinsic
    def unknowns(typingctx: Any, x: Any, first: Any) -> Any:
        kind = Unknowns(x.dtype, width, whole)

        def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            source, first = parts(context, builder, x, values[0]).data, values[1]
            with builder.goto_entry_block():
                copy = builder.alloca(context.get_data_type(x.dtype), first.type(n))
            for k in range(n):
                number = builder.load(builder.gep(source, [first.type(k)]))
                builder.store(number, builder.gep(copy, [first.type(k)]))
            return _struct(context, builder, kind, [copy, first.type(n), first])

        return kind(x, types.intp), codegen

    @intrinsic
    def residuals(typingctx: Any, r: Any, first: Any, J: Any) -> Any:
        kind = Residuals(r.dtype, J.layout == "C", width, whole)

        def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            array, matrix = (
                parts(context, builder, of, values[place]) for of, place in ((r, 0), (J, 2))
            )
            items = [array.data, builder.extract_value(array.shape, 0), values[1], matrix.data]
            items.append(builder.extract_value(matrix.shape, 1))
            items += [builder.extract_value(matrix.strides, axis) for axis in range(2)]
            return _struct(context, builder, kind, items)

        return kind(r, types.intp, J), codegen

    @intrinsic
    def gradient(typingctx: Any, g: Any, first: Any) -> Any:
        kind = Residuals(g.dtype, True, width, whole)

        def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            data, zero = parts(context, builder, g, values[0]).data, values[1].type(0)
            items = [data, zero, values[1], data, zero.type(n), zero, zero]
            return _struct(context, builder, kind, items)

        return kind(g, types.intp), codegen

    return unknowns, residuals, gradient


def _index(context: Any, builder: Any, wrapped: Any, i: Any, kind: Any) -> Any:
    """Index that counts from the start, checked where the function asks for that."""
    i, size = context.cast(builder, i, kind, types.intp), builder.extract_value(wrapped, 1)
    i = builder.select(builder.icmp_signed("<", i, i.type(0)), builder.add(i, size), i)
    if context.enable_boundscheck:
        with builder.if_then(builder.icmp_unsigned(">=", i, size)):
            message = ("index is out of bounds",)
            context.call_conv.return_user_exc(builder, IndexError, message)
    return i


def _number(builder: Any, wrapped: Any, i: Any) -> Any:
    """Address of the number with that index."""
    return builder.gep(builder.extract_value(wrapped, 0), [i])


@intrinsic
def _seeded(typingctx: Any, x: Any, i: Any) -> Any:
    """Element i of the unknowns, as a dual number."""

    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        wrapped, i = values[0], _index(context, builder, *values, signature.args[1])
        number = builder.load(_number(builder, wrapped, i))
        if not x.whole:
            i = builder.sub(i, builder.extract_value(wrapped, x.fields.index("first")))
        one, zero = (context.get_constant(types.float64, real) for real in (1.0, 0.0))
        tangents = [
            builder.select(builder.icmp_signed("==", i, i.type(k)), one, zero)
            for k in range(x.width)
        ]
        return make_dual(context, builder, x.dual, number, tangents)

    return x.dual(x, i), codegen


def _place(context: Any, builder: Any, kind: Any, wrapped: Any, k: Any, number: int) -> Any:
    """Whether J has a column for that derivative, and the address of it in row k, or of column 0."""
    field = {name: builder.extract_value(wrapped, at) for at, name in enumerate(kind.fields)}
    j, inside, columns = k.type(number), None, field["columns"]
    if not kind.whole:
        j = builder.add(field["first"], j)
        inside = builder.icmp_signed("<", j, field["count"])
        j = builder.select(inside, j, k.type(0))
    if kind.contiguous:  # neighbours, which the compiler may store together
        columns = k.type(kind.dtype.bitwidth // 8)
    offset = builder.add(builder.mul(k, field["rows"]), builder.mul(j, columns))
    pointer = field["jacobian"]
    in_bytes = builder.bitcast(pointer, context.get_value_type(types.voidptr))
    return inside, builder.bitcast(builder.gep(in_bytes, [offset]), pointer.type)


def _store(context: Any, builder: Any, kind: Any, wrapped: Any, k: Any, x: Any, dual: Any) -> None:
    """Write the derivatives of a dual or real number of type x into row k of J."""
    for number in range(kind.width):
        tangent = context.get_constant(kind.dtype, 0.0)
        if isinstance(x, Dual):
            tangent = builder.extract_value(dual, (1, number))
            tangent = context.cast(builder, tangent, types.float64, kind.dtype)
        inside, place = _place(context, builder, kind, wrapped, k, number)
        with nullcontext() if inside is None else builder.if_then(inside):
            builder.store(tangent, place)


@intrinsic
def _written(typingctx: Any, r: Any, k: Any, x: Any) -> Any:
    """Write a number into r, and its derivatives into J."""

    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        wrapped, _, dual = values
        k = _index(context, builder, *values[:2], signature.args[1])
        number = builder.extract_value(dual, 0) if isinstance(x, Dual) else dual
        number = context.cast(builder, number, getattr(x, "dtype", x), r.dtype)
        builder.store(number, _number(builder, wrapped, k))
        _store(context, builder, r, wrapped, k, x, dual)
        return context.get_dummy_value()

    return types.void(r, k, x), codegen


@intrinsic
def _residual(typingctx: Any, r: Any, k: Any) -> Any:
    """Residual k with the derivatives that row k of J has."""

    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        wrapped, k = values[0], _index(context, builder, *values, signature.args[1])
        zero, tangents = context.get_constant(types.float64, 0.0), []
        for column in range(r.width):
            inside, place = _place(context, builder, r, wrapped, k, column)
            tangent = context.cast(builder, builder.load(place), r.dtype, types.float64)
            tangents.append(builder.select(inside, tangent, zero) if inside else tangent)
        number = builder.load(_number(builder, wrapped, k))
        return make_dual(context, builder, r.dual, number, tangents)

    return r.dual(r, k), codegen


@intrinsic
def store_gradient(typingctx: Any, g: Any, f: Any) -> Any:
    """Write the derivatives of f into g, as the only row of a matrix."""
    if not is_scalar(f):
        raise errors.TypingError(f"fun: has to return the number f, got {f}")

    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        row = context.get_constant(types.intp, 0)
        _store(context, builder, g, values[0], row, f, values[1])
        return context.get_dummy_value()

    return types.void(g, f), codegen


@intrinsic
def _size(typingctx: Any, wrapped: Any) -> Any:
    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        return builder.extract_value(values[0], 1)

    return types.intp(wrapped), codegen


@overload(operator.getitem)
def _get(x, i):
    if isinstance(x, Unknowns) and isinstance(i, types.Integer):
        return lambda x, i: _seeded(x, i)
    if isinstance(x, Residuals) and isinstance(i, types.Integer):
        return lambda x, i: _residual(x, i)
    return None


@overload(operator.setitem)
def _set(r, k, x):
    if isinstance(r, Residuals) and isinstance(k, types.Integer) and is_scalar(x):
        return lambda r, k, x: _written(r, k, x)
    return None


@overload(len)
def _len(x):
    return (lambda x: _size(x)) if isinstance(x, (Unknowns, Residuals)) else None


def _attribute(kind: Any, name: str, get: Any) -> None:
    overload_attribute(kind, name)(lambda x: get)


for _kind in (Unknowns, Residuals):
    _attribute(_kind, "size", lambda x: _size(x))
    _attribute(_kind, "shape", lambda x: (_size(x),))
    _attribute(_kind, "ndim", lambda x: 1)
