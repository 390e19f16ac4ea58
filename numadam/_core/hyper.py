"""Types of options: numbers and callables of the step, annotations, and sets of choices."""

from __future__ import annotations

import inspect
import math
import operator
from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass
from types import FunctionType
from typing import Any, Literal, Protocol, get_args

# --- hyperparameters -----------------------------------------------------------------------------

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
                f"got {value!r:.80}."
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
        if type(value) is FunctionType:
            try:
                inspect.signature(value, follow_wrapped=False).bind(0)
            except TypeError:
                raise TypeError(
                    f"{self.name}: is called with one argument, the steps taken, got "
                    f"{value.__name__}{inspect.signature(value)}."
                ) from None
        return value


def at_start(hyper: Hyper, value: Any) -> float:
    """The value of a hyperparameter before the first step."""
    return hyper.check(value(0)) if callable(value) else value


LR = Hyper("lr")


#: Type of a hyperparameter in signatures.
NUMBER = "float | Schedule"

BETA1, BETA2 = Hyper("beta1", 0.0, 1.0), Hyper("beta2", 0.0, 1.0)
EPS, EPS_ROOT = Hyper("eps"), Hyper("eps_root")


def check_switch(name: str, value: Any) -> bool:
    """Refuse what is neither True nor False, 1 and 0 too."""
    if not isinstance(value, bool):
        raise TypeError(f"{name}: expected True or False, got {value!r:.80}.")
    return value


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


def several(name: str, values: object) -> tuple[Any, ...]:
    """Return `values` as a tuple, or say that they are not in an order."""
    try:
        if isinstance(values, (str, bytes, Set, Mapping)):
            raise TypeError("has no items in an order that are numbers")
        return tuple(values)  # type: ignore[arg-type]  # raises for what is none
    except TypeError as error:
        kind = type(values).__name__
        raise TypeError(f"{name}: expected a list or tuple, got {kind} ({values!r}).") from error


# --- types of arguments that take more than one kind of value ------------------------------------


class Array(Protocol):
    """Arrays and numbers of NumPy, CuPy, and of libraries with their like."""

    @property
    def shape(self) -> Any:
        """Length along each axis."""

    @property
    def dtype(self) -> Any:
        """Type of the elements."""


class Box(Protocol):
    """Bounds as `scipy.optimize.Bounds` has them."""

    lb: Any
    ub: Any


#: Containers of arrays that need no further library to be named; optree knows more.
Nested = list[Any] | tuple[Any, ...] | Mapping[Any, Any]
#: Learning rate: a number, a function of the steps taken, or one for each element or array. A text
#: is none of them, which `Sequence` would let pass.
Rate = float | Schedule | Array | Nested
#: Lower and upper bounds.
Bounds = Box | Array | Nested


# --- options that take one of a few texts --------------------------------------------------------
# Signatures name these types; checks read the same values from them.

Nonfinite = Literal["propagate", "raise", "skip"]
Sparse = Literal["lazy", "dense"]
Count = Literal["step", "row"]
ComplexForm = Literal["parts", "modulus"]
#: Libraries whose defaults and arithmetic are repeated: see `numadam._core.synonyms`.
Like = Literal["torch", "optax", "keras", "tf1", "sklearn", "numpy"]

EpsForm = Literal["paper", "hat"]
EpsFormOfMax = Literal["norm", "denominator"]
AMSGrad = Literal["v", "vhat", "paper"]

#: Finite differences in place of a gradient.
Differences = Literal["2-point", "3-point", "cs"]
#: `jac` of compiled residuals.
OfResiduals = Literal["differences"]
#: A learning rate that is searched for.
RateSearch = Literal["auto"]

#: Outcome of `check_grad`.
GradientStatus = Literal["right", "wrong", "unclear"]

PlateauMode = Literal["min", "max"]
ThresholdMode = Literal["rel", "abs"]


def listed(values: tuple[Any, ...]) -> str:
    """Values as a text: ``'a', 'b' or 'c'``."""
    *most, last = map(repr, values)
    return f"{', '.join(most)} or {last}" if most else last


def mismatch(name: str, value: object, choices: Any, also: tuple[Any, ...] = ()) -> str:
    """Error text, or "", for a value that has to be in a Literal or one of the objects `also`."""
    values = (*also, *get_args(choices))
    if any(value is one for one in also) or (isinstance(value, str) and value in values):
        return ""
    return f"{name}: expected {listed(values)}, got {value!r:.80}."


def check_choice(name: str, value: object, choices: Any, also: tuple[Any, ...] = ()) -> None:
    """Raise ValueError for an option that is none of its choices."""
    problem = mismatch(name, value, choices, also)
    if problem:
        raise ValueError(problem)


def check_kind(name: str, value: object, kind: str) -> None:
    """Refuse an option of a rule that is not of this type: ``"bool | AMSGrad"``, say.

    Numbers and schedules are checked elsewhere: here ``"float"`` refuses a schedule.
    """
    *also, choices = kind.split(" | ")
    if kind == "bool":
        check_switch(name, value)
    elif kind == "float" and callable(value):
        raise ValueError(f"{name}: is used once, at the start, and cannot be a schedule.")
    elif kind not in ("float", NUMBER):
        check_choice(name, value, globals()[choices], (True, False) if also else ())
