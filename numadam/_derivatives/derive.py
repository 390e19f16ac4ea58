"""Functions that give exact derivatives, made from a user's plain functions."""

from __future__ import annotations

import linecache
import re
from pathlib import Path
from typing import Any

import numba
import numpy as np
from numba import njit

from numadam._derivatives import operations as operations  # defines them
from numadam._derivatives.arrays import make_wraps, write_gradient
from numadam._derivatives.dual import value
from numadam._jit.private import read_only_array


def _anew(fun: Any, **options: Any) -> Any:
    """The same function: its own signatures and its cache on disk know no dual numbers."""
    given = {name: of for name, of in fun.targetoptions.items() if name != "nopython"}
    return njit(**given, **options)(fun.py_func)


def _prepared(fun: Any, n: int) -> tuple[Any, Any, Any]:
    """Function, and what wraps x and r."""
    wraps = make_wraps(n, bool(fun.targetoptions.get("boundscheck")))
    return _anew(fun, forceinline=True), *wraps


def with_jacobian(fun: Any, n: int) -> Any:
    """Residuals ``fun(x, r, *args)`` as ``jacobian(x, r, J, *args)``, which writes J as well."""
    fun, unknowns, residuals = _prepared(fun, n)

    def jacobian(x, r, J, *args):
        fun(read_only_array(unknowns(x), n), residuals(r, J), *args)

    return njit(error_model="numpy", forceinline=True)(jacobian)


def with_gradient(fun: Any, n: int) -> Any:
    """Objective ``fun(x, *args) -> f`` as ``gradient(x, g, *args) -> f``, which writes g."""
    fun, unknowns, residuals = _prepared(fun, n)

    def gradient(x, g, *args):
        f = fun(read_only_array(unknowns(x), n), *args)
        write_gradient(residuals(g, g), f)
        return value(f)

    return njit(error_model="numpy", forceinline=True)(gradient)


def exact_gradient(fun: Any, x: Any, args: tuple[Any, ...]) -> Any:
    """Exact gradient of ``fun(x, g, *args) -> f``, which writes one by hand; None without one."""
    fun = _anew(fun)
    plain = njit(lambda x, *args: fun(x, np.zeros_like(x), *args))
    exact = np.empty_like(x)
    return _exact(exact, with_gradient(plain, x.size), x, exact, *args)


def exact_jacobian(fun: Any, x: Any, m: int, args: tuple[Any, ...]) -> Any:
    """Exact J of ``fun(x, r, J, *args)``, which writes one by hand; None if it has none."""
    fun = _anew(fun)
    plain = njit(lambda x, r, *args: fun(x, r, np.zeros((m, x.size), x.dtype), *args))
    exact = np.zeros((m, x.size), x.dtype)
    return _exact(exact, with_jacobian(plain, x.size), x, np.zeros(m, x.dtype), exact, *args)


def _exact(exact: Any, derived: Any, *given: Any) -> Any:
    try:
        derived(*given)
    except (numba.errors.NumbaError, NotImplementedError):  # what it does has no exact derivative
        return None
    return exact if np.isfinite(exact).all() else None


# --- what stands in the way ----------------------------------------------------------------------


_PACKAGES = tuple(str(Path(package).parent) for package in (__file__, numba.__file__))
_SOURCE_LINE = re.compile(r"During: .* at (.+) \((\d+)\)")
_CALL = re.compile(r">>> (.+)")
_KNOWN_NAMES = (
    # of Numba, at an operation in place, which has no place in it
    (re.compile("'NoneType' object has no attribute 'args'"), "a += of an array of unknowns"),
    (re.compile(r"array_(sum|mean|prod)\((?:readonly )?array\("), r"\1(array("),
    (re.compile(r"unknown\(complex[^()]*\)"), "a complex unknown"),
    (re.compile(r"unknown\([^()]*\)"), "an unknown"),
    (re.compile(r"(?:readonly )?array\(an? (?:complex )?unknown, .*?\)"), "an array of unknowns"),
    (re.compile(r"residuals\([^()]*\)"), "the array of residuals"),
    (re.compile(r"Literal\[\w+\]\((.*?)\)"), r"\1"),
)
#: What stands in the way, and what to write instead.
_ADVICE = (
    ("setitem(an array of unknowns", "write into x.copy(): x is read-only"),
    ("setitem(array", "write np.empty(n, x.dtype), or np.zeros, for an array that gets unknowns"),
    ("array(list(", "write np.empty(n, x.dtype), and fill it"),
    ("sum(an array", "write np.sum(x)"),
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
        return f"it has to return the real number f, got {what.partition('residuals, ')[2][:-1]}."
    if "unknown" not in what and " residuals" not in what:
        return ""
    instead = "".join(f" Instead {advice}." for part, advice in _ADVICE if part in what)
    places = [place for place in _SOURCE_LINE.findall(text) if not place[0].startswith(_PACKAGES)]
    if places:
        file, line = places[0]
        what += f", at line {line} of {file}: `{linecache.getline(file, int(line)).strip()}`"
    return (
        f"it has no exact derivative, because of {what}.{instead} What has one: x[k], arithmetic, "
        "functions of math and their like in NumPy, and functions of yours, on numbers."
    )
