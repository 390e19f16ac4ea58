"""What is called a success is right: units, offsets, digits, wrong J, no data, slips of an index.

Right values are closed forms, SciPy's, or those of the same fit in another unit.
"""

from __future__ import annotations

import numba
import numpy as np
import pytest
from scipy.optimize import Bounds, lsq_linear

import numadam as na
from numadam._least_squares import batch, least_squares_many
from tests.least_squares.models import decay, decay_with_j, decays, linear, peaks

derived = pytest.mark.parametrize("jac", [True, "differences"], ids=["jac", "differences"])
FEW = decays(20)
PEAKS = peaks(20)


# --- differences ----------------------------------------------------------------------------------


@numba.njit
def slope(x, r, i):
    for k in range(5):
        r[k] = (x[0] - 3.0) * (1.0 + k)


@pytest.mark.parametrize("dtype", ["f8", "f4"])
def test_no_start_is_too_near_to_0(dtype):
    starts = np.array([[1e-9], [-1e-10], [1e-300], [0.0], [1.0], [1e6]]).astype(dtype)
    res = na.least_squares_many(slope, starts, m=5, jac="differences")
    assert res.success.all()
    np.testing.assert_allclose(res.x, 3.0, rtol=1e-6)


@numba.njit
def line(x, r, i, t, y):
    for k in range(t.size):
        r[k] = x[0] + x[1] * t[k] - y[i, k]


@numba.njit
def scaled(x, r, i, t, y, unit, offset, digits):
    """A peak whose unknowns have units, whose place has an offset, in float64 or float32."""
    for k in range(t.size):
        u = (t[k] - (x[1] - offset) / unit[1]) * unit[2] / x[2]
        f = x[0] / unit[0] * np.exp(-0.5 * u * u) + x[3] / unit[3]
        r[k] = f - y[i, k] if digits == 64 else np.float32(f) - np.float32(y[i, k])


@numba.njit
def scaled_with_j(x, r, J, i, t, y, unit, offset, digits):
    for k in range(t.size):
        u = (t[k] - (x[1] - offset) / unit[1]) * unit[2] / x[2]
        e = np.exp(-0.5 * u * u)
        a = x[0] / unit[0] * e * u
        r[k] = x[0] / unit[0] * e + x[3] / unit[3] - y[i, k]
        J[k, 0], J[k, 3] = e / unit[0], 1 / unit[3]
        J[k, 1], J[k, 2] = a * unit[2] / x[2] / unit[1], a * u / x[2]


@pytest.mark.parametrize(
    ("unit", "offset", "digits"),
    [
        ((1.0, 1e-16, 1e-16, 1e10), 0.0, 64),
        ((1e140, 1e-140, 1e20, 1e-20), 0.0, 64),
        ((1.0, 1e-3, 1.0, 1.0), 2.5e6, 64),
        ((1.0, 1.0, 1.0, 1.0), 1.7e9, 64),
        ((1e-8, 1.0, 1e9, 1.0), 0.0, 32),
    ],
)
@derived
def test_a_fit_is_the_same_in_any_unit_and_from_any_offset(unit, offset, digits, jac):
    fun, unit, shift = (
        scaled_with_j if jac is True else scaled,
        np.array(unit),
        np.array([0, offset, 0, 0]),
    )
    plain = PEAKS.x0, (PEAKS.t, PEAKS.y, np.ones(4), 0.0, 64)
    right = na.least_squares_many(scaled_with_j, *plain, m=50, jac=True, xtol=1e-14, ftol=1e-14)
    args = PEAKS.t, PEAKS.y, unit, offset, digits
    res = na.least_squares_many(fun, PEAKS.x0 * unit + shift, args, m=50, jac=jac)
    assert res.success.all()
    assert (abs((res.x - shift) / unit - right.x) <= 0.02 * right.stderr).all()
    np.testing.assert_allclose(res.stderr / unit, right.stderr, rtol=5e-3)
    if (
        not offset and unit[0] == 1.0 and jac is not True
    ):  # n + 1 a step, and 3 n for the steps' lengths
        assert np.median(res.nfev - 5 * res.njev) <= 1 + 3 * 4


