"""Reference for derivatives: numbers of many digits that know how far roundings may carry them."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

from mpmath import mp, mpf

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
