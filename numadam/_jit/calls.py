"""Calls by address, and arguments of any types by address, in compiled code."""

from __future__ import annotations

import inspect
from typing import Any

from numba import carray, njit, types
from numba.extending import intrinsic

from numadam._jit.build import INNER
from numadam._jit.private import borrowed, pointer


def _make_call(names: str) -> Any:
    count = len(names)

    def call(typingctx: Any, *kinds: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            convention, kinds = context.call_conv, [types.int64] * count
            function = convention.get_function_type(types.int64, kinds).as_pointer()
            callee = builder.inttoptr(values[0], function)
            status, value = convention.call_function(
                builder, callee, types.int64, kinds, values[1:]
            )
            return builder.select(status.is_error, value.type(-1), value)

        return types.int64(*[types.int64] * (count + 1)), codegen

    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD  # Numba reads their number from the signature
    call.__signature__ = inspect.Signature(  # type: ignore[attr-defined]  # of any function
        [inspect.Parameter(name, kind) for name in ("typingctx", "address", *names)]
    )
    return intrinsic(call)


#: ``(address, a, ...)``: call ``int64 f(int64 a, ...)``, compiled by Numba; -1 if it raised.
call1, call3, call5, call7 = map(_make_call, ("a", "abc", "abcde", "abcdefg"))


#: For functions that only compiled code calls: half the compile time. Inlined, for an array is
#: seven words and more: passing them took a quarter of a fit.
inner = njit(error_model="numpy", forceinline=True, **INNER)


@inner
def array_at(address, shape, like):
    """The contiguous array of this shape at an address, of numbers as `like`."""
    return carray(pointer(address, like), shape)


@intrinsic
def address_of(typingctx: Any, args: Any) -> Any:
    """The address of a tuple of arguments, valid as long as the calling function runs."""

    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        place = builder.alloca(values[0].type)
        builder.store(values[0], place)
        return builder.ptrtoint(place, context.get_value_type(types.int64))

    return types.int64(args), codegen


def loader(kind: Any) -> Any:
    """``load(address)``: the tuple of this type at an address of `address_of`."""

    @intrinsic
    def load(typingctx: Any, address: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            stored = context.get_value_type(kind).as_pointer()
            value = builder.load(builder.inttoptr(values[0], stored))
            return borrowed(context, builder, kind, value)

        return kind(types.int64), codegen

    return load


@intrinsic
def read_only(typingctx: Any, array: Any) -> Any:
    """The same array, of a type that cannot be written to."""

    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        if context.enable_nrt:  # a GPU counts no references
            context.nrt.incref(builder, signature.return_type, values[0])
        return values[0]

    return array.copy(readonly=True)(array), codegen
