"""Runs that an exception or Ctrl-C ends: the exception carries the result so far."""

from __future__ import annotations

import numba
import numpy as np
import pytest

import numadam as na
from numadam._minimize.python.batch import PythonBatch
from tests.minimize.objectives import START, python_rosen, rosen, square


def test_after_an_exception_f_is_not_that_of_another_x():
    @numba.njit
    def fun(x, g):
        if x[0] > 0.5:
            raise ValueError("too far")
        g[0] = -1.0
        return -x[0]

    with pytest.raises(ValueError, match="too far") as caught:
        na.minimize(fun, np.zeros(1), lr=0.1)
    so_far = caught.value.numadam_result
    assert np.isnan(so_far.fun_last)
    assert -0.5 <= so_far.fun == -so_far.x[0]
    assert so_far.nfev == 7
    assert so_far.history["nit"][-1] == so_far.nit - 1


@pytest.mark.parametrize("fun", [rosen, python_rosen], ids=["compiled", "python"])
def test_a_schedule_that_raises_ends_the_run_where_it_does(fun):
    def lr(t):
        if t == 3:
            raise ZeroDivisionError
        return 0.01

    with pytest.raises(ZeroDivisionError) as caught:
        na.minimize(fun, START, jac=None if fun is rosen else True, lr=lr)
    assert caught.value.numadam_result.nit == 3


def test_an_interrupt_leaves_counts_and_history_together():
    import _thread
    import signal
    import threading

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        for _ in range(3):
            timer = threading.Timer(0.1, _thread.interrupt_main)
            timer.start()
            with pytest.raises(KeyboardInterrupt) as caught:
                na.minimize(rosen, START, gtol=0, maxiter=10**9, lr=1e-9, history=1)
            so_far = caught.value.numadam_result
            assert so_far.nfev == so_far.nit + 1 == so_far.history["nit"][-1] + 1
    finally:
        signal.signal(signal.SIGINT, before)


def test_what_raises_keeps_no_argument_alive():
    import gc
    import weakref

    @numba.njit
    def fun(x, g, data):
        if x[0] > 0.5:
            raise ValueError("no")
        g[0] = -1.0
        return data.sum()

    def raises(data):
        try:
            na.minimize(fun, np.zeros(1), (data,), lr=0.1)
        except ValueError:
            return True
        return False

    data = np.ones(1000)
    gone = weakref.ref(data)
    assert raises(data)
    del data
    gc.collect()
    assert gone() is None


def test_an_exception_that_takes_no_attribute_comes_through():
    import dataclasses

    @dataclasses.dataclass(frozen=True)
    class Frozen(Exception):
        why: str

    def fun(x):
        raise Frozen("so")

    with pytest.raises(Frozen, match="so"):
        na.minimize(fun, np.ones(1), jac=True)


def test_only_the_problem_that_raised_says_so():
    @numba.njit
    def fun(x, g, i):
        if i == 5 and x[0] < 0.5:
            raise ValueError("lost")
        g[0] = 1.0
        return x[0]

    with pytest.raises(ValueError, match="lost") as caught:
        na.minimize_many(fun, np.ones((20, 1)), lr=0.1)
    so_far = caught.value.numadam_result
    assert set(so_far.status.tolist()) == {-1}
    assert "1 of 20: fun raised" in so_far.message


def test_an_exception_carries_the_run():
    def fun(x):
        if x[0] < 0.5:
            raise OSError("solver failed")
        return square(x)

    with pytest.raises(OSError, match="solver failed") as caught:
        na.minimize(fun, np.ones(2), jac=True, lr=0.1)
    so_far = caught.value.numadam_result
    assert so_far.nit == so_far.state["t"] > 3
    assert so_far.x[0] >= 0.5 > so_far.x_last[0]
    again = na.minimize(square, so_far.x, jac=True, lr=0.1, state=so_far.state)
    assert again.success


def test_ctrl_c_carries_the_run():
    def callback(x):
        if x[0] < 0.5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) as caught:
        na.minimize(square, np.ones(2), jac=True, lr=0.1, callback=callback)
    assert caught.value.numadam_result.nit > 3


@pytest.mark.parametrize("at", [1, 2])
def test_an_interrupt_while_the_best_rows_are_kept_tears_nothing(monkeypatch, at):
    """Of large arrays each copy takes so long that Ctrl-C often waits for its end."""
    copy, copies = PythonBatch._copy, []

    def interrupted(self, to, of, rows):
        copy(self, to, of, rows)
        copies.append(to)
        if len(copies) == 6 + at:  # after x, or x and gradient, of the fourth iterate
            raise KeyboardInterrupt

    monkeypatch.setattr(PythonBatch, "_copy", interrupted)
    with pytest.raises(KeyboardInterrupt) as raised:
        na.minimize_many(
            lambda X: (np.sum(X**2, 1), 2 * X), np.array([[3.0, 4.0], [5.0, 6.0]]), jac=True, lr=0.1
        )
    res = raised.value.numadam_result
    np.testing.assert_array_equal(res.fun, np.sum(res.x**2, 1))
    np.testing.assert_array_equal(res.jac, 2 * res.x)
    np.testing.assert_array_equal(res.grad_norm, np.abs(res.jac).max(1))
    np.testing.assert_array_equal(res.fun_last, np.sum(res.x_last**2, 1))


def test_a_gradient_that_was_forgotten_is_named():
    with pytest.raises(TypeError, match=r"^jac: the gradient is None"):
        na.minimize(lambda x: 1.0, np.zeros(2), jac=lambda x: None)


def test_a_callback_that_python_knows_no_signature_of():
    seen = set()
    na.minimize(lambda x: (x @ x, 2 * x), np.ones(1), jac=True, maxiter=3, callback=seen.update)
    assert len(seen) == 3
