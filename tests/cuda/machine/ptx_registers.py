"""The registers of all threads of a launch, and what else an instruction names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tests.cuda.machine.ptx_ops import DTYPES
from tests.cuda.machine.ptx_parse import Number, PtxError, Register

_BOOL = np.dtype(bool)


class Registers:
    """A number of each thread for each register.

    Parameters
    ----------
    types : dict
        Of each register.
    special : dict
        Numbers by thread that no instruction writes, such as that of the thread itself.
    arrays : dict
        Where an array in shared memory begins.
    """

    def __init__(
        self, types: dict[str, str], special: dict[str, np.ndarray], arrays: dict[str, int]
    ) -> None:
        (n,) = {len(numbers) for numbers in special.values()}
        self._special, self._arrays = special, arrays
        # a register holds anything before it is written
        self._rooms = {
            name: np.full(n * dtype.itemsize, 0xAB, np.uint8).view(f"u{dtype.itemsize}")
            if (dtype := DTYPES[type_]) != _BOOL
            else np.zeros(n, bool)
            for name, type_ in types.items()
        }

    def __getitem__(self, register: Register) -> np.ndarray:
        return self._rooms[register.name]

    def read(self, operand: Any, type_: str, lanes: np.ndarray, wide: bool = False) -> Any:
        """An operand as numbers of a type; a wider register gives its lower bits if it may."""
        dtype = DTYPES[type_]
        if isinstance(operand, Number):
            return _constant(operand, dtype)
        if isinstance(operand, Register):
            found = self._rooms[operand.name][lanes]
        elif isinstance(operand, str) and operand in self._special:
            found = self._special[operand][lanes]
        elif isinstance(operand, str) and operand in self._arrays:
            found = np.full(len(lanes), self._arrays[operand], np.uint64)
        else:
            raise PtxError(f"an unknown operand {operand}")
        if wide and found.itemsize > dtype.itemsize:
            found = found.astype(f"u{dtype.itemsize}")
        if found.itemsize != dtype.itemsize or (found.dtype == _BOOL) != (dtype == _BOOL):
            raise PtxError(f"a .{type_} in a register of {found.itemsize} bytes")
        return found.view(dtype)

    def write(
        self, operand: Any, value: Any, type_: str, lanes: np.ndarray, wide: bool = False
    ) -> None:
        """Write a register; a wider one is filled up, with the sign of signed numbers."""
        if not isinstance(operand, Register):
            raise PtxError(f"writes {operand}")
        register, value = self._rooms[operand.name], np.asarray(value)
        if value.dtype != DTYPES[type_]:
            raise PtxError(f"a .{type_} that is {value.dtype}")
        if wide and register.itemsize > value.itemsize:
            value = value.astype(f"{value.dtype.kind}{register.itemsize}")
        if register.itemsize != value.itemsize or (register.dtype == _BOOL) != (type_ == "pred"):
            raise PtxError(f"a .{type_} into a register of {register.itemsize} bytes")
        register[lanes] = value.view(register.dtype)

    def move(self, type_: str, operands: Sequence[Any], lanes: np.ndarray) -> None:
        """One register, or several side by side in one."""
        into, out_of = operands
        bits = type_ if type_ == "pred" else f"b{type_[1:]}"
        if isinstance(out_of, list):
            part = f"b{int(type_[1:]) // len(out_of)}"
            given = [np.broadcast_to(self.read(one, part, lanes), len(lanes)) for one in out_of]
            whole = np.ascontiguousarray(np.stack(given, axis=1)).view(DTYPES[bits])[:, 0]
            self.write(into, whole, bits, lanes)
        elif isinstance(into, list):
            part = f"b{int(type_[1:]) // len(into)}"
            whole = np.ascontiguousarray(self.read(out_of, bits, lanes))
            parts = whole.view(DTYPES[part]).reshape(len(lanes), len(into))
            for k, one in enumerate(into):
                self.write(one, parts[:, k], part, lanes)
        else:
            self.write(into, self.read(out_of, bits, lanes), bits, lanes)


def _constant(number: Number, dtype: np.dtype[Any]) -> Any:
    """Convert a number of the text to a type."""
    if number.bits not in (0, 8 * dtype.itemsize):
        raise PtxError(f"{number.bits} bits as {dtype}")
    if dtype == _BOOL:
        return np.bool_(number.value)
    if not -(2 ** (8 * dtype.itemsize - 1)) <= number.value < 2 ** (8 * dtype.itemsize):
        raise PtxError(f"{number.value} as {dtype}")
    bits = np.array(number.value % 2 ** (8 * dtype.itemsize), f"u{dtype.itemsize}")
    return bits.view(dtype)[()]
