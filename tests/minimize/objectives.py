"""Objectives of the tests of `minimize`, in Python and compiled, with the same operations.

Comparison of runs of `minimize` and `minimize_many`, to the bit.

Objectives that fail at a call, and runs that are cut there and go on from their file.
"""

from __future__ import annotations

import contextlib
import re
from pathlib import Path

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


# --- compared ------------------------------------------------------------------------------------


#: What a result says of its two iterates and of its end; of many problems, arrays.
FIELDS = ("x", "fun", "jac", "grad_norm", "x_last", "fun_last", "nit", "status")


def why(result):
    """The message without what it says of a file."""
    told = r"^(Continued from \S+ at iteration \d+|Already finished in \S+)\. "
    return re.sub(told, "", result.message)


def assert_same_end(a, b):
    """The same iterates and state, however many calls led there."""
    for name in FIELDS:
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)
    assert a.state.keys() == b.state.keys()
    for name, value in a.state.items():
        np.testing.assert_array_equal(value, b.state[name], err_msg=name)


def assert_same_run(a, b):
    """The same numbers everywhere."""
    assert_same_end(a, b)
    for name in ("nfev", "njev"):
        assert a[name] == b[name], name
    assert why(a) == why(b)
    for name, values in a.history.items():
        np.testing.assert_array_equal(values, b.history[name], err_msg=name)


def assert_same_problems(a, b):
    """Two runs of many problems ended alike."""
    for name in (*FIELDS, "success"):
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)


def assert_alone(many, k, one):
    """Problem k of many ended as in its own run of `minimize`."""
    for name in FIELDS:
        np.testing.assert_array_equal(many[name][k], one[name], err_msg=f"{name} of {k}")


# --- interrupted ---------------------------------------------------------------------------------


class Cut(Exception):
    """The end of a run in the midst of it."""


def cut_at(function, call):
    """A function that raises at its call of this number, from 0 on; None for never."""
    calls = 0

    def fails(*args):
        nonlocal calls
        calls += 1
        if call is not None and calls > call:
            raise Cut
        return function(*args)

    return fails


@numba.njit
def compiled_cut(x, g, calls):
    """Rosenbrock's valley, which raises once `calls` of it are used up."""
    calls[0] -= 1
    if calls[0] < 0:
        raise Cut
    return rosen(x, g)


def pieces(path: Path, run, calls):
    """The result of a run that is cut at each of these calls, one after another.

    ``run(call, **options)`` raises at its call of that number, None for none.
    """
    for call in calls:
        with contextlib.suppress(Cut):
            run(call, checkpoint=path)
    return run(None, checkpoint=path)


def compiled_run(call, **options):
    """`minimize` of `compiled_cut`."""
    left = np.array([2**62 if call is None else call])
    return na.minimize(compiled_cut, np.array([-1.2, 1.0]), (left,), **options)
