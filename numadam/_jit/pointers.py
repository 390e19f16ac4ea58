"""Memory by address in compiled code: loads, stores, records, arrays, calls."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic
from numba.np.numpy_support import from_dtype

#: For functions that only compiled code calls: half the compile time, the same machine code.
INNER = {"error_model": "numpy", "no_cpython_wrapper": True, "no_cfunc_wrapper": True}
inner = njit(**INNER)


def intrinsic_of(call: Any, names: Iterable[str]) -> Any:
    """An intrinsic of ``call(typingctx, *args)``: Numba reads their number from it."""
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    call.__signature__ = inspect.Signature(
        [inspect.Parameter(name, kind) for name in ("typingctx", *names)]
    )
    return intrinsic(call)


def emitted(signature: Any) -> Callable[[Callable[..., Any]], Any]:
    """Decorate ``emit(context, builder, *values)``, which writes the code of an intrinsic.

    It returns the value, or None where the signature has none.
    """

    def decorate(emit: Callable[..., Any]) -> Any:
        def call(typingctx: Any, *kinds: Any) -> Any:
            def codegen(context: Any, builder: Any, _: Any, values: Any) -> Any:
                value = emit(context, builder, *values)
                return context.get_dummy_value() if value is None else value

            return signature, codegen

        _, _, *names = inspect.signature(emit).parameters
        return intrinsic_of(call, names)

    return decorate


def _loader(bits: int) -> Any:
    kind = ir.IntType(bits)

    @emitted(types.int64(types.int64))
    def load(context: Any, builder: Any, address: Any) -> Any:
        word = builder.load(builder.inttoptr(address, kind.as_pointer()))
        word.align = 1  # it may be an element of an unaligned array
        return builder.zext(word, ir.IntType(64)) if bits < 64 else word

    return load


def _storer(bits: int) -> Any:
    kind = ir.IntType(bits)

    @emitted(types.void(types.int64, types.int64))
    def store(context: Any, builder: Any, address: Any, word: Any) -> None:
        word = builder.trunc(word, kind) if bits < 64 else word
        builder.store(word, builder.inttoptr(address, kind.as_pointer())).align = 1

    return store


load64, load32 = _loader(64), _loader(32)
store64, store32 = _storer(64), _storer(32)


@emitted(types.voidptr(types.int64))
def as_pointer(context: Any, builder: Any, address: Any) -> Any:
    """An int64 address as a pointer that `carray` takes."""
    return builder.inttoptr(address, ir.IntType(8).as_pointer())


@intrinsic
def record_at(typingctx: Any, address: Any, dtype: Any) -> Any:
    """The record of a NumPy dtype at an int64 address: its fields are loaded where they are used.

    It stays a pointer, also as an argument of a compiled function. Do not use it inside a
    ``prange`` loop: pass the address and ask again.
    """
    record = dtype.dtype

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.inttoptr(args[0], context.get_value_type(record))

    return record(types.int64, dtype), codegen


def struct_of(record: np.dtype[Any]) -> Any:
    """A record as a class of `ctypes`, whose fields Python reads faster than those of an array."""
    struct: Any = np.ctypeslib.as_ctypes_type
    return struct(record)


def make_array(context: Any, builder: Any, kind: Any, address: Any, shape: list[Any]) -> Any:
    """A C-contiguous array at an address, which may be a pointer; nobody owns its memory."""
    from numba.np.arrayobj import populate_array  # 30 ms, which a loop from the disk does not need

    element = context.get_data_type(kind.dtype)
    item = context.get_constant(types.intp, context.get_abi_sizeof(element))
    strides = [item]
    for n in shape[:0:-1]:
        strides.insert(0, builder.mul(strides[0], n))
    array = context.make_array(kind)(context, builder)
    to_pointer = builder.inttoptr if isinstance(address.type, ir.IntType) else builder.bitcast
    data = to_pointer(address, element.as_pointer())
    populate_array(array, data, shape, strides, item, meminfo=None)
    return array._getvalue()


@intrinsic
def array_at(typingctx: Any, address: Any, shape: Any, dtype: Any) -> Any:
    """The array at an address, with a number of elements or a tuple of them.

    As Numba's `carray`, which is a function of its own that is compiled for each dtype.
    """
    axes = shape.count if isinstance(shape, types.BaseTuple) else 1
    result = types.Array(dtype.dtype, axes, "C")

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        items, kinds = [args[1]], signature.args[1:2]
        if isinstance(shape, types.BaseTuple):
            items, kinds = cgutils.unpack_tuple(builder, args[1]), signature.args[1]
        pairs = zip(items, kinds, strict=True)
        sizes = [context.cast(builder, item, kind, types.intp) for item, kind in pairs]
        return make_array(context, builder, result, args[0], sizes)

    return result(address, shape, dtype), codegen


def offset_of(record: np.dtype[Any], field: str) -> int:
    """Bytes from the begin of a record to a field."""
    fields: Any = record.fields
    return int(fields[field][1])


@functools.cache
def view_of(dtype: np.dtype[Any]) -> Any:
    """``view(address, n)``: the array of n elements at an address."""
    kind = types.Array(from_dtype(dtype), 1, "C")

    @emitted(kind(types.int64, types.int64))
    def view(context: Any, builder: Any, address: Any, n: Any) -> Any:
        return make_array(context, builder, kind, address, [n])

    return view


@functools.cache
def array_of(record: np.dtype[Any], field: str, dtype: np.dtype[Any], *axes: Any) -> Any:
    """``get(r)``: the array whose address a field of a record holds.

    An axis is a number, or the name of a field that has it and a number to add.
    """
    kind = types.Array(from_dtype(dtype), len(axes), "C")
    offsets: Any = record.fields

    def get(typingctx: Any, r: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            def read(name: str) -> Any:
                place = cgutils.pointer_add(builder, args[0], offsets[name][1])
                return builder.load(builder.bitcast(place, cgutils.intp_t.as_pointer()))

            def size(axis: Any) -> Any:
                if isinstance(axis, int):
                    return context.get_constant(types.intp, axis)
                name, more = axis
                return builder.add(read(name), context.get_constant(types.intp, more))

            return make_array(context, builder, kind, read(field), list(map(size, axes)))

        return kind(r), codegen

    return intrinsic(get)


@emitted(types.none(types.int64, types.int64))
def absent(context: Any, builder: Any, address: Any, n: Any) -> None:
    """None, in place of a view of an array that is not there."""


def _make_call(names: str) -> Any:
    count = len(names)

    def call(typingctx: Any, *args: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            word = ir.IntType(64)
            function = ir.FunctionType(word, [word] * count).as_pointer()
            return builder.call(builder.inttoptr(args[0], function), args[1:])

        return types.int64(*[types.int64] * (count + 1)), codegen

    return intrinsic_of(call, ("address", *names))


#: ``(address, a, ...)``: call the C function ``int64 f(a, ...)`` at an address.
call_c1, call_c4, call_c5, call_c6 = map(_make_call, ("a", "abcd", "abcde", "abcdef"))
