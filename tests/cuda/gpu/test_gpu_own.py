"""On a GPU: a rule of the user's, and the functions of `numadam.nopython` in their own kernels."""

from __future__ import annotations

import math

import numba
import numpy as np
import pytest
from numba import cuda

import numadam as na
from numadam import nopython
from tests.rules.yogi import ARGUMENTS, scalars


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
    np.testing.assert_allclose(on_gpu.get(), p, rtol=1e-13)


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
