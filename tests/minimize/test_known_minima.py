"""`minimize` reaches known minima, and takes the steps of a plain loop: bit for bit."""

from typing import NamedTuple

import numpy as np
import pytest
from scipy.optimize import Bounds, check_grad

import numadam as na
from numadam.schedules import Cosine
from tests.minimize.compared import assert_same_end
from tests.minimize.known_functions import beale, in_python, powell_singular, rosenbrock

#: One setting for all.
MAXITER = 10_000
LR = Cosine(0.1, steps=MAXITER)


class Case(NamedTuple):
    """Start of a run, how far from the minimum it ends, and the iterations it may take."""

    name: str
    fun: object
    start: np.ndarray
    minimum: np.ndarray
    distance: float
    f: float
    nit: int


CASES = (
    Case("rosenbrock-2", rosenbrock, np.array([-1.2, 1.0]), np.ones(2), 5e-6, 1e-11, 2_000),
    Case("rosenbrock-10", rosenbrock, np.tile([-1.2, 1.0], 5), np.ones(10), 5e-6, 1e-11, 3_500),
    Case("rosenbrock-100", rosenbrock, np.tile([-1.2, 1.0], 50), np.ones(100), 5e-6, 1e-11, 5_000),
    Case("beale", beale, np.array([1.0, 1.0]), np.array([3.0, 0.5]), 5e-6, 1e-11, 400),
    # f is flat to fourth order along two directions: x is known to the fourth root of f
    Case("powell", powell_singular, np.array([3.0, -1, 0, 1]), np.zeros(4), 0.02, 2e-7, MAXITER),
)
cases = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
OPTIONS = [
    {},
    {"weight_decay": 1e-4, "beta1": 0.8},
    {"bounds": Bounds(-0.5, 0.9)},
    {"rule": "rmsprop", "momentum": 0.5},
]


def run(case, form, **options):
    given = {"lr": LR, "maxiter": MAXITER, **options}
    if form == "compiled":
        return na.minimize(case.fun, case.start, **given)
    return na.minimize(in_python(case.fun), case.start, jac=True, **given)


@cases
def test_gradients_are_right(case):
    fun = in_python(case.fun)
    x = case.start + 0.1 * np.arange(1, case.start.size + 1) / case.start.size
    apart = check_grad(lambda x: fun(x)[0], lambda x: fun(x)[1], x)
    assert apart < 1e-6 * np.linalg.norm(fun(x)[1])
    assert fun(case.minimum)[0] == 0.0


@pytest.mark.parametrize("form", ["python", "compiled"])
@cases
def test_the_minimum_is_reached(case, form):
    found = run(case, form, gtol=1e-6)
    assert np.abs(found.x - case.minimum).max() < case.distance
    assert found.fun < case.f
    assert found.nit <= case.nit
    if case.nit < MAXITER:
        assert found.success
        assert found.status == 0
        assert found.history["grad_norm"][-1] <= 1e-6
    else:
        assert (found.success, found.status) == (False, 1)
    assert found.nfev == found.njev == found.nit + 1
    assert found.grad_norm == np.abs(found.jac).max()
    assert found.fun <= found.fun_last


@pytest.mark.parametrize("form", ["python", "compiled"])
@cases
def test_a_result_is_of_one_x(case, form):
    found = run(case, form, maxiter=200)
    fun = in_python(case.fun)
    f, g = fun(found.x)
    assert found.fun == f
    np.testing.assert_array_equal(found.jac, g)
    assert found.fun == found.history["fun"].min()
    assert fun(found.x_last)[0] == found.fun_last == found.history["fun"][-1]
    np.testing.assert_array_equal(found.history["nit"], np.arange(201))
    # of the step that led to each x
    np.testing.assert_array_equal(found.history["lr"][1:], [LR(t) for t in range(200)])
    assert found.history["fun"][0] == fun(case.start)[0]


def plain_loop(case, steps, rule="adam", lr=LR, **options):
    """The same by hand; x, f at each x, and the state."""
    cls = {"adam": na.Adam, "nadam": na.NAdam, "rmsprop": na.RMSprop, "sgd": na.SGD}[rule]
    x, fun, seen = case.start.copy(), in_python(case.fun), []
    if "bounds" in options:
        options = {**options, "bounds": (options["bounds"].lb, options["bounds"].ub)}
        np.clip(x, *options["bounds"], out=x)
    opt = cls(x, lr=lr, **options)
    for _ in range(steps):
        f, g = fun(x)
        seen.append(f)
        opt.step(g)
    return x, [*seen, fun(x)[0]], opt.state


@pytest.mark.parametrize(
    "options",
    [pytest.param(one, marks=[pytest.mark.sweep] if one else []) for one in OPTIONS],
    ids=lambda options: "-".join(options) or "plain",
)
@cases
def test_steps_are_those_of_a_plain_loop(case, options):
    steps = 300
    x, seen, state = plain_loop(case, steps, **options)
    for form in ("python", "compiled"):
        found = run(case, form, maxiter=steps, gtol=0, **options)
        np.testing.assert_array_equal(found.x_last, x, form)
        np.testing.assert_array_equal(found.history["fun"], seen, form)
        assert (found.status, found.nit) == (1, steps)
        for name, value in state.items():
            np.testing.assert_array_equal(found.state[name], value, f"{form}: {name}")


@pytest.mark.parametrize("form", ["python", "compiled"])
@cases
def test_a_run_in_pieces_is_the_whole_run(case, form):
    whole = run(case, form, maxiter=300)
    x, state = case.start, None
    for steps in (1, 99, 0, 200):
        kind = {"maxiter": steps, "state": state}
        found = run(case._replace(start=x), form, **kind)
        x, state = found.x, found.state
    assert_same_end(found, whole)
