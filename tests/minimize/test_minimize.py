"""minimize with an objective in Python: what it passes on and gives back, and how a run ends."""

from __future__ import annotations

import dataclasses
import gc
import weakref

import numba
import numpy as np
import pytest
from scipy.optimize import OptimizeResult

import numadam as na
from tests.minimize.objectives import (
    START,
    Counted,
    forms,
    loop,
    python_rosen,
    ramp,
    rosen,
    run,
    square,
)
from tests.processes import interrupted_after

# --- x -------------------------------------------------------------------------------------------


def test_x_of_callback_and_fun_may_be_kept_and_written():
    kept = []

    def fun(x):
        kept.append(x)
        return python_rosen(x)

    def callback(x):
        x[:] = np.nan

    res = na.minimize(fun, START, jac=True, lr=0.02, maxiter=20, callback=callback)
    path = loop(na.Adam, START.copy(), 20, lr=0.02)
    np.testing.assert_array_equal(kept, path)
    np.testing.assert_array_equal(res.x_last, path[-1])
    np.testing.assert_array_equal(START, [-1.2, 1.0])
    assert (res.nit, res.nfev, res.njev, res.status, res.success) == (20, 21, 21, 1, False)
    assert isinstance(res, OptimizeResult)


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


@pytest.mark.parametrize("apart", [False, True], ids=["jac=True", "jac=function"])
@pytest.mark.parametrize("how", KEPT)
def test_what_fun_keeps_of_x_stays_as_it_is(how, apart):
    kept, expected = [], []

    def jac(x):
        part = KEPT[how](x)
        kept.append(part)
        expected.append(np.array(part))
        return 2 * x

    def fun(x):
        return float(x @ x), jac(x)

    options = {"jac": jac} if apart else {"jac": True}
    na.minimize((lambda x: float(x @ x)) if apart else fun, np.ones(5), maxiter=6, **options)
    assert len(kept) == 7
    for part, was in zip(kept, expected, strict=True):
        np.testing.assert_array_equal(part, was)


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


# --- who watches ---------------------------------------------------------------------------------


@forms
def test_only_stop_iteration_ends_a_run(fun):
    def callback(intermediate_result):
        assert intermediate_result.fun == python_rosen(intermediate_result.x)[0]
        if intermediate_result.nit == 7:
            raise StopIteration
        return True  # as the update of a progress bar does

    res = run(fun, callback=callback)
    assert (res.nit, res.status, res.success) == (7, 99, False)
    assert "callback" in res.message
    res = run(fun, maxiter=9, callback=lambda x: x)
    assert (res.nit, res.status) == (9, 1)


def test_a_callback_that_python_knows_no_signature_of():
    seen = set()
    na.minimize(lambda x: (x @ x, 2 * x), np.ones(1), jac=True, maxiter=3, callback=seen.update)
    assert len(seen) == 3


def test_history_can_be_thinned_and_left_out():
    options = {"jac": True, "maxiter": 25, "lr": 0.02}
    full = na.minimize(python_rosen, START, **options).history
    np.testing.assert_array_equal(full["nit"], np.arange(26))
    some = na.minimize(python_rosen, START, history=10, **options).history
    np.testing.assert_array_equal(some["nit"], [0, 10, 20, 25])
    np.testing.assert_array_equal(some["fun"], full["fun"][[0, 10, 20, 25]])
    assert len(na.minimize(python_rosen, START, history=False, **options).history["nit"]) == 0


@pytest.mark.parametrize("fails_at", [1, 4])
def test_a_bar_is_closed_on_an_exception(fails_at, capsys):
    """One that was drawn: before the first f there is none."""
    fails = failing(fails_at, RuntimeError("solver diverged"))
    with pytest.raises(RuntimeError, match="solver diverged"):
        na.minimize(fails, START, jac=True, maxiter=10, progress=True)
    shown = capsys.readouterr().err
    assert ("it/s" in shown or "?it" in shown) == shown.endswith("\n") == (fails_at == 4)
    na.minimize(square, START, jac=True, maxiter=3, progress=True)
    shown = capsys.readouterr().err
    assert "3/3" in shown  # the next bar begins on a line of its own
    assert "|g|=" in shown


def test_a_bar_of_a_run_that_stops_early_is_full_and_printed_once(capsys):
    res = na.minimize(square, START, (1.0,), jac=True, lr=0.1, progress=True)
    out, err = capsys.readouterr()
    assert not out
    assert err.count("\n") == 1
    assert f"{res.nit}/{res.nit} [" in err.split("\r")[-1]
    with pytest.raises(TypeError, match="state"):
        na.minimize(square, START, jac=True, state=3, progress=True)
    assert capsys.readouterr().err == ""


# --- ends ----------------------------------------------------------------------------------------


def test_maxiter_0_only_looks():
    fun = Counted(python_rosen)
    res = na.minimize(fun, START, jac=True, maxiter=0)
    assert (res.nit, res.nfev, res.status) == (0, 1, 1)
    np.testing.assert_array_equal(res.x, START)
    assert na.minimize(square, np.zeros(2), jac=True, maxiter=0).success


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


@pytest.mark.parametrize("wrong_from", [0, 2])
def test_a_best_iterate_is_spoken_of_where_there_is_one(wrong_from):
    calls = []

    def fun(x):
        calls.append(x)
        return np.nan if len(calls) > wrong_from else float(x @ x), 2 * x

    res = na.minimize(fun, np.ones(2), jac=True, maxiter=5)
    assert (res.nit, res.status) == (wrong_from, 2)
    best = "f is not finite at x_last. x is the best iterate until then."
    assert res.message == (best if wrong_from else "f is not finite at the start, x0.")


