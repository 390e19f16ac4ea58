"""``lr="auto"``: a rate is found from x0, its cost is counted, and the run is that of the rate."""

from __future__ import annotations

import numba
import numpy as np
import pytest
import scipy.optimize

import numadam as na
from numadam._minimize.rate_search import RATES
from tests.minimize.objectives import START, Counted, python_rosen, rosen, square

ZERO = np.zeros(2)


def far(x):
    return square(x, 1e3)


def middle(x):
    return square(x, 3.0)


def search(fun, x0=ZERO, **options):
    return na.minimize(fun, x0, **{"jac": True, "lr": "auto", "maxiter": 200, **options})


# --- the rate ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("to", "low", "high"), [(1e3, 100, 1e9), (3.0, 0.1, 10), (0.002, 0, 0.01)])
def test_the_rate_fits_the_way(to, low, high):
    assert low < search(square, args=(to,), maxiter=300).lr < high


@pytest.mark.parametrize("unit", [1e-11, 1e-8, 1e-5, 1e5, 1e8])
@pytest.mark.parametrize("start", [0.0, 1.0])
def test_any_unit_of_x(unit, start):
    def fun(x):
        f, g = middle(x / unit)
        return f, g / unit

    found = search(fun, np.full(2, start * unit), maxiter=1000)
    assert unit / 3 <= found.lr <= 10 * unit
    assert found.success
    np.testing.assert_allclose(found.x, 3 * unit, rtol=1e-4)


@pytest.mark.parametrize("kind", ["float32", "complex128", "nested"])
def test_each_kind_of_x(kind):
    x0 = {"a": ZERO} if kind == "nested" else np.zeros(2, kind)

    def fun(x):
        d = (x["a"] if kind == "nested" else x) - 3
        return float(np.sum(abs(d) ** 2)), {"a": 2 * d} if kind == "nested" else 2 * d

    found = search(fun, x0, maxiter=500)
    assert found.success
    assert 0.1 < found.lr < 10


def test_bounds_and_rule_hold_in_the_search():
    fun = Counted(far)
    found = search(fun, bounds=(0, 5), rule="lion")
    assert np.max(fun.seen) <= 5
    assert found.success
    np.testing.assert_array_equal(found.x, [5, 5])


def test_compiled_and_with_a_jac_of_its_own():
    options = {"lr": "auto", "maxiter": 3000}
    compiled = na.minimize(rosen, START, **options)
    plain = na.minimize(python_rosen, START, jac=True, **options)
    apart = na.minimize(
        lambda x: python_rosen(x)[0], START, jac=lambda x: python_rosen(x)[1], **options
    )
    np.testing.assert_array_equal(compiled.x, plain.x)
    assert compiled.lr == plain.lr == apart.lr
    assert compiled.fun < na.minimize(rosen, START, maxiter=3000).fun
    given = {"method": na.scipy_adam, "options": options, "jac": True}
    assert scipy.optimize.minimize(python_rosen, START, **given).lr == plain.lr


@pytest.mark.parametrize("noise", [0.0, 1e-6, 1.0])
def test_a_choice_by_chance_is_told(noise):
    rng = np.random.default_rng(0)

    def fun(x):
        f, g = square(x, 0.1)
        return f + noise * rng.standard_normal(), g

    found = search(fun, np.zeros(3))
    assert ("may be one of chance: in its trials f(x0) was" in found.message) == (noise == 1.0)


# --- its cost ------------------------------------------------------------------------------------


def test_the_search_takes_half_of_the_iterations_at_most():
    def huge(x):
        f, g = middle(x / 1e30)
        return f, g / 1e30

    for maxiter in (18, 19, 100, 190, 1000):
        found = search(huge, maxiter=maxiter, gtol=0)
        assert maxiter / 2 <= found.nit <= maxiter - 9


def test_no_search_from_where_the_gradient_is_0_or_f_is_nan():
    fun = Counted(square)
    found = search(fun)
    assert (found.lr, found.success, found.nit) == (RATES[0], True, 0)
    assert found.nfev == len(fun.seen) == 11 + 1
    fun = Counted(lambda x: (np.nan, x))
    found = search(fun)
    assert (found.status, found.nfev, len(fun.seen)) == (2, 2, 2)


