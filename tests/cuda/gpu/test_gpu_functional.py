"""On a GPU: `adam_update` and its like, rules and kernels of the user's, the second compiler."""

from __future__ import annotations

import math
import threading
import weakref

import numba
import numpy as np
import pytest
from numba import cuda

import numadam as na
from numadam import nopython
from tests.cuda.cuda_cases import draw
from tests.cuda.kernel_code import COMPILERS, compiler_of
from tests.rules.yogi import ARGUMENTS, scalars


@pytest.mark.parametrize(
    "options",
    [{"amsgrad": True}, {"clip_norm": 0.5}, {"bounds": (0, 1.2)}, {"like": "torch"}],
    ids=str,
)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_updates_give_the_bits_of_the_classes(cp, dtype, options):
    random = np.random.default_rng(7)
    grads = [cp.asarray(draw((4, 3), dtype, random)) for _ in range(3)]
    for rule, update in ((na.Adam, na.adam_update), (na.NAdam, na.nadam_update)):
        given = options if rule is na.Adam else {}  # NAdam has a running product
        p, twin = (cp.ones((4, 3), dtype) for _ in range(2))
        m, v, vmax = (cp.zeros((4, 3), dtype) for _ in range(3))
        opt = rule(twin, weight_decay=0.1, **given)
        kept = {"vmax": vmax} if given.get("amsgrad") else given
        for t, g in enumerate(grads, 1):
            update(p, g, m, v, t, weight_decay=0.1, **kept)
            opt.step(g)
        cp.testing.assert_array_equal(p, twin)
        cp.testing.assert_array_equal(v, opt.state["v"])


def test_out_and_updates_without_the_parameters(cp):
    g, out, wanted = cp.asarray(np.array([3.0, -4.0])), cp.zeros(2), cp.zeros(2)
    p, m, v, other_m, other_v = cp.ones(2), *(cp.zeros(2) for _ in range(4))
    for t in (1, 2):
        na.adam_update(None, g, m, v, t, out=out)
        na.adam_update(p, g, other_m, other_v, t, out=wanted)
        cp.testing.assert_array_equal(out, wanted)
    assert (p == 1).all()
    np.testing.assert_allclose(cp.asnumpy(out), [-1e-3, 1e-3], rtol=1e-6)
    with pytest.raises(ValueError, match=r"^m: expected shape \(2,\) like g, got"):
        na.adam_update(None, g, cp.zeros(3), v, 3, out=out)


def test_updates_of_other_arrays_are_checked_as_any(cp):
    def arrays(dtype="f4"):
        return [cp.zeros(6, dtype), cp.ones(6, dtype), cp.zeros(6, dtype), cp.zeros(6, dtype)]

    for p, g, m, v in [arrays(), arrays(), arrays("f8"), arrays()]:
        na.adam_update(p, g, m, v, 1, lr=0.5)
        np.testing.assert_allclose(cp.asnumpy(p), -0.5, rtol=1e-6)
        strided = arrays(p.dtype)
        strided[1] = cp.ones((6, 2), p.dtype)[:, 0]
        na.adam_update(*strided, 1, lr=0.5)
        watched = [weakref.ref(array) for array in strided]
        del strided
        assert not any(array() is not None for array in watched)  # none is kept
    p, g, m, v = arrays()
    for error, text, given in (
        (ValueError, "shares memory", (p, g, m, m, 1)),
        (ValueError, "shares memory", (p, p, m, v, 1)),
        (TypeError, "v: expected a CuPy array, got None", (p, g, m, None, 1)),
        (TypeError, "g: expected a NumPy array, got cupy", (np.zeros(6, "f4"), g, m, v, 1)),
        (ValueError, r"g: expected shape \(6,\) like p, got \(4,\)", (p, g[:4], m, v, 1)),
    ):
        with pytest.raises(error, match=text):
            na.adam_update(*given, lr=0.5)
    assert not any(array.any() for array in (p, m, v))
    with cp.cuda.Stream(non_blocking=True):
        na.adam_update(p, g, m, v, 1, lr=0.5)
        np.testing.assert_allclose(cp.asnumpy(p), -0.5, rtol=1e-6)


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


# --- a rule of the user's -------------------------------------------------------------------------


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
        ("f4", {"clip_norm": 1.0, "weight_decay": 0.1, "ema": 0.9, "bounds": (-1, 1)}),
        ("f8", {"beta1": na.schedules.Cosine(0.5, steps=3, end=0.9)}),
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
        g = draw((300,), dtype, random)
        host.step(g)
        device.step(cp.asarray(g))
    rtol = 2e-5 if dtype == "f4" else 1e-13
    for here, there in ((x, y), (host.state["v"], device.state["v"])):
        np.testing.assert_allclose(cp.asnumpy(there), here, rtol=rtol, atol=rtol)


# --- kernels of the user's own --------------------------------------------------------------------


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


# --- the second compiler --------------------------------------------------------------------------


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
