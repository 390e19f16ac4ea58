"""Dtypes of a file and the bytes of arrays in it, and the error of what cannot be read."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from numadam._arrays.formatting import brief

# --- error of a file that cannot be read as a checkpoint -----------------------------------------


class CheckpointError(ValueError):
    """A file is not a checkpoint that numadam can read, or does not fit the optimiser or run.

    The message names the file and what is wrong with it, and nothing has been changed. A file
    that is absent or cannot be opened raises an `OSError`, as everywhere in Python.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> import numadam as na
    >>> file = Path(tempfile.mkdtemp()) / "run.safetensors"
    >>> _ = file.write_bytes(b"something else")
    >>> try:
    ...     na.load(file)
    ... except na.CheckpointError as error:
    ...     print(str(error).partition(": ")[2])
    not a checkpoint of numadam, or damaged in its first bytes.
    """


@contextmanager
def about_file(path: Any) -> Iterator[None]:
    """Errors of what a file holds, as `CheckpointError` with its path."""
    try:
        yield
    except CheckpointError:
        raise
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"{os.fsdecode(path)}: {error}") from error
    except (LookupError, AttributeError, ArithmeticError, RecursionError) as error:
        raise CheckpointError(
            f"{os.fsdecode(path)}: holds what numadam does not write ({error!r})."
        ) from error


# --- dtypes of a file ----------------------------------------------------------------------------

#: NumPy's names of the dtypes, by those of safetensors.
FILE_DTYPES = {
    "F64": "float64",
    "F32": "float32",
    "I64": "int64",
    "I32": "int32",
    "I16": "int16",
    "I8": "int8",
    "U64": "uint64",
    "U32": "uint32",
    "U16": "uint16",
    "U8": "uint8",
    "BOOL": "bool",
}
#: Complex arrays are real ones in the file, with one more axis: real and imaginary part.
COMPLEX = {"F64": "complex128", "F32": "complex64"}
_CODES = {dtype: (code, False) for code, dtype in FILE_DTYPES.items()} | {
    dtype: (code, True) for code, dtype in COMPLEX.items()
}
ITEMSIZES = {code: np.dtype(dtype).itemsize for code, dtype in FILE_DTYPES.items()}
#: Bytes that are copied, summed and written at a time: they stay in the processor's cache.
CHUNK_BYTES = 1 << 20


def code_of(array: Any, name: str) -> tuple[str, bool]:
    """Name of an array's dtype in the file, and whether the array is complex."""
    found = _CODES.get(array.dtype.name) if isinstance(array, np.ndarray) else None
    if found is None:
        raise TypeError(
            f"arrays[{name!r}]: expected a NumPy array of {', '.join(FILE_DTYPES.values())} or "
            f"{' or '.join(COMPLEX.values())}, got {brief(array)}."
        )
    return found


def _little(array: np.ndarray) -> tuple[np.ndarray, np.dtype[Any]]:
    """An array of the plain class, and its dtype in the order of the file."""
    array = np.asarray(array)  # of a subclass reshape may be another function
    return array, array.dtype.newbyteorder("<")


def chunks(array: np.ndarray, buffer: np.ndarray) -> Iterator[memoryview]:
    """The bytes of an array in C order and little-endian, in a buffer of `CHUNK_BYTES` bytes.

    They are copied, so that a checksum is that of the bytes that are written then, whoever
    changes the array meanwhile.
    """
    array, dtype = _little(array)
    if array.flags.c_contiguous and array.dtype == dtype:
        parts: Any = _slices(array.reshape(-1).view(np.uint8), CHUNK_BYTES)
    else:
        parts = np.nditer(  # type: ignore[call-overload]  # whose stubs spell contig "config"
            [array],
            flags=["external_loop", "buffered", "zerosize_ok"],
            op_flags=[["readonly", "contig"]],
            op_dtypes=[dtype],
            casting="equiv",
            order="C",
            buffersize=CHUNK_BYTES // dtype.itemsize,
        )
    for part in parts:
        for piece in _slices(part.view(np.uint8), CHUNK_BYTES):
            buffer[: piece.size] = piece
            yield buffer[: piece.size].data


def _slices(array: np.ndarray, size: int) -> Iterator[np.ndarray]:
    return (array[at : at + size] for at in range(0, array.size, size))


def new_array(code: str, shape: tuple[int, ...], is_complex: bool) -> np.ndarray:
    """An array for what the file holds; `shape` has the last axis of a complex one."""
    if is_complex:
        return np.empty(shape[:-1], COMPLEX[code])
    return np.empty(shape, FILE_DTYPES[code])


def as_bytes(array: np.ndarray) -> Iterator[np.ndarray]:
    """Views of the bytes of a new array, to be read into, `CHUNK_BYTES` at most at a time."""
    return _slices(array.reshape(-1).view(np.uint8), CHUNK_BYTES)


def to_native(array: np.ndarray) -> None:
    """Turn what was read into the machine's byte order, in place."""
    if sys.byteorder == "big":
        _little(array)[0].byteswap(inplace=True)
