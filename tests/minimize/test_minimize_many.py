"""minimize_many: each problem as if it were alone, in any company and order."""

from __future__ import annotations

import numba
import numpy as np
import pytest
from scipy.optimize import Bounds

import numadam as na
from tests.minimize.compared import assert_alone, assert_same_problems
from tests.minimize.objectives import rosen

RNG = np.random.default_rng(0)
STARTS = RNG.uniform(-2, 2, (150, 2))


@numba.njit
def decay(x, g, i, t, data):
    """Problem i: data[i] = x0 exp(-x1 t)."""
    f = 0.0
    for k in range(t.size):
        e = np.exp(-x[1] * t[k])
        r = x[0] * e - data[i, k]
        f += r * r
        g[0] += 2 * r * e
        g[1] -= 2 * r * x[0] * e * t[k]
    return f


def all_at_once(X):
    """Rosenbrock for all rows, in Python."""
    f, g = np.zeros(len(X)), np.zeros_like(X)
    for k in range(len(X)):
        f[k] = rosen(X[k], g[k])
    return f, g


OPTIONS = [
    {"lr": 0.02, "gtol": 1e-2},
    {"lr": 0.02, "gtol": 0, "ftol": 1e-6, "clip_norm": 2.0},
    {"lr": na.schedules.Cosine(0.1, steps=500), "xtol": 1e-6, "bounds": Bounds([-1, -1], [1, 0.5])},
    {"rule": "sgd", "lr": 1e-4, "momentum": 0.9, "gtol": 0.5, "ema": 0.5},
]


@pytest.mark.parametrize("options", OPTIONS, ids=range(len(OPTIONS)))
def test_alone_or_in_a_batch(options):
    options = {"maxiter": 600, **options}
    res = na.minimize_many(rosen, STARTS, **options)
    assert res.x.shape == STARTS.shape
    for k in (0, 1, 63, 64, 149):
        one = na.minimize(rosen, STARTS[k], **options)
        assert_alone(res, k, one)
        if "ema" in options:
            np.testing.assert_array_equal(res.averaged[k], one.averaged)
    assert res.nfev == (res.nit + 1).sum()


def test_in_any_order():
    order = RNG.permutation(len(STARTS))
    a = na.minimize_many(rosen, STARTS, lr=0.02, gtol=1e-2)
    b = na.minimize_many(rosen, STARTS[order], lr=0.02, gtol=1e-2)
    assert len(set(a.nit.tolist())) > 20
    for name in ("x", "fun", "nit", "status", "jac", "grad_norm"):
        np.testing.assert_array_equal(a[name][order], b[name])


def test_serial_and_parallel_agree(monkeypatch):
    from numadam._jit import process

    a = na.minimize_many(rosen, STARTS, lr=0.02, gtol=1e-2)
    monkeypatch.setattr(process, "serial_only", True)
    b = na.minimize_many(rosen, STARTS, lr=0.02, gtol=1e-2)
    np.testing.assert_array_equal(a.x, b.x)
    np.testing.assert_array_equal(a.nit, b.nit)


def test_data_by_index_fits_decays():
    t = np.linspace(0, 3, 20)
    true = np.stack([RNG.uniform(1, 2, 300), RNG.uniform(0.5, 2, 300)], axis=1)
    data = true[:, :1] * np.exp(-true[:, 1:] * t)
    res = na.minimize_many(decay, np.ones((300, 2)), (t, data), lr=0.05, gtol=1e-8)
    assert res.success.all()
    np.testing.assert_allclose(res.x, true, rtol=1e-5)


def test_an_lr_for_each_problem_chooses_one():
    lrs = np.geomspace(1e-4, 1.0, 30)
    starts = np.tile([-1.2, 1.0], (30, 1))
    res = na.minimize_many(rosen, starts, lr=lrs, maxiter=300)
    for k in (0, 15, 29):
        one = na.minimize(rosen, starts[k], lr=lrs[k], maxiter=300)
        np.testing.assert_array_equal(res.x[k], one.x)
    best = res.best()
    assert best.fun == res.fun.min()
    assert best.index == res.fun.argmin()
    np.testing.assert_array_equal(best.x, res.x[best.index])


def test_rows_in_python_are_frozen_where_they_stop():
    res = na.minimize_many(all_at_once, STARTS[:20], jac=True, lr=0.02, gtol=1e-2, xtol=1e-9)
    compiled = na.minimize_many(rosen, STARTS[:20], lr=0.02, gtol=1e-2, xtol=1e-9)
    assert_same_problems(res, compiled)
    assert len(set(res.nit.tolist())) > 5


