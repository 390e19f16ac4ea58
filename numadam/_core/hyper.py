"""Hyperparameters: ranges, checks, and values that change from step to step."""

from __future__ import annotations

import inspect
import math
import operator
from collections.abc import Callable
from dataclasses import dataclass
from types import FunctionType
from typing import Any

#: A hyperparameter as a function of the steps already taken, 0 at the first.
Schedule = Callable[[int], float]


@dataclass(frozen=True)
class Hyper:
    """A float hyperparameter: its range is ``[low, high)``.

    With `closed`, `high` belongs to it; with `positive`, `low` does not.
    """

    name: str
    low: float = 0.0
    high: float = math.inf
    closed: bool = False
    positive: bool = False

    def check(self, value: object) -> float:
        """Return `value` as a float, or say what is wrong with it."""
        kind = type(value).__name__
        try:
            code = getattr(getattr(value, "dtype", None), "kind", "f")  # of NumPy's numbers
            if isinstance(value, (str, bytes, bool)) or code in "bcSU":
                raise TypeError(f"{kind} is not taken for a number")
            number = float(value)  # type: ignore[arg-type]  # raises for what is none
        except OverflowError:
            number = math.inf
        except (TypeError, ValueError) as error:
            raise TypeError(f"{self.name}: expected a number, got {kind} ({value!r}).") from error
        below = number <= self.high if self.closed else number < self.high
        above = number > self.low if self.positive else number >= self.low
        if not (above and below):
            begin, end = "(" if self.positive else "[", "]" if self.closed else ")"
            raise ValueError(
                f"{self.name}: expected a number in {begin}{self.low:g}, {self.high:g}{end}, "
                f"got {value!r}."
            )
        return number

    def check_or_schedule(self, value: Any) -> Any:
        """As `check`; a callable is returned as it is, and its values are checked at each step."""
        if not callable(value):
            return self.check(value)
        if isinstance(value, type):
            raise TypeError(
                f"{self.name}: expected a number or a schedule, got the class {value.__name__}. "
                f"Pass {value.__name__}(...)."
            )
        if type(value) is FunctionType and not _takes_one(value):
            raise TypeError(
                f"{self.name}: is called with one argument, the steps taken, got "
                f"{value.__name__}{inspect.signature(value)}."
            )
        return value


def _takes_one(function: FunctionType) -> bool:
    """Whether a function can be called with one argument; its code says so in 0.2 us."""
    code, defaults = function.__code__, function.__defaults__ or ()
    least, names = code.co_argcount - len(defaults), function.__kwdefaults__ or ()
    enough = code.co_argcount >= 1 or bool(code.co_flags & inspect.CO_VARARGS)
    return least <= 1 and enough and code.co_kwonlyargcount == len(names)


def at_start(hyper: Hyper, value: Any) -> float:
    """The value of a hyperparameter before the first step."""
    return hyper.check(value(0)) if callable(value) else value


LR = Hyper("lr")


EPS = Hyper("eps")


def count(name: str, value: object, least: int, most: int | None = None) -> int:
    """Return `value` as an int of at least `least` and at most `most`, or say what is wrong."""
    try:
        if type(value).__name__ == "bool":  # NumPy's too, which NumPy 2.0 takes for an index
            raise TypeError("bool is not taken for a number")
        count = operator.index(value)  # type: ignore[arg-type]  # raises for what is none
    except TypeError as error:
        kind = type(value).__name__
        whole = isinstance(value, float) and value.is_integer()
        use = f" Write {int(value)}." if whole else ""  # type: ignore[call-overload]  # a float
        raise TypeError(f"{name}: expected a whole number, got {kind} ({value!r}).{use}") from error
    if count < least or (most is not None and count > most):
        end = f"{'' if most is None else f' and at most {most}'}, got {value!r}."
        raise ValueError(f"{name}: expected a whole number of at least {least}{end}")
    return count
