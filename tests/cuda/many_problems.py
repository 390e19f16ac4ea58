"""Problems for one thread each, solved on a GPU and on the CPU."""

from __future__ import annotations

import numba
import numpy as np
from numba import cuda  # in the module: the simulator swaps its global for the time of a launch

import numadam as na
from numadam import nopython


@numba.njit
def rosen(x, g):
    a, b = x[1] - x[0] * x[0], 1 - x[0]
    g[0] += -400 * a * x[0] - 2 * b
    g[1] += 200 * a
    return 100 * a * a + b * b


@numba.njit
def parabola(x, g, i, targets, scale):
    f = 0.0
    for k in range(x.size):
        d = x[k] - targets[i, k]
        g[k] = 2 * scale * d
        f += scale * d * d
    return f


@numba.njit
def pair(x):
    return x[0] * x[0] + x[1] * x[1], 2 * x


STARTS = np.array([[-1.2, 1.0], [0.5, 0.5], [1.5, -1.0], [0.9, 0.8], [0.0, 2.0]])


def both(cupy, fun, x0, *args, **options):
    """The same on CPU and GPU."""
    on_gpu = na.minimize_many(fun, cupy.asarray(x0), *args, **options)
    return on_gpu, na.minimize_many(fun, x0, *args, **options)


def assert_alike(on_gpu, on_cpu, **close):
    np.testing.assert_allclose(np.asarray(on_gpu.x), on_cpu.x, **close)
    np.testing.assert_allclose(np.asarray(on_gpu.fun), on_cpu.fun, **close)
    for name in ("jac", "grad_norm", "x_last", "fun_last"):
        # the gradient near a minimum is a difference of large numbers
        np.testing.assert_allclose(np.asarray(on_gpu[name]), on_cpu[name], atol=1e-9, **close)
    np.testing.assert_array_equal(on_gpu.nit, on_cpu.nit)
    np.testing.assert_array_equal(on_gpu.status, on_cpu.status)


def own_steps(p, steps):
    """Each thread takes steps on arrays of its own."""
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
