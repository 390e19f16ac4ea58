"""Arrays of unknowns and of residuals, as a function with derivatives gets them."""

from __future__ import annotations

import operator
from typing import Any

import numpy as np
from numba import errors, types
from numba.extending import (
    intrinsic,
    models,
    overload,
    overload_attribute,
    register_model,
)

from numadam._derivatives.dual import (
    Dual,
    chain,
    is_complex,
    is_dual,
    is_scalar,
    make_dual,
    pack,
    parts,
    plain,
    unpack,
    value,
)

_POINTER_FIELDS, _COUNT_FIELDS = ("data", "jacobian"), ("size", "step", "rows", "columns")
_FIELD = {name: place for place, name in enumerate(_POINTER_FIELDS + _COUNT_FIELDS)}


def _real(dtype: Any) -> tuple[Any, int]:
    """Type of the real numbers in a number, and how many they are."""
    return (dtype.underlying_float, 2) if is_complex(dtype) else (dtype, 1)


class Residuals(types.Type):  # type: ignore[misc]  # Numba has no types
    """Type of r: a number that is written goes into r, its derivatives into a row of J.

    It holds addresses of arrays that somebody else keeps: counting references takes 30 ns a call.
    Indices are checked where the user's function asks for it.
    """

    def __init__(self, dtype: Any, n: int, *flags: bool) -> None:
        real, self.each = _real(dtype)
        self.dual, (self.is_checked, self.is_flat, self.is_row) = Dual(real, n * self.each), flags
        super().__init__(name=f"residuals({', '.join(map(str, (dtype, n, *flags)))})")


@register_model(Residuals)
class _ResidualsModel(models.StructModel):  # type: ignore[misc]  # untyped
    def __init__(self, manager: Any, kind: Residuals) -> None:
        members = [(name, types.CPointer(kind.dual.dtype)) for name in _POINTER_FIELDS]
        super().__init__(manager, kind, [*members, *((name, types.intp) for name in _COUNT_FIELDS)])


def make_wraps(n: int, is_checked: bool) -> tuple[Any, Any]:
    """``unknowns(x)`` and ``residuals(r, J)``; J may be a row, which is g.

    `unknowns` gives the address of dual numbers on the stack of the calling function, where no
    other array can overlap them: the compiler keeps in registers what has a constant index.
    """

    @intrinsic
    def unknowns(typingctx: Any, x: Any) -> Any:
        each = _real(x.dtype)[1]
        dual = Dual(x.dtype, n * each)

        def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            source, intp = context.make_array(x)(context, builder, values[0]), types.intp
            step, count = builder.extract_value(source.strides, 0), context.get_constant(intp, n)
            with builder.goto_entry_block():
                copy = builder.alloca(context.get_data_type(dual), count)
            for k in range(n):
                place = _at(context, builder, source.data, builder.mul(count.type(k), step))
                seeds = []
                for part in range(each):  # an unknown has a derivative of 1 by itself
                    row = (float(j == each * k + part) for j in range(dual.width))
                    seeds += pack(builder, [context.get_constant(types.float64, s) for s in row])
                element = make_dual(context, builder, dual, builder.load(place), seeds)
                data = context.data_model_manager[dual].as_data(builder, element)
                builder.store(data, builder.gep(copy, [count.type(k)]))
            return copy

        return types.CPointer(dual)(x), codegen

    @intrinsic
    def residuals(typingctx: Any, r: Any, J: Any) -> Any:
        kind = Residuals(r.dtype, n, is_checked, r.layout == "C", J.layout == "C")

        def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            array, matrix = (
                context.make_array(of)(context, builder, values[k]) for k, of in ((0, r), (1, J))
            )
            steps = [builder.extract_value(matrix.strides, axis) for axis in (0, J.ndim - 1)]
            pointer = context.get_value_type(types.CPointer(kind.dual.dtype))
            fields = (
                builder.bitcast(array.data, pointer),
                builder.bitcast(matrix.data, pointer),
                builder.extract_value(array.shape, 0),
                builder.extract_value(array.strides, 0),
                *steps,
            )
            struct = context.get_constant_null(kind)
            for k, item in enumerate(fields):
                struct = builder.insert_value(struct, item, k)
            return struct

        return kind(r, J), codegen

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
    """Address of that derivative in row k of J, or of a part of a complex gradient."""
    columns, size = _field(builder, wrapped, "columns"), kind.dual.dtype.bitwidth // 8
    if kind.is_row:  # neighbours, which the compiler may store together
        columns = k.type(size * kind.each)
    column, part = divmod(number, kind.each)
    offset = builder.add(
        builder.mul(k, _field(builder, wrapped, "rows")),
        builder.add(builder.mul(k.type(column), columns), k.type(part * size)),
    )
    return _at(context, builder, _field(builder, wrapped, "jacobian"), offset)


