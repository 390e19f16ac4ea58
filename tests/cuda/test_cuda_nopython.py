"""The functions for the user's own kernels: one problem a thread, in the simulator and as PTX."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from numba import cuda  # in the module: the simulator swaps its global for the time of a launch

import numadam as na
from numadam import nopython
from numadam.rules import CLASSES
from tests.cuda.kernel_code import Code, check_arithmetic
from tests.cuda.many_problems import own_steps

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "own-solver.md"


@pytest.mark.simulator
def test_the_kernel_of_the_page():
    blocks = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    (code,) = (block for block in blocks if "cuda.jit" in block)
    names = {}
    exec(compile(code, str(PAGE), "exec"), names)
    targets = np.linspace(-1, 1, 8).astype(np.float32)
    np.testing.assert_allclose(names["found"], targets, atol=1e-3)
    assert names["found"].dtype == np.float32
    # each thread takes the steps of an optimiser; the simulator has the bits of the CPU
    x = np.zeros(8, np.float32)
    opt = na.Adam(x, lr=0.05)
    for _ in range(500):
        opt.step(np.float32(2) * (x - targets))
    np.testing.assert_array_equal(names["found"], x)


@pytest.mark.simulator
def test_updates_of_local_arrays_in_a_kernel():
    p = np.random.default_rng(3).standard_normal((5, 4))
    q = p.copy()
    cuda.jit(own_steps)[2, 3](q, 10)
    opt = na.Adam(p, lr=0.1)
    for _ in range(10):
        opt.step(2 * p)
    np.testing.assert_array_equal(q, p)


@pytest.fixture
def device(monkeypatch):
    import numba.cuda.dispatcher as dispatcher

    device = SimpleNamespace(compute_capability=(9, 0))
    monkeypatch.setattr(dispatcher, "get_current_device", lambda: device)


def parameters(function):
    return list(inspect.signature(getattr(nopython, function)).parameters)


def kernel_of(rule, formed):
    """A kernel over one element a thread; `formed`: with the scalars formed in it."""
    names = parameters(f"{rule}_element")
    names, counted = names[2 : names.index("h")], "t" in parameters(f"{rule}_scalars")
    h = f"{rule}_scalars({'t' if counted else ''})" if formed else "h"
    call = ", ".join(["p[i]", "g[i]", *(f"{name}[i]" for name in names), h])
    text = (
        f"def kernel({', '.join(['p', 'g', *names, 'h', 't'])}):\n"
        "    i = cuda.grid(1)\n"
        "    if i < p.size:\n"
        f"        {', '.join(['p[i]', *(f'{name}[i]' for name in names)])} = "
        f"{rule}_element({call})\n"
    )
    from numba import types

    scope = {"cuda": cuda, **vars(nopython)}
    exec(text, scope)
    array = types.float32[::1]
    scalars = getattr(nopython, f"{rule}_scalars")(*([1] if counted else []))
    kinds = [array] * (2 + len(names))
    return scope["kernel"], types.void(
        *kinds, types.UniTuple(types.float64, len(scalars)), types.int64
    )


@pytest.mark.cuda
@pytest.mark.parametrize("rule", CLASSES)
def test_elements_are_calculated_in_single_precision(device, rule):
    ptx = Code(lambda: kernel_of(rule, formed=False), by_cupy=False).text
    check_arithmetic(ptx)
    doubles = set(re.findall(r"[a-z][a-z0-9.]*\.f64", ptx)) - {"ld.param.f64", "cvt.rn.f32.f64"}
    # the last compares the decay with 0, before it is rounded
    assert doubles <= {"setp.eq.f64", "setp.neu.f64"}


@pytest.mark.cuda
@pytest.mark.parametrize("rule", ["adam", "radam", "lion"])
def test_scalars_are_formed_in_double_precision(device, rule):
    ptx = Code(lambda: kernel_of(rule, formed=True), by_cupy=False).text
    assert ".local" not in ptx
    assert ".f64" in ptx or rule == "lion"


@pytest.mark.cuda
def test_updates_of_arrays_in_a_kernel(device):
    """Local arrays, rows of any layout: they need no memory that the host manages."""
    from numba import types

    def kernel(p, g, out):
        i = cuda.grid(1)
        m, v = cuda.local.array(3, np.float32), cuda.local.array(3, np.float32)
        for j in range(3):
            m[j] = v[j] = 0
        for t in range(1, 10):
            nopython.adam_update(p[i], g[i], m, v, t)
        nopython.sgd_update(out[i], out[i], lr=0.5)

    arrays = types.float32[:, ::1], types.float32[:, :], types.float32[:, :, :]
    assert "sqrt.rn.f32" in Code(lambda: (kernel, types.void(*arrays)), by_cupy=False).text
