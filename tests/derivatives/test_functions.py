"""Functions whose derivatives numadam takes: what they may contain, call forms, and errors."""

from __future__ import annotations

import math

import numba
import numpy as np
import pytest

import numadam as na
from numadam._derivatives.derive import with_gradient, with_jacobian

T = np.linspace(0.0, 3.0, 30)


@numba.njit
def damped(a, b=2.0):
    """A helper with a default, which is also called with numbers."""
    return np.exp(-a * b)


@numba.njit
def deep(x, k):
    return damped(x[k]) + damped(x[k], 3.0)


@numba.njit
def everything(x, t):
    """Helpers, a branch, a tuple, a list, sums that begin as numbers, negative indices."""
    total, count = 0.0, 0
    for k in range(t.size):
        total += (x[0] * t[k] - x[1]) ** 2
        count -= x[-1]
    if x[0] > 1 and not x[1] < 0 and x.size == 3 == len(x) == x.shape[0] and x.ndim == 1:
        total *= deep(x, 1) + damped(0.5)
    pair = (x[0], x[1] * x[2])
    for item in pair:
        total -= item
    parts = [x[0], x[1]]
    parts.append(x[2] * 2)
    for item in parts:
        total += item * item
    chosen = x[0] if x[1] > 0 else 1.0
    return total / chosen + count


def by_differences(fun, x, *args):
    steps = np.eye(len(x)) * 1e-6
    return np.array([(fun(x + h, *args) - fun(x - h, *args)) / 2e-6 for h in steps])


def test_what_a_function_may_contain():
    x, t, g = np.array([1.3, 0.7, 2.1]), np.arange(4.0), np.empty(3)
    f = with_gradient(everything, 3)(x, g, t)
    assert f == everything(x, t)
    np.testing.assert_allclose(g, by_differences(everything, x, t), rtol=1e-7)
    assert damped(0.5) == math.exp(-1.0)  # the helper is called with numbers as before


@numba.njit
def chained(x, r, i, scale):
    """Residuals that add up in r, and one that depends on nothing."""
    for k in range(x.size):
        r[0] += scale * math.sin(x[k]) * (k + 1)
        r[k + 1] = x[k] * x[0]
        r[k + 1] *= 2.0
    r[-1] = 3.0


@pytest.mark.parametrize("n", [1, 16, 17, 32])
@pytest.mark.parametrize("order", "CF")
def test_chunks_of_unknowns(n, order):
    """More unknowns than derivatives at once: each chunk begins with r as it was."""
    x = np.linspace(0.5, 1.5, n)
    r, J, plain = np.zeros(n + 2), np.zeros((n + 2, n), order=order), np.zeros(n + 2)
    with_jacobian(chained, n)(x, r, J, 0, 2.0)
    chained(x, plain, 0, 2.0)
    np.testing.assert_array_equal(r, plain)
    right = np.zeros_like(J)
    right[0] = 2.0 * np.cos(x) * np.arange(1, n + 1)
    right[1:-1] = 2.0 * x[0] * np.eye(n)
    right[1:-1, 0] += 2.0 * x
    np.testing.assert_allclose(J, right, rtol=1e-15, atol=1e-15)


def test_float32():
    """Values have the bits of float32; derivatives are as good as it allows."""
    x, g = np.array([1.3, 0.7], np.float32), np.empty(2, np.float32)
    centre = np.float32(0.3)
    assert with_gradient(bowl, 2)(x, g, centre) == bowl(x, centre)
    np.testing.assert_allclose(g, by_differences(bowl, x.astype(float), centre), rtol=1e-6)


def test_conventions_where_there_is_no_slope():
    @numba.njit(error_model="python")
    def fun(x, r):
        r[0] = abs(x[0]) + math.hypot(x[0], x[0])
        r[1] = math.sqrt(x[0])
        r[2] = x[0] ** 0.5
        r[3] = x[0] ** 2.0 + x[0] ** 0 + 2.0 ** x[0]
        r[4] = min(x[0], 0.0) + max(x[0], x[1])
        r[5] = x[0] // 1.0 + np.floor(x[0])

    r, J = np.empty(6), np.empty((6, 2))
    with_jacobian(fun, 2)(np.zeros(2), r, J)
    assert (J[:, 0] == [0.0, np.inf, np.inf, math.log(2.0), 2.0, 0.0]).all()


def test_bounds_are_checked_where_a_function_asks_for_it():
    fun = numba.njit(boundscheck=True)(lambda x: x[3])
    with pytest.raises(IndexError):
        with_gradient(fun, 2)(np.ones(2), np.ones(2))


# --- call forms and errors -----------------------------------------------------------------------


@numba.njit
def decay(x, r, i, t, y):
    for k in range(t.size):
        r[k] = x[0] * math.exp(-x[1] * t[k]) - y[i, k]


