"""Text of the stop tests of one array, for every compiled loop that has one.

The names that the lines read: `count` real numbers of ``ps``, their gradient ``gs``, bounds
(``low`` and ``high``, or ``lows`` and ``highs``), ``befores`` (x before the step), ``firsts`` (the
first gradient of each number), ``tops`` (`LANES` numbers of float64), the state ``numbers``, `f`,
and whether it is `later` (there is an iterate before) and `early` (see `stopping.share_of_own`).
They set `code`, and the norms `size` (of the projected gradient), `way` (of the move) and `length`
(of x).
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numba import carray

from numadam._core.text import indented
from numadam._jit.private import pointer
from numadam._minimize import stopping as st

#: Numbers that are compared side by side where there are four times as many: one after another
#: they wait for each other.
LANES = 8


class Numbers(NamedTuple):
    """Places of the state of the tests."""

    F: int  # at the iterate
    F_BEFORE: int  # f at the iterate tested before
    FIRST: int  # norm of the first projected gradient, NaN before it is known
    LIMIT: int  # norm of the gradient at which the run stops
    F_BEST: int
    SIZE_BEST: int
    SIZE: int  # the norm of its projected gradient
    # those of many problems end here
    WAY: int  # that of the move
    LENGTH: int  # that of x
    GTOL: int
    GTOL_REL: int
    FTOL: int
    XTOL: int


NUMBER_AT = Numbers(*range(len(Numbers._fields)))


_FRESH = np.full(len(NUMBER_AT), math.nan)
_FRESH[NUMBER_AT.F_BEST] = math.inf


def begin(numbers: np.ndarray, tolerances: st.Tolerances, first: float) -> None:
    """Write the state at the begin of a run; `first` is the first gradient's norm, if known."""
    numbers[: len(NUMBER_AT)] = _FRESH
    numbers[NUMBER_AT.FIRST] = first
    numbers[NUMBER_AT.GTOL], numbers[NUMBER_AT.GTOL_REL] = tolerances.gtol, tolerances.gtol_rel
    numbers[NUMBER_AT.FTOL], numbers[NUMBER_AT.XTOL] = tolerances.ftol, tolerances.xtol


#: What the lines read besides: places, and functions that are compiled.
SCOPE: dict[str, Any] = {
    **NUMBER_AT._asdict(),
    **{name: getattr(st, name) for name in ("gradient_limit", "share_of_own", "check_convergence")},
    "np": np,
    "math": math,
    "carray": carray,
    "pointer": pointer,
}


def projected(bounds: str, i: str) -> list[str]:
    """``d``, an element of the projected gradient, ``x - clip(x - g, low, high)``; NaN stays."""
    if not bounds:
        return [f"d = gs[{i}]"]
    low, high = _ends(bounds, i)
    return [
        f"d, down, up = gs[{i}], ps[{i}] - {low}, ps[{i}] - {high}",
        "d = down if d > down else d",
        "d = up if d < up else d",
    ]


def released(bounds: str, i: str) -> list[str]:
    """``d``, an element of the gradient, 0 where a bound holds it.

    The projected gradient near a bound is a distance, which means nothing beside a gradient.
    """
    lines = [f"d = gs[{i}]"]
    if bounds:
        low, high = _ends(bounds, i)
        lines += [f"if (d > 0 and ps[{i}] <= {low}) or (d < 0 and ps[{i}] >= {high}):"]
        lines += ["    d = d - d"]
    return lines


def _ends(bounds: str, i: str) -> tuple[str, str]:
    return (f"lows[{i}]", f"highs[{i}]") if bounds == "array" else ("low", "high")


def norm_lines(name: str, element: Any, norm: float) -> list[str]:
    """Set a name to the norm, inf or 2, of elements; NaN where one is.

    ``element(i)`` are lines that set `d`. The 2-norm divides by the largest element, so that no
    square overflows or underflows. Its sum is in the order of the elements, which many problems
    side by side can repeat.
    """
    larger = f"{name} = a if a > {name} or a != a else {name}"
    lines = [f"{name}, begin = 0.0, 0", f"if count >= {4 * LANES}:"]
    lines += [f"    begin = count - count % {LANES}", f"    for k in range({LANES}):"]
    lines += ["        tops[k] = 0.0", f"    for i in range(0, begin, {LANES}):"]
    lines += [f"        for k in range({LANES}):"]
    lines += indented([*element("i + k"), "a, b = abs(np.float64(d)), tops[k]"], 3)
    lines += ["            tops[k] = a if a > b or a != a else b", f"    for k in range({LANES}):"]
    lines += ["        a = tops[k]", f"        {larger}", "for i in range(begin, count):"]
    lines += indented([*element("i"), "a = abs(np.float64(d))", larger])
    if norm == math.inf:
        return lines
    lines += [f"if {name} != 0.0 and math.isfinite({name}):", "    total = 0.0"]
    lines += ["    for i in range(count):"]
    lines += indented([*element("i"), f"a = np.float64(d) / {name}", "total += a * a"], 2)
    return [*lines, f"    {name} = {name} * math.sqrt(total)"]


def test_lines(bounds: str, norm: float) -> list[str]:
    """The tests of an iterate."""

    def steep(i: str) -> list[str]:
        return projected(bounds, i)

    lines = ["way = length = 0.0", *norm_lines("size", steep, norm)]
    lines += ["if numbers[XTOL] > 0.0 and later:"]
    lines += indented(norm_lines("way", lambda i: [f"d = ps[{i}] - befores[{i}]"], norm))
    lines += indented(norm_lines("length", lambda i: [f"d = ps[{i}]"], norm))
    lines += ["if not later:", "    if numbers[FIRST] != numbers[FIRST]:"]
    lines += ["        numbers[FIRST], early = size, True"]
    given = "numbers[GTOL], numbers[GTOL_REL], numbers[FIRST]"
    lines += [f"    numbers[LIMIT] = gradient_limit({given})"]
    lines += ["if early and size <= numbers[FIRST]:", "    for i in range(count):"]
    lines += indented([*released(bounds, "i"), "a = abs(d)"], 2)
    lines += ["        firsts[i] = a if a > firsts[i] else firsts[i]"]
    lines += ["limit = numbers[LIMIT]", "if numbers[GTOL] < size <= limit:"]
    lines += ["    share = share_of_own(numbers[GTOL_REL])", "    for i in range(count):"]
    lines += indented([*released(bounds, "i"), "a = abs(np.float64(d))"], 2)
    lines += ["        if a > share * firsts[i] and firsts[i] > 0:"]
    lines += ["            limit = numbers[GTOL]"]
    lines += ["limits = (limit, numbers[FTOL], numbers[XTOL])"]
    given = "f, numbers[F_BEFORE], size, way, length, later, limits"
    lines += [f"code = check_convergence({given})", "numbers[F_BEFORE] = f"]
    return [*lines, "numbers[SIZE], numbers[WAY], numbers[LENGTH] = size, way, length"]
