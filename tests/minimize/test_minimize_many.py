"""minimize_many: what it takes and says, and objectives in Python, for all rows or for some."""

from __future__ import annotations

import functools

import numba
import numpy as np
import pytest

import numadam as na
from tests.minimize.compared import assert_same_problems
from tests.minimize.objectives import all_at_once, rosen

RNG = np.random.default_rng(0)
STARTS = RNG.uniform(-2, 2, (150, 2))


def test_an_lr_for_each_problem_chooses_one():
    lrs = np.geomspace(1e-4, 1.0, 30)
    starts = np.tile([-1.2, 1.0], (30, 1))
    res = na.minimize_many(rosen, starts, lr=lrs, maxiter=300)
    for k in (0, 15, 29):
        alone = na.minimize(rosen, starts[k], lr=lrs[k], maxiter=300)
        np.testing.assert_array_equal(res.x[k], alone.x)
    best = res.best()
    assert best.fun == res.fun.min()
    assert best.index == res.fun.argmin()
    np.testing.assert_array_equal(best.x, res.x[best.index])


def test_rows_in_python_with_bounds_and_a_separate_jac():
    bounds = [(-1, 0.5), (None, 0.2)]
    apart = {"fun": lambda x: all_at_once(x)[0], "jac": lambda x: all_at_once(x)[1]}
    res = na.minimize_many(x0=STARTS[:30], bounds=bounds, lr=0.02, **apart)
    compiled = na.minimize_many(rosen, STARTS[:30], bounds=bounds, lr=0.02)
    np.testing.assert_array_equal(res.x, compiled.x)
    assert res.success.all()


@numba.njit
def square(x, g, i, bad):
    """One problem, or all, lose their number."""
    g[...] = 2 * x
    return np.nan if bad in (i, -2) and x.flat[0] < 0.9 else np.sum(x * x)


def test_what_is_not_finite_stops_its_problem_only():
    res = na.minimize_many(square, np.ones((6, 1)), (3,), lr=0.05)
    assert res.status.tolist() == [0, 0, 0, 2, 0, 0]
    assert np.isfinite(res.best().fun)
    assert "1 of 6: f is not finite" in res.message
    res = na.minimize_many(square, np.zeros((6, 1)), (-2,))
    with pytest.raises(ValueError, match="finite in none"):
        res.best()


@pytest.mark.parametrize("shape", [(5, 1), (200, 2, 3), (3, 700), (1, 2)])
def test_shapes(shape):
    res = na.minimize_many(square, np.ones(shape), (-1,), lr=0.1, gtol=1e-3)
    assert res.success.all()
    assert res.x.shape == shape
    assert abs(res.x).max() <= 1e-3


def test_no_problem_at_all_and_progress_of_many(capsys):
    res = na.minimize_many(rosen, np.zeros((0, 2)))
    assert res.x.shape == (0, 2)
    assert res.nit.shape == (0,)
    na.minimize_many(rosen, STARTS, lr=0.02, maxiter=30, progress=True)
    assert "150 running" in capsys.readouterr().err


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
    res = na.minimize_many(
        lambda x: (np.sum(x**2, axis=1), 2 * x), np.zeros(shape), jac=True, norm=2
    )
    assert res.success.all()
    assert res.x.shape == shape
    assert res.grad_norm.tolist() == [0] * shape[0]


def test_problems_without_a_number():
    lost = na.minimize_many(lambda x: np.full(len(x), np.nan), np.zeros((2, 2)), jac=np.ones_like)
    assert "fun: none is finite" in repr(lost)
    assert not lost.success.any()


# --- objectives that take rows -------------------------------------------------------------------

TARGETS = RNG.uniform(-1, 1, (40, 3))
#: The steeper, the sooner a row stops.
SCALES = np.geomspace(1e-2, 1e2, 40)


