"""Fits to data of NIST: `minimize` finds the certified parameters."""

import copy

import numba
import numpy as np
import pytest
from scipy.optimize import least_squares

import numadam as na
from numadam.schedules import Cosine
from tests.minimize.compared import assert_same_run
from tests.minimize.nist import ALL, CHWIRUT2, DANWOOD, MISRA1A

#: The same for all: steps of 2 % of the start at first. A shorter memory than Adam's own (0.99
#: instead of 0.999) forgets the steep beginning of Misra1a.
RATE, STEPS, BETA2 = 0.02, 5_000, 0.99
#: Stairs for a rate by element: one call on each.
STAIRS = (1.0, 0.5, 0.1, 0.02, 0.004)

STARTS = [(data, np.array(start)) for data in ALL for start in data.starts]
starts = pytest.mark.parametrize(
    ("data", "start"), STARTS, ids=[f"{data.name}-{start[0]:g}" for data, start in STARTS]
)


def squares(data):
    """f and gradient in Python."""

    def fun(b, scale=1.0):
        off = data.model(b * scale, data.x) - data.y
        return off @ off, 2.0 * (data.jacobian(b * scale, data.x) @ off) * scale

    return fun


@numba.njit
def misra1a(u, g, scale, x, y):
    a, b = u[0] * scale[0], u[1] * scale[1]
    f = 0.0
    for i in range(x.size):
        fall = np.exp(-b * x[i])
        off = a * (1.0 - fall) - y[i]
        f += off * off
        g[0] += 2.0 * off * (1.0 - fall) * scale[0]
        g[1] += 2.0 * off * a * x[i] * fall * scale[1]
    return f


@numba.njit
def danwood(u, g, scale, x, y):
    a, b = u[0] * scale[0], u[1] * scale[1]
    f = 0.0
    for i in range(x.size):
        power = x[i] ** b
        off = a * power - y[i]
        f += off * off
        g[0] += 2.0 * off * power * scale[0]
        g[1] += 2.0 * off * a * power * np.log(x[i]) * scale[1]
    return f


@numba.njit
def chwirut2(u, g, scale, x, y):
    a, b, c = u[0] * scale[0], u[1] * scale[1], u[2] * scale[2]
    f = 0.0
    for i in range(x.size):
        below = b + c * x[i]
        value = np.exp(-a * x[i]) / below
        off = value - y[i]
        f += off * off
        g[0] -= 2.0 * off * x[i] * value * scale[0]
        g[1] -= 2.0 * off * value / below * scale[1]
        g[2] -= 2.0 * off * x[i] * value / below * scale[2]
    return f


COMPILED = {MISRA1A.name: misra1a, DANWOOD.name: danwood, CHWIRUT2.name: chwirut2}


def given(form, data, scale):
    """Arguments of `minimize` for one form of the objective."""
    if form == "python":
        return {"fun": squares(data), "args": (scale,), "jac": True}
    return {"fun": COMPILED[data.name], "args": (scale, data.x, data.y)}


def assert_certified(data, b, f):
    np.testing.assert_allclose(b, data.certified, rtol=5e-5)
    assert f == pytest.approx(data.squares, rel=1e-7)


@starts
def test_certified_values_are_those_of_another_solver(data, start):
    found = least_squares(
        lambda b: data.model(b, data.x) - data.y,
        start,
        jac=lambda b: data.jacobian(b, data.x).T,
        x_scale=data.certified,
        xtol=1e-15,
        ftol=1e-15,
        gtol=1e-15,
    )
    np.testing.assert_allclose(found.x, data.certified, rtol=1e-7)
    assert 2 * found.cost == pytest.approx(data.squares, rel=1e-9)


@pytest.mark.parametrize("data", ALL, ids=lambda data: data.name)
def test_both_forms_are_one_function(data):
    b, scale = 1.01 * data.certified, np.linspace(1.0, 2.0, data.certified.size)
    g = np.zeros(b.size)
    f = COMPILED[data.name](b / scale, g, scale, data.x, data.y)
    expected, gradient = squares(data)(b / scale, scale)
    assert f == pytest.approx(expected, rel=1e-12)
    np.testing.assert_allclose(g, gradient, rtol=1e-9)


@pytest.mark.parametrize("form", ["python", "compiled"])
@starts
def test_a_schedule_in_units_of_the_start(data, start, form):
    ones, lr = np.ones(start.size), Cosine(RATE, steps=STEPS)
    found = na.minimize(
        x0=ones, lr=lr, maxiter=STEPS, beta2=BETA2, gtol=0, **given(form, data, start)
    )
    assert (found.status, found.nit, found.nfev) == (1, STEPS, STEPS + 1)
    assert_certified(data, found.x * start, found.fun)
    assert found.fun <= found.fun_last


def down_the_stairs(start, **kind):
    """A rate by element does not fall by itself: one call on each stair, each from the last's end.

    On a stair x jumps about in the narrow valley of the residuals, as far as the rate allows. So
    the last f says little; the best one counts.
    """
    results, b, state = [], start, None
    for factor in STAIRS:
        lr = RATE * factor * start
        found = na.minimize(
            x0=b, lr=lr, maxiter=STEPS // 2, beta2=BETA2, gtol=0, state=state, **kind
        )
        b, state = found.x, found.state
        results.append(copy.deepcopy(found))
    return results


@pytest.mark.parametrize("form", ["python", "compiled"])
@starts
def test_a_rate_by_element_on_falling_stairs(data, start, form):
    results = down_the_stairs(start, **given(form, data, np.ones(start.size)))
    assert_certified(data, results[-1].x, results[-1].fun)
    np.testing.assert_allclose(results[-1].x_last, data.certified, rtol=5e-5)
    assert [found.nit for found in results] == [STEPS // 2 * (k + 1) for k in range(len(STAIRS))]
    best = [found.fun for found in results]
    assert best == sorted(best, reverse=True)


@starts
def test_both_loops_take_the_same_steps(data, start):
    """With one objective, called from Python or from the compiled loop: bit for bit."""
    kind = given("compiled", data, np.ones(start.size))
    compiled = kind["fun"]

    def fun(b, *args):
        g = np.zeros(b.size)
        return compiled(b, g, *args), g

    pairs = zip(
        down_the_stairs(start, **kind),
        down_the_stairs(start, fun=fun, args=kind["args"], jac=True),
        strict=True,
    )
    for one, other in pairs:
        assert_same_run(one, other)


@starts
def test_a_schedule_of_its_own_for_each_parameter(data, start):
    names = [f"b{k + 1}" for k in range(start.size)]
    plain = squares(data)

    def fun(b):
        f, g = plain(np.array([b[name][0] for name in names]))
        return f, {name: g[k : k + 1] for k, name in enumerate(names)}

    found = na.minimize(
        fun,
        {name: start[k : k + 1] for k, name in enumerate(names)},
        jac=True,
        lr={name: Cosine(RATE * start[k], steps=STEPS) for k, name in enumerate(names)},
        maxiter=STEPS,
        beta2=BETA2,
        gtol=0,
    )
    assert_certified(data, [found.x[name][0] for name in names], found.fun)
