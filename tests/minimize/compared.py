"""Comparison of runs of `minimize` and `minimize_many`, to the bit."""

from __future__ import annotations

import re

import numpy as np

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
