"""Fits against SciPy: minima, covariances, status, bounds."""

from __future__ import annotations

import numba
import numpy as np
import pytest
from scipy.optimize import Bounds, curve_fit, least_squares, lsq_linear

import numadam as na
from tests.least_squares.models import decays, linear, peaks

TIGHT = {"ftol": 1e-14, "xtol": 1e-14, "gtol": 1e-14}
FITS = {"decays": decays(150), "peaks": peaks(150)}
both = pytest.mark.parametrize("fits", FITS.values(), ids=FITS)
derived = pytest.mark.parametrize("jac", [None, "differences"], ids=["exact", "differences"])


def run(fits, jac, **options):
    fun, x0 = fits.with_j if jac is True else fits.fun, options.pop("x0", fits.x0)
    return na.least_squares_many(fun, x0, (fits.t, fits.y), m=fits.m, jac=jac, **options)


@both
@derived
def test_all_that_scipy_solves_is_solved(fits, jac):
    res = run(fits, jac)
    assert res.success.all()
    for i in range(0, 150, 3):
        there = least_squares(fits.residuals(i), fits.x0[i], fits.jac, method="lm", **TIGHT)
        assert res.cost[i] <= there.cost * (1 + 1e-9)
        np.testing.assert_allclose(res.x[i], there.x, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(res.cost[i], 0.5 * np.sum(fits.residuals(i)(res.x[i]) ** 2))
    g = [fits.jac(res.x[i]).T @ fits.residuals(i)(res.x[i]) for i in range(150)]
    atol = 1e-12 if jac is None else 5e-7  # a step of 1.5e-8, times curvature and r, of 50 points
    np.testing.assert_allclose(res.optimality, abs(np.array(g)).max(1), rtol=1e-6, atol=atol)


@both
def test_path_and_status_are_those_of_minpack(fits):
    res, steps, status = run(fits, True), [], []
    for i in range(150):
        there = least_squares(fits.residuals(i), fits.x0[i], fits.jac, method="lm", x_scale="jac")
        steps.append(there.nfev)
        status.append(there.status)
    assert np.mean(res.nfev == steps) > 0.97
    assert np.mean(res.status == status) > 0.97
    np.testing.assert_array_equal(res.njev, res.nfev)


@both
@pytest.mark.parametrize("absolute_sigma", [False, True])
def test_cov_is_pcov(fits, absolute_sigma):
    res = run(fits, True, absolute_sigma=absolute_sigma, **TIGHT)
    for i in range(0, 150, 10):
        how = {"sigma": np.ones(fits.m), "absolute_sigma": absolute_sigma}
        start = {"p0": res.x[i], "jac": fits.slopes}
        x, cov = curve_fit(fits.model, fits.t, fits.y[i], **start, **how)
        np.testing.assert_allclose(res.x[i], x, rtol=1e-7, atol=1e-9)
        np.testing.assert_allclose(res.cov[i], cov, rtol=1e-6, atol=1e-6 * abs(cov).max())
        np.testing.assert_allclose(res.stderr[i], np.sqrt(np.diag(cov)), rtol=1e-6)
    np.testing.assert_array_equal(res.cov, res.cov.transpose(0, 2, 1))
    differences = run(fits, None, absolute_sigma=absolute_sigma, **TIGHT)
    np.testing.assert_allclose(differences.stderr, res.stderr, rtol=1e-5)


@derived
def test_float32(jac):
    fits = FITS["peaks"]
    single = fits._replace(t=fits.t.astype("f4"), y=fits.y.astype("f4"), x0=fits.x0.astype("f4"))
    res, wide = run(single, jac), run(fits, True)
    assert res.x.dtype == np.float32
    assert res.cov.dtype == np.float64
    assert res.success.all()
    assert (abs(res.x - wide.x) < (0.01 if jac is None else 0.1) * wide.stderr).all()
    np.testing.assert_allclose(res.stderr, wide.stderr, rtol=2e-2)


def test_fewer_points():
    fits = decays(2)
    y = fits.y.copy()

    @numba.njit
    def fun(x, r, J, i, t, y, points):
        for k in range(points[i]):
            e = np.exp(-x[1] * t[k])
            r[k] = x[0] * e + x[2] - y[i, k]
            J[k, 0], J[k, 1], J[k, 2] = e, -x[0] * t[k] * e, 1.0

    def run(points, **options):
        args = fits.t, y, np.array(points)
        return na.least_squares_many(fun, fits.x0, args, m=30, jac=True, points=points, **options)

    res = run([30, 18], **TIGHT)
    x, cov = curve_fit(fits.model, fits.t[:18], y[1, :18], p0=res.x[1], jac=fits.slopes)
    np.testing.assert_allclose(res.x[1], x, rtol=1e-7)
    np.testing.assert_allclose(res.cov[1], cov, rtol=1e-6)
    few = run([30, 3])
    assert np.isinf(few.cov[1]).all()
    assert np.isfinite(few.cov[0]).all()
    assert "1 of 2: no more points than unknowns" in few.message


def test_a_dependent_column_has_no_finite_covariance():
    rng = np.random.default_rng(3)
    A = rng.normal(size=(3, 9, 4))
    A[0, :, 2] = 2 * A[0, :, 1]
    A[1, :, 3] = 0.0
    b = rng.normal(size=(3, 9))
    res = na.least_squares_many(linear, np.zeros((3, 4)), (A, b), m=9, jac=True)
    np.testing.assert_array_equal(res.success, [True, False, True])
    assert "1 of 3: no data, or an unknown of which the residuals show nothing." in res.message
    assert "2 of 3: stderr is inf" in res.message
    for i in range(3):
        np.testing.assert_allclose(res.cost[i], lsq_linear(A[i], b[i]).cost, rtol=1e-12)
    assert np.isinf(res.cov[:2]).all()
    assert np.isfinite(res.cov[2]).all()


@pytest.mark.parametrize("n", [1, 2, 40])
def test_any_number_of_unknowns(n):
    rng = np.random.default_rng(n)
    A, b = rng.normal(size=(4, 70, n)), rng.normal(size=(4, 70))
    res = na.least_squares_many(linear, np.zeros((4, n)), (A, b), m=70, jac=True)
    for i in range(4):
        np.testing.assert_allclose(res.x[i], np.linalg.lstsq(A[i], b[i])[0], rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("power", [-200, -40, 40, 200])
def test_a_start_at_zero_takes_the_same_path_in_any_unit(power):
    """By powers of 2 to the bit: 2**40 Hz is no farther than 1 THz."""
    rng = np.random.default_rng(5)
    A, b = rng.normal(size=(4, 9, 3)), rng.normal(size=(4, 9))
    res, scaled = (
        na.least_squares_many(linear, np.zeros((4, 3)), (A, b * unit), m=9, jac=True)
        for unit in (1.0, 2.0**power)
    )
    np.testing.assert_array_equal(scaled.x, res.x * 2.0**power)
    np.testing.assert_array_equal(scaled.nfev, res.nfev)
    np.testing.assert_array_equal(scaled.status, res.status)


# --- bounds --------------------------------------------------------------------------------------


BOXES = {
    "decays": ([0.6, 0.5, 0.2], [2.0, 1.5, 0.8]),
    "peaks": ([0.8, -0.5, 0.7, 0.1], [2.5, 0.7, 1.2, 0.3]),
}


@pytest.mark.parametrize("name", FITS)
@derived
def test_bounds_against_trf(name, jac):
    fits, (low, high) = FITS[name], map(np.array, BOXES[name])
    how = {"ftol": 1e-12, "xtol": 1e-12, "gtol": 1e-12, "bounds": Bounds(low, high)}
    start = np.clip(fits.x0, low + 1e-3, high - 1e-3)
    res, evaluations = run(fits, jac, x0=start, **how), []
    assert res.success.all()
    assert ((res.x >= low) & (res.x <= high)).all()
    for i in range(60):
        there = least_squares(fits.residuals(i), start[i], fits.jac, method="trf", **how)
        assert res.cost[i] <= there.cost * (1 + 1e-10)
        evaluations.append(there.nfev)
    if jac is None:
        assert res.nfev[:60].sum() <= 1.2 * sum(evaluations)
    at_bound = (res.x == low) | (res.x == high)
    assert 0.2 < at_bound.mean() < 0.8
    np.testing.assert_array_equal(np.isnan(res.stderr), at_bound)
    assert np.isfinite(res.optimality).all()


@pytest.mark.parametrize("correlation", [0.0, 10.0, 1e4])
def test_correlated_unknowns_in_boxes_of_their_own(correlation):
    rng = np.random.default_rng(4)
    A = rng.normal(size=(80, 20, 6)) + correlation * rng.normal(size=(80, 20, 1))
    b = 3 * rng.normal(size=(80, 20))
    low, high = box = tuple(rng.uniform([[[-0.5]], [[0]]], [[[0]], [[0.5]]], (2, 80, 6)))
    res = na.least_squares_many(linear, np.zeros((80, 6)), (A, b), m=20, jac=True, bounds=box)
    assert res.nfev.max() <= 15
    for i in range(80):
        there = lsq_linear(A[i], b[i], (low[i], high[i]), method="bvls", tol=1e-14)
        np.testing.assert_allclose(res.cost[i], there.cost, rtol=1e-10)


def test_a_fixed_element_and_a_start_outside():
    fits = FITS["decays"]
    res = run(fits, None, bounds=([-np.inf, 0.7, 0], [np.inf, 0.7, 0.1]), x0=np.full((150, 3), 5.0))
    assert (res.x[:, 1] == 0.7).all()
    assert (res.x[:, 2] <= 0.1).all()
    assert np.isnan(res.stderr[:, 1]).all()
    assert np.isfinite(res.stderr[:, 0]).all()
    assert res.success.all()


def test_a_fixed_element_is_no_unknown_in_the_scale_of_cov():
    fits = FITS["decays"]
    res = run(fits, True, bounds=([None, 0.7, None], [None, 0.7, None]), **TIGHT)
    for i in range(0, 150, 30):
        x, cov = curve_fit(lambda t, a, c: fits.model(t, a, 0.7, c), fits.t, fits.y[i])
        np.testing.assert_allclose(res.x[i, [0, 2]], x, rtol=1e-6)
        np.testing.assert_allclose(res.stderr[i, [0, 2]], np.sqrt(np.diag(cov)), rtol=1e-6)
    points = run(fits, True, bounds=([None, 0.7, 0], [None, 0.7, 0]), points=np.full(150, 2))
    assert np.isfinite(points.stderr[:, 0]).all()
    assert "no more points" not in points.message


@derived
def test_fixed_unknowns_are_those_of_equal_bounds(jac):
    fits, rng = FITS["decays"], np.random.default_rng(5)
    x0 = fits.x0.copy()
    x0[:, 1] = rng.uniform(0.5, 1.5, 150)
    mask = np.zeros((150, 3), bool)
    mask[::2, 1] = mask[::3, 2] = True
    lowest = np.array([0.0, -np.inf, 0.1])  # a fixed unknown stays at x0, outside the bounds, too
    for fixed, held in ((1, [0, 1, 0]), ([2, 1], [0, 1, 1]), ([False, True, False], [0, 1, 0]),
                        (mask, mask)):  # fmt: skip
        held = np.broadcast_to(np.array(held, bool), x0.shape)
        res = run(fits, jac, x0=x0, bounds=(lowest, np.inf), fixed=fixed)
        box = np.where(held, x0, lowest), np.where(held, x0, np.inf)
        expected = run(fits, jac, x0=x0, bounds=box)
        np.testing.assert_array_equal(res.x[held], x0[held])
        assert (np.isnan(res.stderr) | ~held).all()
        for name in ("x", "cov", "nfev", "status"):
            np.testing.assert_array_equal(res[name], expected[name])
    np.testing.assert_array_equal(run(fits, jac, fixed=[]).x, run(fits, jac).x)


@numba.njit
def double_well(x, r, i, depth):
    """Minima near -1 and 1: costs of 0 and near depth**2 / 2."""
    r[0], r[1] = x[0] * x[0] - 1.0, depth[i] * (x[0] + 1.0) / 2.0
    r[2] = x[1] - x[0] - i


def test_several_starts():
    depth = np.linspace(0.1, 0.3, 40)
    rng = np.random.default_rng(2)
    x0 = rng.uniform(0.5, 2.0, (5, 40, 2)) * np.array([1, -1, 1, -1, -1])[:, None, None]
    x0[:, 7] = 1.0  # all in the worse one
    x0[4, 11] = np.nan
    x0[:, 12] = np.nan
    low = [[-9.0, -99.0]] * 40
    given = {"m": 3, "fixed": None, "points": np.full(40, 3), "bounds": (low, None)}
    res = na.least_squares_many(double_well, x0, (depth,), **given)
    rows = [na.least_squares_many(double_well, one, (depth,), **given) for one in x0]
    costs = np.array([one.cost for one in rows])
    best = np.nanargmin(np.where(np.isnan(costs), np.inf, costs), axis=0)
    for name in ("x", "cost", "cov", "stderr", "status", "success", "optimality"):
        expected = np.array([rows[start][name][i] for i, start in enumerate(best)])
        np.testing.assert_array_equal(res[name], expected)
    for name in ("nfev", "njev"):
        np.testing.assert_array_equal(res[name], sum(one[name] for one in rows))
    agreed = np.full(40, 3)
    agreed[7], agreed[11], agreed[12] = 5, 2, 0
    np.testing.assert_array_equal(res.agreed, agreed)
    held = na.least_squares_many(double_well, x0, (depth,), **{**given, "fixed": [0]})
    usual = np.delete(np.arange(40), 12)
    assert (held.x[usual, 0][:, None] == x0[:, usual, 0].T).any(axis=1).all()
    with pytest.raises(AttributeError, match="starts, problems, n"):
        rows[0].agreed  # noqa: B018  # it is read


@derived
def test_residuals_and_j_are_those_at_x(jac):
    fits = FITS["peaks"]
    y, x0 = fits.y.copy(), np.stack([fits.x0, fits.x0 + 0.1])
    y[3, 4] = np.nan
    res = run(fits._replace(y=y), jac, x0=x0, residuals=True, fixed=[3])
    free = [0, 1, 2]
    for i, x in enumerate(res.x):
        if i == 3:
            assert np.isnan(res.residuals[i]).all()
            assert np.isnan(res.jacobian[i]).all()
            continue
        np.testing.assert_allclose(res.residuals[i], fits.model(fits.t, *x) - y[i], atol=1e-13)
        close = {"rtol": 1e-3, "atol": 1e-5} if jac == "differences" else {"atol": 1e-13}
        np.testing.assert_allclose(res.jacobian[i][:, free], fits.jac(x)[:, free], **close)
    best = res.best()
    for name in ("residuals", "jacobian", "agreed"):
        np.testing.assert_array_equal(best[name], res[name][best.index])
    with pytest.raises(AttributeError, match="residuals=True"):
        run(fits, jac, max_nfev=1).jacobian  # noqa: B018  # it is read


def test_sigma_gives_the_errors_of_unweighted_fits_of_counts():
    """Against the formula, and against the spread of fits to many draws."""
    t, rng = np.linspace(0, 5, 30), np.random.default_rng(9)
    clean = FITS["decays"].model(t, 1000.0, 1.5, 20.0)
    y = rng.poisson(clean, (4000, 30)).astype(float)
    sigma = np.sqrt(np.maximum(y, 1.0))
    given = {"m": 30, "bounds": ([0, 0, 0], None)}
    x0, fun = np.tile([900.0, 1.0, 10.0], (4000, 1)), FITS["decays"].fun
    res = na.least_squares_many(fun, x0, (t, y), sigma=sigma, residuals=True, **given)
    plain = na.least_squares_many(fun, x0, (t, y), **given)
    np.testing.assert_array_equal(res.x, plain.x)
    assert res.success.all()
    for i in range(0, 4000, 500):
        left = np.linalg.pinv(res.jacobian[i]) * sigma[i]
        np.testing.assert_allclose(res.cov[i], left @ left.T, rtol=1e-8)
    spread = res.x.std(axis=0)
    np.testing.assert_allclose(np.median(res.stderr, axis=0), spread, rtol=0.04)
    assert (abs(np.median(plain.stderr, axis=0) / spread - 1) > 0.1).any()
    held = na.least_squares_many(fun, x0[:5], (t, y[:5]), m=30, sigma=np.sqrt(clean), fixed=2)
    assert np.isnan(held.stderr[:, 2]).all()
    assert np.isfinite(held.stderr[:, :2]).all()
    dark = na.least_squares_many(fun, x0[:1] * [0, 1, 1], (t, y[:1] * 0), m=30, sigma=np.ones(30))
    assert np.isinf(dark.stderr).all()
