"""Runs of `minimize` and `minimize_many` on CuPy arrays, cut and called again, in the simulator."""

from __future__ import annotations

import numpy as np
import pytest

import numadam as na
from tests.cuda.many_problems import STARTS, rosen
from tests.minimize.interrupted import Cut, cut_at

OPTIONS = {"lr": 0.05, "xtol": 1e-9, "maxiter": 20, "ema": 0.9}


def equal(a, b, names):
    for name in names:
        np.testing.assert_array_equal(np.asarray(a[name]), np.asarray(b[name]), err_msg=name)


def test_problems_on_a_gpu_go_on(cupy, tmp_path):
    options = {"lr": na.schedules.Cosine(0.1, steps=90), "gtol": 20.0, "rule": "nadam"}
    whole = na.minimize_many(rosen, cupy.asarray(STARTS), maxiter=24, **options)
    run = {"checkpoint": tmp_path / "a.run", "checkpoint_every": 7, **options}
    for maxiter in (0, 5, 17, 24, 24):
        res = na.minimize_many(rosen, cupy.asarray(STARTS), maxiter=maxiter, **run)
    assert type(res.x) is cupy.ndarray
    assert len(set(whole.nit)) > 2
    equal(res, whole, ("x", "fun", "jac", "grad_norm", "x_last", "fun_last", "nit", "status"))
    assert (res.nfev, res.message) == (whole.nfev, whole.message)
    with pytest.raises(na.CheckpointError, match=r"^x0: the run has .*NumPy"):
        na.minimize_many(rosen, STARTS, **run)


@pytest.mark.parametrize("check_every", [None, 1])
def test_one_problem_on_a_gpu_goes_on(cupy, tmp_path, check_every):
    def fun(x):
        f = cupy.asarray(((x - 1) ** 2).sum())
        return f, 2 * (x - 1)

    start, options = cupy.asarray(np.array([3.0, -2.0])), {**OPTIONS, "check_every": check_every}
    whole = na.minimize(fun, start, jac=True, **options)
    run = {"checkpoint": tmp_path / "a.run", "checkpoint_every": 7, **options}
    for call in (0, 9, 3):
        with pytest.raises(Cut):
            na.minimize(cut_at(fun, call), start, jac=True, **run)
    res = na.minimize(fun, start, jac=True, **run)
    assert type(res.x) is cupy.ndarray
    equal(res, whole, ("x", "fun", "jac", "grad_norm", "x_last", "nit", "nfev", "averaged"))
    assert res.message == whole.message
