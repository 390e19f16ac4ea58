"""On a GPU: the reference tests, layouts, streams and graphs of real CuPy arrays."""

from __future__ import annotations

import os

import numpy as np
import pytest
from cuda_cases import CASES, check

import numadam as na


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


pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_matches_the_reference(cp, case, dtype):
    check(case, dtype, cp.asarray, cp.asnumpy)


@pytest.mark.parametrize("shape", [(), (1,), (0,), (255,), (257,), (1_000_003,)])
def test_sizes(cp, shape):
    check(CASES[0], "float32", cp.asarray, cp.asnumpy, shape, steps=3)


def test_more_elements_than_threads(cp):
    from numadam import cuda

    n = cuda.BLOCK * cuda.BLOCKS_MOST + 12_345
    p = cp.zeros(n, np.float32)
    opt = na.SGD(p, lr=1.0)
    opt.step(cp.arange(n, dtype=np.float32))
    assert bool((p == -cp.arange(n, dtype=np.float32)).all())


@pytest.mark.parametrize("layout", ["F", "strided", "reversed", "transposed"])
def test_layouts_give_the_same_bits(cp, layout):
    random = np.random.default_rng(0)
    start, g = random.standard_normal((2, 6, 10)).astype(np.float32)

    def lay(a):
        if layout == "F":
            return cp.asarray(a, order="F")
        if layout == "strided":
            big = cp.zeros((12, 20), a.dtype)
            big[::2, ::2] = cp.asarray(a)
            return big[::2, ::2]
        if layout == "reversed":
            return cp.asarray(a[::-1].copy())[::-1]
        return cp.asarray(a.T.copy()).T

    plain, other = cp.asarray(start), lay(start)
    one, two = na.Adam(plain), na.Adam(other)
    for _ in range(3):
        one.step(cp.asarray(g))
        two.step(lay(g))
    assert bool((plain == other).all())


def test_runs_on_the_current_stream_and_does_not_wait(cp):
    p, g = cp.zeros(1_000_000, np.float32), cp.ones(1_000_000, np.float32)
    opt = na.Adam(p)
    stream = cp.cuda.Stream(non_blocking=True)
    cp.cuda.get_current_stream().synchronize()
    with stream:
        for _ in range(5):
            opt.step(g)
    stream.synchronize()
    assert opt.t == 5
    np.testing.assert_allclose(cp.asnumpy(p[:3]), -5e-3, rtol=1e-5)


def test_gpu_and_cpu_agree(cp):
    random = np.random.default_rng(3)
    start = random.standard_normal(10_000).astype(np.float32)
    on_cpu, on_gpu = start.copy(), cp.asarray(start)
    one, two = na.Adam(on_cpu, lr=0.01), na.Adam(on_gpu, lr=0.01)
    for _ in range(100):
        g = random.standard_normal(10_000).astype(np.float32)
        one.step(g)
        two.step(cp.asarray(g))
    np.testing.assert_allclose(cp.asnumpy(on_gpu), on_cpu, rtol=1e-5, atol=1e-6)


def test_special_values_stay_or_spread_as_on_the_cpu(cp):
    g = np.array([np.nan, np.inf, -np.inf, 0.0, 1e-40, 1e30], np.float32)
    on_cpu, on_gpu = np.ones(6, np.float32), cp.ones(6, np.float32)
    na.Adam(on_cpu).step(g)
    na.Adam(on_gpu).step(cp.asarray(g))
    np.testing.assert_allclose(cp.asnumpy(on_gpu), on_cpu, rtol=1e-6)


def test_many_arrays_state_and_pickle(cp):
    import pickle

    params = {"w": cp.ones((3, 4)), "b": [cp.zeros(4), cp.zeros(())]}
    grads = {"w": cp.ones((3, 4)), "b": [cp.ones(4), cp.ones(())]}
    opt = na.Adam(params, amsgrad=True)
    opt.step(grads)
    twin = pickle.loads(pickle.dumps(opt))
    opt.step(grads)
    twin.step(grads)
    assert twin.t == 2
    assert bool((twin.params["w"] == params["w"]).all())
    assert bool((twin.state["vmax"]["b"][0] == opt.state["vmax"]["b"][0]).all())


def test_bare_update_and_out(cp):
    p, g, m, v = (cp.ones(5), cp.ones(5), cp.zeros(5), cp.zeros(5))
    out = cp.zeros(5)
    na.adam_update(p, g, m, v, 1, lr=0.1, out=out)
    assert bool((p == 1).all())
    np.testing.assert_allclose(cp.asnumpy(out), -0.1, rtol=1e-6)
    na.adam_update(p, g, cp.zeros(5), cp.zeros(5), 1, lr=0.1)
    np.testing.assert_allclose(cp.asnumpy(p), 0.9, rtol=1e-6)
