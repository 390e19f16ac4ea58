"""On a GPU: `adam_update` and its like.

On a GPU: a rule of the user's, and the functions of `numadam.nopython` in their own kernels.

On a GPU: kernels that the second compiler has made.
"""

from __future__ import annotations

import math
import threading

import numba
import numpy as np
import pytest
from numba import cuda

import numadam as na
from numadam import nopython
from tests.cuda.cuda_cases import gradients
from tests.cuda.kernel_code import COMPILERS, compiler_of
from tests.rules.yogi import ARGUMENTS, scalars


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_updates_give_the_bits_of_the_classes(cp, dtype):
    grads = [cp.asarray(g) for g in gradients((4, 3), dtype, 3)]

    def zeros():
        return cp.zeros((4, 3), dtype)

    p, m, v, vmax, twin = (zeros() for _ in range(5))
    opt = na.Adam(twin, amsgrad=True)
    for t, g in enumerate(grads, 1):
        na.adam_update(p, g, m, v, t, vmax=vmax)
        opt.step(g)
    cp.testing.assert_array_equal(p, twin)
    cp.testing.assert_array_equal(vmax, opt.state["vmax"])
    p, m, v, twin = (zeros() for _ in range(4))
    opt = na.NAdam(twin)  # with a running product
    for t, g in enumerate(grads, 1):
        na.nadam_update(p, g, m, v, t)
        opt.step(g)
    cp.testing.assert_array_equal(p, twin)


@pytest.mark.parametrize("options", [{"clip_norm": 0.5}, {"bounds": (0, 1.2)}, {"like": "torch"}])
def test_updates_take_the_shared_options(cp, options):
    g, p, twin = cp.asarray(np.array([3.0, -4.0])), cp.ones(2), cp.ones(2)
    m, v = cp.zeros(2), cp.zeros(2)
    opt = na.Adam(twin, weight_decay=0.1, **options)
    for t in (1, 2, 3):
        na.adam_update(p, g, m, v, t, weight_decay=0.1, **options)
        opt.step(g)
    cp.testing.assert_array_equal(p, twin)


def test_out_and_updates_without_the_parameters(cp):
    g, out, wanted = cp.asarray(np.array([3.0, -4.0])), cp.zeros(2), cp.zeros(2)
    p, m, v, other_m, other_v = cp.ones(2), *(cp.zeros(2) for _ in range(4))
    for t in (1, 2):
        na.adam_update(None, g, m, v, t, out=out)
        na.adam_update(p, g, other_m, other_v, t, out=wanted)
        cp.testing.assert_array_equal(out, wanted)
    assert (p == 1).all()
    np.testing.assert_allclose(cp.asnumpy(out), [-1e-3, 1e-3], rtol=1e-6)
    with pytest.raises(ValueError, match=r"^p: weight_decay=0\.1 needs the parameters"):
        na.adam_update(None, g, m, v, 3, out=out, weight_decay=0.1)
    with pytest.raises(ValueError, match=r"^m: expected shape \(2,\) like g, got"):
        na.adam_update(None, g, cp.zeros(3), v, 3, out=out)


def test_refusals_name_the_arguments(cp):
    p, g, m = (cp.zeros(3) for _ in range(3))
    with pytest.raises(TypeError, match="v: expected a CuPy array, got None"):
        na.adam_update(p, g, m, None, 1)
    with pytest.raises(ValueError, match=r"g: expected shape \(3,\) like p, got \(4,\)"):
        na.adam_update(p, cp.zeros(4), m, cp.zeros(3), 1)
    with pytest.raises(ValueError, match="shares memory"):
        na.adam_update(p, g, m, m, 1)
    assert not p.any()