class Paraboloids:
    """Paraboloids of their own steepness; counts the rows that are evaluated."""

    def __init__(self):
        self.evaluated = np.zeros(40, np.int64)

    def at(self, x, k):
        self.evaluated[k] += 1
        d, scale = x - TARGETS[k], SCALES[k]
        return scale * np.sum(d * d, axis=1), 2 * scale[:, None] * d

    def all(self, x):
        return self.at(x, np.arange(40))

    def some(self, x, rows):
        return self.at(x, rows)

    def keywords(self, x, **more):
        return self.at(x, more["rows"])


OPTIONS = [
    {"gtol": 1e-3},
    {"gtol": 0, "ftol": 1e-5, "check_every": 7},
    {"gtol": 1e-2, "xtol": 1e-6, "bounds": (-0.5, 0.5), "rule": "adamw", "lr": 0.05},
]


@pytest.mark.parametrize("name", ["some", "keywords"])
@pytest.mark.parametrize("options", OPTIONS, ids=range(len(OPTIONS)))
def test_only_rows_that_run_are_evaluated(options, name):
    options = {"jac": True, "lr": 0.02, "maxiter": 400, **options}
    whole, part = Paraboloids(), Paraboloids()
    a = na.minimize_many(whole.all, np.zeros((40, 3)), **options)
    b = na.minimize_many(getattr(part, name), np.zeros((40, 3)), **options)
    assert_same_problems(a, b)
    assert a.nfev == whole.evaluated.sum() == 40 * (a.nit.max() + 1)
    assert b.nfev == part.evaluated.sum() < 0.8 * a.nfev
    np.testing.assert_array_equal(part.evaluated, b.nit + 1)


def test_jac_may_take_rows_where_fun_does_not():
    whole, part = Paraboloids(), Paraboloids()
    a = na.minimize_many(whole.all, np.zeros((40, 3)), jac=True, gtol=1e-2, lr=0.02)
    b = na.minimize_many(
        lambda x: whole.all(x)[0],
        np.zeros((40, 3)),
        jac=lambda x, *, rows: part.some(x, rows)[1],
        gtol=1e-2,
        lr=0.02,
    )
    assert_same_problems(a, b)
    np.testing.assert_array_equal(part.evaluated, b.nit + 1)
    assert a.nfev == b.nfev


def test_rows_that_the_caller_binds_stay_the_callers():
    seen = []

    def fun(x, rows):
        seen.append(rows)
        return np.sum(x * x, axis=1), 2 * x

    x0 = np.ones((4, 2))
    for bound, args in ((fun, ("mine",)), (functools.partial(fun, rows="mine"), ())):
        na.minimize_many(bound, x0, args, jac=True, maxiter=2)
    assert set(seen) == {"mine"}

    @functools.wraps(lambda x: None)
    def wrapper(x, **more):
        assert not more
        return np.sum(x * x, axis=1), 2 * x

    na.minimize_many(wrapper, x0, jac=True, maxiter=2)


def test_rows_are_the_users_to_keep_and_results_have_their_shape():
    def fun(x, rows):
        assert rows.dtype == np.int64
        rows_given = rows.copy()
        rows[:] = 0  # no harm
        return SCALES[rows_given] * np.sum(x * x, axis=1), 2 * SCALES[rows_given, None] * x

    res = na.minimize_many(fun, np.ones((40, 2)), jac=True, gtol=1e-2, lr=0.1)
    assert res.success.all()
    assert abs(res.x[-1]).max() < 1e-3

    def wrong(x, rows):
        return SCALES * np.sum(x * x), 2 * SCALES[rows, None] * x

    with pytest.raises(ValueError, match=r"fun: f has to be an array of shape \(1,\), one entry"):
        na.minimize_many(wrong, np.ones((1, 2)), jac=True)


def test_a_wrapper_that_passes_rows_on_is_told_what_they_are():
    def fun(X):
        return np.sum(X**2, axis=1), 2 * X

    def wrapper(*args, **kwargs):
        return fun(*args, **kwargs)

    with pytest.raises(TypeError, match=r"unexpected keyword argument 'rows'") as raised:
        na.minimize_many(wrapper, np.ones((3, 2)), jac=True)
    assert any("gets rows=..., the numbers of the" in note for note in raised.value.__notes__)