@derived
def test_float32_data_far_from_the_start(jac):
    """Lines: 1e6 and 1e10 times as large as the start."""
    t, rng = np.linspace(0, 1, 20, dtype="f4"), np.random.default_rng(0)
    A = np.tile(np.column_stack([np.ones(20, "f4"), t]), (6, 1, 1))
    y = 1 + 2 * t + 0.01 * rng.standard_normal((6, 20))
    y = (y * np.array([1e6, 1e10] * 3)[:, None]).astype("f4")
    args = (A, y) if jac is True else (t, y)
    res = na.least_squares_many(
        linear if jac is True else line, np.ones((6, 2), "f4"), args, m=20, jac=jac
    )
    assert res.success.all()
    for i in range(6):
        x, square, *_ = np.linalg.lstsq(A[i].astype(float), y[i].astype(float))
        np.testing.assert_allclose(2 * res.cost[i], square[0], rtol=1e-3)
        assert (abs(res.x[i] - x) < 0.1 * res.stderr[i]).all()


# --- no data, and unknowns that r does not show ---------------------------------------------------


@numba.njit
def weighted(x, r, J, i, t, y, w):
    for k in range(t.size):
        r[k] = (x[0] + x[1] * t[k] - y[i, k]) * w[i, k]
        J[k, 0], J[k, 1] = w[i, k], t[k] * w[i, k]


@numba.njit
def weighted_alone(x, r, i, t, y, w):
    for k in range(t.size):
        r[k] = (x[0] + x[1] * t[k] - y[i, k]) * w[i, k]


@derived
@pytest.mark.parametrize("dtype", ["f8", "f4"])
def test_no_data_is_no_success(jac, dtype):
    t, w = np.linspace(0, 1, 8).astype(dtype), np.ones((2, 8), dtype)
    w[1] = 0
    args = t, np.tile(1 + 2 * t, (2, 1)), w
    fun, x0 = weighted if jac is True else weighted_alone, np.zeros((2, 2), dtype)
    res = na.least_squares_many(fun, x0, args, m=8, jac=jac, points=[8, 0])
    np.testing.assert_array_equal(res.status == 6, [False, True])
    np.testing.assert_array_equal(res.success, [True, False])
    assert "1 of 2: no data" in res.message
    assert "1 of 2: stderr is inf" in res.message


@derived
def test_an_unknown_that_no_residual_shows_is_no_success(jac):
    """One that is not in the model; BoxBOD of NIST from (1, 1), where MINPACK ends too."""
    A, b = np.random.default_rng(3).normal(size=(1, 9, 3)), np.ones((1, 9))
    A[:, :, 2] = 0.0
    if jac is True:
        res = na.least_squares_many(linear, np.full((1, 3), 0.1), (A, b), m=9, jac=True)
        assert res.status[0] == 6
    t, y = np.array([1.0, 2, 3, 5, 7, 10]), np.array([[109.0, 149, 149, 191, 213, 224]])
    res = na.least_squares_many(saturation, np.ones((1, 2)), (t, y), m=6)
    assert res.success[0] == (res.cost[0] < 600)
    assert res.status[0] in (2, 6)


@numba.njit
def saturation(x, r, i, t, y):
    for k in range(t.size):
        r[k] = x[0] * (1 - np.exp(-x[1] * t[k])) - y[i, k]


# --- a wrong J ------------------------------------------------------------------------------------


@numba.njit
def wrong(x, r, J, i, t, y, kind):
    for k in range(t.size):
        e = np.exp(-x[1] * t[k])
        r[k], J[k, 0], J[k, 1] = x[0] * e - y[i, k], e, -x[0] * t[k] * e
        if kind == 1:
            J[k, 1] = -J[k, 1]
        if kind == 2:
            J[k, 0], J[k, 1] = J[k, 1], J[k, 0]
        if kind == 3:
            J[k, 0] = -e
        if kind == 4:
            J[k, 1] *= 1e3 / x[0]


