"""minimize asks for no more than it needs, with a gradient of its own or by differences."""

from __future__ import annotations

import copy

import numpy as np
import pytest
from scipy.optimize import approx_fprime, rosen, rosen_der

import numadam as na
from tests.minimize.objectives import START, Counted, loop, python_rosen

OFF = {"gtol": 0}


def counted(steps=30, **options):
    """A run with a gradient of its own, and its functions."""
    fun, jac = Counted(rosen), Counted(rosen_der)
    res = na.minimize(fun, START, jac=jac, lr=0.02, maxiter=steps, **options)
    assert (len(fun.seen), len(jac.seen)) == (res.nfev, res.njev)
    assert not fun.twice
    assert not jac.twice
    return res, fun, jac


def test_a_callback_that_takes_x_asks_for_no_f():
    seen = []
    res, fun, jac = counted(300, callback=seen.append)
    assert (len(seen), len(fun.seen), len(jac.seen)) == (300, 1, 301)
    np.testing.assert_array_equal(fun.seen[0], res.x)
    assert res.fun_last == res.fun == rosen(res.x)
    np.testing.assert_array_equal(res.x, res.x_last)


def test_a_fun_that_returns_both_is_never_called_twice_at_one_x():
    fun = Counted(python_rosen)
    na.minimize(fun, START, jac=True, lr=0.02, maxiter=200, ftol=1e-9, callback=lambda x: None)
    assert not fun.twice


ASKS = {
    "ftol": {"ftol": 1e-30},
    "track_best": {"track_best": True},
    "history": {"callback": na.History()},
    "progress": {"progress": True},
    "schedule": {"beta1": na.schedules.ReduceOnPlateau(0.9, patience=50)},
}


@pytest.mark.parametrize("asks", ASKS)
def test_who_needs_f_gets_it_at_every_iterate(asks):
    res, fun, _ = counted(**ASKS[asks])
    assert res.nfev == 31
    assert res.fun == min(map(rosen, fun.seen))


def test_f_is_asked_for_only_where_it_is_looked_at():
    seen = []
    res, _, _ = counted(20, check_every=5, callback=seen.append, ftol=1e-30)
    assert (res.nfev, len(seen)) == (5, 4)
    np.testing.assert_array_equal(res.history["nit"], [0, 5, 10, 15, 20])


def test_a_callback_that_reads_no_f_asks_for_none():
    def callback(intermediate_result):
        assert intermediate_result.nit > 0
        assert intermediate_result.get("lr") == intermediate_result["lr"] == 0.02
        assert intermediate_result.grad_norm == abs(rosen_der(intermediate_result.x)).max()

    assert counted(callback=callback)[0].nfev == 1


def test_f_is_evaluated_where_it_is_first_read():
    read = {}

    def callback(intermediate_result):
        if intermediate_result.nit % 10 == 0:
            intermediate_result.x[:] = np.nan  # f is of the iterate all the same
            read[intermediate_result.nit] = f = intermediate_result.fun
            assert intermediate_result["fun"] == intermediate_result.get("fun") == f

    path = loop(na.Adam, START.copy(), 35, lr=0.02)
    res, fun, _ = counted(35, callback=callback)
    assert read == {k: rosen(path[k]) for k in (10, 20, 30)}
    assert res.nfev == 4  # with the one at the end
    assert res.fun == min(map(rosen, fun.seen))  # the best of those that are known
    assert res.history["fun"][20] == read[20]
    assert np.isnan(res.history["fun"][19])


LOOKS = [dict, repr, list, len, copy.deepcopy, lambda seen: seen.items(), lambda seen: {**seen}]


@pytest.mark.parametrize("look", LOOKS, ids=range(len(LOOKS)))
def test_who_looks_at_all_entries_sees_f(look):
    shown = []

    def callback(intermediate_result):
        assert "fun" in intermediate_result
        shown.append(look(intermediate_result))
        assert dict.__contains__(intermediate_result, "fun")

    res, _, _ = counted(3, callback=callback)
    assert res.nfev == 3
    assert len(shown) == 3


def test_f_that_was_not_read_is_refused_later():
    kept, known = [], []

    def callback(intermediate_result):
        (known if intermediate_result.nit == 2 else kept).append(intermediate_result)
        if intermediate_result.nit == 2:
            assert intermediate_result.fun > 0

    res, _, _ = counted(3, callback=callback)
    f = known[0].fun
    assert f == rosen(known[0].x)
    assert res.nfev == 2
    assert kept.pop().fun == res.fun_last  # evaluated for the result
    for iterate in kept:
        with pytest.raises(AttributeError, match="Read `fun` within the callback"):
            _ = iterate.fun
        with pytest.raises(KeyError, match="Read `fun` within the callback"):
            _ = iterate["fun"]
        assert "fun" not in iterate
        assert "grad_norm" in repr(iterate)


