"""minimize with a compiled objective: the numbers of the loop in Python; prepared problems."""

from __future__ import annotations

import gc
import threading
import weakref

import numba
import numpy as np
import pytest

import numadam as na
from numadam._minimize.compiled import problem as prepared
from tests import extras
from tests.minimize.objectives import START, assert_same_run, python_rosen, ramp, rosen


@numba.njit
def weighted(x, g, w, scale):
    f = 0.0
    for i in range(x.size):
        d = x.flat[i] - w[i]
        f += scale * d * d
        g.reshape(-1)[i] += 2 * scale * d
    return f


@numba.njit
def pulled(x, g, a):
    g[0] = 2.0 * (x[0] - a[0])
    return (x[0] - a[0]) ** 2


@numba.njit
def bowl(x, g, scale):
    for i in range(x.size):
        g[i] = scale * x[i]
    return 0.5 * scale * x[0] ** 2


@pytest.fixture
def nothing_prepared(monkeypatch):
    free = {}
    monkeypatch.setattr(prepared, "_free", free)
    return free


#: The first ones have one compiled loop.
OPTIONS = [
    {},
    {"lr": 0.02, "gtol": 0, "ftol": 1e-12},
    {"lr": 0.02, "gtol": 0, "xtol": 1e-9},
    {"lr": 0.02, "gtol_rel": 1e-2, "track_best": False},
    {"lr": na.schedules.Cosine(0.1, steps=100), "maxiter": 100, "history": 7},
    {
        "rule": "nadam", "lr": 0.02, "bounds": [(None, 0.5), (-2, 2)], "norm": 2, "xtol": 1e-4,
        "beta1": lambda t: 0.9 if t < 99 else 0.8,
    },
    {"rule": "adamw", "lr": 0.02, "clip_norm": lambda t: 1.0 + t / 9, "weight_decay": 0.1},
    extras.sweep({
        "rule": "adamw", "lr": np.array([0.01, 0.03]), "clip_norm": lambda t: 1.0 + t / 9,
        "weight_decay": 0.1,
    }),
    extras.sweep({"clip_value": 2.0, "ema": 0.9, "amsgrad": True, "like": "numpy"}),
    extras.sweep({
        "rule": "sgd", "lr": 1e-3, "momentum": 0.9, "clip_array_norm": 3.0, "ema": 0.9,
        "bounds": (0, 2),
    }),
    extras.sweep(
        {"rule": "adagrad", "lr": 0.1, "initial_accumulator": 0.5, "like": "keras", "ema": 0.9}
    ),
    extras.sweep({"lr": na.schedules.Cosine(0.05, steps=300), "beta1": lambda t: 0.9 - t / 999}),
]  # fmt: skip


@pytest.mark.parametrize("options", OPTIONS, ids=range(len(OPTIONS)))
def test_compiled_and_python_loop_agree_bit_for_bit(options, nothing_prepared):
    """The first run, and a second one that finds the problem of the first."""
    options = {"maxiter": 400, **options}
    compiled = na.minimize(rosen, START, **options)
    assert compiled.nit > 10
    problems = [list(free) for free in nothing_prepared.values()]
    # another run between them, of other numbers
    changed = {"lr": 0.3, "xtol": 0.5, "history": False, "track_best": True, "maxiter": 5}
    na.minimize(rosen, np.full(2, 0.3), **options | changed)
    again = na.minimize(rosen, START, **options)
    if problems:
        assert list(nothing_prepared.values()) == problems
    python = na.minimize(python_rosen, START, jac=True, **options)
    for other in (again, python):
        assert_same_run(compiled, other)
        if "ema" in options:
            np.testing.assert_array_equal(compiled.averaged, other.averaged)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_shapes_arguments_and_dtypes(dtype):
    w = np.arange(6, dtype=dtype)
    res = na.minimize(weighted, np.zeros((2, 3), dtype), (w, 0.5), lr=0.2, gtol=1e-4)
    assert res.success
    assert res.x.dtype == dtype
    np.testing.assert_allclose(res.x, w.reshape(2, 3), atol=1e-3)


def test_progress_and_schedules_that_observe(capsys):
    schedule = na.schedules.ReduceOnPlateau(0.5, factor=0.5, patience=3)
    other = na.schedules.ReduceOnPlateau(0.5, factor=0.5, patience=3)
    res = na.minimize(rosen, START, lr=schedule, maxiter=100, progress=True)
    python = na.minimize(python_rosen, START, jac=True, lr=other, maxiter=100)
    assert_same_run(res, python)
    assert schedule.value == other.value < 0.5
    assert "100/100" in capsys.readouterr().err


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite(bad):
    res = na.minimize(bowl, np.ones(1), (bad,), lr=0.1)
    assert (res.nit, res.status, res.success) == (0, 2, False)

    @numba.njit
    def fun(x, g, bad):
        g[0] = -1.0 if x[0] < 0.3 else bad
        return -x[0]

    res = na.minimize(fun, np.zeros(1), (bad,), lr=0.1)
    assert (res.status, res.success) == (3, False)
    assert np.isfinite(res.x).all()
    assert res.x == res.x_last  # f is lowest there


