"""Memory of the GPU as kernels access it: by address, in tiles of 16 bytes.

Kernels get addresses, as int64, and no arrays: a launch of numba-cuda with three arrays takes 88
us, one of CuPy with numbers 3 us. The intrinsics of this file turn addresses into loads and
stores. A tile is what one thread takes at one iteration: as many neighbouring elements as fill 16
bytes of the widest array. It is read with one instruction an array (``ld.global.v4.f32``), worked
on in registers, and written with one. Arrays that share no aligned tile are taken element by
element, as tiles of one.
"""
# mypy: disallow-untyped-defs=False, disallow-untyped-calls=False

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic
from numba.np.numpy_support import from_dtype

from numadam._jit.pointers import offset_of

#: Bytes that one instruction of a GPU reads or writes at most.
WIDEST = 16

_I64 = ir.IntType(64)


def _pointer(builder: Any, address: Any, kind: Any) -> Any:
    """An address as a pointer to global memory.

    Address space 1 makes the compiler emit ``ld.global`` and ``st.global``. A generic pointer
    would be tested for shared and local memory at each access.
    """
    return builder.inttoptr(address, ir.PointerType(kind, addrspace=1))


def _vector(element: Any, count: int) -> Any:
    """The type that one instruction loads or stores: a vector, or a number by itself."""
    return ir.VectorType(element, count) if count > 1 else element


class Tile(NamedTuple):
    """Neighbouring numbers of one array of a pass, in registers."""

    place: int  # of the array's address among those of the pass
    memory: np.dtype[Any]
    size: int  # numbers
    step: int  # bytes from one iteration to the next
    loaded: bool  # else the pass writes all of it
    stored: bool
    sparse: bool  # of a gradient whose rows are numbered by themselves

    def pointer(self, builder: Any, addresses: Sequence[Any], i: Any, vector: Any) -> Any:
        """Pointer to the numbers from iteration i on."""
        skip = builder.mul(i, ir.Constant(_I64, self.step))
        return _pointer(builder, builder.add(addresses[self.place], skip), vector)

    @property
    def align(self) -> int:
        """The promise that turns `size` loads into one; callers check the addresses."""
        return min(self.memory.itemsize * self.size, WIDEST)


def make_read_tiles(tiles: Sequence[Tile | None]) -> Any:
    """``read_tiles(addresses, i, e) -> tuple``: from iteration i on, of `sparse` arrays from e on.

    None for arrays that are not there.
    """
    kinds = [None if one is None else types.CPointer(from_dtype(one.memory)) for one in tiles]
    result = types.Tuple([kind or types.none for kind in kinds])

    def read_tiles(typingctx: Any, addresses: Any, i: Any, e: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            places = cgutils.unpack_tuple(builder, args[0])

            def read(one: Tile) -> Any:
                element = context.get_data_type(from_dtype(one.memory))
                vector = _vector(element, one.size)
                # Numba cannot index a vector. A stack array, indexed by constants alone, can be;
                # LLVM then keeps it in registers (SROA), and no local memory is left
                tile = cgutils.alloca_once(builder, ir.ArrayType(element, one.size))
                if one.loaded:
                    at = one.pointer(builder, places, args[2 if one.sparse else 1], vector)
                    loaded = builder.load(at)
                    loaded.align = one.align
                    builder.store(loaded, builder.bitcast(tile, vector.as_pointer())).align = 1
                return builder.bitcast(tile, element.as_pointer())

            found = [context.get_dummy_value() if one is None else read(one) for one in tiles]
            return context.make_tuple(builder, signature.return_type, found)

        return result(addresses, types.int64, types.int64), codegen

    return intrinsic(read_tiles)


def make_write_tiles(tiles: Sequence[Tile | None]) -> Any:
    """``write_tiles(tiles, addresses, i)``: those that are stored, from iteration i on."""

    def write_tiles(typingctx: Any, given: Any, addresses: Any, i: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            places = cgutils.unpack_tuple(builder, args[1])
            for one, tile in zip(tiles, cgutils.unpack_tuple(builder, args[0]), strict=True):
                if one is not None and one.stored:
                    vector = _vector(tile.type.pointee, one.size)
                    numbers = builder.load(builder.bitcast(tile, vector.as_pointer()))
                    numbers.align = 1  # the stack array's own alignment is that of an element
                    at = one.pointer(builder, places, args[2], vector)
                    builder.store(numbers, at).align = one.align
            return context.get_dummy_value()

        return types.void(given, addresses, types.int64), codegen

    return intrinsic(write_tiles)


def make_load(dtype: Any, places: Sequence[int]) -> Any:
    """``load(address) -> tuple``: the numbers at these places of an array, all loaded at once."""
    kind = from_dtype(np.dtype(dtype))

    def load(typingctx: Any, address: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            base = _pointer(builder, args[0], context.get_data_type(kind))
            read = [builder.load(builder.gep(base, [ir.Constant(_I64, k)])) for k in places]
            return context.make_tuple(builder, signature.return_type, read)

        return types.UniTuple(kind, len(places))(types.int64), codegen

    return intrinsic(load)


def make_opaque() -> Any:
    """``opaque(numbers)``: the same int64, or tuple of them, as far as the compiler knows others.

    A value that depends on them is then computed again where it is used again. Without this the
    compiler would keep it in a register from the first use to the last.
    """

    def copy(builder: Any, number: Any) -> Any:
        # "side effect": LLVM may neither drop this assembly nor merge it with another
        kind = ir.FunctionType(_I64, [_I64])
        return builder.asm(kind, "mov.b64 $0, $1;", "=l,l", [number], side_effect=True)

    def opaque(typingctx: Any, numbers: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            if not isinstance(numbers, types.UniTuple):
                return copy(builder, args[0])
            items = [copy(builder, item) for item in cgutils.unpack_tuple(builder, args[0])]
            return context.make_tuple(builder, signature.return_type, items)

        return numbers(numbers), codegen

    return intrinsic(opaque)


def make_array_view(dtype: Any) -> Any:
    """``array_view(address, n)``: an array of n numbers, or of n records."""
    kind, nbytes = from_dtype(np.dtype(dtype)), np.dtype(dtype).itemsize
    array_type = types.Array(kind, 1, "C")

    def array_view(typingctx: Any, address: Any, n: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            made = context.make_array(array_type)(context, builder)
            element, size = context.get_data_type(kind), ir.Constant(_I64, nbytes)
            # Numba's arrays are of the generic space; LLVM infers the global one again
            pointer = builder.addrspacecast(
                _pointer(builder, args[0], element), element.as_pointer()
            )
            context.populate_array(
                made, data=pointer, shape=[args[1]], strides=[size], itemsize=size, meminfo=None
            )
            return made._getvalue()

        return array_type(types.int64, types.int64), codegen

    return intrinsic(array_view)


def make_load_fields(record: np.dtype[Any], *names: str) -> Any:
    """``load(address) -> tuple``: these fields of a record of int64, all loaded at once."""
    return make_load(np.int64, [offset_of(record, name) // 8 for name in names])


#: ``doubles(address, n)``, ``longs(address, n)``: arrays of these.
doubles, longs = make_array_view(np.float64), make_array_view(np.int64)
#: ``load_long(address)``, ``load_int(address)``: a tuple of the one number.
load_long, load_int = make_load(np.int64, [0]), make_load(np.int32, [0])
