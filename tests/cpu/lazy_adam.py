"""Lazy Adam in NumPy, and gradients of few rows for it."""

from __future__ import annotations

import numpy as np


class Lazy:
    """torch's SparseAdam in NumPy: rows without a gradient keep p, m and v; t is of the array."""

    def __init__(self, p, lr, beta1=0.9, beta2=0.999, eps=1e-8, weight_decay=0.0, limit=np.inf):
        self.p, self.m, self.v = p.copy(), np.zeros_like(p), np.zeros_like(p)
        self._lr, self._b1, self._b2, self._eps = lr, beta1, beta2, eps
        self._decay, self._limit, self.t = weight_decay, limit, 0

    def step(self, indices, values):
        total = np.zeros_like(self.p)
        np.add.at(total, indices, values)
        rows = np.unique(indices)
        size = np.linalg.norm(total)
        factor = self._limit / size if size > self._limit else 1.0
        self.t += 1
        p, m, v = self.p[rows], self.m[rows], self.v[rows]
        g = total[rows] * factor + self._decay * p
        m = self._b1 * m + (1 - self._b1) * g
        v = self._b2 * v + (1 - self._b2) * g * g
        root = np.sqrt(v / (1 - self._b2**self.t)) + self._eps
        self.p[rows] = p - self._lr * (m / (1 - self._b1**self.t)) / root
        self.m[rows], self.v[rows] = m, v


def draw(seed, shape=(40, 3), count=6):
    """A table, and gradients of some of its rows: in any order, some of them twice, one empty."""
    rng = np.random.default_rng(seed)
    calls = []
    for k in range(count):
        n = 0 if k == 3 else int(rng.integers(1, 12))
        calls.append((rng.integers(0, shape[0], n), rng.standard_normal((n, *shape[1:]))))
    return rng.standard_normal(shape), calls


def dense_of(indices, values, shape, dtype=float):
    dense = np.zeros(shape, dtype)
    np.add.at(dense, indices, values)
    return dense
