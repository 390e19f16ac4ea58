"""Schedules: the learning rate, or any hyperparameter, as a function of the steps taken.

A schedule is a callable: ``schedule(t)`` is the value for the step after t steps, so t is 0 at the
first step. Any function ``f(t) -> float`` works as a schedule; these are the usual ones. They
compute in float64 and load neither NumPy nor Numba. `start`, `peak`, `end` and the numbers in
`values` are in units of the hyperparameter; `steps`, `warmup` and `boundaries` count steps. After
its end a schedule keeps its last value. The first two arguments may be positional if they have no
default: ``Cosine(0.1, 100)``. Arguments are checked by the constructor: a TypeError or ValueError
names the argument, what it got and what is expected. Schedules can be pickled, copied and compared.
"""

from typing import TYPE_CHECKING

from numadam._core.synonyms import schedule_hint
from numadam.schedules.cycles import Cosine, OneCycle, WarmupCosine
from numadam.schedules.decays import Constant, Exponential, Polynomial, Step
from numadam.schedules.pieces import Piecewise
from numadam.schedules.plateau import ReduceOnPlateau

__all__ = [
    "Constant",
    "Cosine",
    "Exponential",
    "OneCycle",
    "Piecewise",
    "Polynomial",
    "ReduceOnPlateau",
    "Step",
    "WarmupCosine",
]


if not TYPE_CHECKING:  # else checkers would take any name

    def __getattr__(name: str) -> object:
        raise AttributeError(f"numadam.schedules has no {name!r}.{schedule_hint(name)}")


def __dir__() -> list[str]:
    return __all__
