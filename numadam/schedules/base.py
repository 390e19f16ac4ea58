"""Base class of schedules, and checks of their arguments."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Set
from typing import Any

from numadam._arrays import formatting
from numadam._core.hyper import Hyper, count


def check_warmup(warmup: int, steps: int) -> None:
    """Refuse a warm-up that leaves no step after it."""
    if warmup >= steps:
        raise ValueError(f"warmup: expected fewer than steps={steps}, got {warmup}.")


def several(name: str, values: object) -> tuple[Any, ...]:
    """Return `values` as a tuple, or say that they are not in an order."""
    try:
        if isinstance(values, (str, bytes, Set, Mapping)):
            raise TypeError("has no items in an order that are numbers")
        return tuple(values)  # type: ignore[arg-type]  # raises for what is none
    except TypeError as error:
        kind = type(values).__name__
        raise TypeError(f"{name}: expected a list or tuple, got {kind} ({values!r}).") from error


def between(start: float, end: float, left: float) -> float:
    """``end + (start - end) * left``, exact at both ends and never outside them."""
    if left > 0.5:
        return start - (start - end) * (1.0 - left)
    return end + (start - end) * left


def half_cosine(start: float, end: float, t: int, steps: int) -> float:
    """Half a cosine from `start` at 0 to `end` at `steps`."""
    left = (1.0 + math.cos(math.pi * t / steps)) / 2.0 if t < steps else 0.0
    return between(start, end, left)


class Scheduled(ABC):
    """Base class of schedules: the call, and checks of the fields."""

    def __call__(self, t: int) -> float:
        """Value for the step that follows `t` steps.

        Parameters
        ----------
        t : int
            Steps already taken: 0 at the first.

        Returns
        -------
        float
            The value, in units of the hyperparameter.

        Raises
        ------
        TypeError, ValueError
            If `t` is not a whole number of at least 0.
        """
        return self._at(count("t", t, 0))

    @abstractmethod
    def _at(self, t: int) -> float: ...

    def _repr_html_(self) -> str:
        """The table that notebooks show."""
        rows = [(name, formatting.brief(value)) for name, value in vars(self).items()]
        return formatting.table(type(self).__name__, rows)

    def _check(self, numbers: tuple[Hyper, ...], counts: dict[str, int] | None = None) -> None:
        """Validate these fields and convert them to float and int."""
        for hyper in numbers:
            object.__setattr__(self, hyper.name, hyper.check(getattr(self, hyper.name)))
        for name, least in (counts or {}).items():
            object.__setattr__(self, name, count(name, getattr(self, name), least))
