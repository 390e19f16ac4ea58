"""The dispatch function: the type of the arrays alone decides where a step runs."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from numadam._arrays.checks import describe
from numadam._arrays.interop import home, is_array
from numadam._jit.process import compile_lock

if TYPE_CHECKING:
    from numadam._backend import Backend

#: Advice for torch's list of groups, {"params": [...], "lr": ...}, each of which looks nested.
_OF_TORCH = (
    " Groups of torch are written otherwise: pass all arrays in one dict, and options of some of "
    "them as groups={'bias': {'weight_decay': 0.0}}."
)


def backend_for(arrays: Sequence[Any], names: Sequence[str], written: bool = True) -> type[Backend]:
    """Return the back end for these arrays: NumPy's on the CPU, CuPy's on their GPU.

    Arrays of other libraries that are not to be `written` go where their memory is (`interop`).
    """
    homes = list(map(home, arrays))
    for array, name, library in zip(arrays, names, homes, strict=True):
        if not library or (written and not is_array(array)):
            of_torch = _OF_TORCH if "['params']" in "".join(names) else ""
            raise TypeError(f"{name}: {describe(array)}{of_torch}")
        if library != homes[0]:
            raise TypeError(
                f"{name}: is a {library} array, but {names[0]} is a {homes[0]} array. One "
                "optimiser works on one device: make a second one for the other arrays."
            )
    return _backend(homes[0] if homes else "NumPy")


@functools.cache
def _backend(library: str) -> type[Backend]:
    with compile_lock():  # these import Numba
        if library == "CuPy":
            from numadam._cuda.backend import CudaBackend

            return CudaBackend
        from numadam._cpu.backend import CpuBackend

        return CpuBackend
