"""Models of the tests: decays and peaks, compiled with and without J, and in NumPy for SciPy."""

from __future__ import annotations

from typing import Any, NamedTuple

import numba
import numpy as np


@numba.njit
def decay(x, r, i, t, y):
    for k in range(t.size):
        r[k] = x[0] * np.exp(-x[1] * t[k]) + x[2] - y[i, k]


@numba.njit
def decay_with_j(x, r, J, i, t, y):
    for k in range(t.size):
        e = np.exp(-x[1] * t[k])
        r[k] = x[0] * e + x[2] - y[i, k]
        J[k, 0], J[k, 1], J[k, 2] = e, -x[0] * t[k] * e, 1.0


@numba.njit
def peak(x, r, i, t, y):
    for k in range(t.size):
        u = (t[k] - x[1]) / x[2]
        r[k] = x[0] * np.exp(-0.5 * u * u) + x[3] - y[i, k]


@numba.njit
def peak_with_j(x, r, J, i, t, y):
    for k in range(t.size):
        u = (t[k] - x[1]) / x[2]
        e = np.exp(-0.5 * u * u)
        r[k] = x[0] * e + x[3] - y[i, k]
        J[k, 0], J[k, 1], J[k, 2], J[k, 3] = e, x[0] * e * u / x[2], x[0] * e * u * u / x[2], 1.0


def decay_model(t, a, b, c):
    return a * np.exp(-b * t) + c


def decay_slopes(t, a, b, c):
    e = np.exp(-b * t)
    return np.stack([e, -a * t * e, np.ones_like(e)], axis=1)


def peak_model(t, a, b, c, d):
    return a * np.exp(-0.5 * ((t - b) / c) ** 2) + d


def peak_slopes(t, a, b, c, d):
    u = (t - b) / c
    e = np.exp(-0.5 * u * u)
    return np.stack([e, a * e * u / c, a * e * u * u / c, np.ones_like(e)], axis=1)


class Fits(NamedTuple):
    """Data of many fits of one model, and the model in all its forms."""

    fun: Any
    with_j: Any
    model: Any
    slopes: Any
    t: np.ndarray
    y: np.ndarray
    x0: np.ndarray

    @property
    def m(self) -> int:
        return len(self.t)

    def residuals(self, i):
        """Of problem i, for SciPy."""
        return lambda x: self.model(self.t, *x) - self.y[i]

    def jac(self, x):
        return self.slopes(self.t, *x)


def decays(count: int) -> Fits:
    rng, t = np.random.default_rng(0), np.linspace(0, 5, 30)
    true = rng.uniform([0.5, 0.3, 0.0], [2.5, 2.0, 1.0], (count, 3))
    y = np.array([decay_model(t, *one) for one in true]) + 0.02 * rng.standard_normal((count, 30))
    x0 = np.tile([1.0, 1.0, 0.0], (count, 1))
    return Fits(decay, decay_with_j, decay_model, decay_slopes, t, y, x0)


def peaks(count: int) -> Fits:
    rng, t = np.random.default_rng(1), np.linspace(-5, 5, 50)
    true = rng.uniform([0.5, -1.5, 0.5, 0.0], [3.0, 1.5, 1.5, 0.5], (count, 4))
    y = np.array([peak_model(t, *one) for one in true]) + 0.05 * rng.standard_normal((count, 50))
    x0 = np.stack([y.max(1), np.zeros(count), np.ones(count), np.zeros(count)], axis=1)
    return Fits(peak, peak_with_j, peak_model, peak_slopes, t, y, x0)


@numba.njit
def linear(x, r, J, i, A, b):
    """Residuals of A[i] x = b[i]."""
    for k in range(r.size):
        r[k] = -b[i, k]
        for j in range(x.size):
            r[k] += A[i, k, j] * x[j]
            J[k, j] = A[i, k, j]
