"""Objectives of the tests of `minimize`, in Python and compiled, with the same operations."""

from __future__ import annotations

import numba
import numpy as np
import pytest

import numadam as na

START = np.array([-1.2, 1.0])  # of Rosenbrock's valley


@numba.njit
def rosen(x, g):
    """Rosenbrock's valley in two dimensions; adds to g, which arrives as zeros."""
    a, b = x[1] - x[0] * x[0], 1.0 - x[0]
    g[0] += -400.0 * a * x[0] - 2.0 * b
    g[1] += 200.0 * a
    return 100.0 * a * a + b * b


@numba.njit
def ramp(x, g, end):
    """Falls for ever, and raises where x is beyond the end."""
    if x[0] > end:
        raise ValueError("too far")
    g[0] = -1.0
    return -x[0]


def python_rosen(x):
    """The same, called from Python: f and gradient."""
    g = np.zeros(2)
    return rosen(x, g), g


def nested_rosen(x):
    """The valley in one array of a nesting, and squares in another."""
    f, g = python_rosen(x["a/b"])
    return f, {"a/b": g, "c": [2 * x["c"][0]]}


def all_at_once(x):
    """The same for all rows of x."""
    f, g = np.zeros(len(x)), np.zeros_like(x)
    for k in range(len(x)):
        f[k] = rosen(x[k], g[k])
    return f, g


#: The valley in both forms.
forms = pytest.mark.parametrize("fun", [rosen, python_rosen], ids=["compiled", "python"])


def run(fun, x0=START, **options):
    """`minimize` of one of the two forms."""
    return na.minimize(fun, x0, jac=None if fun is rosen else True, **options)


def square(x, target=0.0):
    """The sum of squares around a target, for arrays of any shape."""
    return float(np.sum((x - target) ** 2)), 2 * (x - target)


class Counted:
    """A function that knows at which x it was called."""

    def __init__(self, function):
        self.function, self.seen = function, []

    def __call__(self, x, *args):
        self.seen.append(np.array(x, copy=True))
        return self.function(x, *args)

    @property
    def twice(self):
        """Whether it was called at one x twice."""
        return len({x.tobytes() for x in self.seen}) < len(self.seen)


def loop(rule, x, steps, fun=python_rosen, **options):
    """The trajectory of a plain loop of `step`."""
    opt, path = rule(x, **options), [x.copy()]
    for _ in range(steps):
        opt.step(fun(x)[1])
        path.append(x.copy())
    return path
