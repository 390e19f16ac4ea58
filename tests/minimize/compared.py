"""Comparison of two runs of `minimize`."""

from __future__ import annotations

import numpy as np


def assert_same_run(a, b):
    """The same numbers everywhere, except what the ways count apart."""
    same = ("x", "fun", "jac", "grad_norm", "nit", "nfev", "njev", "status", "message")
    for name in (*same, "x_last", "fun_last"):
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)
    for name, values in a.history.items():
        np.testing.assert_array_equal(values, b.history[name], err_msg=name)
    assert a.state.keys() == b.state.keys()
    for name, value in a.state.items():
        np.testing.assert_array_equal(value, b.state[name], err_msg=name)
