"""Defects that minimize once had."""

from __future__ import annotations

import copy

import numba
import numpy as np
import pytest
from objectives import Counted, python_rosen, rosen, square
from scipy.optimize import rosen as scipy_rosen

import numadam as na

START = np.array([-1.2, 1.0])


@pytest.mark.parametrize("clip", ["clip_norm", "clip_array_norm"])
def test_a_clip_that_changes_is_that_of_each_step(clip):
    options = {"lr": 0.1, "maxiter": 30, "gtol": 0, clip: lambda t: 0.1 + t}
    compiled = na.minimize(rosen, START, **options)
    python = na.minimize(python_rosen, START, jac=True, **options)
    np.testing.assert_array_equal(compiled.x, python.x)


def test_complex_x_has_no_differences():
    with pytest.raises(TypeError, match="jac: finite differences take real x"):
        na.minimize(lambda z: np.sum(abs(z - 1j) ** 2), np.ones(3, complex))


def test_differences_where_bounds_leave_no_room():
    fun = Counted(lambda x: float(np.sum((x - 2) ** 2)))
    res = na.minimize(fun, np.ones(3), bounds=[(1, 1), (0, 2), (0, 3)], lr=0.1)
    assert res.success
    np.testing.assert_allclose(res.x, [1, 2, 2], atol=1e-5)
    assert all(x[0] == 1 for x in fun.seen)


def test_f_that_is_not_finite_at_the_end_is_no_success():
    res = na.minimize(lambda x: np.nan, np.full(3, 1e-9), jac=lambda x: 2 * x)
    assert (res.status, res.success) == (2, False)


def test_differences_stop_where_f_is_not_finite():
    fun = Counted(lambda x: np.inf)
    res = na.minimize(fun, np.ones(3))
    assert (res.status, res.nfev, len(fun.seen)) == (2, 1, 1)


@pytest.mark.parametrize("fun", [rosen, python_rosen], ids=["compiled", "python"])
def test_a_saved_run_is_not_written_to(fun):
    jac = None if fun is rosen else True
    half = na.minimize(fun, START, jac=jac, lr=0.02, maxiter=40)
    saved = copy.deepcopy(half.state)
    for _ in range(2):
        rest = na.minimize(fun, half.x, jac=jac, lr=0.02, maxiter=40, state=half.state)
        for name, value in saved.items():
            np.testing.assert_array_equal(half.state[name], value)
        assert rest.fun_best == python_rosen(rest.x_best)[0]


def test_no_best_is_carried_on_where_none_is_tracked():
    half = na.minimize(python_rosen, START, jac=True, lr=0.02, maxiter=40)
    rest = na.minimize(
        python_rosen, half.x, jac=True, lr=1.0, maxiter=3, state=half.state, track_best=False
    )
    assert rest.fun_best == rest.fun
    assert "fun_best" not in rest.state


@pytest.mark.parametrize("fun", [rosen, python_rosen], ids=["compiled", "python"])
def test_a_best_outside_of_new_bounds_is_forgotten(fun):
    jac, bounds = None if fun is rosen else True, [(2, 3), (2, 3)]
    half = na.minimize(fun, START, jac=jac, lr=0.02, maxiter=40)
    rest = na.minimize(fun, half.x, jac=jac, maxiter=3, state=half.state, bounds=bounds)
    assert ((rest.x_best >= 2) & (rest.x_best <= 3)).all()


@pytest.mark.parametrize("fun", [rosen, python_rosen], ids=["compiled", "python"])
def test_who_watches_a_resumed_run_sees_new_iterates_only(fun, capsys):
    jac = None if fun is rosen else True
    half = na.minimize(fun, START, jac=jac, maxiter=5)
    seen = []
    na.minimize(
        fun, half.x, jac=jac, maxiter=3, state=half.state, progress=True,
        callback=lambda intermediate_result: seen.append(intermediate_result.nit),
    )  # fmt: skip
    assert seen == [6, 7, 8]
    assert "3/3" in capsys.readouterr().err


@pytest.mark.parametrize("fun", [rosen, python_rosen], ids=["compiled", "python"])
def test_a_plateau_in_two_pieces_is_that_of_the_whole(fun):
    def plateau():
        return na.schedules.ReduceOnPlateau(0.5, factor=0.5, patience=2)

    jac, whole, pieces = None if fun is rosen else True, plateau(), plateau()
    a = na.minimize(fun, START, jac=jac, lr=whole, maxiter=60)
    half = na.minimize(fun, START, jac=jac, lr=pieces, maxiter=25)
    b = na.minimize(fun, half.x, jac=jac, lr=pieces, maxiter=35, state=half.state)
    np.testing.assert_array_equal(a.x, b.x)
    assert whole == pieces


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
    assert np.isnan(so_far.fun)
    assert so_far.nfev == 7
    assert np.isnan(so_far.history["fun"][-1])


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


def test_with_a_separate_jac_f_is_asked_for_only_when_it_is_looked_at():
    fun = Counted(scipy_rosen)
    seen = []
    na.minimize(
        fun, START, jac=lambda x: python_rosen(x)[1], maxiter=20, check_every=5,
        callback=seen.append,
    )  # fmt: skip
    assert len(fun.seen) == 5
    assert len(seen) == 4


@numba.njit
def one(x):
    return x[0] ** 2


REFUSED = [
    ((square, np.ones(3)), {"jac": np.ones(3)}, TypeError, "jac: expected True"),
    ((square, [[1.0, 2.0], [3.0]]), {"jac": True}, ValueError, "x0: "),
    ((square, np.ones(3)), {"jac": True, "maxiter": 10**30}, ValueError, "maxiter"),
    ((square, np.ones(3)), {"jac": True, "track_best": "no"}, TypeError, "track_best"),
    ((square, np.ma.ones(3)), {"jac": True}, TypeError, "masked"),
    ((rosen, START), {"jac": lambda x: x}, TypeError, "takes 1 argument"),
    ((square, np.ones(3)), {"jac": True, "callback": lambda x: x}, TypeError, "callback: returned"),
]


@pytest.mark.parametrize(("args", "options", "error", "message"), REFUSED, ids=range(len(REFUSED)))
def test_refused(args, options, error, message):
    with pytest.raises(error, match=message):
        na.minimize(*args, **options)


def test_a_whole_result_is_no_state():
    res = na.minimize(square, np.ones(2), jac=True, maxiter=2)
    with pytest.raises(TypeError, match=r"state=result.state"):
        na.minimize(square, np.ones(2), jac=True, state=res)
