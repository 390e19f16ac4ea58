"""Derivatives of each operation, and of random expressions: same values, errors within a bound."""

from __future__ import annotations

import itertools
import math
import operator
import os
import random
from collections.abc import Callable
from typing import Any

import numba
import numpy as np
import pytest

from numadam._derivatives.derive import with_jacobian
from tests import extras

extras.require("peers", "mpmath")
from mpmath import mp, mpf  # noqa: E402

# --- reference: numbers of many digits that know how far roundings may carry them ---------------

DIGITS = 40


class Exact:
    """Value, derivatives, and how many roundings of each a computation in float64 may add up to.

    `of_value` and `of_slopes` are sums over all operations so far: what the operation gives, and
    the terms of its chain rule, times what a change of it changes at the end; and the change of
    its slopes by the roundings of its arguments.
    """

    def __init__(self, value: Any, slopes: list[Any], of_value: Any = 0, of_slopes: Any = None):
        self.value, self.slopes = mpf(value), slopes
        self.of_value, self.of_slopes = of_value, of_slopes or [mpf(0)] * len(slopes)

    @classmethod
    def unknowns(cls, numbers: list[float]) -> list[Exact]:
        n = len(numbers)
        return [cls(x, [mpf(j == k) for j in range(n)]) for k, x in enumerate(numbers)]


def apply(function: Callable[..., Any], *arguments: Any) -> Exact:
    """A smooth function of numbers, some of which have derivatives."""
    n = next(len(x.slopes) for x in arguments if isinstance(x, Exact))
    items = [x if isinstance(x, Exact) else Exact(x, [mpf(0)] * n) for x in arguments]
    at = tuple(x.value for x in items)

    def partial(*orders: int) -> Any:
        return mp.diff(function, at if len(at) > 1 else at[0], orders if len(at) > 1 else orders[0])

    unit = [[int(j == k) for j in range(len(at))] for k in range(len(at))]
    a = [
        partial(*row) if any(items[k].slopes) or items[k].of_value else mpf(0)
        for k, row in enumerate(unit)
    ]
    value = function(*at)
    of_value = abs(value) + sum(abs(s) * x.of_value for s, x in zip(a, items, strict=True))
    slopes, of_slopes = [], []
    bend = {
        (k, j): abs(partial(*map(sum, zip(unit[k], unit[j], strict=True)))) * items[j].of_value
        for k, j in itertools.product(range(len(at)), repeat=2)
        if items[j].of_value and any(items[k].slopes)
    }
    for i in range(n):
        terms = [s * x.slopes[i] for s, x in zip(a, items, strict=True)]
        slopes.append(sum(terms))
        carried = sum(abs(s) * x.of_slopes[i] for s, x in zip(a, items, strict=True))
        bent = sum(of * abs(items[k].slopes[i]) for (k, _), of in bend.items())
        of_slopes.append(sum(map(abs, terms)) + carried + bent)
    return Exact(value, slopes, of_value, of_slopes)


# --- compared ------------------------------------------------------------------------------------

#: Roundings of each term of the chain rule, see `Exact`, that a derivative may be off.
BOUND = 4


def compiled(expressions: list[str]) -> Any:
    """Residuals r[k] = expressions of a = x[0], b = x[1], c = x[2]."""
    lines = "".join(f"    r[{k}] = {text}\n" for k, text in enumerate(expressions))
    scope: dict[str, Any] = {"math": math, "np": np}
    exec(f"def fun(x, r):\n    a, b, c = x[0], x[1], x[2]\n{lines}", scope)
    return numba.njit(error_model="numpy")(scope["fun"])


def compare(
    expressions: list[str], exact: list[Callable[..., Any]], points: list[tuple[float, ...]]
) -> None:
    """Values are those of the plain function, and derivatives those of the reference."""
    fun, size = compiled(expressions), len(expressions)
    jacobian = with_jacobian(fun, 3)
    for point in points:
        x, r, J, plain = np.array(point), np.zeros(size), np.zeros((size, 3)), np.zeros(size)
        jacobian(x, r, J)
        fun(x, plain)
        np.testing.assert_array_equal(r, plain)
        with mp.workdps(DIGITS):
            for k, text in enumerate(expressions):
                reference = exact[k](*Exact.unknowns(point))
                for j, (slope, of) in enumerate(
                    zip(reference.slopes, reference.of_slopes, strict=True)
                ):
                    off = abs(mpf(J[k, j]) - slope)
                    assert off <= BOUND * 2.0**-52 * of, (text, point, j, J[k, j], float(slope))


# --- each operation ------------------------------------------------------------------------------


def remainder(u, v):
    return u - v * mp.floor(u / v)


def truncated(u, v):
    quotient = u / v
    return u - v * (mp.floor(quotient) if quotient > 0 else mp.ceil(quotient))


#: by name, as in math and NumPy: the function, and an argument in its domain
ONE = {
    "exp": (mp.exp, "a"),
    "expm1": (mp.expm1, "a"),
    "exp2": (lambda v: mpf(2) ** v, "a"),
    "log": (mp.log, "b"),
    "log2": (lambda v: mp.log(v) / mp.log(2), "b"),
    "log10": (lambda v: mp.log(v) / mp.log(10), "b"),
    "log1p": (mp.log1p, "b"),
    "sqrt": (mp.sqrt, "b"),
    "cbrt": (mp.cbrt, "b"),
    "sin": (mp.sin, "a"),
    "cos": (mp.cos, "a"),
    "tan": (mp.tan, "a"),
    "asin": (mp.asin, "c"),
    "acos": (mp.acos, "c"),
    "atan": (mp.atan, "a"),
    "sinh": (mp.sinh, "a"),
    "cosh": (mp.cosh, "a"),
    "tanh": (mp.tanh, "a"),
    "asinh": (mp.asinh, "a"),
    "acosh": (mp.acosh, "(1.0 + b)"),
    "atanh": (mp.atanh, "c"),
    "erf": (mp.erf, "a"),
    "erfc": (mp.erfc, "a"),
    "fabs": (abs, "a"),
    "square": (lambda v: v * v, "a"),
    "reciprocal": (lambda v: 1 / v, "a"),
}
#: what Numba does not compile, with or without derivatives
LACKING = {"math.cbrt", "math.exp2"}


