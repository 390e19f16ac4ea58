"""Memory of the GPU as kernels see it: addresses, and tiles of 16 bytes.

A tile is what one thread takes in one turn: as many neighbours as fill 16 bytes of the widest
array, read with one instruction an array, worked on in registers, and written with one. Arrays of
which no tile is aligned are taken element by element.

In Numba's simulator the same names are plain Python functions over host memory.
"""
# mypy: disallow-untyped-defs=False, disallow-untyped-calls=False

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from llvmlite import ir
from numba import config, types
from numba.core import cgutils
from numba.extending import intrinsic
from numba.np.numpy_support import from_dtype

#: Bytes that one instruction of a GPU reads or writes at most.
WIDEST = 16

SIMULATED = bool(config.ENABLE_CUDASIM)
_I64 = ir.IntType(64)


def _global(builder: Any, address: Any, kind: Any) -> Any:
    """An address as a pointer to the GPU's global memory."""
    return builder.inttoptr(address, ir.PointerType(kind, addrspace=1))


def _tile_type(element: Any, count: int) -> Any:
    return ir.VectorType(element, count) if count > 1 else element


def _real_fetch(memory: np.dtype[Any], count: int, step: int, load: bool) -> Any:
    kind = from_dtype(memory)

    def fetch(typingctx: Any, address: Any, i: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            element = context.get_data_type(kind)
            tile = _tile_type(element, count)
            room = cgutils.alloca_once(builder, ir.ArrayType(element, count))
            if load:
                place = builder.add(args[0], builder.mul(args[1], ir.Constant(_I64, step)))
                loaded = builder.load(_global(builder, place, tile))
                loaded.align = min(memory.itemsize * count, WIDEST)
                builder.store(loaded, builder.bitcast(room, tile.as_pointer())).align = 1
            return builder.bitcast(room, element.as_pointer())

        return types.CPointer(kind)(types.int64, types.int64), codegen

    return intrinsic(fetch)


def _real_put(memory: np.dtype[Any], count: int, step: int) -> Any:
    kind = from_dtype(memory)

    def put(typingctx: Any, room: Any, address: Any, i: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            tile = _tile_type(context.get_data_type(kind), count)
            place = builder.add(args[1], builder.mul(args[2], ir.Constant(_I64, step)))
            stored = builder.load(builder.bitcast(args[0], tile.as_pointer()))
            stored.align = 1
            where = _global(builder, place, tile)
            builder.store(stored, where).align = min(memory.itemsize * count, WIDEST)
            return context.get_dummy_value()

        return types.void(types.CPointer(kind), types.int64, types.int64), codegen

    return intrinsic(put)


def _real_numbers(dtype: np.dtype[Any], places: Sequence[int]) -> Any:
    kind = from_dtype(dtype)

    def numbers(typingctx: Any, address: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            base = _global(builder, args[0], context.get_data_type(kind))
            read = [builder.load(builder.gep(base, [ir.Constant(_I64, k)])) for k in places]
            return context.make_tuple(builder, signature.return_type, read)

        return types.UniTuple(kind, len(places))(types.int64), codegen

    return intrinsic(numbers)


def _real_again() -> Any:
    def same(builder: Any, number: Any) -> Any:
        kind = ir.FunctionType(_I64, [_I64])
        return builder.asm(kind, "mov.b64 $0, $1;", "=l,l", [number], side_effect=True)

    def again(typingctx: Any, numbers: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            if not isinstance(numbers, types.UniTuple):
                return same(builder, args[0])
            items = [same(builder, item) for item in cgutils.unpack_tuple(builder, args[0])]
            return context.make_tuple(builder, signature.return_type, items)

        return numbers(numbers), codegen

    return intrinsic(again)


def _real_line(dtype: np.dtype[Any]) -> Any:
    kind = from_dtype(dtype)
    array_type = types.Array(kind, 1, "C")

    def line(typingctx: Any, address: Any, n: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            made = context.make_array(array_type)(context, builder)
            element, size = context.get_data_type(kind), ir.Constant(_I64, dtype.itemsize)
            pointer = builder.addrspacecast(
                _global(builder, args[0], element), element.as_pointer()
            )
            context.populate_array(
                made, data=pointer, shape=[args[1]], strides=[size], itemsize=size, meminfo=None
            )
            return made._getvalue()

        return array_type(types.int64, types.int64), codegen

    return intrinsic(line)


# --- the same in the simulator --------------------------------------------------------------------


def _at(address: int, dtype: np.dtype[Any], n: int) -> np.ndarray:
    """Host memory as a NumPy array."""
    if n == 0:
        return np.empty(0, dtype)
    held: Any = (ctypes.c_char * (n * dtype.itemsize)).from_address(int(address))
    found: np.ndarray = np.frombuffer(held, dtype)
    return found


def _aligned(address: int, nbytes: int) -> None:
    if address % min(nbytes, WIDEST):
        raise RuntimeError(f"a GPU cannot take {nbytes} bytes at address {address}")


def _fake_fetch(memory: np.dtype[Any], count: int, step: int, load: bool) -> Any:
    def fetch(address: int, i: int) -> Any:
        place = int(address) + int(i) * step
        if not load:
            return np.empty(count, memory)
        _aligned(place, count * memory.itemsize)
        return _at(place, memory, count).copy()

    return fetch


def _fake_put(memory: np.dtype[Any], count: int, step: int) -> Any:
    def put(room: Any, address: int, i: int) -> None:
        place = int(address) + int(i) * step
        _aligned(place, count * memory.itemsize)
        _at(place, memory, count)[...] = room

    return put


def _fake_numbers(dtype: np.dtype[Any], places: Sequence[int]) -> Any:
    def numbers(address: int) -> tuple[Any, ...]:
        line = _at(address, dtype, max(places, default=-1) + 1)
        return tuple(line[k] for k in places)

    return numbers


def _fake_line(dtype: np.dtype[Any]) -> Any:
    return lambda address, n: _at(address, dtype, int(n))


# --- what kernels are put together from -----------------------------------------------------------


def make_fetch(memory: np.dtype[Any], count: int, step: int, load: bool = True) -> Any:
    """``fetch(address, i) -> room``: `count` numbers from turn i on, in registers.

    `step` are the bytes from one turn to the next. Without `load` the room is there, unread.
    """
    return (_fake_fetch if SIMULATED else _real_fetch)(memory, count, step, load)


def make_put(memory: np.dtype[Any], count: int, step: int) -> Any:
    """``put(room, address, i)``: the numbers of a room, written from turn i on."""
    return (_fake_put if SIMULATED else _real_put)(memory, count, step)


def make_numbers(dtype: np.dtype[Any], places: Sequence[int]) -> Any:
    """``numbers(address) -> tuple``: what lies at these places of an array."""
    return (_fake_numbers if SIMULATED else _real_numbers)(dtype, tuple(places))


def make_again() -> Any:
    """``again(numbers)``: the same int64, or tuple of them, which the compiler takes for new ones.

    What is computed from them is computed anew, and not kept.
    """
    return (lambda numbers: numbers) if SIMULATED else _real_again()


def make_line(dtype: np.dtype[Any]) -> Any:
    """``line(address, n)``: an array of n numbers."""
    return (_fake_line if SIMULATED else _real_line)(dtype)


def plain(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function compiled for the CPU as one that a kernel may call."""
    return getattr(function, "py_func", function) if SIMULATED else function