def test_without_tests_no_gradient_is_evaluated_at_the_end():
    res, fun, jac = counted(30, **OFF)
    assert (res.njev, res.nfev, res.nit, res.status) == (30, 1, 30, 1)
    assert res.jac is None
    assert np.isnan(res.grad_norm)
    path = loop(na.Adam, START.copy(), 30, lr=0.02)
    np.testing.assert_array_equal(res.x, path[-1])
    np.testing.assert_array_equal(fun.seen, path[-1:])
    np.testing.assert_array_equal(jac.seen, path[:-1])
    best, _, _ = counted(300, track_best=True, **OFF, beta1=0.99)
    assert best.fun < best.fun_last
    np.testing.assert_array_equal(best.jac, rosen_der(best.x))


def test_a_run_without_a_last_gradient_goes_on():
    half, _, _ = counted(20, **OFF)
    assert "jac" not in half.state
    rest, _, _ = counted(10, state=half.state, checkpoint_check=False, **OFF)
    whole, _, _ = counted(30, **OFF)
    np.testing.assert_array_equal(rest.x_last, whole.x_last)


# --- differences ---------------------------------------------------------------------------------


def test_differences_are_counted_and_spared_where_no_test_needs_them():
    for options, njev in (({"track_best": False, **OFF}, 20), ({}, 21)):
        fun = Counted(rosen)
        res = na.minimize(fun, START, lr=0.02, maxiter=20, **options)
        assert not fun.twice
        assert res.nfev == len(fun.seen) == 20 * 3 + (1 if options else 3)
        assert res.njev == njev
        assert (res.jac is None) == bool(options)


def test_complex_x_has_no_differences():
    with pytest.raises(TypeError, match="jac: finite differences take real x"):
        na.minimize(lambda z: np.sum(abs(z - 1j) ** 2), np.ones(3, complex))


def height(x):
    return float(np.sum((x - 2) ** 2))


def test_differences_where_bounds_leave_no_room():
    fun = Counted(height)
    res = na.minimize(fun, np.ones(3), bounds=[(1, 1), (0, 2), (0, 3)], lr=0.1)
    assert res.success
    np.testing.assert_allclose(res.x, [1, 2, 2], atol=1e-5)
    assert all(x[0] == 1 for x in fun.seen)


def test_differences_stop_where_f_is_not_finite():
    fun = Counted(lambda x: np.inf)
    res = na.minimize(fun, np.ones(3))
    assert (res.status, res.nfev, len(fun.seen)) == (2, 1, 1)


@pytest.mark.sweep
def test_differences_keep_to_bounds_rounded_into_float32():
    bounds = [(0.1, 0.1), (0.1, 0.10000000001), (0, 1)]
    assert na.minimize(height, np.zeros(3, np.float32), maxiter=3, bounds=bounds).status == 1


def test_differences_leave_frozen_arrays_in_place():
    x0 = {"a": np.full(2, 5.0), "b": np.ones(2)}
    frozen = {"a": {"frozen": True}}
    res = na.minimize(lambda x: height(x["a"]) + height(x["b"]), x0, lr=0.05, groups=frozen)
    assert res.success
    np.testing.assert_array_equal(res.x["a"], 5.0)


@pytest.mark.parametrize("method", ["2-point", "3-point", "cs", None])
def test_differences_are_those_of_scipy(method):
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


def test_a_callback_that_takes_x_for_a_result_is_told_the_name():
    with pytest.raises(AttributeError) as caught:
        na.minimize(lambda x: (x @ x, 2 * x), np.ones(2), jac=True, callback=lambda res: res.fun)
    assert "'fun': callback gets x alone, unless its parameter is named" in str(caught.value)


#: An objective, its start, and whether differences can show that x is at rest.
DIFFERENCES = [
    *((lambda x: (x[0] - 3) ** 2, [start], True) for start in (1e-9, -1e-10, 1e-300, 0.0, 1.0)),
    (lambda x: (x[0] - 3) ** 2, np.ones(1, np.float32), True),
    (lambda x: 5 + (x[0] - 3) ** 2 + (x[1] + 1) ** 2, [1.0, 0.0], True),
    (lambda x: 5.0, [3.0], True),
    (lambda x: 1e10 + (x[0] - 3) ** 2, [1.0], False),  # no step is seen
    (lambda x: 1e12 + (x[0] - 3) ** 2, [1.0], False),
    (lambda x: np.float32(1e3) + np.float32(x[0] - 3) ** 2, [1.0], False),
    (lambda x: np.float32(1e4) + (x[0] - 3) ** 2, np.ones(1, np.float32), False),
    (lambda x: (x[0] / 1e-2 - 2.5e8) ** 2, [2.5e6 + 0.05], False),  # f bends across a step
    (lambda x: (x[0] / 1e-16 - 3) ** 2, [1e-16], False),
]


@pytest.mark.parametrize(("fun", "x0", "shows"), DIFFERENCES, ids=range(len(DIFFERENCES)))
def test_differences_that_show_nothing_are_no_success(fun, x0, shows):
    """The gradient is 0 then, and x would count as a minimum wherever it is."""
    calls = Counted(fun)
    res = na.minimize(calls, x0, lr=0.1 if shows or x0[0] < 2 else 1e-3, maxiter=2000)
    assert res.nfev == len(calls.seen)
    assert res.success == shows
    if not shows:
        assert res.status in (1, 4)
        assert (res.status == 4) == ("by differences is small" in res.message)
