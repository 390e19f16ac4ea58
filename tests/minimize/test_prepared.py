"""Prepared problems: a run that finds one is like the first, and no two runs share memory."""

from __future__ import annotations

import threading

import numba
import numpy as np
import pytest

import numadam as na
from numadam._minimize.compiled import problem as prepared
from tests.minimize.compared import assert_same_run
from tests.minimize.objectives import START, rosen


@pytest.fixture(autouse=True)
def nothing_prepared(monkeypatch):
    free = {}
    monkeypatch.setattr(prepared, "_free", free)
    return free


OPTIONS = [
    {},
    {"lr": na.schedules.Cosine(0.05, steps=50)},
    {"rule": "adagrad", "lr": 0.1, "initial_accumulator": 0.5},
    {"ema": 0.9, "bounds": (-0.5, 0.75), "xtol": 1e-12, "weight_decay": 0.1, "decoupled": True},
    {"like": "tf1", "track_best": False, "history": 7},
    {"clip_norm": 1.0},
]


def wanted(options):
    x0 = np.array([START, START])
    return {"fun": pair, "x0": x0, "maxiter": 90, **options}


@numba.njit
def pair(x, g):
    """Rosenbrock's valley in each of two rows."""
    return rosen(x[0], g[0]) + rosen(x[1], g[1])


@pytest.mark.parametrize("options", OPTIONS, ids=range(len(OPTIONS)))
def test_a_second_run_is_like_the_first(options, nothing_prepared):
    first = na.minimize(**wanted(options))
    ((problem,),) = nothing_prepared.values()
    # another run between them, of other numbers
    changed = {"lr": 0.3, "xtol": 0.5, "history": False, "track_best": True, "maxiter": 5}
    na.minimize(**{**wanted(options), **changed, "x0": np.full((2, 2), 3.0)})
    second = na.minimize(**wanted(options))
    assert nothing_prepared.popitem()[1] == [problem]
    assert_same_run(first, second)


def test_a_result_keeps_its_numbers():
    first = na.minimize(rosen, START, maxiter=20, ema=0.9)
    arrays = ("x", "jac", "x_last", "averaged")
    kept = {name: first[name].copy() for name in arrays}
    state = {name: np.copy(one) for name, one in first.state.items()}
    lines = {name: one.copy() for name, one in first.history.items()}
    na.minimize(rosen, np.ones(2), maxiter=30, ema=0.9)
    for name in arrays:
        np.testing.assert_array_equal(first[name], kept[name])
    for saved, now in ((state, first.state), (lines, first.history)):
        for name in saved:
            np.testing.assert_array_equal(now[name], saved[name])


def test_options_that_are_equal_but_not_the_same():
    for low in (0.0, -0.0):
        x = na.minimize(rosen, np.full(3, -1.0), bounds=(low, 1.0), maxiter=0).x
        assert np.signbit(x[0]) == np.signbit(low)
    na.minimize(rosen, START, maxiter=1, decay_times_lr=True)
    with pytest.raises(TypeError, match="decay_times_lr: expected True or False, got 1"):
        na.minimize(rosen, START, maxiter=1, decay_times_lr=1)
    with pytest.raises(ValueError, match="lr: expected a number"):
        na.minimize(rosen, START, maxiter=1, lr=-1.0)


def test_arrays_and_functions_among_the_options_are_read_each_time(nothing_prepared):
    rates = np.array([0.1, 0.0])
    one = na.minimize(rosen, START, lr=rates, maxiter=5)
    rates[:] = [0.0, 0.1]
    two = na.minimize(rosen, START, lr=rates, maxiter=5)
    assert one.x[0] != START[0]
    assert two.x[0] == START[0]
    na.minimize(rosen, START, beta1=lambda t: 0.9, maxiter=5)
    na.minimize(rosen, START, bounds=[(0, 1), (None, 2)], maxiter=5)
    assert not nothing_prepared


def test_a_run_within_a_callback_has_a_problem_of_its_own():
    alone = na.minimize(rosen, START, maxiter=10)

    def callback(x):
        inner = na.minimize(rosen, START, maxiter=10)
        np.testing.assert_array_equal(inner.x, alone.x)

    outer = na.minimize(rosen, START, maxiter=10, callback=callback)
    assert_same_run(outer, alone)


def test_threads_have_problems_of_their_own():
    starts = np.random.default_rng(0).uniform(-1, 1, (8, 2))
    alone = [na.minimize(rosen, x, maxiter=300).x for x in starts]
    found = [[] for _ in starts]

    def work(k):
        for _ in range(30):
            found[k].append(na.minimize(rosen, starts[k], maxiter=300).x)

    threads = [threading.Thread(target=work, args=(k,)) for k in range(len(starts))]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    for x, xs in zip(alone, found, strict=True):
        assert len(xs) == 30
        assert all(np.array_equal(x, one) for one in xs)


def test_an_exception_leaves_nothing_behind(nothing_prepared):
    @numba.njit
    def fails(x, g, limit):
        if x[0] > limit:
            raise ValueError("too far")
        g[0] = -1.0
        return -x[0]

    whole = na.minimize(fails, np.zeros(1), (9.0,), lr=0.1, maxiter=20)
    with pytest.raises(ValueError, match="too far") as caught:
        na.minimize(fails, np.zeros(1), (0.5,), lr=0.1, maxiter=20)
    so_far = caught.value.numadam_result
    assert so_far.nit == 6
    assert_same_run(na.minimize(fails, np.zeros(1), (9.0,), lr=0.1, maxiter=20), whole)
    assert so_far.nit == so_far.state["t"] == 6


def test_few_are_kept_and_none_of_large_arrays(nothing_prepared):
    @numba.njit
    def square(x, g):
        for i in range(x.size):
            g[i] = 2.0 * x[i]
        return x[0]

    for n in range(1, 80):
        na.minimize(square, np.ones(n), maxiter=1)
    assert len(nothing_prepared) <= 64
    nothing_prepared.clear()
    na.minimize(square, np.ones(50_000), maxiter=1)
    assert not nothing_prepared


def test_no_argument_stays_alive(nothing_prepared):
    import gc
    import weakref

    @numba.njit
    def fun(x, g, data):
        g[0] = x[0] + data[0]
        return 0.5 * x[0] ** 2

    def observing(t):
        return 0.1

    data = np.ones(1000)
    na.minimize(fun, np.zeros(1), (data,), lr=observing, maxiter=3)
    assert nothing_prepared
    gone = [weakref.ref(data), weakref.ref(observing)]
    del data, observing
    gc.collect()
    assert [ref() for ref in gone] == [None, None]


def test_arguments_of_each_type_have_an_adapter_of_their_own():
    @numba.njit
    def fun(x, g, a):
        g[0] = 2.0 * (x[0] - a[0])
        return (x[0] - a[0]) ** 2

    for a in (
        np.array([0.5]),
        np.array([0.5], np.float32),
        np.array([0.5, 9.0, 9.0])[::2],
        np.broadcast_to(0.5, 3),
        (0.5, 1),
        (0.5, 2**40),
        (0.5, np.array([1])),
        np.array([(0.5,)], [("f", float)])["f"],
    ):
        assert na.minimize(fun, np.zeros(1), (a,), lr=0.1, gtol=1e-4).x[0] == pytest.approx(
            0.5, 1e-2
        )
    with pytest.raises(TypeError, match=r"args\[0\]: Numba has no type"):
        na.minimize(fun, np.zeros(1), (2**70,))
