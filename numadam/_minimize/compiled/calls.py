"""Calls between compiled functions through their addresses, so that none is compiled for another.

Numba's own calling convention is used: an exception inside comes back as a status.
"""

from __future__ import annotations

import functools
from typing import Any

from llvmlite import ir
from numba import int64, types
from numba.core import cgutils
from numba.core.imputils import impl_ret_borrowed
from numba.extending import intrinsic

#: addresses of META, of the record of the problems, of the arguments -> 0
KERNEL = int64(int64, int64, int64)


def address_of(dispatcher: Any, signature: Any) -> int:
    """The address of a compiled function's machine code; keep the dispatcher alive."""
    compiled = dispatcher.overloads[tuple(signature)]
    name = compiled.fndesc.llvm_func_name
    return int(compiled.library.get_pointer_to_function(name))


@functools.cache
def kernel_address(kernel: Any) -> int:
    """The address of a compiled kernel; cached, for asking takes 0.2 ms."""
    return address_of(kernel, KERNEL.args)


def _make_call(count: int) -> Any:
    def call(typingctx: Any, address: Any, *args: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            convention, kinds = context.call_conv, [types.int64] * count
            function = convention.get_function_type(types.int64, kinds).as_pointer()
            callee = builder.inttoptr(values[0], function)
            status, value = convention.call_function(
                builder, callee, types.int64, kinds, values[1:]
            )
            return builder.select(status.is_error, ir.Constant(value.type, -1), value)

        return types.int64(*[types.int64] * (count + 1)), codegen

    return call


# written out: Numba reads the number of arguments from the signature
@intrinsic
def call3(typingctx: Any, address: Any, a: Any, b: Any, c: Any) -> Any:
    """Call ``int64 f(a, b, c)`` at an address; -1 if it raised."""
    return _make_call(3)(typingctx, address, a, b, c)


@intrinsic
def call7(
    typingctx: Any, address: Any, a: Any, b: Any, c: Any, d: Any, e: Any, f: Any, g: Any
) -> Any:
    """Call ``int64 f(a, b, c, d, e, f, g)`` at an address; -1 if it raised."""
    return _make_call(7)(typingctx, address, a, b, c, d, e, f, g)


@intrinsic
def address_of_tuple(typingctx: Any, args: Any) -> Any:
    """The address of a tuple of arguments, valid as long as the calling function runs."""

    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        copy = cgutils.alloca_once_value(builder, values[0])
        return builder.ptrtoint(copy, ir.IntType(64))

    return types.int64(args), codegen


def _uncounted(context: Any, builder: Any, kind: Any, value: Any) -> Any:
    """The same value with arrays whose references are not counted.

    An exception in the caller would lose the count.
    """
    if isinstance(kind, types.Array):
        array = context.make_array(kind)(context, builder, value)
        array.meminfo = ir.Constant(array.meminfo.type, None)
        return array._getvalue()
    if isinstance(kind, types.BaseTuple):
        for k, item in enumerate(kind.types):
            part = _uncounted(context, builder, item, builder.extract_value(value, k))
            value = builder.insert_value(value, part, k)
        return value
    context.nrt.incref(builder, kind, value)
    return value


def make_load_tuple(kind: Any) -> Any:
    """``load_tuple(address)``: the tuple of this type at an address of `address_of_tuple`."""

    @intrinsic
    def load_tuple(typingctx: Any, address: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            stored = context.get_value_type(kind).as_pointer()
            value = builder.load(builder.inttoptr(values[0], stored))
            return _uncounted(context, builder, kind, value)

        return kind(types.int64), codegen

    return load_tuple


@intrinsic
def read_only(typingctx: Any, array: Any) -> Any:
    """The same array, of a type that cannot be written to."""

    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        return impl_ret_borrowed(context, builder, signature.return_type, values[0])

    return array.copy(readonly=True)(array), codegen
