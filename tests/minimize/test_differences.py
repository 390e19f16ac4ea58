"""Gradients by finite differences: those of SciPy, inside the bounds, and where there are none."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import rosen, rosen_der

import numadam as na
from tests.minimize.objectives import START, Counted


def test_complex_x_has_no_differences():
    with pytest.raises(TypeError, match="jac: finite differences take real x"):
        na.minimize(lambda z: np.sum(abs(z - 1j) ** 2), np.ones(3, complex))


def test_differences_where_bounds_leave_no_room():
    fun = Counted(lambda x: float(np.sum((x - 2) ** 2)))
    res = na.minimize(fun, np.ones(3), bounds=[(1, 1), (0, 2), (0, 3)], lr=0.1)
    assert res.success
    np.testing.assert_allclose(res.x, [1, 2, 2], atol=1e-5)
    assert all(x[0] == 1 for x in fun.seen)


def test_differences_stop_where_f_is_not_finite():
    fun = Counted(lambda x: np.inf)
    res = na.minimize(fun, np.ones(3))
    assert (res.status, res.nfev, len(fun.seen)) == (2, 1, 1)


def test_differences_keep_to_bounds_rounded_into_float32():
    res = na.minimize(
        lambda x: float(np.sum((x - 1) ** 2)), np.zeros(3, np.float32), maxiter=3,
        bounds=[(0.1, 0.1), (0.1, 0.10000000001), (0, 1)],
    )  # fmt: skip
    assert res.status == 1


def test_differences_leave_frozen_arrays_in_place():
    x0 = {"a": np.full(2, 5.0), "b": np.ones(2)}
    res = na.minimize(
        lambda x: float(np.sum(x["a"]) + np.sum(x["b"] ** 2)), x0, lr=0.05,
        groups={"a": {"frozen": True}},
    )  # fmt: skip
    assert res.success
    np.testing.assert_array_equal(res.x["a"], 5.0)


@pytest.mark.parametrize("method", ["2-point", "3-point", "cs", None])
def test_differences_are_those_of_scipy(method):
    from scipy.optimize import approx_fprime

    res = na.minimize(rosen, START, jac=method, lr=0.02, maxiter=5)
    assert res.njev == 6
    close = {"rtol": 1e-8} if method == "cs" else {"rtol": 1e-4, "atol": 1e-3}
    np.testing.assert_allclose(res.jac, rosen_der(res.x), **close)
    if method in ("2-point", None):
        np.testing.assert_allclose(res.jac, approx_fprime(res.x, rosen), rtol=1e-6, atol=1e-6)


def test_differences_stay_inside_the_bounds_and_take_any_shape():
    inside = []

    def watched(x):
        inside.append(bool((x["b"] <= 1).all()))
        return float(np.sum(x["a"] ** 2) + np.sum((x["b"] - 3) ** 2))

    x0 = {"a": np.ones((2, 2)), "b": np.zeros(2)}
    bounds = {"a": None, "b": (None, 1.0)}
    res = na.minimize(watched, x0, bounds=bounds, lr=0.05, maxiter=300)
    assert all(inside)
    np.testing.assert_allclose(res.x["b"], 1.0)
    np.testing.assert_allclose(res.x["a"], 0.0, atol=1e-3)
