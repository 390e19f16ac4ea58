"""On a GPU: the functions of `numadam.nopython` in kernels of the user's own."""

from __future__ import annotations

import numpy as np
from numba import cuda

import numadam as na
from numadam import nopython


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
