"""No array that decays by a factor rests among denormal numbers, where steps are slow for ever."""

from __future__ import annotations

import numba
import numpy as np
import pytest

import numadam as na
from tests import extras
from tests.bits import assert_same_bits


def count_denormal(array):
    reals = np.ascontiguousarray(array).reshape(-1)
    reals = reals.view(reals.real.dtype)
    return int(((reals != 0) & (np.abs(reals) < np.finfo(reals.dtype).tiny)).sum())


def assert_none(opt):
    arrays = {"params": opt.params} | {name: opt.state[name] for name in opt.state}
    counters = {"t", "skipped", "skipped_in_a_row", "row_counts", "mu_product"}
    found = {
        name: sum(map(count_denormal, value if isinstance(value, list) else [value]))
        for name, value in arrays.items()
        if name not in counters
    }
    assert found == dict.fromkeys(found, 0)


FAST = {"beta2": 0.9}
CASES = [
    extras.sweep(na.RMSprop, FAST),
    (na.RMSprop, {**FAST, "centered": True, "momentum": 0.9}),
    (na.Adam, FAST),
    extras.sweep(na.Adam, {**FAST, "amsgrad": True, "eps_form": "hat", "like": "torch"}),
    extras.sweep(na.Adam, {**FAST, "clip_norm": 1.0, "nonfinite": "skip", "bounds": (-2.0, 2.0)}),
    (na.AdamW, {**FAST, "weight_decay": 3.0, "ema": 0.9}),
    extras.sweep(na.NAdam, FAST),
    extras.sweep(na.RAdam, FAST),
    extras.sweep(na.AdaMax, {**FAST, "eps_form": "denominator"}),
    extras.sweep(na.AdaBelief, {**FAST, "eps": 1e-8, "eps_root": 0.0}),
    extras.sweep(na.Lion, {**FAST, "weight_decay": 3.0}),
    extras.sweep(na.SGD, {"momentum": 0.5, "weight_decay": 3.0}),
    extras.sweep(
        na.SGD, {"weight_decay": 3.0, "decoupled": True, "bounds": (0.0, np.inf), "ema": 0.9}
    ),
]


@pytest.mark.parametrize(("kind", "options"), CASES)
def test_after_gradients_of_zero(kind, options):
    arrays = [np.full(70, 1e-3, np.float32), np.full((5, 3), 2e-3, np.float32).T, np.ones((), "f4")]
    opt = kind(arrays, lr=0.1, **options)
    opt.step([np.full_like(p, 1e-3) for p in arrays])
    zeros = [np.zeros_like(p) for p in arrays]
    for _ in range(1300):
        opt.step(zeros)
    if options.get("weight_decay") is None or kind is na.Lion:
        for p in arrays:
            p[...] = 0.0  # not under decay, or moved by lr
    assert_none(opt)


@pytest.mark.parametrize(
    ("dtype", "form"),
    [
        *(extras.sweep(dtype, "parts") for dtype in ("float64", "complex64", "complex128")),
        *(extras.sweep(dtype, "modulus") for dtype in ("complex64", "complex128")),
    ],
)
def test_other_dtypes(dtype, form):
    # 0.6 times the smallest number rounds to itself
    options = {"beta2": 0.6, "weight_decay": 0.8, "ema": 0.6}
    opt = na.AdamW(np.full(33, 1e-3, dtype), 0.5, complex_form=form, **options)
    opt.step(np.full(33, 1e-3, dtype))
    for _ in range(1700):
        opt.step(np.zeros(33, dtype))
    assert_none(opt)


@pytest.mark.parametrize("options", [{}, {"count": "row"}])
@pytest.mark.parametrize("period", [1, 2, 64])
def test_rows_that_are_visited_now_and_then(options, period):
    """Visits at every 64th step alone meet a step that looks for denormal numbers, too."""
    opt = na.Adam(np.ones((9, 5), np.float32), 0.1, sparse="lazy", **FAST, **options)
    zeros, rows = np.zeros((2, 5), np.float32), np.array([2, 7])
    opt.step(na.Rows(rows, np.full((2, 5), 1e-3, np.float32)))
    others = na.Rows(np.array([0]), np.ones((1, 5), np.float32))
    for k in range(1300):
        opt.step(na.Rows(rows, zeros))
        if period == 2:
            opt.step(others)
        opt.t = (k + 1) * period
    opt.params[...] = 0.0
    assert_none(opt)


