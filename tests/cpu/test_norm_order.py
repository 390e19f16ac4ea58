"""The norm depends on the numbers, not on where they lie: memory order, arrays, threads."""

from __future__ import annotations

import itertools
import math

import numba
import numpy as np
import pytest

import numadam as na

REALS = [np.float64, np.float32]


def fit(arrays, gradients):
    """Norms of the gradients of some steps with a clip."""
    opt = na.Adam(arrays, lr=0.1, clip_norm=1.0)
    seen = []
    for g in gradients:
        opt.step(g)
        seen.append(opt.grad_norm)
    return seen


def gradients(real, shape, seed):
    """Of many magnitudes: the sum of their squares depends on the order of plain additions."""
    rng = np.random.default_rng(seed)
    g = rng.standard_normal((8, *shape)) * np.exp(3 * rng.standard_normal((8, *shape)))
    return g.astype(real)


@pytest.mark.parametrize("real", REALS)
def test_memory_order_changes_no_bit(real):
    for seed in range(20):
        g = gradients(real, (37, 41), seed)
        c = np.ones(g.shape[1:], real)
        norms = fit(c, g)
        wide = np.ones((74, 82), real)
        for other in (np.ones(g.shape[1:], real, order="F"), wide[::2, 1::2], wide[::-2, ::-2]):
            other[...] = 1
            assert fit(other, g) == norms
            np.testing.assert_array_equal(other, c)
        f = np.ones(g.shape[1:], real, order="F")
        assert fit(f, [np.asfortranarray(one) for one in g]) == norms
        np.testing.assert_array_equal(f, c)


@pytest.mark.parametrize("real", REALS)
def test_the_functional_step_has_the_norm_of_the_optimiser(real):
    (g, *_) = gradients(real, (1_234,), 0)
    p, q, m, v = (np.zeros(g.size, real) for _ in range(4))
    na.Adam(p, lr=0.1, clip_norm=1.0).step(g)
    na.adam_update(q, g[::-1], m, v, t=1, lr=0.1, clip_norm=1.0)
    np.testing.assert_array_equal(q[::-1], p)


@pytest.mark.parametrize("options", [{"norm": 2}, {"clip_norm": 1.0}], ids=["stop test", "clip"])
def test_minimize_does_not_depend_on_memory_order(options):
    rng = np.random.default_rng(0)
    target, curvature = rng.standard_normal((7, 9)), np.exp(2 * rng.standard_normal((7, 9)))

    def fun(x):
        square = curvature * (x - target) ** 2
        return math.fsum(square.ravel()), 2 * curvature * (x - target)

    starts = np.zeros((7, 9)), np.zeros((7, 9), order="F"), np.zeros((14, 18))[::2, ::2]
    c, *others = (na.minimize(fun, x, jac=True, lr=0.1, maxiter=40, **options) for x in starts)
    for other in others:
        assert other.grad_norm == c.grad_norm
        np.testing.assert_array_equal(other.x, c.x)


@pytest.mark.parametrize("real", REALS)
def test_one_array_or_many_in_any_order_and_threads(real):
    g = gradients(real, (60_000,), 0)
    cuts = [0, 1, 1_000, 1_003, 20_000, 20_000, 47_111, 60_000]
    pieces = [slice(a, b) for a, b in itertools.pairwise(cuts)]
    whole = np.ones(60_000, real)
    norms = fit(whole, g)
    before = numba.get_num_threads()
    try:
        for threads, order in [(1, 1), (before, 1), (before, -1)]:
            numba.set_num_threads(threads)
            parts = [np.ones(60_000, real)[one] for one in pieces[::order]]
            assert fit(parts, [[h[one] for one in pieces[::order]] for h in g]) == norms
            np.testing.assert_array_equal(np.concatenate(parts[::order]), whole)
    finally:
        numba.set_num_threads(before)
