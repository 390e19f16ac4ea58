"""scipy.optimize.minimize with numadam's method: SciPy's conventions on both sides."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import Bounds, LinearConstraint, minimize, rosen, rosen_der

import numadam as na
from tests.minimize.objectives import Counted, python_rosen

START = [-1.2, 1.0]


def run(fun=rosen, x0=START, jac=rosen_der, **kwargs):
    kwargs.setdefault("options", {"lr": 0.02})
    return minimize(fun, x0, jac=jac, method=na.scipy_adam, **kwargs)


def test_it_is_numadams_minimize():
    res, own = run(), na.minimize(rosen, START, jac=rosen_der, lr=0.02)
    np.testing.assert_array_equal(res.x, own.x)
    assert (res.x_last == own.x_last).all()
    assert (res.success, res.nit, res.nfev) == (True, own.nit, own.nfev)


def test_a_fun_that_returns_both_is_called_once_at_each_x():
    fun = Counted(python_rosen)
    res = run(fun, jac=True)
    assert not fun.twice
    assert res.nfev == res.njev == len(fun.seen)


@pytest.mark.parametrize("jac", [None, "3-point"])
def test_without_a_gradient_differences_are_taken(jac):
    fun = Counted(rosen)
    res = run(fun, jac=jac, options={"lr": 0.02, "maxiter": 10})
    assert res.nfev == len(fun.seen) == 33


@pytest.mark.parametrize(
    "bounds", [[(None, 0.5), (-2, 2)], Bounds([-np.inf, -2], [0.5, 2])], ids=["pairs", "Bounds"]
)
def test_bounds_arrive_raw(bounds):
    res = run(bounds=bounds)
    assert res.success
    np.testing.assert_allclose(res.x, [0.5, 0.25], atol=1e-5)


def test_tol_is_gtol():
    res = run(tol=1e-2)
    assert 1e-6 < res.grad_norm <= 1e-2
    assert run(tol=1e-2, options={"lr": 0.02, "gtol": 1e-4}).grad_norm <= 1e-4


def test_callbacks_in_both_protocols():
    seen = []

    def by_name(intermediate_result):
        seen.append(intermediate_result.fun)
        if len(seen) == 4:
            raise StopIteration

    res = run(callback=by_name)
    assert (res.status, res.success, res.nit) == (99, False, 4)
    assert res.message == "`callback` raised `StopIteration`."
    xs = []
    run(callback=xs.append, options={"maxiter": 3})
    assert len(xs) == 3
    assert not np.shares_memory(xs[0], xs[1])


def test_options_args_and_float32():
    res = run(
        lambda x, a: (float(np.sum((x - a) ** 2)), 2 * (x - a)),
        np.ones(3, np.float32),
        jac=True,
        args=(np.float32(0.5),),
        options={"rule": "adamw", "lr": 0.1, "maxiter": 7, "weight_decay": 0.0},
    )
    assert res.nit == 7
    assert res.x.dtype == np.float32


def test_what_it_cannot_do_is_said():
    with pytest.raises(ValueError, match="constraints"):
        run(constraints=LinearConstraint([[1, 1]], 0, 1))
    with pytest.warns(RuntimeWarning, match="does not use hess"):
        run(hess=lambda x: np.eye(2), options={"maxiter": 1})
    with pytest.raises(TypeError, match="maxitre"):
        run(options={"maxitre": 1})


def test_disp_prints(capsys):
    run(options={"maxiter": 2, "disp": True})
    assert "iterations: 2" in capsys.readouterr().out
