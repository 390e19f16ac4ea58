"""SciPy's conventions: its call as it is, its bounds, and numadam as a method of its own."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import Bounds, LinearConstraint, minimize, rosen, rosen_der

import numadam as na
from tests.minimize.objectives import START, Counted, python_rosen, square

# --- names ---------------------------------------------------------------------------------------


def test_scipys_call_runs_as_it_is():
    """Every argument of SciPy's, empty or with the same meaning."""
    ours = na.minimize(python_rosen, START, jac=True, maxiter=50, gtol=1e-3, beta1=0.8, lr=0.02)
    scipys = na.minimize(
        python_rosen, START, (), method=None, jac=True, hess=None, hessp=None, bounds=None,
        constraints=(), tol=1e-3, callback=None,
        options={"maxiter": 50, "disp": False, "maxfun": None, "beta1": 0.8, "lr": 0.02},
    )  # fmt: skip
    np.testing.assert_array_equal(scipys.x, ours.x)
    assert (scipys.nit, scipys.message) == (ours.nit, ours.message)


def test_tol_is_gtol_unless_gtol_is_given():
    def norm(**given):
        return na.minimize(python_rosen, START, jac=True, lr=0.02, **given).grad_norm

    assert 1e-6 < norm(tol=1e-2) == norm(gtol=1e-2) <= 1e-2
    assert norm(tol=1e-2, options={"gtol": 1e-4}) == norm(gtol=1e-4) <= 1e-4


def test_options_by_something_else_than_names():
    with pytest.raises(TypeError, match=r"options: its keys are names of arguments, got 3"):
        na.minimize(python_rosen, START, jac=True, options={3: 4})


@pytest.mark.parametrize("many", [False, True])
def test_disp_prints_the_outcome(capsys, many):
    run = na.minimize_many if many else na.minimize
    f = (lambda X: (np.sum(X**2, 1), 2 * X)) if many else (lambda x: (np.sum(x**2), 2 * x))
    run(f, np.ones((2, 2)), jac=True, maxiter=3, disp=True)
    assert ("problems: 2" if many else "maxiter.\n  f: 3.7") in capsys.readouterr().out
    run(f, np.ones((2, 2)), jac=True, maxiter=3, disp=False)
    assert not capsys.readouterr().out


def test_a_rule_of_the_users_may_have_such_an_option():
    class Steps(na.SGD):
        def __init__(self, params, lr=0.1, *, n_steps=1, **shared):
            self._of_user = n_steps
            super().__init__(params, lr, **shared)

    run = {"jac": True, "rule": Steps, "maxiter": 3}
    assert na.minimize(python_rosen, START, n_steps=2, lr=1e-3, **run).nit == 3
    with pytest.raises(TypeError, match=r"num_steps: .*maxiter"):
        na.minimize(python_rosen, START, num_steps=2, **run)


# --- bounds --------------------------------------------------------------------------------------

BOUNDED = [
    ([(None, 0.5), (-2.0, 2.0)], [0.5, 0.25]),
    (Bounds([-np.inf, -2.0], [0.5, 2.0]), [0.5, 0.25]),
    (Bounds(-np.inf, 0.5), [0.5, 0.25]),
]


@pytest.mark.parametrize(("bounds", "solution"), BOUNDED, ids=range(3))
def test_bounds_as_scipy_reads_them(bounds, solution):
    fun = Counted(python_rosen)
    res = na.minimize(fun, START, jac=True, lr=0.02, bounds=bounds)
    assert res.success
    np.testing.assert_allclose(res.x, solution, atol=1e-5)
    assert all(x[0] <= 0.5 for x in fun.seen)


def test_x0_outside_is_moved_in_before_the_first_gradient():
    fun = Counted(square)
    na.minimize(fun, [5.0, -5.0, 0.0], jac=True, bounds=(1, 2), maxiter=1)
    np.testing.assert_array_equal(fun.seen[0], [2, 1, 1])


@pytest.mark.parametrize("n", [1, 2, 3])
def test_two_numbers_bound_all_elements_and_gtol_looks_at_the_projected_gradient(n):
    res = na.minimize(square, np.zeros(n), (9.0,), jac=True, bounds=(None, 2), lr=0.1)
    assert res.success
    assert (res.x == 2).all()
    assert abs(res.jac).min() > 1


# --- the method ----------------------------------------------------------------------------------


def run(fun=rosen, x0=START, jac=rosen_der, **kwargs):
    kwargs.setdefault("options", {"lr": 0.02})
    return minimize(fun, x0, jac=jac, method=na.scipy_adam, **kwargs)


@pytest.mark.parametrize("bounds", [None, [(None, 0.5), (-2, 2)], Bounds([-9, -2], [0.5, 2])])
def test_it_is_numadams_minimize(bounds):
    res, own = run(bounds=bounds), na.minimize(rosen, START, jac=rosen_der, bounds=bounds, lr=0.02)
    np.testing.assert_array_equal(res.x, own.x)
    np.testing.assert_array_equal(res.x_last, own.x_last)
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


def test_options_args_and_float32(capsys):
    res = run(
        lambda x, a: (float(np.sum((x - a) ** 2)), 2 * (x - a)),
        np.ones(3, np.float32),
        jac=True,
        args=(np.float32(0.5),),
        options={"rule": "adamw", "lr": 0.1, "maxiter": 7, "disp": True},
    )
    assert res.nit == 7
    assert res.x.dtype == np.float32
    assert "iterations: 7" in capsys.readouterr().out
    assert 1e-6 < run(tol=1e-2).grad_norm <= 1e-2


def test_what_it_cannot_do_is_said():
    with pytest.raises(ValueError, match="constraints"):
        run(constraints=LinearConstraint([[1, 1]], 0, 1))
    with pytest.warns(RuntimeWarning, match="does not use hess"):
        run(hess=lambda x: np.eye(2), options={"maxiter": 1})
    with pytest.raises(TypeError, match="maxitre"):
        run(options={"maxitre": 1})
