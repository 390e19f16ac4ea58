"""Range test of learning rates: ``lr="auto"``."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

#: The rates that are tried, two in a decade.
RATES = (1e-3, 10**-2.5, 1e-2, 10**-1.5, 0.1, 10**-0.5, 1.0, 10**0.5, 10.0)
#: Iterations of a trial; with fewer iterations in all, half of them are for the trials.
_TRIAL = 10


class Found(NamedTuple):
    """The rate, the iterations that are left, and the calls that it took."""

    lr: float
    maxiter: int
    nfev: int
    njev: int


def find_rate(lr: str, run: Callable[..., Any], maxiter: int, **refused: Any) -> Found:
    """The rate with the lowest f after a few iterations from x0; the smallest of equal ones.

    Parameters
    ----------
    lr : str
        "auto".
    run : callable
        ``run(lr=..., maxiter=..., ...)``: minimise from x0.
    maxiter : int
        Iterations of search and run together.
    **refused
        Arguments that go with a given rate only; None where they were not given.
    """
    if lr != "auto":
        raise ValueError(f"lr: expected a number, a schedule, an array or 'auto', got {lr!r:.80}.")
    for name, given in refused.items():
        if given is not None:
            raise ValueError(f"lr: 'auto' does not go with {name}. Pass the rate itself.")
    length = min(_TRIAL, maxiter // (2 * len(RATES)))
    if length == 0:
        raise ValueError(
            f"lr: 'auto' tries {len(RATES)} rates, and needs a maxiter of {2 * len(RATES)} at "
            f"least, got {maxiter}."
        )
    options = {"maxiter": length, "gtol": 0.0, "track_best": True, "history": False}
    trials = [run(lr=rate, **options) for rate in RATES]
    heights = [one.fun if math.isfinite(one.fun) else math.inf for one in trials]
    return Found(
        RATES[heights.index(min(heights))],
        maxiter - length * len(RATES),
        sum(one.nfev for one in trials),
        sum(one.njev for one in trials),
    )