@pytest.mark.parametrize("kind", [1, 2, 3, 4])
@pytest.mark.parametrize("dtype", ["f8", "f4"])
def test_a_wrong_j_is_no_success(kind, dtype):
    t = np.linspace(0, 2, 20).astype(dtype)
    y = (np.array([[1.5], [0.7]]) * np.exp(-np.array([[1.8], [0.6]]) * t)).astype(dtype)
    y += (0.01 * np.random.default_rng(0).standard_normal(y.shape)).astype(dtype)
    x0 = np.ones((2, 2), dtype)
    assert na.least_squares_many(wrong, x0, (t, y, 0), m=20, jac=True).success.all()
    res = na.least_squares_many(wrong, x0, (t, y, kind), m=20, jac=True)
    np.testing.assert_array_equal(res.status, 7)
    assert not res.success.any()
    assert "2 of 2: no step lowers the cost as J says: J may be wrong" in res.message


@derived
@pytest.mark.parametrize("dtype", ["f8", "f4"])
def test_a_minimum_at_the_start_is_a_success(jac, dtype):
    """With noise, and without: there the cost is rounding alone, or 0."""
    fun, t = decay_with_j if jac is True else decay, FEW.t.astype(dtype)
    x0 = na.least_squares_many(decay_with_j, FEW.x0, (FEW.t, FEW.y), m=30, jac=True).x
    exact = np.array([FEW.model(FEW.t, *x) for x in x0])
    for y in (FEW.y, exact):
        args = t, y.astype(dtype)
        res = na.least_squares_many(fun, x0.astype(dtype), args, m=30, jac=jac)
        assert res.success.all()
        assert (abs(res.x - x0) <= np.maximum(1e-6, 0.02 * res.stderr)).all()
    res = na.least_squares_many(fun, np.zeros((1, 3), dtype), (t, 0 * args[1]), m=30, jac=jac)
    assert res.cost[0] == 0


# --- what fun writes ------------------------------------------------------------------------------


@numba.njit
def slips(x, r, J, i, t, kind):
    """30 residuals of a line, and indices that slip."""
    for k in range(t.size):
        r[k] = x[0] + x[1] * t[k] - 1.0
        if kind == 0:
            J[k, 0], J[k, 1] = 1.0, t[k]
        if kind == 1:
            J[0, k], J[1, k] = 1.0, t[k]
        if kind == 2:
            J[k, 1], J[k, 2] = 1.0, t[k]
        if kind == 3:
            J[k + 1, 0], J[k + 1, 1] = 1.0, t[k]
        if kind == 4:
            J[k - 2 * t.size, 0] = 1.0
    if kind == 5:
        r[t.size + i] = 1.0
    if kind == 6:
        r[-t.size - 1 - i] = 1.0
    if kind == 7 and i > 2:
        r[t.size + 7] = 1.0
    if kind == 8 and i > 2:
        J[t.size + 20, 1] = 1.0


@pytest.mark.parametrize(
    ("kind", "m", "text"),
    [
        (0, 3, "m: fun wrote 30 residuals, m is 3"),
        (0, 29, "m: fun wrote 30 residuals, m is 29"),
        (0, 19, "m: fun wrote 30 residuals, m is 19"),
        (0, 300, "m: fun wrote 30 residuals, m is 300.*Write m=30"),
        (1, 30, r"fun: wrote J\[0, 2\], J has shape \(30, 2\)"),
        (2, 30, r"fun: wrote J\[0, 2\], J has shape"),
        (3, 30, r"fun: wrote J\[30, 0\], J has shape"),
        (4, 30, r"fun: wrote J\[-30, 0\], J has shape"),
        (5, 30, r"r\[0\] to r\[30\]"),
        (6, 30, r"r\[-1\] to r\[29\]"),
        (7, 30, r"fun: wrote r\[37\], m is 30"),
        (8, 30, r"fun: wrote J\[18, 2\], J has shape"),
    ],
)
@pytest.mark.parametrize("dtype", ["f8", "f4"])
def test_what_is_written_beyond_r_and_j_is_refused(kind, m, text, dtype):
    args = np.linspace(0, 1, 30).astype(dtype), kind
    with pytest.raises(ValueError, match=text) as caught:
        na.least_squares_many(slips, np.zeros((4, 2), dtype), args, m=m, jac=True)
    assert caught.value.numadam_result.x.shape == (4, 2)


@numba.njit
def ragged(x, r, i, count, value):
    for k in range(count[i]):
        r[k] += x[0] - value[k]


