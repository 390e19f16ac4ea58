"""Range test of learning rates: ``lr="auto"``."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

#: The rates that are tried, two in a decade.
RATES = (1e-3, 10**-2.5, 1e-2, 10**-1.5, 0.1, 10**-0.5, 1.0, 10**0.5, 10.0)
#: Iterations of a trial; with fewer iterations in all, half of them are for the trials.
_TRIAL = 10

#: Status of a trial in which f or the gradient became infinite or NaN.
_LOST = 2, 3


class Found(NamedTuple):
    """The rate, the iterations that are left, and the calls that it took."""

    lr: float
    maxiter: int
    nfev: int
    njev: int


def check_search(lr: str, maxiter: int, **refused: Any) -> None:
    """Refuse a search that cannot be made, before anything is evaluated.

    Parameters
    ----------
    lr : str
        "auto".
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
    if maxiter < 2 * len(RATES):
        raise ValueError(
            f"lr: 'auto' tries {len(RATES)} rates, and needs a maxiter of {2 * len(RATES)} at "
            f"least, got {maxiter}."
        )


def find_rate(run: Callable[..., Any], maxiter: int) -> Found:
    """The rate with the lowest f after a few iterations from x0; the smallest of equal ones.

    Rates at which f or the gradient are not finite are not taken, nor those at which `fun` raises,
    but for the first one, which is small: what it raises is no matter of the rate.

    Parameters
    ----------
    run : callable
        ``run(lr=..., maxiter=..., ...)``: minimise from x0.
    maxiter : int
        Iterations of search and run together.
    """
    length = min(_TRIAL, maxiter // (2 * len(RATES)))
    options = {"maxiter": length, "gtol": 0.0, "track_best": True, "history": False}
    heights: list[float] = []
    nfev = njev = 0
    for rate in RATES:
        height = math.inf
        try:
            trial = run(lr=rate, **options)
            if trial.status not in _LOST and math.isfinite(trial.fun):
                height = trial.fun
        except BaseException as error:
            trial = getattr(error, "numadam_result", None)
            if not heights or trial is None or not isinstance(error, Exception):
                _name_trial(error, rate)
                raise
        heights.append(height)
        nfev += trial.nfev
        njev += trial.njev
    best = RATES[heights.index(min(heights))]
    return Found(best, maxiter - length * len(RATES), nfev, njev)


def _name_trial(error: BaseException, rate: float) -> None:
    """Say on an exception that it ended a trial."""
    if hasattr(error, "numadam_result"):
        error.numadam_result.lr = rate
        error.add_note(f"numadam: lr='auto' was trying lr={rate:.4g}.")