def test_rows_in_python_with_bounds_and_a_separate_jac():
    bounds = [(-1, 0.5), (None, 0.2)]
    res = na.minimize_many(
        lambda X: all_at_once(X)[0], STARTS[:9], jac=lambda X: all_at_once(X)[1], bounds=bounds,
        lr=0.02,
    )  # fmt: skip
    compiled = na.minimize_many(rosen, STARTS[:9], bounds=bounds, lr=0.02)
    np.testing.assert_array_equal(res.x, compiled.x)
    assert res.success.all()


def test_what_is_not_finite_stops_its_problem_only():
    @numba.njit
    def fun(x, g, i):
        g[0] = 2 * x[0]
        return np.nan if i == 3 and x[0] < 0.9 else x[0] ** 2

    res = na.minimize_many(fun, np.ones((6, 1)), lr=0.05)
    assert res.status.tolist() == [0, 0, 0, 2, 0, 0]
    assert np.isfinite(res.best().fun)
    assert "1 of 6: f is not finite" in res.message


def test_best_refuses_where_nothing_is_finite():
    @numba.njit
    def fun(x, g):
        g[0] = np.nan
        return np.nan

    res = na.minimize_many(fun, np.ones((2, 1)))
    with pytest.raises(ValueError, match="finite in none"):
        res.best()


def test_an_exception_says_which_problem():
    @numba.njit
    def fun(x, g, i):
        if i == 70 and x[0] < 0.5:
            raise ValueError("lost")
        g[0] = 1.0
        return x[0]

    with pytest.raises(ValueError, match="lost") as caught:
        na.minimize_many(fun, np.ones((100, 1)), lr=0.1)
    assert "numadam: in problem 70." in caught.value.__notes__
    assert caught.value.numadam_result.x.shape == (100, 1)


@pytest.mark.parametrize("shape", [(5, 1), (200, 2, 3), (3, 700), (1, 2)])
def test_shapes(shape):
    @numba.njit
    def fun(x, g):
        g[...] = 2 * x
        return np.sum(x * x)

    res = na.minimize_many(fun, np.ones(shape, np.float32), lr=0.1, gtol=1e-3)
    assert res.success.all()
    assert res.x.dtype == np.float32
    assert abs(res.x).max() <= 1e-3


def test_no_problem_at_all():
    res = na.minimize_many(rosen, np.zeros((0, 2)))
    assert res.x.shape == (0, 2)
    assert res.nit.shape == (0,)


def test_progress_says_how_many_run(capsys):
    na.minimize_many(rosen, STARTS, lr=0.02, maxiter=30, progress=True)
    assert "150 running" in capsys.readouterr().err


def test_groups_of_problems_take_equally_many_steps(monkeypatch):
    import numadam._minimize.lanes.batch as module

    monkeypatch.setattr(module, "_CALL_PROBLEMS", 64)

    @numba.njit
    def fun(x, g, i):
        if i == 0:
            g[0] = 2 * (x[0] - 3.0)
            return (x[0] - 3.0) ** 2
        return 0.0

    options = {"lr": 1e-3, "rule": "nadam", "maxiter": 20_000}
    many = na.minimize_many(fun, np.zeros((130, 1)), **options)
    alone = na.minimize_many(fun, np.zeros((1, 1)), **options)
    assert many.nit[0] == alone.nit[0] > 4096
    assert many.x[0] == alone.x[0]


def test_rows_may_reuse_their_buffers():
    f, g = np.zeros(4), np.zeros((4, 2))

    def fun(x):
        f[:] = np.sum((x - 1) ** 2, axis=1)
        g[:] = 2 * (x - 1)
        return f, g

    x0 = np.arange(8.0).reshape(4, 2)
    res = na.minimize_many(fun, x0, jac=True, lr=0.1, ftol=1e-10, gtol=0)
    assert res.nit.min() > 100
    assert not np.shares_memory(res.fun, f)
    assert not np.shares_memory(res.jac, g)


def test_schedules_that_observe_are_found_in_groups_and_refused_for_many():
    plateau = na.schedules.ReduceOnPlateau(0.5, factor=0.5, patience=1)

    def fun(x):
        return 1.0, {"a": np.ones(1), "b": np.zeros(1)}

    x0 = {"a": np.zeros(1), "b": np.zeros(1)}
    na.minimize(fun, x0, jac=True, groups={"a": {"lr": plateau}}, maxiter=20)
    assert plateau.value < 0.5
    with pytest.raises(ValueError, match="lr: problems have an f each"):
        na.minimize_many(rosen, np.ones((3, 2)), lr=plateau)


@pytest.mark.parametrize("shape", [(0, 2), (3, 0)])
def test_rows_of_nothing(shape):
    res = na.minimize_many(lambda x: (np.sum(x**2, axis=1), 2 * x), np.zeros(shape), jac=True)
    assert res.success.all()
    assert res.x.shape == shape
