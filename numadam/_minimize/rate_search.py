"""Range test of learning rates: ``lr="auto"``."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

from numadam._minimize.result import Result

#: The rates that are tried, two in a decade.
RATES = (1e-3, 10**-2.5, 1e-2, 10**-1.5, 0.1, 10**-0.5, 1.0, 10**0.5, 10.0)
#: Decades that are tried beyond them, where the lowest f is at an end.
DECADES = 12
#: Iterations of a trial; with fewer iterations in all, half of them are for the trials.
_TRIAL = 10

#: Part of the fall of f by which f(x0) may differ between trials.
_LUCK = 0.1
#: Status of a trial in which f or the gradient became infinite or NaN.
_LOST = 2, 3


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
        raise TypeError(f"lr: expected a number, a schedule, an array or 'auto', got {lr!r:.80}.")
    for name, given in refused.items():
        if given is not None:
            raise ValueError(f"lr: 'auto' does not go with {name}. Pass the rate itself.")
    if maxiter < 2 * len(RATES):
        raise ValueError(
            f"lr: 'auto' tries {len(RATES)} rates, and needs a maxiter of {2 * len(RATES)} at "
            f"least, got {maxiter}."
        )


def own_schedules(options: dict[str, Any]) -> dict[str, Any]:
    """The options of a trial: schedules that observe f are copied, since the run needs them new."""
    return {
        name: copy.deepcopy(given) if hasattr(given, "observe") else given
        for name, given in options.items()
    }


class RateSearch:
    """The rate with the lowest f after a few iterations from x0; the smallest of equal ones.

    Where that is at an end of `RATES`, the search goes on beyond it, in decades and at last half a
    decade. Rates at which f or the gradient are not finite are not taken, nor those at which `fun`
    raises, unless it does so at x0, or at all rates.

    Parameters
    ----------
    run : callable
        ``run(lr=..., maxiter=..., ...)``: minimise from x0.
    maxiter : int
        Iterations of search and run together; half of them at most are for the search.

    Attributes
    ----------
    lr : float
        The rate.
    maxiter : int
        The iterations that are left for the run.
    """

    def __init__(self, run: Callable[..., Any], maxiter: int) -> None:
        self._run, self.maxiter, self._nfev, self._njev = run, maxiter, 0, 0
        self._length = min(_TRIAL, maxiter // (2 * len(RATES)))
        self._left = maxiter // (2 * self._length)
        self._error: Exception | None = None
        self._heights: dict[float, float] = {}
        self._starts: list[float] = []  # f at x0, evaluated by each trial
        self._search()

    @property
    def lr(self) -> float:
        """The rate with the lowest f, the smallest of equal ones."""
        return min(sorted(self._heights), key=self._heights.__getitem__)

    def _search(self) -> None:
        for rate in RATES:
            self._try(rate)
        for end, factor in ((RATES[0], 0.1), (RATES[-1], 10.0)):
            for _ in range(DECADES):
                if self.lr == end:
                    end *= factor
                    self._try(end)
        best = self.lr
        for near in (best * 10**-0.5, best * 10**0.5):
            if not 0.9 * RATES[0] < near < 1.1 * RATES[-1]:
                self._try(near)
        if self._error is not None and not math.isfinite(self._heights[self.lr]):
            raise self._error

    def _try(self, rate: float) -> None:
        """Run a few iterations at a rate, while there are some left."""
        if not self._left:
            return
        height = math.inf
        options = {"maxiter": self._length, "gtol": 0.0, "track_best": True, "history": 1}
        try:
            trial = self._run(lr=rate, **options)
            if trial.status not in _LOST and math.isfinite(trial.fun):
                height = trial.fun
                self._starts.append(float(trial.history["fun"][0]))
        except BaseException as error:
            trial = getattr(error, "numadam_result", None)
            if trial is not None:
                trial.lr = rate
                error.add_note(f"numadam: lr='auto' was trying lr={rate:.4g}.")
            if trial is None or not trial.nit or not isinstance(error, Exception):
                raise
            self._error = error
        self._heights[rate] = height
        self._nfev += trial.nfev
        self._njev += trial.njev
        self._left -= 1
        self.maxiter -= self._length
        if not trial.nit or trial.grad_norm == 0.0:  # no rate can do more
            self._left = 0

    def written_into(self, result: Result) -> Result:
        """The result of the run, with the rate and the calls of the search.

        Its message has a doubt where f is so random that the lowest one may be so by chance.
        """
        result.nfev += self._nfev
        result.njev += self._njev
        result.lr = self.lr
        low, high = min(self._starts, default=0.0), max(self._starts, default=0.0)
        if low != high and high - low >= _LUCK * (high - self._heights[self.lr]):
            result.message += (
                " The rate that lr='auto' took may be one of chance: in its trials f(x0) was "
                f"{low:.4g} to {high:.4g}."
            )
        return result
