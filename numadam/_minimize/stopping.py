"""When a minimisation stops, and how that is said: the same tests in every loop."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from numba.extending import register_jitable

# What `verdict` finds at an iterate; the loops add the last three.
RUNNING, GTOL, FTOL, XTOL, BAD_F, BAD_G, MAXITER, CALLBACK, RAISED = range(9)

#: ``status`` of a result. SciPy's: 0 where a stop test held, 1 at maxiter, 99 from a callback.
STATUS = {
    GTOL: 0,
    FTOL: 0,
    XTOL: 0,
    MAXITER: 1,
    BAD_F: 2,
    BAD_G: 3,
    CALLBACK: 99,
    RUNNING: -1,
    RAISED: -1,
}
MESSAGES = {
    GTOL: "The largest component of the projected gradient is at most gtol.",
    FTOL: "The relative change of f is at most ftol.",
    XTOL: "The relative change of x is at most xtol.",
    MAXITER: "The number of iterations has reached maxiter.",
    BAD_F: "f is not finite at x; x_best is the best point before.",
    BAD_G: "The gradient is not finite at x; x_best is the best point so far.",
    CALLBACK: "The callback asked to stop.",
    RUNNING: "The run was interrupted.",
    RAISED: "fun raised an exception.",
}


@dataclass(frozen=True)
class Tolerances:
    """The bounds of the stop tests; 0 switches one off."""

    gtol: float
    ftol: float
    xtol: float

    @staticmethod
    def read(gtol: Any, ftol: Any, xtol: Any) -> Tolerances:
        """Check what a user gave; None is 0."""
        from numadam._core.rule import Hyper

        given = {"gtol": gtol, "ftol": ftol, "xtol": xtol}
        return Tolerances(
            **{
                name: 0.0 if value is None else Hyper(name).check(value)
                for name, value in given.items()
            }
        )


@register_jitable
def verdict(
    f: float,
    f_before: float,
    largest: float,
    moved: float,
    size: float,
    later: bool,
    tolerances: Any,
) -> int:
    """What an iterate means for the run.

    Parameters
    ----------
    f, f_before : float
        The objective here and at the iterate before; 0 where it is not asked for.
    largest : float
        Largest absolute component of the projected gradient, not finite where one of it is not.
    moved, size : float
        Largest absolute component of the last move, and of x.
    later : bool
        Whether there is an iterate before.
    tolerances : (gtol, ftol, xtol)

    Returns
    -------
    int
        ``RUNNING``, or which test holds.
    """
    gtol, ftol, xtol = tolerances
    if not math.isfinite(f):
        return BAD_F
    if not math.isfinite(largest):
        return BAD_G
    if gtol > 0.0 and largest <= gtol:
        return GTOL
    if later and ftol > 0.0 and abs(f_before - f) <= ftol * max(abs(f), abs(f_before), 1.0):
        return FTOL
    if later and xtol > 0.0 and moved <= xtol * max(size, 1.0):
        return XTOL
    return RUNNING
