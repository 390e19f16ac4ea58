"""Arguments of scipy.optimize.minimize, taken by numadam's: the same results as with ours."""

from __future__ import annotations

import numpy as np
import pytest

import numadam as na
from tests.minimize.objectives import START, python_rosen


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