@numba.njit
def decay_by_hand(x, r, J, i, t, y):
    for k in range(t.size):
        e = math.exp(-x[1] * t[k])
        r[k], J[k, 0], J[k, 1] = x[0] * e - y[i, k], e, x[0] * (-t[k] * e)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_fits_are_those_of_a_jacobian_by_hand(dtype):
    y = np.array([[2.0], [3.0]]) * np.exp(-T * np.array([[1.0], [0.5]])) + 0.01 * np.sin(99 * T)
    starts = np.ones((2, 2), dtype)
    exact = na.least_squares_many(decay, starts, (T, y), m=len(T))
    by_hand = na.least_squares_many(decay_by_hand, starts, (T, y), m=len(T), jac=True)
    assert exact.success.all()
    assert (exact.nfev == by_hand.nfev).all()
    tight = 1e-12 if dtype is np.float64 else 1e-5
    np.testing.assert_allclose(exact.x, by_hand.x, rtol=tight)
    np.testing.assert_allclose(exact.stderr, by_hand.stderr, rtol=100 * tight)


@numba.njit
def bowl(x, centre):
    return (x[0] - centre) ** 2 + 10.0 * (x[1] + centre * x[0]) ** 2


@numba.njit
def bowl_by_hand(x, g, centre):
    a, b = x[0] - centre, x[1] + centre * x[0]
    g[0], g[1] = 2 * a + 20.0 * b * centre, 20.0 * b
    return a**2 + 10.0 * b**2


@pytest.mark.parametrize("problems", [None, 3, 30])
def test_minimisations_are_those_of_a_gradient_by_hand(problems):
    """One, few, and many that run side by side."""
    x0 = np.full(2 if problems is None else (problems, 2), 0.5)
    minimise = na.minimize if problems is None else na.minimize_many
    exact, by_hand = (minimise(fun, x0, (1.5,), maxiter=50) for fun in (bowl, bowl_by_hand))
    np.testing.assert_allclose(exact.x, by_hand.x, rtol=1e-12)
    np.testing.assert_allclose(exact.fun, by_hand.fun, rtol=1e-12)


def errors_of(call):
    with pytest.raises((TypeError, ValueError)) as caught:
        call()
    return str(caught.value)


def test_two_call_forms_that_fit():
    fun = numba.njit(lambda x, t, scale=2.0: x[0] * t * scale)
    text = errors_of(lambda: na.minimize(fun, np.ones(2), (1.0,)))
    assert "fun(x, g, *args) -> f" in text
    assert "fun(x, *args) -> f" in text


def _int(x):
    return x[1] * int(x[0])


def _array(x):
    return np.dot(x, x)


def _unknown_call(x):
    return np.interp(x[0], np.arange(3.0), np.arange(3.0))


def _local_array(x):
    a = np.zeros(2)
    a[0] = x[0]
    return a[0]


def _write(x):
    x[0] = 1.0
    return x[0]


@pytest.mark.parametrize("fun", [_int, _array, _unknown_call, _local_array, _write])
def test_errors_name_the_operation_and_its_line(fun):
    text = errors_of(lambda: na.minimize(numba.njit(fun), np.ones(2)))
    line = fun.__code__.co_firstlineno + (2 if fun is _local_array else 1)
    assert f"at line {line} of {__file__}" in text
    assert "jac='2-point'" in text


def test_errors_of_residuals_name_the_operation():
    @numba.njit
    def fun(x, r, t):
        r[:] = x[0] * t

    text = errors_of(lambda: na.least_squares_many(fun, np.ones((1, 2)), (T,), m=len(T)))
    assert "mul(an unknown, array" in text
    assert "jac='differences'" in text
    res = na.least_squares_many(fun, np.ones((1, 2)), (T,), m=len(T), jac="differences")
    assert res.njev[0] > 0


def test_too_many_unknowns():
    text = errors_of(lambda: na.minimize(bowl, np.ones(33), (1.0,)))
    assert "at most 32 real numbers in one axis, got float64 of shape (33,)" in text
    assert "2-point" in text
    assert "shape (2, 2)" in errors_of(lambda: na.minimize(bowl, np.ones((2, 2)), (1.0,)))
    assert "complex128" in errors_of(lambda: na.minimize(bowl, np.ones(2, complex), (1.0,)))


@numba.njit
def bowl_with_a_wrong_sign(x, g, centre):
    f = bowl_by_hand(x, g, centre)
    g[1] *= -1.0
    return f


def test_gradients_by_hand_are_compared_with_exact_ones():
    """No differences, so no doubt: not even at 1e-12 of the slopes."""
    x = np.array([0.3, 0.7])
    check = na.check_grad(bowl_by_hand, x, (1.5,), tolerance=1e-12)
    assert "right in 2 elements: it agrees with exact derivatives" in check.message
    check = na.check_grad(bowl_with_a_wrong_sign, x, (1.5,))
    assert check.wrong == ("x0[1]",)
    assert "exactly" in check.message
    with pytest.raises(TypeError, match="takes 3 arguments"):
        na.check_grad(bowl, x, (1.5,))  # there is no gradient in it
