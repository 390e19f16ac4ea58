"""Tests that need more than the extra `test`: their marks, and when they skip or fail.

Without its packages a test with one of these marks skips, and says which extra installs them. A
stage of .ci/run that has installed the extra names the mark in the environment variable
NUMADAM_EXTRAS, such as "cuda,mpi": there the test fails.
"""

from __future__ import annotations

import functools
import importlib.util
import os
from typing import NoReturn

import pytest

from numadam._version import install_command

#: Mark: the extra, and the packages that a test with no others in its mark needs.
EXTRAS = {
    "cuda": ("test-cuda", ()),
    "mpi": ("test-mpi", ("mpi4py",)),
    "peers": ("peers", ()),
}
INSTALLED = set(filter(None, os.environ.get("NUMADAM_EXTRAS", "").split(",")))
if unknown := INSTALLED - set(EXTRAS):
    raise ValueError(f"NUMADAM_EXTRAS: expected some of {', '.join(EXTRAS)}; got {unknown}")


def lacking(mark: str, *packages: str) -> str:
    """The reason why a test with this mark cannot run here, or nothing."""
    extra, usual = EXTRAS[mark]
    for name in packages or usual:
        if importlib.util.find_spec(name) is None:
            return f"{name} is not installed: {install_command(extra)}"
    return no_compiler() if mark == "cuda" and not packages else ""


def require(mark: str, *packages: str) -> None:
    """Skip or fail the test, or the file, that needs these packages."""
    if why := lacking(mark, *packages):
        stop(mark, why)


def stop(mark: str, why: str) -> NoReturn:
    """Skip the test or the file for this reason; fail it where the extra is installed."""
    if mark in INSTALLED:
        pytest.fail(f"NUMADAM_EXTRAS names {mark}: {why}", pytrace=False)
    pytest.skip(why, allow_module_level=True)


@functools.cache
def no_compiler() -> str:
    """The reason why no CUDA kernel can be compiled here, or nothing."""
    if why := lacking("cuda", "numba_cuda"):
        return why
    from numba.cuda.cudadrv import nvvm

    try:
        nvvm.NVVM()
    except Exception as error:  # whatever the loader of the library says
        return f"libNVVM cannot be loaded: {error}"
    return ""
