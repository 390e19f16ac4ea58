"""Packages, driver and GPU that CuPy arrays need; an error in one sentence if one is missing."""

from __future__ import annotations

import importlib.util
import sys

from numadam._version import install_command


def install_for_gpu() -> str:
    """The commands that install all that numadam needs on a GPU."""
    return f"{install_command('cuda13')}, or for CUDA 12 {install_command('cuda12')}"


def _is_missing(module: str) -> bool:
    if module in sys.modules:
        return False
    try:
        return importlib.util.find_spec(module) is None
    except ModuleNotFoundError:  # the package around it
        return True


def require_packages() -> None:
    """Raise ImportError if a package is missing, and say what installs it."""
    # `numba.cuda` would import without numba-cuda: Numba's own deprecated target
    modules = {"cupy": "CuPy", "numba_cuda": "numba-cuda", "cuda.bindings": "cuda-bindings"}
    for module, package in modules.items():
        if _is_missing(module):
            raise ImportError(
                f"Arrays on a GPU need the {package} package, which is not installed: "
                f"{install_for_gpu()}."
            )


def require_gpu() -> None:
    """Raise, in one sentence, what is missing: a package, a driver, a GPU."""
    require_packages()
    from numba import config

    if config.ENABLE_CUDASIM:
        raise RuntimeError(
            "NUMBA_ENABLE_CUDASIM is set, but numadam's kernels exist only compiled: unset it."
        )
    import cupy

    try:
        count = cupy.cuda.runtime.getDeviceCount()
    except cupy.cuda.runtime.CUDARuntimeError as error:
        raise RuntimeError(
            f"CuPy finds no usable GPU ({error}). Check the driver with `nvidia-smi`, and "
            f"that the packages are those for its version of CUDA: {install_for_gpu()}."
        ) from error
    if count == 0:
        raise RuntimeError("CuPy finds no GPU: check the driver with `nvidia-smi`.")


def require_bfloat16(name: str) -> None:
    """Raise ImportError if CuPy is too old for bfloat16: CuPy 13 cannot copy such arrays."""
    import cupy

    if int(cupy.__version__.split(".")[0]) < 14:
        raise ImportError(
            f"{name}: bfloat16 on a GPU needs CuPy 14, and this is {cupy.__version__}: "
            f"{install_for_gpu()}."
        )
