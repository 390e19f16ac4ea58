"""Bounds of minimize: as SciPy reads them, for x0, and in the test of the gradient."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import Bounds

import numadam as na
from tests.minimize.objectives import START, Counted, python_rosen, square

BOUNDED = [
    ([(None, 0.5), (-2.0, 2.0)], [0.5, 0.25]),
    (Bounds([-np.inf, -2.0], [0.5, 2.0]), [0.5, 0.25]),
    (Bounds(-np.inf, 0.5), [0.5, 0.25]),
]


@pytest.mark.parametrize(("bounds", "solution"), BOUNDED, ids=range(3))
def test_bounds_as_scipy_reads_them(bounds, solution):
    fun = Counted(python_rosen)
    res = na.minimize(fun, START, jac=True, lr=0.02, bounds=bounds)
    assert res.success
    np.testing.assert_allclose(res.x, solution, atol=1e-5)
    assert all(x[0] <= 0.5 for x in fun.seen)


def test_x0_outside_is_moved_in_before_the_first_gradient():
    fun = Counted(square)
    na.minimize(fun, [5.0, -5.0, 0.0], jac=True, bounds=(1, 2), maxiter=1)
    np.testing.assert_array_equal(fun.seen[0], [2, 1, 1])


@pytest.mark.parametrize("n", [1, 2, 3])
def test_two_numbers_bound_all_elements(n):
    res = na.minimize(square, np.zeros(n), (9.0,), jac=True, bounds=(None, 2), lr=0.1)
    assert res.success
    assert (res.x == 2).all()


def test_gtol_looks_at_the_projected_gradient():
    res = na.minimize(square, np.zeros(3), (9.0,), jac=True, bounds=(None, 2), lr=0.1)
    assert res.success
    assert abs(res.jac).min() > 1