def test_minus_infinity_is_not_the_best_and_no_f_at_all_no_success():
    def fun(x):
        return (-np.inf if x[0] < 0.5 else float(x[0])), np.ones(1)

    res = na.minimize(fun, np.ones(1), jac=True, lr=0.1)
    assert res.status == 2
    assert 0.5 <= res.fun <= 0.7
    res = na.minimize(lambda x: np.nan, np.full(3, 1e-9), jac=lambda x: 2 * x)
    assert (res.status, res.success) == (2, False)


# --- exceptions ----------------------------------------------------------------------------------


def failing(call, error):
    """A square that raises at its call of this number, from 1 on."""
    calls = []

    def fun(x):
        calls.append(x)
        if len(calls) == call:
            raise error
        return square(x)

    return fun


def test_an_exception_carries_the_run():
    fun = failing(7, OSError("solver failed"))
    with pytest.raises(OSError, match="solver failed") as caught:
        na.minimize(fun, np.ones(2), jac=True, lr=0.1)
    so_far = caught.value.numadam_result
    assert so_far.nit == so_far.state["t"] == 6
    assert so_far.fun == square(so_far.x)[0]
    assert not (so_far.x == so_far.x_last).any()
    assert na.minimize(square, so_far.x, jac=True, lr=0.1, state=so_far.state).success


def test_an_exception_of_a_compiled_objective_carries_the_run():
    with pytest.raises(ValueError, match="too far") as caught:
        na.minimize(ramp, np.zeros(1), (0.5,), lr=0.1)
    so_far = caught.value.numadam_result
    assert np.isnan(so_far.fun_last)  # it is not that of another x
    assert (so_far.nit, so_far.nfev) == (6, 7)
    assert so_far.x[0] <= 0.5 < so_far.x_last[0]
    assert -0.5 <= so_far.fun == -so_far.x[0]
    assert so_far.history["nit"][-1] == so_far.nit - 1


@forms
def test_a_schedule_that_raises_ends_the_run_where_it_does(fun):
    def lr(t):
        if t == 3:
            raise ZeroDivisionError
        return 0.01

    with pytest.raises(ZeroDivisionError) as caught:
        run(fun, lr=lr)
    assert caught.value.numadam_result.nit == 3


@pytest.mark.usefixtures("ctrl_c")
def test_ctrl_c_comes_between_calls_and_leaves_counts_and_history_together():
    na.minimize(rosen, START, gtol=0, maxiter=1, history=1)  # compiled before
    for _ in range(3):
        with interrupted_after(0.1), pytest.raises(KeyboardInterrupt) as caught:
            na.minimize(rosen, START, gtol=0, maxiter=2**40, lr=1e-9, history=1)
        so_far = caught.value.numadam_result
        assert so_far.nfev == so_far.nit + 1 == so_far.history["nit"][-1] + 1
        assert so_far.nit == so_far.state["t"] > 1000


def test_what_raises_keeps_no_argument_alive():
    @numba.njit
    def fun(x, g, data):
        if x[0] > 0.5:
            raise ValueError("no")
        g[0] = -1.0
        return data.sum()

    def raises(data):
        with pytest.raises(ValueError, match="no"):
            na.minimize(fun, np.zeros(1), (data,), lr=0.1)

    data = np.ones(1000)
    gone = weakref.ref(data)
    raises(data)
    del data
    gc.collect()
    assert gone() is None


@pytest.mark.parametrize("jac", [True, None, lambda x, data: 2 * x])
def test_args_are_free_at_the_end_of_a_run_without_the_garbage_collector(jac):
    compiled = numba.njit(lambda x, g, data: data[0] + g[0])

    def fun(x, data):
        return (x @ x, 2 * x) if jac is True else x @ x

    data = np.ones(1000)
    gone = weakref.ref(data)
    gc.collect()
    gc.disable()
    try:
        na.minimize(fun, np.ones(2), (data,), jac=jac, callback=lambda x: None, maxiter=3)
        if jac is None:
            na.minimize(compiled, np.ones(2), (data,), maxiter=3)
        del data
        assert gone() is None
    finally:
        gc.enable()


def test_an_exception_that_takes_no_attribute_comes_through():
    @dataclasses.dataclass(frozen=True)
    class Frozen(Exception):
        why: str

    with pytest.raises(Frozen, match="so"):
        na.minimize(failing(1, Frozen("so")), np.ones(1), jac=True)


def test_no_decay_pulls_x_from_the_minimum_unless_it_is_asked_for():
    """AdamW's decay of 0.01: a run took all its iterations, and ended beside the minimum."""

    def fun(x):
        return ((x - 3) ** 2).sum(axis=-1), 2 * (x - 3)

    for options in ({"rule": "adamw"}, {"rule": na.AdamW, "like": "keras"}):
        one = na.minimize(fun, np.full(2, 9.0), jac=True, lr=0.1, **options)
        many = na.minimize_many(fun, np.full((3, 2), 9.0), jac=True, lr=0.1, **options)
        assert one.success
        assert many.success.all()
        np.testing.assert_allclose([one.x, *many.x], 3.0, atol=1e-4)
    decays = na.minimize(fun, np.zeros(2), jac=True, lr=0.1, rule="adamw", weight_decay=1.0)
    assert not decays.success
    assert abs(decays.x - 3).min() > 0.01
