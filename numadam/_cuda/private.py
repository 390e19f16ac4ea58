"""Names of other packages that are not public, with a reason each: no other file here has any."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import numba_cuda  # its version, on which compiled code depends
from numba.cuda import dispatcher  # asks the current GPU what it can do, which PTX does not need

# What numba-cuda raises where it cannot compile: users get a sentence that says what to do.
from numba.cuda.cudadrv.error import CCSupportError as CCSupportError
from numba.cuda.cudadrv.error import CudaSupportError as CudaSupportError
from numba.cuda.cudadrv.error import NvvmSupportError as NvvmSupportError
from numba.cuda.cudadrv.nvvm import NVVM  # the version of its compiler, of another package


def versions() -> tuple[str, ...]:
    """The versions that a cubin depends on."""
    from cuda.bindings import nvjitlink

    return numba_cuda.__version__, str(NVVM().get_ir_version()), str(nvjitlink.version())


@contextmanager
def without_gpu(capability: tuple[int, int]) -> Iterator[None]:
    """Compile for a compute capability where there is no GPU."""
    before = dispatcher.get_current_device
    dispatcher.get_current_device = lambda: SimpleNamespace(compute_capability=capability)
    try:
        yield
    finally:
        dispatcher.get_current_device = before


def argument(place: Any) -> Any:
    """An argument of a launch that refers to memory, a NumPy array of one number.

    CuPy makes one of each number, 0.1 us apiece. Where a later CuPy has no such class, it gets the
    NumPy array itself, as its documentation has it.
    """
    from cupy.cuda import function

    return getattr(function, "CNumpyArray", lambda place: place)(place)