def test_memory_of_an_update_belongs_to_a_stream(cp, monkeypatch):
    """The stream of a thread has one number in all threads, and memory in each."""
    from numadam._cuda import step as functional

    made, make = [], functional.CudaStep

    def noted(*given, **options):
        made.append(given)
        return make(*given, **options)

    monkeypatch.setattr(functional, "CudaStep", noted)
    functional._made.cache_clear()
    p, g = cp.zeros(3), cp.ones(3)
    cp.cuda.Device().synchronize()

    def step(stream):
        with stream:
            na.sgd_update(p, g, lr=1.0)
            stream.synchronize()

    def in_a_thread(stream):
        thread = threading.Thread(target=step, args=[stream])
        thread.start()
        thread.join()

    counts, other = [], cp.cuda.Stream(non_blocking=True)
    for stream in (cp.cuda.Stream.null, other, cp.cuda.Stream.ptds):
        for call in (step, step, in_a_thread):
            call(stream)
            counts.append(len(made))
    assert counts == [1, 1, 1, 2, 2, 2, 3, 3, 4]
    assert (p == -9).all()


def test_an_update_is_refused_during_a_capture(cp):
    """Each replay would repeat its t and lr."""
    p, g, m, v = cp.ones(4), cp.ones(4), cp.zeros(4), cp.zeros(4)
    na.adam_update(p, g, m, v, 1)
    before = [array.copy() for array in (p, m, v)]
    cp.cuda.Device().synchronize()
    with cp.cuda.Stream(non_blocking=True) as stream:
        stream.begin_capture()
        try:
            text = r"update: .* at each replay t and lr "
            with pytest.raises(RuntimeError, match=text):
                na.adam_update(p, g, m, v, 2)
            with pytest.raises(RuntimeError, match="a graph is being captured"):
                na.sgd_update(p[:2], g[:2])  # compiled for no such step yet
        finally:
            stream.end_capture()
    for array, old in zip((p, m, v), before, strict=True):
        cp.testing.assert_array_equal(array, old)


# --- gpu own -------------------------------------------------------------------------------------


@numba.njit
def root_of(v, h):
    return math.sqrt(v) * h.root + h.eps


def element(p, g, gg, m, v, h):
    m = h.beta1 * m + h.alpha1 * g
    v = v - h.alpha2 * (gg if v > gg else -gg if v < gg else h.zero)
    return h.step * m / root_of(v, h), m, v


Yogi = na.rule("Yogi", element, scalars, **ARGUMENTS, modulus=("v",))


@pytest.mark.parametrize(
    ("dtype", "options"),
    [
        ("f4", {}),
        ("f4", {"clip_norm": 1.0, "weight_decay": 0.1, "ema": 0.9, "bounds": (-1, 1)}),
        ("f8", {"beta1": na.schedules.Cosine(0.5, steps=3, end=0.9)}),
        ("c8", {}),
        ("c16", {"complex_form": "modulus"}),
    ],
    ids=str,
)
def test_steps_as_on_the_cpu(cp, dtype, options):
    """But for multiplications that are fused with additions."""
    x, random = np.linspace(-1, 1, 300).astype(dtype), np.random.default_rng(5)
    y = cp.asarray(x)
    host, device = Yogi(x, lr=0.05, **options), Yogi(y, lr=0.05, **options)
    for _ in range(4):
        g = random.standard_normal(300)
        if x.dtype.kind == "c":
            g = g + 1j * random.standard_normal(300)
        host.step(g.astype(dtype))
        device.step(cp.asarray(g.astype(dtype)))
    rtol = {"f4": 2e-5, "c8": 2e-5}.get(dtype, 1e-13)
    for here, there in ((x, y), (host.state["v"], device.state["v"])):
        np.testing.assert_allclose(cp.asnumpy(there), here, rtol=rtol, atol=rtol)


def test_a_run_of_minimize_as_on_the_cpu(cp):
    def fun(x):
        return ((x - 1) ** 2).sum(), 2 * (x - 1)

    options = {"jac": True, "rule": Yogi, "lr": 0.1, "maxiter": 20}
    on_cpu, on_gpu = (na.minimize(fun, xp.zeros(5), **options) for xp in (np, cp))
    np.testing.assert_allclose(cp.asnumpy(on_gpu.x_last), on_cpu.x_last, rtol=1e-14)


