"""Errors where a package, a library, a driver or a GPU is missing: one sentence."""

from __future__ import annotations

import importlib.util
import re
import sys
from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pytest

import numadam as na
from numadam._version import install_command

INSTALL = f".*{re.escape(install_command('cuda13'))}"


class Tensor:
    """A tensor on a GPU, of a library that speaks DLPack."""

    dtype, shape = np.dtype(np.float32), (3,)

    def __dlpack__(self, **how):
        raise AssertionError("asked for its memory, though nobody can use it")

    def __dlpack_device__(self):
        return (2, 0)


class NoArray:
    """Stands for CuPy's class of arrays."""


@pytest.mark.parametrize(
    ("module", "package"),
    [("cupy", "CuPy"), ("numba_cuda", "numba-cuda"), ("cuda.bindings", "cuda-bindings")],
)
def test_a_missing_package_is_named_with_what_installs_it(monkeypatch, module, package):
    there = {"cupy", "numba_cuda", "cuda.bindings"} - {module}
    for name in list(sys.modules):
        if name == module:
            monkeypatch.delitem(sys.modules, name)
    for name in there:
        monkeypatch.setitem(sys.modules, name, SimpleNamespace(ndarray=NoArray))

    def find(name):
        if "." in name:  # as Python does where the package around it is missing
            raise ModuleNotFoundError(name)

    monkeypatch.setattr(importlib.util, "find_spec", find)
    with pytest.raises(ImportError, match=f"need the {package} package{INSTALL}"):
        na.minimize(lambda x: (1.0, x), Tensor(), jac=True)


def test_cupy_for_rocm_is_sent_to_no_package(monkeypatch):
    cuda = SimpleNamespace(runtime=SimpleNamespace(is_hip=True))
    monkeypatch.setitem(sys.modules, "cupy", SimpleNamespace(ndarray=NoArray, cuda=cuda))
    with pytest.raises(RuntimeError, match=r"ROCm: numadam needs NVIDIA's CUDA\."):
        na.minimize(lambda x: (1.0, x), Tensor(), jac=True)


@pytest.mark.cuda
@pytest.mark.cuda("cupy")
def test_a_tensor_where_there_is_no_driver(monkeypatch):
    import cupy

    monkeypatch.setattr(cupy.cuda.runtime, "getDeviceCount", lambda: 0)
    with pytest.raises(RuntimeError, match=r"CuPy finds no.*GPU.*nvidia-smi"):
        na.minimize(lambda x: (1.0, x), Tensor(), jac=True)


class NoPlan:
    name = "nothing"
    rule = SimpleNamespace(digest="")


def make_nothing(plan):
    """A kernel that compiles quickly."""
    from numadam._cuda.kernel import Kernel

    return Kernel("nothing", "def nothing(count):\n    return\n", ("int64",), lambda wrap: {})


@pytest.fixture
def compile_for(monkeypatch):
    """Compiles a kernel as for a GPU of some compute capability, and loads it nowhere."""
    from numadam._cuda import compiler

    device = SimpleNamespace()
    monkeypatch.setattr(compiler.policy, "compiling_for", lambda device: nullcontext())
    monkeypatch.setattr(compiler.policy, "load", lambda image, name: name)
    monkeypatch.setattr(compiler.cuda, "get_current_device", lambda: device)
    monkeypatch.setattr(compiler, "_kept", lambda name: None)
    monkeypatch.setattr(compiler, "_keep", lambda name, content: None)

    def compile_for(*capability):
        monkeypatch.setattr(compiler, "_kernels", {})
        device.compute_capability = capability
        return compiler.compiled(make_nothing, 0, NoPlan)[0]

    assert "nothing" in compile_for(9, 0)
    return compile_for


def lacking(name):
    """What is lacking: where it is looked for, its error, the type and text of the user's."""
    from cuda.bindings import nvjitlink
    from cuda.pathfinder import DynamicLibNotFoundError

    from numadam._cuda import compiler, private

    linker = DynamicLibNotFoundError('Failure finding "libnvJitLink.so.13": No such file\n  list')
    driver = private.CudaSupportError("Error at init: \n\nCUDA driver library cannot be found.\n")
    library = private.NvvmSupportError("libNVVM is not available")
    too_new = AttributeError("gone", obj=np, name="gone")
    no_gpu = r"numba-cuda cannot use GPU 0.*nvidia-smi"
    return {
        "linker": (nvjitlink, "version", linker, ImportError, f"libnvJitLink.so.13.*{INSTALL}"),
        "libNVVM": (private, "NVVM", library, ImportError, f"libNVVM is not available.*{INSTALL}"),
        "NumPy": (compiler, "ptx_of", too_new, ImportError, rf"NumPy \d+.*gone{INSTALL}"),
        "driver": (compiler.policy, "compiling_for", driver, RuntimeError, no_gpu),
    }[name]


@pytest.mark.cuda
@pytest.mark.parametrize("name", ["linker", "libNVVM", "NumPy", "driver"])
def test_what_the_compiler_lacks_is_named_with_what_to_do(monkeypatch, compile_for, name):
    place, attribute, error, kind, text = lacking(name)

    def fail(*given):
        raise error

    monkeypatch.setattr(place, attribute, fail)
    with pytest.raises(kind, match=text) as caught:
        compile_for(9, 0)
    assert "\n" not in str(caught.value)


@pytest.mark.cuda
def test_a_gpu_that_is_too_old_or_too_new_for_the_compiler(compile_for):
    with pytest.raises(RuntimeError, match=r"3\.5 is not supported.*\[cuda12\]"):
        compile_for(3, 5)
    with pytest.raises(RuntimeError, match=r"compute capability 99\.0.*pip install --upgrade"):
        compile_for(99, 0)


@pytest.mark.cuda
def test_a_linker_that_is_older_than_the_compiler():
    from cuda.bindings import nvjitlink

    from numadam._cuda.compiler import cubin_of, ptx_of

    ptx, _ = ptx_of(make_nothing(None), (9, 0))
    version = ptx.partition(".version ")[2].split()[0]
    major, minor = nvjitlink.version()
    newer = ptx.replace(f".version {version}", ".version 99.1")
    said = rf"nvJitLink {major}\.{minor} .*PTX 99\.1.*pip install --upgrade \"nvidia-nvjitlink"
    with pytest.raises(RuntimeError, match=said):
        cubin_of(newer, (9, 0))
    assert cubin_of(ptx, (9, 0))[0]
