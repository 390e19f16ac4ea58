"""Tests on a GPU, or with --emulate on an emulated one; they skip without."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import emulator, extras


def pytest_collection_modifyitems(items):
    """Mark all tests of this folder: they need a GPU."""
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            item.add_marker(pytest.mark.gpu)


def _why_not():
    extras.require("cuda")
    extras.require("gpu")
    if emulator.is_running():
        return ""
    import cupy

    try:
        count = cupy.cuda.runtime.getDeviceCount()
    except cupy.cuda.runtime.CUDARuntimeError as error:
        return f"no CUDA GPU ({error}), and {emulator.why_not() or 'no --emulate'}"
    return "" if count else "no CUDA GPU"


@pytest.fixture(autouse=True)
def cp():
    """CuPy. A fault that the emulator finds fails the test."""
    if why_not := _why_not():
        extras.stop("gpu", why_not)
    import cupy

    yield cupy
    if emulator.is_running():
        cupy.cuda.Device().synchronize()  # nothing is left to run
        assert emulator.faults() == []
