"""What the compiler makes of the CUDA loop, without a GPU: its PTX, for every rule and option."""

from __future__ import annotations

import importlib.util
import os
import re
from types import SimpleNamespace

import numpy as np
import pytest
from cuda_cases import CASES, Case


def _why_not():
    if os.environ.get("NUMBA_ENABLE_CUDASIM") == "1":
        return "the CUDA simulator is on: it compiles nothing"
    if importlib.util.find_spec("numba_cuda") is None:
        return "numba-cuda is not installed"
    from numba.cuda.cudadrv import nvvm

    try:
        nvvm.NVVM()
    except Exception as error:  # whatever the loader of the library says
        return f"libNVVM cannot be loaded: {error}"
    return ""


WHY_NOT = _why_not()
pytestmark = pytest.mark.skipif(bool(WHY_NOT), reason=WHY_NOT or "it runs")


@pytest.fixture(params=[(8, 0), (9, 0)], ids=["sm_80", "sm_90"])
def capability(request, monkeypatch):
    """A GPU to compile for: device functions ask for the current one."""
    import numba.cuda.dispatcher as dispatcher

    device = SimpleNamespace(compute_capability=request.param)
    monkeypatch.setattr(dispatcher, "get_current_device", lambda: device)
    return request.param


def compile_case(case, dtype, has_out, capability, output="ptx"):
    from numba import cuda

    from numadam import cuda_loop

    options = case.all_options()
    kernel = cuda_loop.make_kernel(case.rule, options, has_out)
    types = cuda_loop.signature(case.rule, options, np.dtype(dtype))
    code, _ = cuda.compile(kernel, types, device=False, abi="numba", cc=capability, output=output)
    return code


def body(ptx):
    """The instructions: without the mangled names, which may spell anything."""
    return re.sub(r"\b_Z\w+", "name", ptx)


def check_common(ptx, case):
    assert ".local" not in ptx
    assert "call" not in ptx
    assert ".approx" not in ptx
    assert ".ftz" not in ptx
    assert ("sqrt.rn" in ptx) == (case.name != "SGD")
    assert ("div.rn" in ptx) == (case.name != "SGD")


@pytest.mark.parametrize("has_out", [False, True], ids=["in place", "out"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_float32_kernels_hold_no_double_and_no_approximation(case, has_out, capability):
    ptx = body(compile_case(case, "float32", has_out, capability))
    check_common(ptx, case)
    assert ".f64" not in ptx
    assert "ld.global.f32" in ptx


@pytest.mark.parametrize("case", CASES, ids=str)
def test_float64_kernels_hold_no_float_and_no_approximation(case, capability):
    ptx = body(compile_case(case, "float64", False, capability))
    check_common(ptx, case)
    assert ".f32" not in ptx


@pytest.mark.parametrize("has_out", [False, True], ids=["in place", "out"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_each_array_is_read_and_written_once(case, has_out, capability):
    ptx = body(compile_case(case, "float32", has_out, capability))
    state = len(case.rule.present(case.all_options()))
    reads = (1 if has_out else 2) + state
    # the compiler may unroll the loop: several turns, each with all its reads and writes
    turns, rest = divmod(ptx.count("ld.global.f32"), reads)
    assert turns >= 1
    assert rest == 0
    assert ptx.count("st.global.f32") == turns * (1 + state)


def test_products_and_sums_are_contracted(capability):
    """The choice in cuda_loop: GPU and CPU agree to a bound, not bit for bit."""
    ptx = body(compile_case(Case("Adam", 0.1), "float32", False, capability))
    assert "fma.rn.f32" in ptx


def test_the_index_has_64_bits(capability):
    ptx = body(compile_case(Case("SGD", 0.1), "float32", False, capability))
    assert re.search(r"mul\.wide\.[su]32", ptx), "block number times block size, widened"
    assert "mad.lo.s32" not in ptx


def test_the_linked_kernel_keeps_these_promises(capability):
    """On a GPU, numba-cuda links with nvJitLink, which compiles once more."""
    from numba.cuda.cudadrv import driver

    if not driver._have_nvjitlink():
        pytest.skip("nvJitLink is not installed")
    case = Case("Adam", 0.1, {"amsgrad": True})
    code = compile_case(case, "float32", False, capability, output="ltoir")
    linker = driver._Linker(cc=capability, lto=True, additional_flags=["-ptx"])
    linker.add_ltoir(code)
    ptx = body(linker.get_linked_ptx().decode())
    check_common(ptx, case)
    assert ".f64" not in ptx
