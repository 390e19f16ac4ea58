"""Tests on a GPU skip without one."""

from __future__ import annotations

import pytest

from tests import extras


def _why_not():
    extras.require("cuda")
    extras.require("cuda", "cupy")
    import cupy

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
