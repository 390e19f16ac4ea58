"""Functions that give exact derivatives, made from a user's plain functions."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import njit

from numadam._derivatives import operations
from numadam._derivatives.arrays import make_wraps, store_gradient
from numadam._derivatives.dual import value

#: Unknowns by which all derivatives are taken at once: more fill the registers of a processor.
AT_ONCE = 8
#: Unknowns above which forward derivatives are no way.
MOST_UNKNOWNS = 32


def _chunks(n: int) -> tuple[int, int]:
    """How often a function is evaluated for n unknowns, and by how many derivatives at once."""
    count = math.ceil(n / AT_ONCE)
    return count, math.ceil(n / count)


def _plain(fun: Any) -> Any:
    """The function anew: its own signatures and its cache on disk know no dual numbers."""
    options = {name: given for name, given in fun.targetoptions.items() if name != "nopython"}
    return njit(**options, forceinline=True)(fun.py_func)


def with_jacobian(fun: Any, n: int) -> Any:
    """Residuals ``fun(x, r, *args)`` as ``jacobian(x, r, J, *args)``, which writes J as well."""
    fun = _plain(fun)
    count, width = _chunks(n)
    unknowns, residuals, _ = make_wraps(n, width)

    if count == 1:

        def jacobian(x, r, J, *args):
            fun(unknowns(x, 0), residuals(r, 0, J), *args)

    else:

        def jacobian(x, r, J, *args):
            start = np.empty_like(r)
            for k in range(r.size):
                start[k] = r[k]
            for k in range(count):
                for j in range(r.size):
                    r[j] = start[j]
                fun(unknowns(x, k * width), residuals(r, k * width, J), *args)

    return njit(error_model="numpy", forceinline=True)(jacobian)


def with_gradient(fun: Any, n: int) -> Any:
    """Objective ``fun(x, *args) -> f`` as ``gradient(x, g, *args) -> f``, which writes g."""
    fun = _plain(fun)
    count, width = _chunks(n)
    unknowns, _, slopes = make_wraps(n, width)

    def gradient(x, g, *args):
        for k in range(count):
            f = fun(unknowns(x, k * width), *args)
            store_gradient(slopes(g, k * width), f)
        return value(f)

    return njit(error_model="numpy", forceinline=True)(gradient)
