"""minimize with a compiled objective: the numbers of the loop in Python, without Python."""

from __future__ import annotations

import numba
import numpy as np
import pytest

import numadam as na
from tests.minimize.compared import assert_same_run
from tests.minimize.objectives import START, loop, python_rosen, rosen


@numba.njit
def weighted(x, g, w, scale):
    f = 0.0
    for i in range(x.size):
        d = x.flat[i] - w[i]
        f += scale * d * d
        g.reshape(-1)[i] += 2 * scale * d
    return f


@numba.njit
def returns_both(x):
    return np.sum(x * x), 2.0 * x


OPTIONS = [
    {},
    {"lr": 0.02, "gtol": 0, "ftol": 1e-12},
    {"lr": 0.02, "gtol": 0, "xtol": 1e-9},
    {"lr": na.schedules.Cosine(0.05, steps=300), "beta1": lambda t: 0.9 if t < 99 else 0.8},
    {"rule": "nadam", "lr": 0.02, "bounds": [(None, 0.5), (-2, 2)], "norm": 2},
    {"lr": 0.02, "gtol": 0, "xtol": 1e-4, "norm": 2},
    {"lr": 0.02, "gtol_rel": 1e-2},
    {"rule": "adamw", "lr": np.array([0.01, 0.03]), "clip_norm": 1.0, "weight_decay": 0.1},
    {"rule": "adamw", "lr": 0.03, "like": "keras", "ema": 0.9},
    {"clip_value": 2.0, "ema": 0.9, "amsgrad": True, "like": "quimb"},
    {"rule": "sgd", "lr": 1e-3, "momentum": 0.9, "clip_array_norm": 3.0, "bounds": [(0, 2)] * 2},
]


@pytest.mark.parametrize("options", OPTIONS, ids=range(len(OPTIONS)))
def test_compiled_and_python_loop_agree_bit_for_bit(options):
    options = {"maxiter": 400, **options}
    compiled = na.minimize(rosen, START, **options)
    python = na.minimize(python_rosen, START, jac=True, **options)
    assert compiled.nit > 10
    assert_same_run(compiled, python)
    if "ema" in options:
        np.testing.assert_array_equal(compiled.averaged, python.averaged)


def test_the_path_is_that_of_a_plain_loop():
    res = na.minimize(rosen, START, lr=0.02, maxiter=777, gtol=0)
    path = loop(na.Adam, START.copy(), 777, lr=0.02)
    np.testing.assert_array_equal(res.x_last, path[-1])
    best = min(path, key=lambda x: python_rosen(x)[0])
    np.testing.assert_array_equal(res.x, best)
    np.testing.assert_array_equal(res.jac, python_rosen(best)[1])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_shapes_arguments_and_dtypes(dtype):
    w = np.arange(6, dtype=dtype)
    res = na.minimize(weighted, np.zeros((2, 3), dtype), (w, 0.5), lr=0.2, gtol=1e-4)
    assert res.success
    assert res.x.dtype == dtype
    np.testing.assert_allclose(res.x, w.reshape(2, 3), atol=1e-3)


def test_an_objective_that_returns_both():
    res = na.minimize(returns_both, np.ones(3), jac=True, lr=0.1)
    python = na.minimize(lambda x: returns_both(x), np.ones(3), jac=True, lr=0.1)
    assert_same_run(res, python)


def test_a_compiled_function_without_gradient_takes_the_python_loop():
    @numba.njit
    def f(x):
        return (x[0] - 1.0) ** 2

    res = na.minimize(f, np.zeros(1), jac="3-point", lr=0.1)
    assert res.success
    assert res.nfev > res.nit


def test_both_loops_go_on_from_one_state():
    options = {"lr": 0.02, "rule": "nadam", "beta1": lambda t: 0.9 - 1e-4 * t}
    whole = na.minimize(rosen, START, maxiter=300, **options)
    half = na.minimize(rosen, START, maxiter=130, **options)
    rest = na.minimize(rosen, half.x, maxiter=170, state=half.state, **options)
    assert rest.nit == whole.nit == 300
    python = na.minimize(python_rosen, half.x, jac=True, maxiter=170, state=half.state, **options)
    np.testing.assert_array_equal(python.x, whole.x)


def test_callbacks_between_chunks():
    seen = []
    na.minimize(rosen, START, lr=0.02, callback=lambda x: seen.append(x.copy()), maxiter=60)
    np.testing.assert_array_equal(seen, loop(na.Adam, START.copy(), 60, lr=0.02)[1:])
    seen.clear()
    na.minimize(
        rosen, START, lr=0.02, callback=lambda x: seen.append(x), maxiter=60, check_every=20
    )
    assert len(seen) == 3


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
    @numba.njit
    def fun(x, g, bad):
        g[0] = -1.0 if x[0] < 0.3 else bad
        return -x[0]

    res = na.minimize(fun, np.zeros(1), (bad,), lr=0.1)
    assert (res.status, res.success) == (3, False)
    assert np.isfinite(res.x).all()
    assert res.x == res.x_last  # f is lowest there


def test_an_exception_carries_the_run():
    @numba.njit
    def fun(x, g):
        if x[0] > 0.5:
            raise ValueError("too far")
        g[0] = -1.0
        return -x[0]

    with pytest.raises(ValueError, match="too far") as caught:
        na.minimize(fun, np.zeros(1), lr=0.1)
    so_far = caught.value.numadam_result
    assert so_far.nit == 6
    assert so_far.x[0] <= 0.5 < so_far.x_last[0]


def test_a_new_objective_costs_no_compiling_of_the_loop(monkeypatch):
    import numadam._minimize.compiled.problem as module

    na.minimize(rosen, START, maxiter=3)
    made = []
    monkeypatch.setattr(module, "make_kernel", lambda *args: made.append(args))

    @numba.njit
    def other(x, g, k):
        g[0] = k * x[0]
        return 0.5 * k * x[0] ** 2

    assert na.minimize(other, np.ones(2), (3,), maxiter=5).nit == 5
    assert not made


def test_an_interrupt_comes_between_chunks():
    import _thread
    import signal
    import threading

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    timer = threading.Timer(0.3, _thread.interrupt_main)
    try:
        timer.start()
        with pytest.raises(KeyboardInterrupt) as caught:
            na.minimize(rosen, START, gtol=0, maxiter=2**40, lr=1e-9, history=False)
    finally:
        timer.cancel()
        signal.signal(signal.SIGINT, before)
    so_far = caught.value.numadam_result
    assert so_far.nit == so_far.state["t"] > 1000


def test_a_clip_that_changes_is_that_of_each_step():
    options = {"lr": 0.1, "maxiter": 30, "gtol": 0, "clip_norm": lambda t: 0.1 + t}
    compiled = na.minimize(rosen, START, **options)
    python = na.minimize(python_rosen, START, jac=True, **options)
    np.testing.assert_array_equal(compiled.x, python.x)


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
