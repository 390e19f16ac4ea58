"""Lanes: problems side by side have the bits that each has alone, for every width and edge."""

from __future__ import annotations

import _thread
import os
import signal
import threading
import warnings

import numba
import numpy as np
import pytest
from scipy.optimize import Bounds

import numadam as na
from numadam._minimize.lanes import objective as problems
from tests.minimize.compared import assert_alone
from tests.minimize.objectives import rosen
from tests.processes import FORKED, python

RNG = np.random.default_rng(1)


@numba.njit
def chain(x, g):
    """Rosenbrock's chain, in a loop over elements."""
    f = (x[0] - 1.0) ** 2
    g[0] += 2.0 * (x[0] - 1.0)
    for i in range(x.size - 1):
        a = x[i + 1] - x[i] * x[i]
        g[i] -= 4.0 * a * x[i]
        g[i + 1] += 2.0 * a
        f += a * a
    return f


@numba.njit
def with_dot(x, g):
    """An objective that needs a contiguous x."""
    g[:] = 2 * x
    return np.dot(x, x)


@numba.njit(["float64(Array(float64, 1, 'C'), Array(float64, 1, 'C'))"])
def with_signature(x, g):
    g[:] = 2 * x
    return np.sum(x * x)


@numba.njit
def complex_bowl(x, g):
    f = 0.0
    for i in range(x.size):
        d = x[i] - (1 + 2j)
        g[i] = 2 * d * (i + 1)
        f += (i + 1) * (d.real * d.real + d.imag * d.imag)
    return f


def starts(count, n, dtype=np.float64):
    x = RNG.uniform(-1, 1, (count, n))
    return (x + 1j * x[:, ::-1]).astype(dtype) if np.dtype(dtype).kind == "c" else x.astype(dtype)


@pytest.fixture
def widths(monkeypatch):
    """The lanes of the runs."""
    seen, init = [], problems.Problems.__init__

    def note(self, task):
        init(self, task)
        seen.append(self.lanes)

    monkeypatch.setattr(problems.Problems, "__init__", note)
    return seen


def assert_some_alone(fun, x0, rows, **options):
    """Some problems of a run have the bits of runs of their own."""
    many = na.minimize_many(fun, x0, **options)
    for k in rows:
        one = na.minimize(fun, x0[k], **options)
        assert_alone(many, k, one)
        if "ema" in options:
            np.testing.assert_array_equal(many.averaged[k], one.averaged)
    return many


