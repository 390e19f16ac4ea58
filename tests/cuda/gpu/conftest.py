"""Tests on a GPU skip without one."""

from __future__ import annotations

import os

import pytest


def _why_not():
    if os.environ.get("NUMBA_ENABLE_CUDASIM") == "1":
        return "the CUDA simulator is on"
    cupy = pytest.importorskip("cupy", reason="CuPy is not installed")
    pytest.importorskip("numba_cuda", reason="numba-cuda is not installed")
    try:
        count = cupy.cuda.runtime.getDeviceCount()
    except cupy.cuda.runtime.CUDARuntimeError as error:
        return f"no CUDA GPU: {error}"
    return "" if count else "no CUDA GPU"


@pytest.fixture(autouse=True)
def cp():
    why_not = _why_not()
    if why_not:
        pytest.skip(why_not)
    import cupy

    return cupy
