"""Stop tests of a minimisation and their messages: the same in every loop."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numba.extending import register_jitable

from numadam._core.hyper import Hyper

# Codes of `check_convergence`; the loops add the last four.
RUNNING, GTOL, FTOL, XTOL, BAD_F, BAD_G, MAXITER, CALLBACK, RAISED, UNSEEN = range(10)

#: ``status`` of a result. As in SciPy: 0 if a stop test held, 1 at maxiter, 99 from a callback.
STATUS = {
    GTOL: 0,
    FTOL: 0,
    XTOL: 0,
    MAXITER: 1,
    BAD_F: 2,
    BAD_G: 3,
    UNSEEN: 4,
    CALLBACK: 99,
    RUNNING: -1,
    RAISED: -1,
}
MESSAGES = {
    GTOL: "The projected gradient is at most gtol, or gtol_rel times the first.",
    FTOL: "The relative change of f is at most ftol.",
    XTOL: "The relative change of x is at most xtol.",
    MAXITER: "The number of iterations has reached maxiter.",
    BAD_F: "f is not finite at x_last.",
    BAD_G: "The gradient is not finite at x_last.",
    CALLBACK: "The callback asked to stop.",
    RUNNING: "The run was interrupted.",
    RAISED: "fun raised an exception.",
    UNSEEN: "The gradient by differences is small, but with longer steps it is not: f does not "
    "show the steps, or bends across them. Return the gradient (jac=True), or change the unit or "
    "the offset of x.",
}

AT_REST = (GTOL, FTOL, XTOL, MAXITER)

#: The default of `gtol_rel`: Adam's path does not depend on the scale of f, nor may its stop.
GTOL_REL = 1e-6

_GTOL, _GTOL_REL, _FTOL, _XTOL = map(Hyper, ("gtol", "gtol_rel", "ftol", "xtol"))


class Tolerances(NamedTuple):
    """Tolerances of the stop tests; 0 switches one off. `norm` is inf or 2."""

    gtol: float
    ftol: float
    xtol: float
    gtol_rel: float
    norm: float

    @staticmethod
    def read(gtol: Any, gtol_rel: Any, ftol: Any, xtol: Any, norm: Any) -> Tolerances:
        """Check the user's values; None is 0, but `gtol_rel` has a default where both are None."""
        number = type(norm) in (int, float) or isinstance(norm, (np.floating, np.integer))
        if not number or norm not in (math.inf, 2):
            raise ValueError(f"norm: expected numpy.inf or 2, got {norm!r:.80}.")
        if gtol is None and gtol_rel is None:
            gtol_rel = GTOL_REL
        return Tolerances(
            gtol=0.0 if gtol is None else _GTOL.check(gtol),
            ftol=0.0 if ftol is None else _FTOL.check(ftol),
            xtol=0.0 if xtol is None else _XTOL.check(xtol),
            gtol_rel=0.0 if gtol_rel is None else _GTOL_REL.check(gtol_rel),
            norm=float(norm),
        )

    @property
    def any(self) -> bool:
        """Whether there is any test."""
        return self.gtol > 0.0 or self.gtol_rel > 0.0 or self.ftol > 0.0 or self.xtol > 0.0

    @property
    def limits(self) -> tuple[float, float, float]:
        """gtol, ftol, xtol."""
        return self.gtol, self.ftol, self.xtol

    def gradient_message(self, size: float, first: float) -> str:
        """Message of the gradient's test, from the norms of this gradient and of the first."""
        if self.gtol > 0.0 and size <= self.gtol:
            kind = "largest component" if self.norm == math.inf else "2-norm"
            return f"The {kind} of the projected gradient is at most gtol."
        if first == 0.0:
            return "The projected gradient is 0 at the start."
        return f"The gradient is {size / first:.2g} of the first (gtol_rel={self.gtol_rel:g})."


def stop_message(
    code: int, tolerances: Tolerances, size: float, first: float, eps: Any, tracked: bool
) -> str:
    """The reason of a stop.

    `size` and `first` are norms of the last and the first gradient; `tracked` says whether the
    result is the best iterate.
    """
    message = tolerances.gradient_message(size, first) if code == GTOL else MESSAGES[code]
    if tracked and code in (BAD_F, BAD_G):
        message += " x is the best iterate until then."
    if code in AT_REST and isinstance(eps, float) and 0.0 < size < eps:
        message += f" The gradient, {size:.2g}, is {below_eps(eps)}"
    return message


def below_eps(eps: float) -> str:
    """The consequence of a gradient below eps, as the end of a sentence."""
    return (
        f"below eps={eps:g}, where steps are shorter than lr: take a smaller eps, or f in other "
        "units."
    )


@register_jitable
def gradient_limit(gtol: float, gtol_rel: float, first: float) -> float:
    """Norm of the gradient at which a run stops; -1, which no norm is, where the test is off.

    `first` is the norm of the first projected gradient: where it is 0, a run stops at once.
    """
    if gtol == 0.0 and gtol_rel == 0.0:
        return -1.0
    return max(gtol, gtol_rel * first) if gtol_rel != 0.0 else gtol  # 0 * inf is NaN


@register_jitable
def share_of_own(gtol_rel: float) -> float:
    """The share of its own first gradient at which `gtol_rel` holds a component to be at rest.

    The norm sees the steepest unknowns alone, where scales differ. So each component has a first
    gradient too: the larger of those at the first two iterates, unless the norm rose between them.
    At x0 it may be 0, or small by chance, or a rounding where terms cancel; a step that is far too
    long makes all of them large. Of 114 problems with 1e-3 for 1e-6, none took an iteration more.
    """
    return math.sqrt(gtol_rel)


@register_jitable
def check_convergence(
    f: float,
    f_before: float,
    largest: float,
    moved: float,
    size: float,
    later: bool,
    tolerances: Any,
) -> int:
    """Test one iterate: returns ``RUNNING``, or the code of the test that holds.

    `f` and `f_before` are 0 where they are not asked for. `largest` is the norm of the projected
    gradient, `moved` that of the last move, `size` that of x. `later`: there is an iterate before.
    `tolerances` are limit (from `gradient_limit`), ftol, xtol.
    """
    limit, ftol, xtol = tolerances
    if not math.isfinite(f):
        return BAD_F
    if not math.isfinite(largest):
        return BAD_G
    if largest <= limit:
        return GTOL
    if later and ftol > 0.0 and abs(f_before - f) <= ftol * max(max(abs(f), abs(f_before)), 1.0):
        return FTOL
    if later and xtol > 0.0 and moved <= xtol * max(size, 1.0):
        return XTOL
    return RUNNING