def test_other_ways_to_step():
    p, m, v = np.ones(20, np.float32), np.zeros(20, np.float32), np.zeros(20, np.float32)
    for t in range(1, 1300):
        g = np.full(20, 1e-3 * (t == 1), np.float32)
        na.adamw_update(p, g, m, v, t, lr=0.1, beta2=0.9, weight_decay=3.0)
    assert [count_denormal(one) for one in (p, m, v)] == [0, 0, 0]
    out, opt = np.empty(20, np.float32), na.Adam(np.ones(20, np.float32), weight_decay=0.1, **FAST)
    small = opt.params
    small[...] = 1e-40  # a step that leaves the parameters leaves them altogether
    before = small.copy()
    for t in range(1300):
        opt.step(np.full(20, 1e-3 * (t == 0), np.float32), out=out)
    assert_same_bits(small, before)
    assert count_denormal(opt.state["v"]) == 0


def test_bounds_among_denormal_numbers_are_kept():
    low = np.array([1e-40, 0.0, -1.0, -1e-39], np.float32)
    for bounds, expected in (((low, np.ones(4, np.float32)), low[0]), ((1e-40, 1.0), low[0])):
        x = np.ones(4, np.float32)
        opt = na.SGD(x, 0.1, weight_decay=5.0, decoupled=True, bounds=bounds)
        for _ in range(500):
            opt.step(np.zeros(4, np.float32))
        assert expected <= x[0] < 2 * expected
        if isinstance(bounds[0], np.ndarray):
            assert (x[1:] == 0.0).all()


def test_what_shows_in_a_step_stays():
    """Without eps, squares of 1e-20 are denormal in float32, and count."""
    opt = na.Adam(np.zeros(8, np.float32), 1.0, beta2=0.5, eps=0.0)
    for _ in range(400):
        before = opt.params.copy()
        opt.step(np.full(8, 1e-20, np.float32))
        np.testing.assert_allclose(opt.params - before, -1.0, rtol=1e-3)
    opt = na.Adagrad(np.zeros(8, np.float32), 1.0, eps=0.0)
    for _ in range(400):
        opt.step(np.full(8, 1e-20, np.float32))
    np.testing.assert_allclose(opt.state["v"], 400 * 1e-40, rtol=1e-2)


@pytest.mark.parametrize("like", ["numpy", *map(extras.sweep, ("sklearn", "keras", "tf1"))])
def test_presets_that_repeat_a_library_keep_their_denormal_numbers(like):
    opt = na.Adam(np.zeros(8, np.float32), like=like, beta2=0.5)
    opt.step(np.full(8, 1e-3, np.float32))
    for _ in range(125):
        opt.step(np.zeros(8, np.float32))
    assert count_denormal(opt.state["v"]) == 8


def test_the_bits_do_not_depend_on_threads_or_division():
    before, found = numba.get_num_threads(), []
    for threads in (1, before):
        numba.set_num_threads(threads)
        try:
            opt = na.AdamW(np.linspace(0, 1e-30, 40_000, dtype=np.float32), beta2=0.5, ema=0.5)
            opt.step(np.full(40_000, 1e-12, np.float32))
            states = []
            for _ in range(180):
                opt.step(np.zeros(40_000, np.float32))
                states.append(opt.state["v"].tobytes())
        finally:
            numba.set_num_threads(before)
        found.append((states, opt.params.tobytes(), opt.averaged.tobytes()))
    assert found[0] == found[1]


@numba.njit
def one_of_two(x, g):
    far = x[0] - np.float32(1e6)
    g[0], g[1] = far, 1e-3 if x[1] == 1.0 else 0.0
    return far * far


@numba.njit
def one_of_two_each(x, g, i):
    return one_of_two(x, g)


def test_compiled_minimisations():
    decay = {"rule": na.AdamW, "weight_decay": 0.2}
    options = {"lr": 0.5, "ema": 0.9, "gtol_rel": 0.0, "maxiter": 1300, **decay, **FAST}
    x0 = np.ones(2, np.float32)
    one = na.minimize(one_of_two, x0, **options)
    assert one.nit == 1300
    assert one.x_last[1] == one.averaged[1] == one.state["v"][1] == 0.0


@pytest.mark.sweep
def test_minimisations_of_many_problems():
    options = {"lr": 0.5, "ema": 0.9, "gtol_rel": 0.0, "maxiter": 1300, "rule": na.AdamW}
    start = np.ones((9, 2), np.float32)
    many = na.minimize_many(one_of_two_each, start, weight_decay=0.2, **options, **FAST)
    assert np.max(many.nit) == 1300
    assert (many.x_last[:, 1] == 0.0).all()
    assert (many.averaged[:, 1] == 0.0).all()