@intrinsic
def _residual(typingctx: Any, r: Any, i: Any) -> Any:
    """Residual i with the derivatives that its row of J has."""

    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        k, number = _place(context, builder, r, values[0], values[1], i)
        places = (
            _derivative(context, builder, r, values[0], k, column) for column in range(r.dual.width)
        )
        tangents = [
            context.cast(builder, builder.load(place), r.dual.dtype, types.float64)
            for place in places
        ]
        return make_dual(context, builder, r.dual, builder.load(number), pack(builder, tangents))

    return r.dual(r, i), codegen


def _store(context: Any, builder: Any, r: Any, wrapped: Any, k: Any, pieces: list[Any]) -> None:
    """Write the derivatives of a number, or zeros, into row k of J."""
    tangents = unpack(builder, r.dual, pieces) if pieces else []
    for column in range(r.dual.width):
        tangent = context.get_constant(r.dual.dtype, 0.0)
        if tangents:
            tangent = context.cast(builder, tangents[column], types.float64, r.dual.dtype)
        builder.store(tangent, _derivative(context, builder, r, wrapped, k, column))


@intrinsic
def _write(typingctx: Any, r: Any, i: Any, x: Any) -> Any:
    """Write a number into r, and its derivatives into J."""

    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        k, number = _place(context, builder, r, values[0], values[1], i)
        real, tangents = parts(context, builder, x, values[2], r.dual.dtype)
        builder.store(real, number)
        _store(context, builder, r, values[0], k, tangents)
        return context.get_dummy_value()

    return types.void(r, i, x), codegen


@intrinsic
def write_gradient(typingctx: Any, row: Any, f: Any) -> Any:
    """Write the derivatives of a number into the only row of J."""
    if not is_scalar(f) or is_complex(f):
        raise errors.TypingError(f"{write_gradient.__name__}: {f} is no real number")

    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        k = context.get_constant(types.intp, 0)
        tangents = parts(context, builder, f, values[1], plain(f))[1]
        _store(context, builder, row, values[0], k, tangents)
        return context.get_dummy_value()

    return types.void(row, f), codegen


@intrinsic
def _size(typingctx: Any, array: Any) -> Any:
    return types.intp(array), lambda context, builder, signature, values: _field(
        builder, values[0], "size"
    )


@overload(operator.getitem)
def _get(r, i):
    if isinstance(r, Residuals) and isinstance(i, types.Integer):
        return lambda r, i: _residual(r, i)
    return None


@overload(operator.setitem)
def _set(r, i, x):
    is_real = is_scalar(x) and not is_complex(x)
    if isinstance(r, Residuals) and isinstance(i, types.Integer) and is_real:
        return lambda r, i, x: _write(r, i, x)
    return None


@overload(len)
def _len(r):
    return (lambda r: _size(r)) if isinstance(r, Residuals) else None


overload_attribute(Residuals, "size")(lambda r: lambda r: _size(r))
overload_attribute(Residuals, "shape")(lambda r: lambda r: (_size(r),))
overload_attribute(Residuals, "ndim")(lambda r: lambda r: 1)


# --- sums over arrays of dual numbers, which else are arrays of Numba's like any other -----------


def _has_duals(*arrays: Any) -> bool:
    """Whether all are arrays, and one at least of dual numbers."""
    kinds = [array.dtype for array in arrays if isinstance(array, types.Array)]
    return len(kinds) == len(arrays) and is_dual(*kinds)


@intrinsic
def _zero(typingctx: Any, array: Any) -> Any:
    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        return context.get_constant_null(array.dtype)

    return array.dtype(array), codegen


@overload(np.sum)
def _sum(a):
    def add_up(a):
        total = _zero(a)
        for number in a.flat:
            total += number
        return total

    return add_up if _has_duals(a) else None


def _dot(function: Any) -> None:
    """Define a scalar product: of the value the last places depend on the order of a BLAS."""

    @overload(function)
    def of(x, y):
        if not _has_duals(x, y) or x.ndim != 1 or y.ndim != 1:
            return None

        def dual(x, y):
            u, v = np.array([value(a) for a in x]), np.array([value(b) for b in y])
            f, total = function(u, v), _zero(x) * _zero(y)
            for k in range(x.size):
                total += x[k] * y[k]
            return chain(f, 1.0, total, 0.0, 0.0)

        return dual


_dot(np.dot)
_dot(operator.matmul)
