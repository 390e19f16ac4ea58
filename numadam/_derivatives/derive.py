"""Functions that give exact derivatives, made from a user's plain functions."""

from __future__ import annotations

import linecache
import math
import re
from pathlib import Path
from typing import Any

import numba
import numpy as np
from numba import njit

from numadam._derivatives import operations as operations  # defines them
from numadam._derivatives.arrays import make_wraps, values_of, write_gradient
from numadam._derivatives.dual import value

#: Unknowns by which derivatives are taken at once: more do not fit the registers of a processor.
AT_ONCE = 16


def _prepared(fun: Any, n: int) -> tuple[Any, int, Any, Any]:
    """Function, number of derivatives at once, and what wraps x and r.

    The function is made anew: its own signatures and its cache on disk know no dual numbers.
    """
    options = {name: given for name, given in fun.targetoptions.items() if name != "nopython"}
    width = math.ceil(n / math.ceil(n / AT_ONCE))
    wraps = make_wraps(n, width, bool(options.get("boundscheck")))
    return njit(**options, forceinline=True)(fun.py_func), width, *wraps


def with_jacobian(fun: Any, n: int) -> Any:
    """Residuals ``fun(x, r, *args)`` as ``jacobian(x, r, J, *args)``, which writes J as well."""
    fun, width, unknowns, residuals = _prepared(fun, n)

    if n == width:

        def jacobian(x, r, J, *args):
            fun(unknowns(x, 0), residuals(r, 0, J), *args)

    else:

        def jacobian(x, r, J, *args):
            start = np.empty_like(r)
            for k in range(r.size):
                start[k] = r[k]
            for done in range(0, n, width):
                first = min(done, n - width)  # the last ones overlap: a function may add up r
                for k in range(r.size if done > 0 else 0):
                    r[k] = start[k]
                    for j in range(first, done):
                        J[k, j] = 0.0
                fun(unknowns(x, first), residuals(r, first, J), *args)

    return njit(error_model="numpy", forceinline=True)(jacobian)


def with_gradient(fun: Any, n: int) -> Any:
    """Objective ``fun(x, *args) -> f`` as ``gradient(x, g, *args) -> f``, which writes g."""
    fun, width, unknowns, residuals = _prepared(fun, n)

    def gradient(x, g, *args):
        for done in range(0, n, width):
            first = min(done, n - width)
            f = fun(unknowns(x, first), *args)
            write_gradient(residuals(g, first, g), f)
        return value(f)

    return njit(error_model="numpy", forceinline=True)(gradient)


def exact_gradient(fun: Any, x: Any, args: tuple[Any, ...]) -> Any:
    """Exact gradient of ``fun(x, g, *args) -> f``, which writes one by hand; None without one."""
    derived = with_gradient(fun, x.size)
    beside = njit(lambda x, exact, g, *args: derived(x, exact, values_of(g), *args))
    return _exact(beside, np.empty_like(x), x, np.zeros_like(x), *args)


def exact_jacobian(fun: Any, x: Any, m: int, args: tuple[Any, ...]) -> Any:
    """Exact J of ``fun(x, r, J, *args)``, which writes one by hand; None if it has none."""
    derived = with_jacobian(fun, x.size)
    beside = njit(lambda x, exact, J, r, *args: derived(x, r, exact, values_of(J), *args))
    J = np.zeros((m, x.size), x.dtype)
    return _exact(beside, J, x, J.copy(), np.zeros(m, x.dtype), *args)


def _exact(beside: Any, exact: Any, x: Any, *others: Any) -> Any:
    try:
        beside(x, exact, *others)
    except (numba.errors.NumbaError, NotImplementedError):  # what it does has no exact derivative
        return None
    return exact if np.isfinite(exact).all() else None


# --- what stands in the way ----------------------------------------------------------------------


_PACKAGES = tuple(str(Path(package).parent) for package in (__file__, numba.__file__))
_PLACE = re.compile(r"During: .* at (.+) \((\d+)\)")
_CALL = re.compile(r">>> (.+)")
_KNOWN_NAMES = (
    (re.compile(r"unknown\([^()]*\)"), "an unknown"),
    (re.compile(r"unknowns\([^()]*\)"), "the array of unknowns"),
    (re.compile(r"residuals\([^()]*\)"), "the array of residuals"),
    (re.compile(r"Literal\[\w+\]\((.*?)\)"), r"\1"),
)


def reason(error: BaseException) -> str:
    """Sentences on the operation that has no derivative, and its line; or "", for other errors."""
    text = str(error)
    call = _CALL.search(text)
    lines = [line for line in text.splitlines() if line and not line.startswith("Failed in")]
    what = call[1] if call else lines[0].rstrip(". ") if lines else ""
    for pattern, name in _KNOWN_NAMES:
        what = pattern.sub(name, what)
    if what.startswith(write_gradient.__name__):
        return f"it has to return the number f, got {what.partition('residuals, ')[2][:-1]}."
    if " unknown" not in what and " residuals" not in what:
        return ""
    if what.startswith("setitem(the array of unknowns"):
        what = f"a write into x: x is read-only ({what})"
    places = [place for place in _PLACE.findall(text) if not place[0].startswith(_PACKAGES)]
    if places:
        file, line = places[0]
        what += f", at line {line} of {file}: `{linecache.getline(file, int(line)).strip()}`"
    return (
        f"it has no exact derivative, because of {what}. What has one: x[k], "
        "arithmetic, functions of math and their like in NumPy, and functions of yours, on numbers."
    )
