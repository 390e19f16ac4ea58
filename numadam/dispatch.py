"""THE dispatch function: the type of the arrays decides where a step runs. Nothing else does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from array_api_compat import is_cupy_array, is_numpy_array

from numadam.arrays import describe

if TYPE_CHECKING:
    from numadam.engine import Engine


def engine_for(arrays: Sequence[Any], names: Sequence[str]) -> type[Engine]:
    """Return the engine for these arrays: NumPy's on the CPU, CuPy's on their GPU.

    CuPy is never imported to find out: an array of a library that was not imported cannot be here.

    Raises
    ------
    TypeError
        Where an array is of another type, or the arrays are of both: it names the array.
    """
    for array, name in zip(arrays, names, strict=True):
        if not (is_numpy_array(array) or is_cupy_array(array)):
            raise TypeError(f"{name}: {describe(array)}")
        if is_cupy_array(array) != is_cupy_array(arrays[0]):
            kinds = ("CuPy", "NumPy") if is_cupy_array(array) else ("NumPy", "CuPy")
            raise TypeError(
                f"{name}: is a {kinds[0]} array, but {names[0]} is a {kinds[1]} array. One "
                "optimiser works on one device: make a second one for the other arrays."
            )
    if arrays and is_cupy_array(arrays[0]):
        from numadam.cuda import CudaEngine

        return CudaEngine
    from numadam.cpu import CpuEngine

    return CpuEngine