# --- kernels of the user's own --------------------------------------------------------------------


def test_updates_of_local_arrays(cp):
    @cuda.jit
    def steps_on_rows(p, steps):
        i = cuda.grid(1)
        x, g = cuda.local.array(4, np.float64), cuda.local.array(4, np.float64)
        m, v = cuda.local.array(4, np.float64), cuda.local.array(4, np.float64)
        if i < p.shape[0]:
            for j in range(4):
                x[j], m[j], v[j] = p[i, j], 0.0, 0.0
            for t in range(1, steps + 1):
                for j in range(4):
                    g[j] = 2 * x[j]
                nopython.adam_update(x, g, m, v, t, lr=0.1)
            for j in range(4):
                p[i, j] = x[j]

    p = np.random.default_rng(3).standard_normal((129, 4))
    on_gpu, opt = cp.asarray(p), na.Adam(p, lr=0.1)
    steps_on_rows[129, 1](on_gpu, 10)
    for _ in range(10):
        opt.step(2 * p)
    # powers of two platforms differ in their last bit, which 1 - beta2**t makes 1,000 times larger
    np.testing.assert_allclose(on_gpu.get(), p, rtol=2 * np.finfo(np.float64).eps / (1 - 0.999))


def test_updates_of_rows_and_planes_of_any_layout(cp):
    @cuda.jit
    def update(p, g, moments, out):
        i = cuda.grid(1)
        if i < p.shape[0]:
            for t in range(1, 10):
                nopython.adam_update(p[i], g[i], moments[0, i], moments[1, i], t)
            nopython.sgd_update(out[i], out[i], lr=0.5)

    p, g = np.random.default_rng(4).standard_normal((2, 129, 3)).astype(np.float32)
    on_gpu, opt = cp.asarray(p), na.Adam(p)
    strided, moments = cp.asarray(np.repeat(g, 2, axis=1))[:, ::2], cp.zeros((2, 129, 3), "f4")
    out = cp.ones((3, 2, 129), np.float32).T
    update[129, 1](on_gpu, strided, moments, out)
    for _ in range(9):
        opt.step(g)
    np.testing.assert_allclose(on_gpu.get(), p, rtol=1e-6, atol=1e-7)
    np.testing.assert_array_equal(out.get(), 0.5)


# --- gpu compiler --------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_kernels_of_the_second_compiler_step_as_the_cpu(cp, dtype, monkeypatch):
    from numadam._cuda import compiler

    first, made = compiler.ptx_of, []

    def ptx_of(kernel, capability):
        made.append(kernel.name)
        scope = kernel.scope(lambda function: function)
        with compiler_of(COMPILERS[1], capability, scope) as given:
            return first(kernel, capability, *given)

    monkeypatch.setattr(compiler, "ptx_of", ptx_of)
    monkeypatch.setattr(compiler, "_kept", lambda name: None)
    monkeypatch.setattr(compiler, "_keep", lambda name, content: None)
    monkeypatch.setattr(compiler, "_kernels", {})
    left, start = [], np.linspace(-1, 1, 700).astype(dtype)
    for asarray in (np.array, cp.asarray):
        params = {"a": asarray(start), "b": asarray(start[:5])}
        opt = na.Adam(params, clip_norm=1.0, bounds=(-1, 1), ema=0.9)
        for k in range(3):
            g = np.cos(start * k + 1)
            opt.step({"a": asarray(g), "b": asarray(g[:5])})
        left.append([cp.asnumpy(cp.asarray(array)) for array in params.values()])
    assert set(made) == {"step", "sums", "norms"}
    for on_cpu, on_gpu in zip(*left, strict=True):
        np.testing.assert_allclose(on_gpu, on_cpu, rtol=1e-6 if dtype == "f4" else 1e-14)