@pytest.mark.parametrize(("maxiter", "trial"), [(200, 10), (40, 2)])
def test_the_run_is_that_of_the_rate_and_the_search_is_counted(maxiter, trial):
    """Trials of few iterations are shorter."""
    fun = Counted(middle)
    found = search(fun, maxiter=maxiter, gtol=0)
    left = maxiter - 9 * trial
    alone = na.minimize(middle, ZERO, jac=True, lr=found.lr, maxiter=left, gtol=0)
    np.testing.assert_array_equal(found.x, alone.x)
    assert found.nit == alone.nit == left
    assert found.nfev == found.njev == len(fun.seen) == 9 * (trial + 1) + left + 1
    assert "lr" not in alone


def test_who_watches_sees_the_run_alone():
    seen, plateau = [], na.schedules.ReduceOnPlateau(0.9, patience=2)
    found = search(far, beta1=plateau, gtol=0, callback=lambda x: seen.append(x))
    assert len(seen) == found.nit
    alone = na.schedules.ReduceOnPlateau(0.9, patience=2)
    same = na.minimize(far, ZERO, jac=True, lr=found.lr, maxiter=found.nit, beta1=alone, gtol=0)
    np.testing.assert_array_equal(found.x, same.x)
    assert vars(plateau) == vars(alone)


# --- rates that cannot be ------------------------------------------------------------------------


def test_a_rate_that_ends_beyond_an_edge_is_not_taken():
    def ramp(x):  # lower is better, up to an edge
        return (np.nan if np.any(x > 9.5) else -float(np.sum(x))), -np.ones_like(x)

    found = search(ramp, maxiter=180)
    assert found.lr == 10**-0.5  # with 1.0 and above the tenth step is beyond


@pytest.mark.parametrize("raises", [False, True])
def test_a_domain_that_ends_before_the_smallest_of_the_nine_rates(raises):
    def fun(x):
        if np.any(x <= 0) and raises:
            raise ValueError("no logarithm")
        with np.errstate(all="ignore"):
            return float(np.sum(1e6 * x - np.log(1e6 * x))), 1e6 - 1 / x

    found = search(fun, np.full(2, 3e-6), maxiter=1000)
    assert found.success
    np.testing.assert_allclose(found.x, 1e-6, rtol=1e-3)


@numba.njit
def compiled_edge(x, g):
    f = 0.0
    for i in range(x.size):
        if abs(x[i]) > 5:
            raise ValueError("no convergence")
        f += (x[i] - 3) ** 2
        g[i] = 2 * (x[i] - 3)
    return f


def edge(x):
    g = np.zeros_like(x)
    return compiled_edge.py_func(x, g), g


def test_a_rate_at_which_fun_raises_is_not_taken():
    fun = Counted(edge)
    found = search(fun, maxiter=400)
    assert found.success
    assert found.nfev == len(fun.seen)
    compiled = search(compiled_edge, jac=None, maxiter=400)
    assert (compiled.lr, compiled.nfev) == (found.lr, found.nfev)


def test_an_exception_at_all_rates_is_raised():
    def fun(x):
        if np.any(x != 0):
            raise ValueError("no mesh")
        return far(x)

    with pytest.raises(ValueError, match="no mesh") as caught:
        search(fun)
    assert "lr='auto' was trying lr=" in caught.value.__notes__[-1]


#: before anything is evaluated
REFUSED = [
    ({"track_best": "yes"}, "^track_best: "),
    ({"check_every": 0}, "^check_every: "),
    ({"gtol": "a"}, "^gtol: "),
    ({"callback": 3}, "^callback: "),
    ({"history": "a"}, "^history: "),
    ({"lr": "fast"}, "or 'auto', got 'fast'"),
    ({"state": {"t": 1}}, "lr: 'auto' does not go with state"),
    ({"checkpoint": "run"}, "does not go with checkpoint"),
    ({"maxiter": 17}, "needs a maxiter of 18 at least, got 17"),
]


@pytest.mark.parametrize(("options", "says"), REFUSED, ids=range(len(REFUSED)))
def test_refusals(options, says):
    def fun(x):
        raise AssertionError("evaluated")

    with pytest.raises((TypeError, ValueError), match=says):
        search(fun, **options)


def test_it_is_for_one_problem():
    with pytest.raises(TypeError, match="is for one problem: find a rate with minimize, or"):
        na.minimize_many(lambda x: (x, x), np.ones((4, 2)), jac=True, lr="auto")
