"""Defects that minimize once had."""

from __future__ import annotations

import copy

import numba
import numpy as np
import pytest
from scipy.optimize import rosen as scipy_rosen

import numadam as na
from tests.minimize.objectives import Counted, python_rosen, rosen, square

START = np.array([-1.2, 1.0])


def test_a_clip_that_changes_is_that_of_each_step():
    options = {"lr": 0.1, "maxiter": 30, "gtol": 0, "clip_norm": lambda t: 0.1 + t}
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
    ((square, np.ones(3)), {"jac": np.ones(3)}, ValueError, "jac: expected True"),
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


def test_groups_of_problems_take_equally_many_steps(monkeypatch):
    import numadam._minimize.compiled.state as module

    monkeypatch.setattr(module, "_GROUP", 64)

    @numba.njit
    def fun(x, g, i):
        if i == 0:
            g[0] = 2 * (x[0] - 3.0)
            return (x[0] - 3.0) ** 2
        return 0.0

    options = {"lr": 1e-3, "rule": "nadam", "maxiter": 20_000}
    many = na.minimize_many(fun, np.zeros((130, 1)), **options)
    alone = na.minimize_many(fun, np.zeros((1, 1)), **options)
    assert many.nit[0] == alone.nit[0] > 4096
    assert many.x[0] == alone.x[0]


def test_rows_may_reuse_their_buffers():
    f, g = np.zeros(4), np.zeros((4, 2))

    def fun(x):
        f[:] = np.sum((x - 1) ** 2, axis=1)
        g[:] = 2 * (x - 1)
        return f, g

    x0 = np.arange(8.0).reshape(4, 2)
    res = na.minimize_many(fun, x0, jac=True, lr=0.1, ftol=1e-10, gtol=0)
    assert res.nit.min() > 100
    assert not np.shares_memory(res.fun, f)
    assert not np.shares_memory(res.jac, g)


def test_a_compiled_objective_cannot_write_to_x():
    @numba.njit
    def fun(x, g):
        x[0] = g[0]
        return 1.0

    with pytest.raises(TypeError, match="x is read-only"):
        na.minimize(fun, np.ones(2))


def test_explicit_signatures_are_taken():
    @numba.njit("float64(float64[::1], float64[::1])")
    def fun(x, g):
        g[0] = 2 * x[0]
        return x[0] ** 2

    assert na.minimize(fun, np.ones(1), lr=0.1).success


@numba.njit
def with_default(x, g, scale=2.0):
    g[0] = 2 * scale * x[0]
    return scale * x[0] ** 2


def test_an_objective_that_could_be_called_in_two_ways_is_refused():
    with pytest.raises(TypeError, match="without defaults"):
        na.minimize_many(with_default, np.ones((3, 1)))
    assert na.minimize(with_default, np.ones(1), lr=0.1).success


def test_schedules_that_observe_are_found_in_groups_and_refused_for_many():
    plateau = na.schedules.ReduceOnPlateau(0.5, factor=0.5, patience=1)

    def fun(x):
        return 1.0, {"a": np.ones(1), "b": np.zeros(1)}

    x0 = {"a": np.zeros(1), "b": np.zeros(1)}
    na.minimize(fun, x0, jac=True, groups={"a": {"lr": plateau}}, maxiter=20)
    assert plateau.value < 0.5
    with pytest.raises(ValueError, match="lr: problems have an f each"):
        na.minimize_many(rosen, np.ones((3, 2)), lr=plateau)


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


def test_a_slow_objective_is_asked_one_by_one():
    import time

    @numba.njit
    def spin(x, g, rounds):
        s = 0.0
        for k in range(rounds):
            s += np.sin(s + k)
        g[0] = 1.0 + 1e-300 * s
        return x[0]

    na.minimize(spin, np.ones(1), (1,), maxiter=1)
    start, told = time.perf_counter(), []
    na.minimize(
        spin, np.ones(1), (3_000_000,), maxiter=12, progress=True,
        callback=lambda x: told.append(time.perf_counter() - start), check_every=1,
    )  # fmt: skip
    assert len(told) == 12


def test_differences_keep_to_bounds_rounded_into_float32():
    res = na.minimize(
        lambda x: float(np.sum((x - 1) ** 2)), np.zeros(3, np.float32), maxiter=3,
        bounds=[(0.1, 0.1), (0.1, 0.10000000001), (0, 1)],
    )  # fmt: skip
    assert res.status == 1


def test_differences_leave_frozen_arrays_in_place():
    x0 = {"a": np.full(2, 5.0), "b": np.ones(2)}
    res = na.minimize(
        lambda x: float(np.sum(x["a"]) + np.sum(x["b"] ** 2)), x0, lr=0.05,
        groups={"a": {"frozen": True}},
    )  # fmt: skip
    assert res.success
    np.testing.assert_array_equal(res.x["a"], 5.0)


@pytest.mark.parametrize("shape", [(0, 2), (3, 0)])
def test_rows_of_nothing(shape):
    res = na.minimize_many(lambda x: (np.sum(x**2, axis=1), 2 * x), np.zeros(shape), jac=True)
    assert res.success.all()
    assert res.x.shape == shape


def test_an_exception_that_takes_no_attribute_comes_through():
    import dataclasses

    @dataclasses.dataclass(frozen=True)
    class Frozen(Exception):
        why: str

    def fun(x):
        raise Frozen("so")

    with pytest.raises(Frozen, match="so"):
        na.minimize(fun, np.ones(1), jac=True)


def test_minus_infinity_is_not_the_best():
    def fun(x):
        return (-np.inf if x[0] < 0.5 else float(x[0])), np.ones(1)

    res = na.minimize(fun, np.ones(1), jac=True, lr=0.1)
    assert res.status == 2
    assert 0.5 <= res.fun_best <= 0.7


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


def test_a_table_of_learning_rates_need_not_be_longer_than_the_run():
    table = [0.1] * 60
    res = na.minimize(rosen, np.ones(2), lr=lambda t: table[t], gtol=1e-3)
    assert res.nit < 60


def test_the_last_line_of_a_thinned_history_has_its_own_lr():
    options = {"lr": na.schedules.Cosine(0.1, steps=100), "maxiter": 100, "history": 7}
    a = na.minimize(rosen, START, **options).history
    b = na.minimize(python_rosen, START, jac=True, **options).history
    for name in a:
        np.testing.assert_array_equal(a[name], b[name])
