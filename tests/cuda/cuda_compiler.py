"""Whether kernels can be compiled here, or simulated."""

import importlib.util
import os

SIMULATOR = os.environ.get("NUMBA_ENABLE_CUDASIM") == "1"
HAS_NUMBA_CUDA = importlib.util.find_spec("numba_cuda") is not None


def no_compiler():
    """Why no kernel can be compiled here, or nothing."""
    if SIMULATOR:
        return "the CUDA simulator is on: it compiles nothing"
    if not HAS_NUMBA_CUDA:
        return "numba-cuda is not installed"
    from numba.cuda.cudadrv import nvvm

    try:
        nvvm.NVVM()
    except Exception as error:  # whatever the loader of the library says
        return f"libNVVM cannot be loaded: {error}"
    return ""