def test_what_is_not_written_by_all_problems_is_fine():
    """Fewer points than m in some, or a gap in all that `points` tells; NaN is written, too."""
    count, value, x0 = np.array([3, 5, 8]), np.arange(8.0), np.zeros((3, 1))
    res = na.least_squares_many(ragged, x0, (count, value), m=8)
    np.testing.assert_allclose(res.x[:, 0], [1, 2, 3.5], rtol=1e-7)
    with pytest.raises(ValueError, match="m: fun wrote 8 residuals, m is 9"):
        na.least_squares_many(ragged, x0, (count, value), m=9)
    assert na.least_squares_many(ragged, x0, (count, value), m=9, points=count).success.all()
    res = na.least_squares_many(ragged, x0, (count, np.full(8, np.nan)), m=8)
    np.testing.assert_array_equal(res.status, 5)
    with pytest.raises(ValueError, match=r"m: expected .* at most 1099511627776"):
        na.least_squares_many(ragged, x0, (count, value), m=2**62)


# --- bounds, exceptions ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "bounds",
    [
        ([0, 1], [2, 5]),
        [[0, 1], [2, 5]],
        (np.array([0.0, 1.0]), [2, 5]),
        (np.array([0.0, 1.0]), np.array([2.0, 5.0])),
        Bounds([0, 1], [2, 5]),
        (np.array([[0.0, 1.0]] * 3), [2, 5]),
    ],
)
def test_bounds_are_low_and_high(bounds):
    """As in SciPy: x[0] from 0 to 2, x[1] from 1 to 5."""
    t, y = np.array([0.0, 1.0, 2.0]), np.array([[-3, 6.0, 15], [5, 5, 5], [1, 4, 7]])
    res = na.least_squares_many(line, np.ones((3, 2)), (t, y), m=3, bounds=bounds)
    A = np.column_stack([np.ones(3), t])
    right = [lsq_linear(A, one, ([0, 1], [2, 5]), tol=1e-14).x for one in y]
    np.testing.assert_allclose(res.x, right, rtol=1e-6, atol=1e-6)


def test_pairs_are_an_array():
    pairs = np.array([(-np.inf, np.inf), (0.7, 0.7), (0.0, 0.1)])
    res, same = (
        na.least_squares_many(decay, FEW.x0, (FEW.t, FEW.y), m=30, bounds=bounds)
        for bounds in (pairs, tuple(pairs.T))
    )
    np.testing.assert_array_equal(res.x, same.x)
    for wrong_bounds in (pairs[:2, :], pairs.tolist(), 3.0, pairs[:, :1]):
        with pytest.raises(ValueError, match="bounds"):
            na.least_squares_many(line, np.ones((1, 3)), (FEW.t, FEW.y), m=30, bounds=wrong_bounds)
    with pytest.raises(ValueError, match="bounds: an array of shape"):
        na.least_squares_many(line, np.ones((1, 2)), (FEW.t, FEW.y), m=30, bounds=np.eye(2))


def in_python(number):
    if number == 2:
        raise LookupError("no such file")


@numba.njit
def asks_python(x, r, i):
    with numba.objmode():
        in_python(i)
    r[0] = x[0] - i


@pytest.mark.parametrize("parallel_from", [0, 10**9])
def test_an_exception_in_objmode_is_raised_as_it_is(parallel_from, monkeypatch):
    monkeypatch.setattr(batch, "_PARALLEL_FROM", parallel_from)
    with pytest.raises(LookupError, match="no such file") as caught:
        na.least_squares_many(asks_python, np.zeros((4, 1)), m=1)
    assert "numadam: in problem 2." in caught.value.__notes__


@pytest.mark.parametrize("of", [(batch.Fits, "check"), (least_squares_many, "adapter_for")])
def test_an_interrupt_before_the_first_problem_carries_a_result(of, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(*of, interrupted)
    with pytest.raises(KeyboardInterrupt) as caught:
        na.least_squares_many(decay, FEW.x0, (FEW.t, FEW.y), m=30)
    np.testing.assert_array_equal(caught.value.numadam_result.x, FEW.x0)
    np.testing.assert_array_equal(caught.value.numadam_result.status, -1)
