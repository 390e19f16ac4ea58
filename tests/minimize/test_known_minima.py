"""`minimize` reaches known minima: functions of textbooks, fits of NIST."""

from __future__ import annotations

from typing import NamedTuple

import numba
import numpy as np
import pytest

import numadam as na
from numadam.schedules import Cosine

# --- functions -----------------------------------------------------------------------------------


@numba.njit
def rosenbrock(x, g):
    """The chained one, of any size: 0 at (1, ..., 1)."""
    f = 0.0
    for i in range(x.size - 1):
        d, e = x[i + 1] - x[i] * x[i], 1.0 - x[i]
        f += 100.0 * d * d + e * e
        g[i] -= 400.0 * x[i] * d + 2.0 * e
        g[i + 1] += 200.0 * d
    return f


@numba.njit
def powell_singular(x, g):
    """0 at 0, where its second derivative is singular."""
    a, b, c, d = x[0] + 10.0 * x[1], x[2] - x[3], x[1] - 2.0 * x[2], x[0] - x[3]
    g[0] = 2.0 * a + 40.0 * d * d * d
    g[1] = 20.0 * a + 4.0 * c * c * c
    g[2] = 10.0 * b - 8.0 * c * c * c
    g[3] = -10.0 * b - 40.0 * d * d * d
    return a * a + 5.0 * b * b + c * c * c * c + 10.0 * d * d * d * d


def in_python(compiled):
    """The same numbers from a function that returns (f, gradient)."""

    def fun(x):
        g = np.zeros_like(x)
        return compiled(x, g), g

    return fun


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
    # f is flat to fourth order along two directions: x is known to the fourth root of f
    Case("powell", powell_singular, np.array([3.0, -1, 0, 1]), np.zeros(4), 0.02, 2e-7, MAXITER),
)
cases = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)


def run(case, form, **options):
    given = {"lr": LR, "maxiter": MAXITER, **options}
    if form == "compiled":
        return na.minimize(case.fun, case.start, **given)
    return na.minimize(in_python(case.fun), case.start, jac=True, **given)


@pytest.mark.parametrize("form", ["python", "compiled"])
@cases
def test_the_minimum_is_reached(case, form):
    found = run(case, form, gtol=1e-6)
    assert np.abs(found.x - case.minimum).max() < case.distance
    assert found.fun < case.f
    assert found.nit <= case.nit
    assert found.success == (found.status == 0) == (case.nit < MAXITER)
    if found.success:
        assert found.history["grad_norm"][-1] <= 1e-6
    assert found.nfev == found.njev == found.nit + 1
    # the result is of one x
    fun = in_python(case.fun)
    f, g = fun(found.x)
    assert found.fun == f == found.history["fun"].min()
    np.testing.assert_array_equal(found.jac, g)
    assert found.grad_norm == np.abs(g).max()
    assert fun(found.x_last)[0] == found.fun_last == found.history["fun"][-1]
    np.testing.assert_array_equal(found.history["nit"], np.arange(found.nit + 1))
    # of the step that led to each x
    np.testing.assert_array_equal(found.history["lr"][1:], [LR(t) for t in range(found.nit)])
    assert found.history["fun"][0] == fun(case.start)[0]


# --- fits ----------------------------------------------------------------------------------------

# NIST's Statistical Reference Datasets for nonlinear regression: observed data of lower difficulty,
# with parameters and residual sums of squares that are certified to 11 digits. A work of the United
# States government, in the public domain: https://www.itl.nist.gov/div898/strd/nls/nls_main.shtml


def misra1a(b, x):
    """The model, and its derivative by parameter."""
    fall = np.exp(-b[1] * x)
    return b[0] * (1.0 - fall), np.stack([1.0 - fall, b[0] * x * fall])


def chwirut(b, x):
    below = b[1] + b[2] * x
    y = np.exp(-b[0] * x) / below
    return y, np.stack([-x * y, -y / below, -x * y / below])


class Dataset(NamedTuple):
    """A model, two starts, what is certified, and pairs of y and x as text."""

    model: object
    starts: tuple
    certified: tuple
    squares: float
    pairs: str


