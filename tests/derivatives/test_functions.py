"""Functions whose derivatives numadam takes: what they may contain, call forms, and errors."""

from __future__ import annotations

import cmath
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


@pytest.mark.parametrize("n", [1, 8, 9, 32])
@pytest.mark.parametrize("order", "CF")
def test_numbers_of_unknowns(n, order):
    """Up to eight derivatives are numbers, more are vectors of eight."""
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


def _filled(x):
    y = np.empty(3, x.dtype)
    y[:] = x
    y[1:] = x[:2]
    y[1] += x[0] * y[0]
    y[0] = 1.5
    return y[0] * y[1] * y[-1]


def _filled_later(x):
    y, total = np.zeros((2, x.size), x.dtype), 0.0
    for k in range(x.size):
        y[k % 2, k] += x[k] ** 2
    for v in y.flat:
        total += v * y[0, 0]
    return total


def _iterated(x):
    total, (a, b, c) = 0.0, x
    for k, v in enumerate(x):
        total += k * v * b
    for v, w in zip(x[1:], x):  # noqa: B905  # Numba knows no strict
        total += v * w * a
    return total - c


def _summed(x):
    return np.sum(x[1:]) * np.sum(x) * x[0]


def _products(x):
    y, t = np.zeros_like(x), np.arange(3.0)
    y[0] = x[2]
    return np.dot(x, x) * np.dot(t, x) + y @ x


@pytest.mark.parametrize("fun", [_filled, _filled_later, _iterated, _summed, _products])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_arrays_of_unknowns(fun, dtype):
    """The dtype of x makes an array for unknowns; slices, loops, sums, products of two vectors."""
    fun = numba.njit(fun)
    if fun.__name__ == "_products" and dtype is np.float32:
        return  # Numba's own np.dot takes arrays of one dtype
    x = np.array([1.3, 0.7, 2.1], dtype)
    g = np.empty_like(x)
    assert with_gradient(fun, 3)(x, g) == fun(x)
    tight = 1e-8 if dtype is np.float64 else 1e-5
    np.testing.assert_allclose(g, by_differences(fun, x.astype(float)), rtol=tight)


def test_lists_and_arrays_of_vectors_of_derivatives():
    """Numba aligns both as numbers, not as vectors."""

    @numba.njit
    def fun(x):
        squares, y, total = [v * v for v in x], np.zeros((x.size, 2), x.dtype), 0.0
        for k in range(x.size):
            y[k, 1] = x[k] * squares[k]
        for square in squares[1:]:
            total += square
        return total + squares[-1] + np.sum(y)

    x = np.linspace(0.5, 1.5, 20)
    g = np.empty_like(x)
    assert with_gradient(fun, 20)(x, g) == fun(x)
    often = np.ones(20)
    often[0], often[-1] = 0.0, 2.0
    np.testing.assert_allclose(g, 2.0 * often * x + 3.0 * x**2, rtol=1e-14)


def _parts(z):
    return z[0].real * z[1].imag + np.conj(z[0]).imag + abs(complex(z[0].imag, z[1].real))


def _angles(z):
    return np.angle(z[0]) + cmath.phase(z[1]) + np.real(z[1]) * np.imag(z[0]) + z[0].real.imag


def _arithmetic(z):
    total = 0j
    for v in z:
        total += (v + 2.0) * 1j - 1 / v
    return abs(total) ** 2 + (z[0] / z[1] - (-z[1])).imag + (z[0] == z[1]) * 1.0


def _smooth(z):
    v = np.exp(z[0]) + np.sqrt(z[1]) + np.log(z[0]) + cmath.sin(z[1]) + np.cos(z[0]) + np.tan(z[1])
    return (v * (np.sinh(z[0]) + np.cosh(z[1]) + np.tanh(z[0])).conjugate()).real


def _powers(z):
    return (z[0] ** 2 + z[0] ** -3 * 1j + z[0] ** 2.5 + z[0] ** z[1] + 2.0 ** z[1]).real


