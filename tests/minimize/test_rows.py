"""minimize_many with an objective in Python that takes `rows`: stopped rows cost nothing."""

from __future__ import annotations

import functools

import numpy as np
import pytest

import numadam as na
from tests.minimize.compared import assert_same_problems

RNG = np.random.default_rng(3)
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