def one_argument() -> list[tuple[str, Callable[..., Any]]]:
    rows: list[tuple[str, Callable[..., Any]]] = []
    for name, (function, text) in ONE.items():
        for home in (math, np):
            shown = f"{'math' if home is math else 'np'}.{name}"
            if hasattr(home, name) and shown not in LACKING:

                def exact(a, b, c, function=function, text=text):
                    inner = {"a": a, "b": b, "c": c}.get(text)
                    if inner is None:
                        inner = apply(lambda v: 1 + v, b)
                    return apply(function, inner)

                rows.append((f"{shown}({text})", exact))
    rows.append(("abs(a) + (-a) + (+b)", lambda a, b, c: apply(lambda u, v: abs(u) - u + v, a, b)))
    return rows


TWO = {
    "({} + {})": operator.add,
    "({} - {})": operator.sub,
    "({} * {})": operator.mul,
    "({} / {})": operator.truediv,
    "({} // {})": lambda u, v: mp.floor(u / v),
    "({} % {})": remainder,
    "np.mod({}, {})": remainder,
    "np.fmod({}, {})": truncated,
    "math.atan2({}, {})": mp.atan2,
    "np.arctan2({}, {})": mp.atan2,
    "math.hypot({}, {})": mp.hypot,
    "np.hypot({}, {})": mp.hypot,
    "math.copysign({}, {})": lambda u, v: abs(u) * mp.sign(v),
    "min({}, {})": min,
    "max({}, {})": max,
    "np.minimum({}, {})": min,
    "np.maximum({}, {})": max,
}
POWERS = ("({} ** {})", "math.pow({}, {})", "np.power({}, {})")
CONSTANTS = {"2.5": mpf(2.5), "3": mpf(3)}


def two_arguments() -> list[tuple[str, Callable[..., Any]]]:
    rows = []
    for template, function in [*TWO.items(), *((one, operator.pow) for one in POWERS)]:
        first = "b" if template in POWERS else "a"
        forms = [(first, "c"), ("2.5", "a")]
        if template in ("({} * {})", "({} / {})", "({} % {})", "({} ** {})"):
            forms += [(first, "2.5"), (first, "3"), ("3", "a")]
        for left, right in forms:

            def exact(a, b, c, left=left, right=right, function=function):
                known = {"a": a, "b": b, "c": c, **CONSTANTS}
                return apply(function, known[left], known[right])

            rows.append((template.format(left, right), exact))
    for exponent in (-2, -1, 0, 1, 2, 5):
        rows.append((f"a ** {exponent}", lambda a, b, c, e=exponent: apply(lambda v: v**e, a)))
    rows.append(
        ("min(a, 0.1, b, c)", lambda a, b, c: apply(lambda *all_: min(*all_, 0.1), a, b, c))
    )
    return rows


@pytest.mark.parametrize("rows", [one_argument, two_arguments])
def test_each_operation(rows):
    """Same values to the bit; derivatives within few roundings of the chain rule's terms."""
    texts, exact = zip(*rows(), strict=True)
    compare(list(texts), list(exact), [(-1.3, 2.7, 0.4), (0.7, 0.3, -0.9), (2.9, 11.0, 0.01)])


# --- random expressions --------------------------------------------------------------------------

#: templates of a smooth function everywhere, and the same for the reference
NODES: tuple[tuple[int, str, Callable[..., Any]], ...] = (
    (2, "({} + {})", operator.add),
    (2, "({} - {})", operator.sub),
    (2, "({} * {})", operator.mul),
    (2, "({} / (1.5 + {} ** 2))", lambda u, v: u / (mpf(1.5) + v**2)),
    (1, "math.exp(-0.1 * {})", lambda u: mp.exp(-mpf(0.1) * u)),
    (1, "np.sin({})", mp.sin),
    (1, "math.cos({})", mp.cos),
    (1, "math.sqrt(2.0 + {} ** 2)", lambda u: mp.sqrt(2 + u**2)),
    (1, "np.log(1.5 + {} ** 2)", lambda u: mp.log(mpf(1.5) + u**2)),
    (1, "math.atan({})", mp.atan),
    (1, "math.tanh({})", mp.tanh),
    (2, "((1.5 + abs({})) ** math.sin({}))", lambda u, v: (mpf(1.5) + abs(u)) ** mp.sin(v)),
)


def random_expression(random_: random.Random, depth: int) -> tuple[str, Callable[..., Any]]:
    if depth == 0:
        name = random_.choice("abc")
        return name, lambda a, b, c: {"a": a, "b": b, "c": c}[name]
    count, template, function = random_.choice(NODES)
    inner = [random_expression(random_, depth - 1) for _ in range(count)]

    def exact(a, b, c):
        return apply(function, *(of(a, b, c) for _, of in inner))

    return template.format(*(text for text, _ in inner)), exact


def test_random_expressions():
    """20 of them; NUMADAM_EXPRESSIONS=200 for more."""
    random_, number = random.Random(0), int(os.environ.get("NUMADAM_EXPRESSIONS", "20"))
    rows = [random_expression(random_, random_.randint(2, 4)) for _ in range(number)]
    texts, exact = zip(*rows, strict=True)
    compare(list(texts), list(exact), [(0.8, -1.7, 2.3)])
