"""Memory by address in compiled code: loads, stores, records, and pointers for `carray`."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

#: For functions that only compiled code calls: half the compile time, the same machine code.
INNER = {"error_model": "numpy", "no_cpython_wrapper": True, "no_cfunc_wrapper": True}
inner = njit(**INNER)


def _loader(bits: int) -> Any:
    def load(typingctx: Any, address: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            word = builder.load(builder.inttoptr(args[0], ir.IntType(bits).as_pointer()))
            word.align = 1  # it may be an element of an unaligned array
            return builder.zext(word, ir.IntType(64)) if bits < 64 else word

        return types.int64(types.int64), codegen

    return intrinsic(load)


def _storer(bits: int) -> Any:
    def store(typingctx: Any, address: Any, word: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            where = builder.inttoptr(args[0], ir.IntType(bits).as_pointer())
            what = builder.trunc(args[1], ir.IntType(bits)) if bits < 64 else args[1]
            builder.store(what, where).align = 1
            return context.get_dummy_value()

        return types.void(types.int64, types.int64), codegen

    return intrinsic(store)


load64, load32, load16 = _loader(64), _loader(32), _loader(16)
store64, store32, store16 = _storer(64), _storer(32), _storer(16)


@intrinsic
def as_pointer(typingctx: Any, address: Any) -> Any:
    """An int64 address as a pointer that `carray` takes."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.inttoptr(args[0], ir.IntType(8).as_pointer())

    return types.voidptr(types.int64), codegen


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