MISRA1A = Dataset(
    misra1a,
    starts=((500.0, 0.0001), (250.0, 0.0005)),
    certified=(2.3894212918e02, 5.5015643181e-04),
    squares=1.2455138894e-01,
    pairs="""
        10.07 77.6  14.73 114.9  17.94 141.1  23.93 190.8  29.61 239.9  35.18 289.0  40.02 332.8
        44.82 378.4  50.76 434.8  55.05 477.3  61.01 536.8  66.40 593.1  75.47 689.1  81.78 760.0
    """,
)

CHWIRUT2 = Dataset(
    chwirut,
    starts=((0.1, 0.01, 0.02), (0.15, 0.008, 0.010)),
    certified=(1.6657666537e-01, 5.1653291286e-03, 1.2150007096e-02),
    squares=5.1304802941e02,
    pairs="""
        92.9 0.5  57.1 1.0  31.05 1.75  11.5875 3.75  8.025 5.75  63.6 0.875  21.4 2.25
        14.25 3.25  8.475 5.25  63.8 0.75  26.8 1.75  16.4625 2.75  7.125 4.75  67.3 0.625
        41.0 1.25  21.15 2.25  8.175 4.25  81.5 0.5  13.12 3.0  59.9 0.75  14.62 3.0  32.9 1.5
        5.44 6.0  12.56 3.0  5.44 6.0  32.0 1.5  13.95 3.0  75.8 0.5  20.0 2.0  10.42 4.0
        59.5 0.75  21.67 2.0  8.55 5.0  62.0 0.75  20.2 2.25  7.76 3.75  3.75 5.75  11.81 3.0
        54.7 0.75  23.7 2.5  11.55 4.0  61.3 0.75  17.7 2.5  8.74 4.0  59.2 0.75  16.3 2.5
        8.62 4.0  81.0 0.5  4.87 6.0  14.62 3.0  81.7 0.5  17.17 2.75  81.3 0.5  28.9 1.75
    """,
)


#: The same for all: steps of 2 % of the start at first. A shorter memory than Adam's own (0.99
#: instead of 0.999) forgets the steep beginning of Misra1a.
RATE, STEPS, BETA2 = 0.02, 5_000, 0.99
STARTS = [(data, np.array(start)) for data in (MISRA1A, CHWIRUT2) for start in data.starts]
starts = pytest.mark.parametrize(("data", "start"), STARTS, ids=range(len(STARTS)))


def squares(data, scale=1.0):
    """f and its gradient, of parameters in units of `scale`."""
    y, x = np.array(data.pairs.split(), np.float64).reshape(-1, 2).T

    def fun(b):
        model, jacobian = data.model(b * scale, x)
        return (model - y) @ (model - y), 2.0 * (jacobian @ (model - y)) * scale

    return fun


def assert_certified(data, b, f):
    np.testing.assert_allclose(b, data.certified, rtol=5e-5)
    assert f == pytest.approx(data.squares, rel=1e-7)


@starts
def test_a_schedule_in_units_of_the_start(data, start):
    found = na.minimize(
        squares(data, start), np.ones(start.size), jac=True, lr=Cosine(RATE, steps=STEPS),
        maxiter=STEPS, beta2=BETA2, gtol=0,
    )  # fmt: skip
    assert (found.status, found.nit, found.nfev) == (1, STEPS, STEPS + 1)
    assert_certified(data, found.x * start, found.fun)
    assert found.fun <= found.fun_last


@starts
def test_a_schedule_of_its_own_for_each_parameter(data, start):
    names, plain = [f"b{k}" for k in range(start.size)], squares(data)

    def fun(b):
        f, g = plain(np.array([b[name][0] for name in names]))
        return f, {name: g[k : k + 1] for k, name in enumerate(names)}

    x0 = {name: start[k : k + 1] for k, name in enumerate(names)}
    lr = {name: Cosine(RATE * start[k], steps=STEPS) for k, name in enumerate(names)}
    found = na.minimize(fun, x0, jac=True, lr=lr, maxiter=STEPS, beta2=BETA2, gtol=0)
    assert_certified(data, [found.x[name][0] for name in names], found.fun)
