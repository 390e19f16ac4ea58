"""Tests on a GPU, or with --emulate on an emulated one; they skip without."""

from __future__ import annotations

import functools
from pathlib import Path

import pytest

from tests import emulator, extras


def pytest_pycollect_makemodule(module_path, parent):
    """Skip files without importing them where there is no GPU."""
    why_not = _why_not()
    return extras.Absent.file(module_path, parent, "gpu", why_not) if why_not else None


def pytest_collection_modifyitems(items):
    """Mark all tests of this folder: they need a GPU."""
    for item in [] if _why_not() else items:
        if item.path.is_relative_to(Path(__file__).parent):
            item.add_marker(pytest.mark.gpu)


@functools.cache
def _why_not():
    if lacking := extras.lacking("cuda") or extras.lacking("gpu"):
        return lacking
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
    import cupy

    yield cupy
    if emulator.is_running():
        cupy.cuda.Device().synchronize()  # nothing is left to run
        assert emulator.faults() == []
