"""minimize asks for no more than it needs: calls of fun and jac, counted."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
from scipy.optimize import OptimizeResult, rosen, rosen_der

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


@pytest.mark.parametrize(
    "look",
    [dict, repr, list, len, copy.deepcopy, lambda one: one.items(), lambda one: {**one}],
    ids=["dict", "repr", "list", "len", "deepcopy", "items", "**"],
)
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
    for one in kept:
        with pytest.raises(AttributeError, match="Read `fun` within the callback"):
            _ = one.fun
        with pytest.raises(KeyError, match="Read `fun` within the callback"):
            _ = one["fun"]
        assert "fun" not in one
        assert "grad_norm" in repr(one)


def test_an_iterate_is_pickled_with_its_f():
    seen = []

    def callback(intermediate_result):
        seen.append(pickle.loads(pickle.dumps(intermediate_result)))
        seen.append(intermediate_result)

    na.minimize(rosen, START, jac=rosen_der, maxiter=1, gtol=0, callback=callback)
    for one in (seen[0], pickle.loads(pickle.dumps(seen[1]))):
        assert type(one) is OptimizeResult
        assert one.fun == rosen(one.x)


def test_an_exception_of_fun_comes_through_a_callback():
    def fun(x):
        raise KeyError("no such mesh")

    def callback(intermediate_result):
        return intermediate_result.fun

    with pytest.raises(KeyError, match="no such mesh"):
        na.minimize(fun, START, jac=rosen_der, callback=callback)


def test_an_f_that_is_read_and_not_finite_ends_the_run():
    def callback(intermediate_result):
        return intermediate_result.nit == 4 and intermediate_result.fun

    res = na.minimize(lambda x: np.nan, START, jac=rosen_der, callback=callback)
    assert (res.nit, res.status, res.nfev) == (4, 2, 1)


@pytest.mark.parametrize("wrong_from", [0, 2])
def test_a_best_iterate_is_spoken_of_where_there_is_one(wrong_from):
    calls = []

    def fun(x):
        calls.append(x)
        return np.nan if len(calls) > wrong_from else float(x @ x), 2 * x

    res = na.minimize(fun, np.ones(2), jac=True, maxiter=5)
    best = "f is not finite at x_last. x is the best iterate until then."
    assert res.message == (best if wrong_from else "f is not finite at the start, x0.")


def test_a_history_asks_where_it_keeps_a_record():
    history = na.History(10)
    res, fun, _ = counted(34, callback=history)
    np.testing.assert_array_equal(history["t"], [0, 10, 20, 30, 34])
    np.testing.assert_array_equal(history["f"], [rosen(x) for x in fun.seen])
    assert res.nfev == 5
    assert res.fun == history["f"].min()


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


def test_without_tests_differences_are_spared_at_the_end():
    fun = Counted(rosen)
    res = na.minimize(fun, START, lr=0.02, maxiter=20, track_best=False, **OFF)
    assert res.nfev == len(fun.seen) == 20 * 3 + 1
    assert res.njev == 20
    assert res.jac is None


def test_a_gradient_that_comes_with_f_is_kept():
    res = na.minimize(python_rosen, START, jac=True, lr=0.02, maxiter=30, **OFF)
    assert (res.njev, res.nfev) == (31, 31)
    np.testing.assert_array_equal(res.jac, python_rosen(res.x)[1])


def test_a_run_without_a_last_gradient_goes_on():
    half, _, _ = counted(20, **OFF)
    assert "jac" not in half.state
    rest, _, _ = counted(10, state=half.state, **OFF)
    whole, _, _ = counted(30, **OFF)
    np.testing.assert_array_equal(rest.x_last, whole.x_last)
