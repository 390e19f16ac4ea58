"""Tests that need more than the extra `test`: their marks, when they skip, and where they run.

Without its packages a test with one of these marks skips; the reason says which extra installs
them, and which stage of .ci/run has them. That stage names the mark in the environment variable
NUMADAM_EXTRAS, such as "cuda,mpi": there the test fails. A skip with another reason fails, too,
but for what a machine is not: a test that no stage runs guards nothing.
"""

from __future__ import annotations

import functools
import importlib.util
import os
import re
from pathlib import Path
from typing import Any, NoReturn

import pytest

from numadam._version import install_command

#: Mark, which is also the stage's name: the extra, and the packages that a test needs whose mark
#: names no others.
EXTRAS = {
    "cuda": ("test-cuda", ()),
    "gpu": ("test-cuda", ("cupy",)),
    "docs": ("docs", ()),
    "package": ("package", ()),
    "mpi": ("test-mpi", ("mpi4py",)),
    "peers": ("peers", ()),
    "dropins": ("dropins", ()),
}
INSTALLED = set(filter(None, os.environ.get("NUMADAM_EXTRAS", "").split(",")))
if unknown := INSTALLED - set(EXTRAS):
    raise ValueError(f"NUMADAM_EXTRAS: expected some of {', '.join(EXTRAS)}; got {unknown}")

#: The reason of a test that this machine cannot run, whatever is installed.
MACHINE = "this machine has no "


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
    pytest.skip(f"{why} (.ci/run {mark})", allow_module_level=True)


def machine(has: bool, what: str) -> pytest.MarkDecorator:
    """A mark: skip the test where the machine does not have what it needs."""
    return pytest.mark.skipif(not has, reason=MACHINE + what)


def sweep(*values: Any) -> Any:
    """Parameters of a test that only ``pytest -m sweep`` runs: another plan of what is tested."""
    return pytest.param(*values, marks=pytest.mark.sweep)


class Absent(pytest.Module):
    """A file whose tests cannot run here; it is not imported, which would take a while.

    One reason then stands for all of its tests.
    """

    mark, why = "", ""

    @classmethod
    def file(cls, path: Path, parent: pytest.Collector, mark: str, why: str) -> Absent:
        found = cls.from_parent(parent, path=path)
        found.mark, found.why = mark, why
        return found

    def collect(self) -> NoReturn:
        stop(self.mark, self.why)


def need_machine(has: bool, what: str) -> None:
    """Skip the test, or the file, where the machine does not have what it needs."""
    if not has:
        pytest.skip(MACHINE + what, allow_module_level=True)


fork = machine(hasattr(os, "fork"), "fork")
posix = machine(os.name == "posix", "POSIX")


def has_stage(reason: str) -> bool:
    """Whether a test that skips for this reason runs somewhere else."""
    stage = re.search(r"\(\.ci/run (\w+)\)$", reason)
    return reason.startswith(MACHINE) or bool(stage and stage[1] in EXTRAS)


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
