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
from numadam._derivatives.arrays import make_wraps, write_gradient
from numadam._derivatives.dual import value

#: Unknowns by which all derivatives are taken at once: more fill the registers of a processor.
AT_ONCE = 8


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
    unknowns, residuals = make_wraps(n, width)

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
    unknowns, residuals = make_wraps(n, width)

    def gradient(x, g, *args):
        for k in range(count):
            f = fun(unknowns(x, k * width), *args)
            write_gradient(residuals(g, k * width, g), f)
        return value(f)

    return njit(error_model="numpy", forceinline=True)(gradient)


# --- what stands in the way ----------------------------------------------------------------------


_PACKAGES = tuple(str(Path(package).parent) for package in (__file__, numba.__file__))
_PLACE = re.compile(r"During: .* at (.+) \((\d+)\)")
_CALL = re.compile(r">>> (.+)")
_NAMES = (
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
    for pattern, name in _NAMES:
        what = pattern.sub(name, what)
    if what.startswith(write_gradient.__name__):
        return f"it has to return the number f, got {what.partition('residuals, ')[2][:-1]}."
    if " unknown" not in what and " residuals" not in what:
        return ""
    places = [place for place in _PLACE.findall(text) if not place[0].startswith(_PACKAGES)]
    if places:
        file, line = places[0]
        what += f", at line {line} of {file}: `{linecache.getline(file, int(line)).strip()}`"
    return (
        f"it has no exact derivative, because of {what}. What has one: x[k], "
        "arithmetic, functions of math and their like in NumPy, and functions of yours, on numbers."
    )