# --- prepared problems ---------------------------------------------------------------------------


def test_a_table_of_learning_rates_need_not_be_longer_than_the_run():
    table = [0.1] * 60
    res = na.minimize(rosen, np.ones(2), lr=lambda t: table[t], gtol=1e-3)
    assert res.nit < 60


def test_a_result_keeps_its_numbers():
    first = na.minimize(rosen, START, maxiter=20, ema=0.9)
    arrays = ("x", "jac", "x_last", "averaged")
    kept = {name: first[name].copy() for name in arrays}
    state = {name: np.copy(value) for name, value in first.state.items()}
    lines = {name: column.copy() for name, column in first.history.items()}
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


def test_threads_have_problems_of_their_own():
    starts = np.random.default_rng(0).uniform(-1, 1, (8, 2))
    alone = [na.minimize(rosen, x, maxiter=300).x for x in starts]
    found = [[] for _ in starts]

    def work(k):
        for _ in range(30):
            found[k].append(na.minimize(rosen, starts[k], maxiter=300).x)

    threads = [threading.Thread(target=work, args=(k,)) for k in range(len(starts))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for x, xs in zip(alone, found, strict=True):
        np.testing.assert_array_equal(xs, [x] * 30)


def test_threads_share_no_scalars_of_late_steps():
    """Runs of the same settings share those of the first steps; the others are each run's own."""

    def run():
        return na.minimize(bowl, np.full(3, 900.0), (1.0,), lr=0.01, maxiter=70_000, gtol=0).x

    alone, found = run(), []
    threads = [threading.Thread(target=lambda: found.append(run())) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    np.testing.assert_array_equal(found, [alone] * 8)


def test_an_exception_leaves_nothing_behind(nothing_prepared):
    whole = na.minimize(ramp, np.zeros(1), (9.0,), lr=0.1, maxiter=20)
    with pytest.raises(ValueError, match="too far") as caught:
        na.minimize(ramp, np.zeros(1), (0.5,), lr=0.1, maxiter=20)
    so_far = caught.value.numadam_result
    assert_same_run(na.minimize(ramp, np.zeros(1), (9.0,), lr=0.1, maxiter=20), whole)
    assert so_far.nit == so_far.state["t"] == 6


def test_no_argument_stays_alive(nothing_prepared):
    def observing(t):
        return 0.1

    data = np.ones(1000)
    na.minimize(pulled, np.zeros(1), (data,), lr=observing, maxiter=3)
    assert nothing_prepared
    gone = [weakref.ref(data), weakref.ref(observing)]
    del data, observing
    gc.collect()
    assert [ref() for ref in gone] == [None, None]


def test_arguments_of_each_type_have_an_adapter_of_their_own():
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
        found = na.minimize(pulled, np.zeros(1), (a,), lr=0.1, gtol=1e-4)
        assert found.x[0] == pytest.approx(0.5, 1e-2)
    with pytest.raises(TypeError, match=r"args\[0\]: .* is beyond the range of int64"):
        na.minimize(pulled, np.zeros(1), (2**70,))


@numba.njit
def data_second(x, d, g):
    """Its arguments are in another order than the loop's: writes into what is meant as data."""
    f = 0.0
    for k in range(d.size):
        f += (x[0] * (k + 1) - d[k]) ** 2
        g[k] += 2 * (x[0] * (k + 1) - d[k]) * (k + 1)
    return f


@numba.njit
def forgets_g(x, g):
    return (x[0] - 3) ** 2 + 0 * g[0]


@numba.njit
def with_work(x, g, work):
    """A square around 3, with an array for what lies between."""
    for i in range(x.size):
        work[i] = x[i] - 3
        g[i] += 2 * work[i]
    return np.sum(work * work)


@numba.njit
def flat(x, g):
    g[:] = 0
    return 5.0


@pytest.mark.parametrize("rows", [None, 2, 60])
def test_an_objective_that_writes_no_gradient_is_refused_at_its_first_call(rows):
    """g stays 0, and x0 would be a minimum."""
    start = np.ones(2) if rows is None else np.ones((rows, 2))
    minimize = na.minimize if rows is None else na.minimize_many
    for fun, args in ((data_second, (np.arange(1.0, 6.0),)), (forgets_g, ())) * 2:
        with pytest.raises(TypeError, match=r"^fun: f changes.* g, its second argument, stays 0"):
            minimize(fun, start, args, lr=0.1)


def test_work_arrays_and_true_zeros_are_no_missing_gradient():
    for x0 in (np.full(2, 3.0), np.ones(2)):  # the first one is the minimum
        work = np.zeros(2)
        res = na.minimize(with_work, x0, (work,), lr=0.1)
        assert res.success
        np.testing.assert_allclose(res.x, 3, atol=1e-5)
    assert na.minimize(with_work, np.full(2, 3.0), (np.zeros(2),), bounds=(0, 3)).success
    assert na.minimize(flat, np.ones(2)).success