@pytest.mark.parametrize("count", [1, 23, 24, 63, 64, 65, 200])
def test_any_number_of_problems(count, widths):
    rows = sorted({0, count // 2, max(0, count - 2), count - 1})
    res = assert_some_alone(rosen, starts(count, 2), rows, lr=0.05, gtol=1e-1, maxiter=300)
    assert res.x.shape == (count, 2)
    assert widths == [64 if count >= 24 else 1]


@pytest.mark.parametrize("n", [1, 2, 3, 5, 8, 13, 16, 17, 40])
def test_any_number_of_elements(n, widths):
    assert_some_alone(chain, starts(70, n), (0, 33, 69), lr=0.05, gtol=1e-2, maxiter=200)
    assert widths == [64 if n <= 16 else 1]


OPTIONS = [
    ({"lr": 0.05, "ftol": 1e-6, "xtol": 1e-5, "gtol": 1e-3, "amsgrad": True, "like": "quimb"}, 64),
    ({"lr": 0.05, "rule": "adamw", "like": "keras", "ema": 0.9, "gtol": 1e-2}, 64),
    ({"lr": 0.05, "bounds": Bounds([-0.5] * 4, [0.3, 0.2, 1.0, 0.9]), "gtol": 1e-3}, 64),
    ({"lr": na.schedules.Cosine(0.1, steps=80), "bounds": (-0.4, 0.6), "gtol": 1e-3}, 64),
    ({"lr": 0.05, "clip_norm": 0.5, "gtol": 1e-2}, 1),
    ({"lr": 0.05, "rule": "nadam", "beta1": lambda t: 0.8 + 0.001 * t}, 64),
]


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize(("options", "lanes"), OPTIONS, ids=range(len(OPTIONS)))
def test_options(options, lanes, dtype, widths):
    options = {"maxiter": 150, **options}
    assert_some_alone(chain, starts(130, 4, dtype), (0, 63, 64, 100, 129), **options)
    assert widths == [lanes]


@pytest.mark.parametrize("form", ["parts", "modulus"])
def test_complex_problems(form, widths):
    options = {"lr": 0.05, "gtol": 1e-2, "xtol": 1e-4, "maxiter": 300, "complex_form": form}
    assert_some_alone(complex_bowl, starts(70, 3, np.complex128), (0, 31, 32, 69), **options)
    assert widths == [32]


@pytest.mark.parametrize("fun", [with_dot, with_signature])
def test_objectives_that_need_a_contiguous_x(fun, widths):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert_some_alone(fun, starts(70, 3), (0, 69), lr=0.05, gtol=1e-2, maxiter=200)
    assert widths == [1]


def test_a_step_size_for_each_element(widths):
    lr = np.array([[0.1, 0.01, 0.05]])
    res = na.minimize_many(chain, x0 := starts(70, 3), lr=lr, maxiter=50)
    one = na.minimize(chain, x0[69], lr=lr[0], maxiter=50)
    np.testing.assert_array_equal(res.x[69], one.x)
    own = na.minimize_many(chain, x0, lr=np.repeat(lr, 70, axis=0), maxiter=50)
    np.testing.assert_array_equal(res.x, own.x)
    assert widths == [64, 64]


def test_bounds_for_each_element_of_each_problem(widths):
    x0, low = starts(70, 2), np.linspace(-2.0, 0.5, 140).reshape(70, 2)
    res = na.minimize_many(rosen, x0, bounds=Bounds(low, low + 1), lr=0.05, maxiter=100)
    one = na.minimize(rosen, x0[66], bounds=Bounds(low[66], low[66] + 1), lr=0.05, maxiter=100)
    np.testing.assert_array_equal(res.x[66], one.x)
    assert widths == [64]


def test_errors_name_the_shapes_of_the_user():
    low = np.arange(128.0).reshape(64, 2)
    with pytest.raises(ValueError, match=r"broadcasts to shape \(70, 2\)"):
        na.minimize_many(rosen, starts(70, 2), bounds=Bounds(low, low + 1))
    low = np.arange(140.0).reshape(70, 2)
    with pytest.raises(ValueError, match=r"lo is above hi of element \[0, 0\] of params"):
        na.minimize_many(rosen, starts(70, 2), bounds=Bounds(low, low - 1))


def test_best_is_kept_where_f_rises_again():
    @numba.njit
    def fun(x, g, i):  # a large step size jumps over the minimum, again and again
        g[0] = 2 * x[0]
        return x[0] * x[0] if i != 3 else np.nan

    res = na.minimize_many(fun, np.linspace(0.05, 1.0, 30)[:, None], lr=0.3, maxiter=40)
    others = np.arange(30) != 3
    assert (res.fun <= res.fun_last)[others].all()
    assert (res.fun < res.fun_last).any()
    np.testing.assert_array_equal(res.x[others, 0] ** 2, res.fun[others])
    np.testing.assert_array_equal(res.x_last[others, 0] ** 2, res.fun_last[others])
    np.testing.assert_array_equal(res.jac, 2 * res.x)
    np.testing.assert_array_equal(res.grad_norm, abs(2 * res.x[:, 0]))
    assert np.isnan([res.fun[3], res.fun_last[3]]).all()
    assert res.x[3] == res.x_last[3]


def test_an_objective_that_raises_is_not_called_for_stopped_problems():
    @numba.njit
    def fun(x, g, i, calls):
        calls[i] += 1
        g[0] = 2 * x[0]
        if i == 40 and calls[i] > 30:
            raise ValueError("lost")
        return x[0] * x[0]

    calls = np.zeros(100, np.int64)
    x0 = np.full((100, 1), 5.0)
    x0[50:] = 0.0  # these stop at once
    with pytest.raises(ValueError, match="lost") as caught:
        na.minimize_many(fun, x0, (calls,), lr=0.01)
    assert (calls[50:] == 1).all()
    assert "numadam: in problem 40." in caught.value.__notes__
    res = caught.value.numadam_result
    assert res.status[50] == 0
    assert res.status[40] == -1
    assert res.nit[0] == 30


def test_an_interrupt_comes_between_calls_and_carries_the_result():
    x0 = RNG.uniform(-2.0, 2.0, (500, 2))
    na.minimize_many(rosen, x0, gtol=0, maxiter=1)  # compiled before the interrupt comes
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    timer = threading.Timer(0.3, _thread.interrupt_main)
    try:
        timer.start()
        with pytest.raises(KeyboardInterrupt) as caught:
            na.minimize_many(rosen, x0, gtol=0, maxiter=2**40, lr=1e-9)
    finally:
        timer.cancel()
        signal.signal(signal.SIGINT, before)
    so_far = caught.value.numadam_result
    taken = int(so_far.nit[0])
    assert taken > 10
    assert (so_far.nit == taken).all()
    one = na.minimize(rosen, x0[7], gtol=0, maxiter=taken, lr=1e-9, history=False)
    np.testing.assert_array_equal(so_far.x_last[7], one.x_last)
    np.testing.assert_array_equal(so_far.x[7], one.x)


_IN_A_CHILD = """
import numba, numpy as np, numadam as na
@numba.njit
def bowl(x, g):
    g[0], g[1] = 2 * x[0], 4 * x[1]
    return x[0] ** 2 + 2 * x[1] ** 2
def run():
    return na.minimize_many(bowl, np.ones((3000, 2)), maxiter=20, gtol=0).x.tobytes().hex()
def same():
    return str(run() == first)
first = run()
print(in_child(same), in_child(lambda: in_child(same)))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this platform has no fork")
@pytest.mark.parametrize("layer", ["omp", "workqueue", "default"])
def test_child_of_a_fork_minimises_with_the_same_bits(layer):
    assert python(FORKED + _IN_A_CHILD, NUMBA_THREADING_LAYER=layer).split() == ["True", "True"]
