"""minimize with an objective in Python: what it calls, when it stops, what it gives back."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import OptimizeResult, rosen, rosen_der

import numadam as na
from numadam._minimize.objective import LARGE_X
from tests.minimize.objectives import START, Counted, loop, python_rosen, square
from tests.minimize.objectives import rosen as rosen_compiled


def test_the_path_is_that_of_a_plain_loop():
    seen = []
    res = na.minimize(python_rosen, START, jac=True, lr=0.02, maxiter=50, callback=seen.append)
    path = loop(na.Adam, START.copy(), 50, lr=0.02)
    np.testing.assert_array_equal(seen, path[1:])
    np.testing.assert_array_equal(res.x_last, path[-1])
    np.testing.assert_array_equal(START, [-1.2, 1.0])
    assert (res.nit, res.nfev, res.njev) == (50, 51, 51)
    assert (res.status, res.success) == (1, False)
    assert isinstance(res, OptimizeResult)


def test_the_result_belongs_together():
    res = na.minimize(python_rosen, START, jac=True, lr=0.02)
    assert (res.success, res.status) == (True, 0)
    assert "gtol_rel=1e-06" in res.message
    f, g = python_rosen(res.x)
    assert res.fun == f == min(res.history["fun"])
    np.testing.assert_array_equal(res.jac, g)
    assert res.grad_norm == abs(g).max()
    assert python_rosen(res.x_last)[0] == res.fun_last == res.history["fun"][-1]


def test_fun_is_never_called_twice_at_one_x():
    fun = Counted(python_rosen)
    na.minimize(fun, START, jac=True, lr=0.02, maxiter=200, ftol=1e-9, callback=lambda x: None)
    assert not fun.twice
    fun = Counted(rosen)
    res = na.minimize(fun, START, lr=0.02, maxiter=20)  # differences
    assert not fun.twice
    assert res.nfev == len(fun.seen) == 21 * 3


def test_with_a_separate_jac_fun_runs_once_at_the_end():
    fun, jac = Counted(rosen), Counted(rosen_der)
    res = na.minimize(fun, START, jac=jac, lr=0.02, maxiter=30)
    assert (len(fun.seen), len(jac.seen)) == (1, 31) == (res.nfev, res.njev)
    np.testing.assert_array_equal(fun.seen[0], res.x)
    assert res.fun_last == res.fun == rosen(res.x)
    np.testing.assert_array_equal(res.x, res.x_last)


ASKS = [{"ftol": 1e-30}, {"track_best": True}, {"callback": na.History()}, {"progress": True}]


@pytest.mark.parametrize("asks", ASKS, ids=["ftol", "track_best", "history", "progress"])
def test_who_needs_f_gets_it_at_every_iterate(asks):
    fun = Counted(rosen)
    res = na.minimize(fun, START, jac=rosen_der, lr=0.02, maxiter=30, **asks)
    assert len(fun.seen) == res.nfev == 31
    assert not fun.twice
    assert res.fun == min(map(rosen, fun.seen))


@pytest.mark.parametrize(
    ("tests", "reason"),
    [
        ({"gtol": 1.0}, "gtol"),
        ({"gtol": 0, "ftol": 1e-4}, "ftol"),
        ({"gtol": None, "xtol": 1e-4}, "xtol"),
    ],
    ids=str,
)
def test_each_stop_test_holds_where_it_says(tests, reason):
    res = na.minimize(square, np.full(3, 5.0), (1.0,), jac=True, lr=0.3, **tests)
    assert res.success
    assert reason in res.message
    h = res.history
    if reason == "gtol":
        assert h["grad_norm"][-1] <= 1.0 < h["grad_norm"][:-1].min()
    if reason == "ftol":
        change = abs(np.diff(h["fun"])) / np.maximum(np.maximum(h["fun"][1:], h["fun"][:-1]), 1)
        assert change[-1] <= 1e-4 < change[:-1].min()


def test_all_tests_off_runs_to_maxiter():
    res = na.minimize(square, np.zeros(2), jac=True, gtol=0, maxiter=12)
    assert (res.nit, res.status, res.success) == (12, 1, False)


def test_maxiter_0_only_looks():
    fun = Counted(python_rosen)
    res = na.minimize(fun, START, jac=True, maxiter=0)
    assert (res.nit, res.nfev, res.status) == (0, 1, 1)
    np.testing.assert_array_equal(res.x, START)
    assert na.minimize(square, np.zeros(2), jac=True, maxiter=0).success


@pytest.mark.parametrize("fun", [rosen_compiled, python_rosen], ids=["compiled", "python"])
def test_only_stop_iteration_ends_a_run(fun):
    def callback(intermediate_result):
        assert intermediate_result.fun == python_rosen(intermediate_result.x)[0]
        if intermediate_result.nit == 7:
            raise StopIteration
        return True  # as the update of a progress bar does

    jac = None if fun is rosen_compiled else True
    res = na.minimize(fun, START, jac=jac, callback=callback)
    assert (res.nit, res.status, res.success) == (7, 99, False)
    assert "callback" in res.message
    res = na.minimize(fun, START, jac=jac, maxiter=9, callback=lambda x: x)
    assert (res.nit, res.status) == (9, 1)


def test_x_of_callback_and_fun_may_be_kept_and_written():
    kept = []

    def fun(x):
        kept.append(x)
        f, g = python_rosen(x)
        return f, g

    def callback(x):
        x[:] = np.nan

    res = na.minimize(fun, START, jac=True, lr=0.02, maxiter=20, callback=callback)
    path = loop(na.Adam, START.copy(), 20, lr=0.02)
    np.testing.assert_array_equal(kept, path)
    np.testing.assert_array_equal(res.x_last, path[-1])


KEPT = {
    "array": lambda x: x,
    "part": lambda x: x[2:],
    "reversed": lambda x: x[::-1],
    "other dtype": lambda x: x.view(np.uint8)[3:],
    "subclass": lambda x: x.view(type("Named", (np.ndarray,), {})),
    "windows": lambda x: np.lib.stride_tricks.sliding_window_view(x, 2),
    "buffer": lambda x: np.frombuffer(memoryview(x)[1:], np.float64),
    "DLPack": lambda x: np.from_dlpack(x[1:]),
}


@pytest.mark.parametrize("n", [5, LARGE_X // 8])
@pytest.mark.parametrize("apart", [False, True], ids=["jac=True", "jac=function"])
@pytest.mark.parametrize("how", KEPT)
def test_what_fun_keeps_of_x_stays_as_it_is(how, apart, n):
    """Python 3.14 counts fewer references: whether x is kept may not hang on them."""
    kept, expected = [], []

    def jac(x):
        part = KEPT[how](x)
        kept.append(part)
        expected.append(np.array(part))
        return 2 * x

    def fun(x):
        return float(x @ x), jac(x)

    options = {"jac": jac} if apart else {"jac": True}
    na.minimize((lambda x: float(x @ x)) if apart else fun, np.ones(n), maxiter=6, **options)
    assert len(kept) == 7
    for one, was in zip(kept, expected, strict=True):
        np.testing.assert_array_equal(one, was)


@pytest.mark.parametrize("apart", [False, True], ids=["jac=True", "jac=function"])
def test_nothing_is_copied_afresh_where_nobody_keeps_x(apart):
    places = set()

    def fun(x):
        places.add(x.ctypes.data)
        return square(x)[0] if apart else square(x)

    jac = (lambda x: square(x)[1]) if apart else True
    na.minimize(fun, np.ones(LARGE_X // 8), jac=jac, gtol=0, ftol=1e-99, maxiter=20)
    assert len(places) == 1


@pytest.mark.parametrize("bad", ["f", "g"])
def test_what_is_not_finite_ends_the_run_and_the_best_stays(bad):
    def fun(x):
        f, g = square(x)
        if abs(x[0]) < 0.5:
            return (np.nan, g) if bad == "f" else (f, g * np.nan)
        return f, g

    res = na.minimize(fun, np.ones(2), jac=True, lr=0.1)
    assert res.status == (2 if bad == "f" else 3)
    assert not res.success
    assert res.fun == square(res.x)[0] < np.inf
    assert abs(res.x_last[0]) < 0.5
    if bad == "f":
        assert 0.5 <= abs(res.x[0]) < 0.6
        assert np.isnan(res.fun_last)


def test_nan_at_x0():
    res = na.minimize(lambda x: (np.nan, x), np.ones(2), jac=True)
    assert (res.nit, res.status) == (0, 2)
    np.testing.assert_array_equal(res.x, [1, 1])


@pytest.mark.parametrize(
    "x0", [3.0, 3, [3, 4], (3.0, 4.0), np.array(3.0), np.ones((2, 1, 2))], ids=range(6)
)
def test_starts_of_any_kind(x0):
    res = na.minimize(square, x0, (1.0,), jac=True, lr=0.1)
    assert res.success
    assert res.x.shape == np.shape(x0)
    assert res.x.dtype == np.float64
    np.testing.assert_allclose(res.x, 1.0, atol=1e-6)


@pytest.mark.parametrize("dtype", [np.float32, np.complex64, np.complex128])
def test_dtypes_stay(dtype):
    x0 = np.full(3, 2, dtype) * (1 if dtype is np.float32 else 1 + 1j)
    res = na.minimize(
        lambda x: (float(np.sum(abs(x) ** 2)), 2 * x), x0, jac=True, lr=0.1, gtol=1e-4
    )
    assert res.success
    assert res.x.dtype == res.jac.dtype == dtype


def test_nested_containers_with_frozen_arrays_and_averages():
    x0 = {"w": np.ones((2, 3)), "b": [np.ones(2), np.full(1, 7.0)]}

    def fun(x):
        f = sum(float(np.sum(leaf**2)) for leaf in (x["w"], *x["b"]))
        return f, {"w": 2 * x["w"], "b": [2 * leaf for leaf in x["b"]]}

    res = na.minimize(
        fun, x0, jac=True, lr=0.05, groups={"b.1": {"frozen": True}}, ema=0.5, gtol=1e-3
    )
    assert res.success
    assert res.x["b"][1] == 7.0
    assert abs(res.x["w"]).max() < 1e-3
    assert res.averaged["w"].shape == (2, 3)
    assert x0["w"][0, 0] == 1.0


def test_a_schedule_that_observes_f_is_told():
    schedule = na.schedules.ReduceOnPlateau(0.5, factor=0.5, patience=3)
    res = na.minimize(rosen, START, jac=rosen_der, lr=schedule, maxiter=200)
    assert schedule.value < 0.5
    assert res.nfev == 201
    assert res.history["lr"][-1] == schedule.value


def test_history_can_be_thinned_and_left_out():
    options = {"jac": True, "maxiter": 25, "lr": 0.02}
    full = na.minimize(python_rosen, START, **options).history
    np.testing.assert_array_equal(full["nit"], np.arange(26))
    some = na.minimize(python_rosen, START, history=10, **options).history
    np.testing.assert_array_equal(some["nit"], [0, 10, 20, 25])
    np.testing.assert_array_equal(some["fun"], full["fun"][[0, 10, 20, 25]])
    assert len(na.minimize(python_rosen, START, history=False, **options).history["nit"]) == 0


def test_progress_shows_f(capsys):
    na.minimize(python_rosen, START, jac=True, maxiter=30, progress=True)
    shown = capsys.readouterr().err
    assert "30/30" in shown
    assert "|g|=" in shown


def test_check_every_looks_seldom():
    res = na.minimize(square, np.ones(2), jac=True, lr=0.1, check_every=50)
    assert res.success
    assert res.nit % 50 == 0
    np.testing.assert_array_equal(res.history["nit"] % 50, 0)


@pytest.mark.parametrize("rule", ["adamw", "sgd", "RMSprop", na.Lion], ids=range(4))
def test_rules_by_name_and_class(rule):
    res = na.minimize(square, np.ones(2), (0.5,), jac=True, rule=rule, lr=0.01, maxiter=3)
    assert res.nit == 3
    assert (res.x < 1).all()


def test_f_that_is_not_finite_at_the_end_is_no_success():
    res = na.minimize(lambda x: np.nan, np.full(3, 1e-9), jac=lambda x: 2 * x)
    assert (res.status, res.success) == (2, False)


def test_with_a_separate_jac_f_is_asked_for_only_when_it_is_looked_at():
    fun = Counted(rosen)
    seen = []
    na.minimize(
        fun, START, jac=lambda x: python_rosen(x)[1], maxiter=20, check_every=5,
        callback=seen.append, ftol=1e-30,
    )  # fmt: skip
    assert len(fun.seen) == 5
    assert len(seen) == 4


def test_minus_infinity_is_not_the_best():
    def fun(x):
        return (-np.inf if x[0] < 0.5 else float(x[0])), np.ones(1)

    res = na.minimize(fun, np.ones(1), jac=True, lr=0.1)
    assert res.status == 2
    assert 0.5 <= res.fun <= 0.7
