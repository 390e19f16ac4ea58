"""THE dispatch function: the type of the arrays decides where a step runs. Nothing else does."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from array_api_compat import is_cupy_array

from numadam._arrays import interop as foreign
from numadam._arrays.checks import describe

if TYPE_CHECKING:
    from numadam._backend import Backend


def _home(array: Any) -> str:
    """The library that works on an array, or ""; CuPy is never imported to find out."""
    if is_cupy_array(array):
        return "CuPy"
    return "NumPy" if issubclass(type(array), np.ndarray) else foreign.home(array)


def backend_for(arrays: Sequence[Any], names: Sequence[str]) -> type[Backend]:
    """Return the back end for these arrays: NumPy's on the CPU, CuPy's on their GPU.

    Arrays of other libraries go where their memory is (`foreign`).

    Raises
    ------
    TypeError
        Where an array is of another type, or the arrays are of both: it names the array.
    """
    homes = [_home(array) for array in arrays]
    for array, name, home in zip(arrays, names, homes, strict=True):
        if not home:
            raise TypeError(f"{name}: {describe(array)}")
        if home != homes[0]:
            raise TypeError(
                f"{name}: is a {home} array, but {names[0]} is a {homes[0]} array. One optimiser "
                "works on one device: make a second one for the other arrays."
            )
    return _backend(homes[0] if homes else "NumPy")


@functools.cache
def _backend(home: str) -> type[Backend]:
    if home == "CuPy":
        from numadam._cuda.backend import CudaBackend

        return CudaBackend
    from numadam._cpu.backend import CpuBackend

    return CpuBackend
