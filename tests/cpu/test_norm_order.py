"""The norm depends on the numbers, not on where they lie: memory order, arrays, threads."""

from __future__ import annotations

import itertools

import numba
import numpy as np
import pytest

import numadam as na

REALS = [np.float64, np.float32]


def fit(arrays, gradients, order="C", **options):
    """Norms and parameters after steps with a clip; gradients are those of a line of numbers."""
    opt = na.Adam(arrays, lr=0.1, clip_norm=1.0, **options)
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
def test_fortran_order_has_the_bits_of_c_order(real):
    for seed in range(20):
        g = gradients(real, (37, 41), seed)
        c = np.ones(g.shape[1:], real)
        f = np.asfortranarray(c)
        norms = fit(c, g)
        assert fit(f, [np.asfortranarray(one) for one in g]) == norms
        np.testing.assert_array_equal(f, c)


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