@pytest.mark.parametrize("fun", [_parts, _angles, _arithmetic, _smooth, _powers])
@pytest.mark.parametrize("dtype", [np.complex128, np.complex64])
def test_complex_unknowns(fun, dtype):
    """The gradient is df/dRe + 1j * df/dIm."""
    fun = numba.njit(error_model="numpy")(fun)
    z = np.array([0.7 + 0.3j, -0.4 + 1.1j], dtype)
    g, wide = np.empty_like(z), z.astype(complex)
    assert with_gradient(fun, 2)(z, g) == fun(z)
    real, imaginary = (
        np.array([(fun(wide + h) - fun(wide - h)) / 2e-6 for h in np.eye(2) * step])
        for step in (1e-6, 1e-6j)
    )
    tight = 1e-8 if dtype is np.complex128 else 1e-5
    np.testing.assert_allclose(g, real + 1j * imaginary, rtol=tight)


def test_complex_numbers_of_real_unknowns():
    """A decaying oscillation, as it is measured: two residuals a point."""

    @numba.njit
    def fun(x, r, t):
        for k in range(t.size):
            signal = x[0] * np.exp((1j * x[1] - x[2]) * t[k] + 1j * x[3])
            r[2 * k], r[2 * k + 1] = signal.real, signal.imag

    x, r, J = np.array([1.2, 3.0, 0.5, 0.2]), np.empty(60), np.empty((60, 4))
    with_jacobian(fun, 4)(x, r, J, T)
    signal = x[0] * np.exp((1j * x[1] - x[2]) * T + 1j * x[3])
    np.testing.assert_allclose(r.view(complex), signal, rtol=1e-15)
    slopes = signal[:, None] * np.stack([T * 0 + 1 / x[0], 1j * T, -T, T * 0 + 1j], axis=1)
    np.testing.assert_allclose(J[::2] + 1j * J[1::2], slopes, rtol=1e-14)


@numba.njit
def circle(z, centre):
    return abs(z[0] - centre) ** 2 + abs(z[1] * z[0] - 1j) ** 2


@numba.njit
def circle_by_hand(z, g, centre):
    a, b = z[0] - centre, z[1] * z[0] - 1j
    g[0], g[1] = 2 * a + 2 * b * z[1].conjugate(), 2 * b * z[0].conjugate()
    return abs(a) ** 2 + abs(b) ** 2


@pytest.mark.parametrize("problems", [None, 30])
def test_minimisations_of_complex_unknowns(problems):
    z0 = np.full(2 if problems is None else (problems, 2), 0.5 + 0.1j)
    minimise = na.minimize if problems is None else na.minimize_many
    exact, by_hand = (
        minimise(fun, z0, (1.5 - 0.5j,), maxiter=50) for fun in (circle, circle_by_hand)
    )
    np.testing.assert_allclose(exact.x, by_hand.x, rtol=1e-12)
    np.testing.assert_allclose(exact.fun, by_hand.fun, rtol=1e-12)
    if problems is None:
        check = na.check_grad(circle_by_hand, z0, (1.5 - 0.5j,), tolerance=1e-12)
        assert "right in 4 elements: it agrees with exact derivatives" in check.message


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
    return (x * 2.0)[0]


def _unknown_call(x):
    return np.interp(x[0], np.arange(3.0), np.arange(3.0))


def _local_array(x):
    a = np.zeros(2)
    a[0] = x[0]
    return a[0]


def _write(x):
    x[0] = 1.0
    return x[0]


def test_the_error_of_numba_at_an_operation_in_place():
    def fun(x):
        y = x.copy()
        y += x
        return y[0]

    text = errors_of(lambda: na.minimize(numba.njit(fun), np.ones(2)))
    assert "because of a += of an array of unknowns" in text


@pytest.mark.parametrize("fun", [_int, _array, _unknown_call, _local_array, _write])
def test_errors_name_the_operation_and_its_line(fun):
    text = errors_of(lambda: na.minimize(numba.njit(fun), np.ones(2)))
    line = fun.__code__.co_firstlineno + (2 if fun is _local_array else 1)
    assert f"at line {line} of {__file__}" in text
    assert "jac='2-point'" in text
    assert ("np.empty(n, x.dtype)" in text) == (fun is _local_array)
    assert ("x.copy()" in text) == (fun is _write)


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
    assert "at most 32 real numbers, or half as many complex ones" in text
    assert "in one axis, got float64 of shape (33,)" in text
    assert "2-point" in text
    assert "shape (2, 2)" in errors_of(lambda: na.minimize(bowl, np.ones((2, 2)), (1.0,)))
    assert "complex128" in errors_of(lambda: na.minimize(bowl, np.ones(17, complex), (1.0,)))
    assert "a complex unknown" in errors_of(lambda: na.minimize(bowl, np.ones(2, complex), (1.0,)))


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
