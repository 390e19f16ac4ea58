"""A value that falls when the objective does not."""

from __future__ import annotations

import math
from dataclasses import KW_ONLY, dataclass, field
from typing import ClassVar

from numadam._core.hyper import Hyper, PlateauMode, ThresholdMode, check_choice, count
from numadam.schedules.base import Scheduled

_F = Hyper("f", -math.inf, math.inf, closed=True)  # refuses nothing but NaN


@dataclass(frozen=True)
class ReduceOnPlateau(Scheduled):
    r"""Value that is multiplied by `factor` when f, passed to `observe`, no longer improves.

    With ``mode="min"`` f counts as an improvement if

    .. math::
        f &< best - threshold \cdot |best| \quad (rel) \\
        f &< best - threshold \quad (abs)

    It ignores t and has its own state, so each run needs a separate object (``copy.deepcopy``).

    Parameters
    ----------
    start : float in [0, inf)
        Value until the first reduction.
    factor : float in [0, 1), default 0.1
        Factor of each reduction.
    patience : int, default 10
        Number of observations in a row without improvement before a reduction.
    threshold : float in [0, inf), default 1e-4
        Smallest improvement that counts.
    threshold_mode : {"rel", "abs"}, default "rel"
        Whether `threshold` is relative to the best f, or absolute, in units of f.
    cooldown : int, default 0
        Number of observations after a reduction that are not counted.
    end : float in [0, inf), default 0.0
        The least value, at most `start`.
    mode : {"min", "max"}, default "min"
        Whether f is minimised or maximised.

    Attributes
    ----------
    value : float
        Current value.
    best : float
        The best f so far.
    waited, cooling : int
        Observations without improvement in a row, and those left of the cooldown.

    References
    ----------
    Krizhevsky, Sutskever and Hinton, "ImageNet Classification with Deep Convolutional Neural
    Networks", NeurIPS 2012.

    Examples
    --------
    >>> schedule = ReduceOnPlateau(0.1, factor=0.5, patience=1)
    >>> for f in (3.0, 2.0, 2.0, 2.0):
    ...     schedule.observe(f)
    >>> schedule.value, schedule.best
    (0.05, 2.0)
    """

    start: float
    _: KW_ONLY
    factor: float = 0.1
    patience: int = 10
    threshold: float = 1e-4
    threshold_mode: ThresholdMode = "rel"
    cooldown: int = 0
    end: float = 0.0
    mode: PlateauMode = "min"
    value: float = field(init=False)
    best: float = field(init=False)
    waited: int = field(init=False)
    cooling: int = field(init=False)

    # it compares by a state that changes
    __hash__: ClassVar[None] = None  # type: ignore[assignment]  # of object

    def __post_init__(self) -> None:
        numbers = (Hyper("start"), Hyper("factor", 0.0, 1.0), Hyper("threshold"), Hyper("end"))
        self._check(numbers, {"patience": 0, "cooldown": 0})
        check_choice("threshold_mode", self.threshold_mode, ThresholdMode)
        check_choice("mode", self.mode, PlateauMode)
        if self.end > self.start:
            raise ValueError(
                f"end: expected a number of at most start={self.start:g}, got {self.end:g}."
            )
        self._become(self.start, math.inf if self.mode == "min" else -math.inf, 0, 0)

    def set_state(self, *, value: float, best: float, waited: int, cooling: int) -> None:
        """Set the whole state, for example to a saved one.

        Parameters
        ----------
        value : float in [0, inf)
            What a call returns from now on.
        best : float
            The best f so far; infinite before the first.
        waited, cooling : int
            Observations without improvement in a row, and those left of the cooldown.

        Raises
        ------
        TypeError, ValueError
            If one is out of range; then nothing is changed.

        Examples
        --------
        >>> schedule = ReduceOnPlateau(0.1)
        >>> schedule.set_state(value=0.01, best=2.0, waited=3, cooling=0)
        >>> schedule(0)
        0.01
        """
        value, best = Hyper("value").check(value), Hyper("best", -math.inf, closed=True).check(best)
        self._become(value, best, count("waited", waited, 0), count("cooling", cooling, 0))

    def _become(self, value: float, best: float, waited: int, cooling: int) -> None:
        """Set the whole state in one call: an interrupt leaves the old one or the new one."""
        vars(self).update(value=value, best=best, waited=waited, cooling=cooling)

    def _better(self, f: float) -> bool:
        margin = self.threshold
        if self.threshold_mode == "rel" and math.isfinite(self.best):
            margin *= abs(self.best)
        return f < self.best - margin if self.mode == "min" else f > self.best + margin

    def observe(self, f: float) -> None:
        """Pass the next f to the schedule, which then may reduce `value`.

        Parameters
        ----------
        f : float
            The objective. NaN counts as no improvement.

        Raises
        ------
        TypeError
            If `f` is not a number.
        """
        try:
            f = _F.check(f)
        except ValueError:
            f = math.nan
        better = self._better(f)
        value, best = self.value, f if better else self.best
        waited = 0 if better or self.cooling else self.waited + 1
        cooling = max(self.cooling - 1, 0)
        if waited > self.patience:
            value, waited, cooling = max(value * self.factor, self.end), 0, self.cooldown
        self._become(value, best, waited, cooling)

    def _at(self, t: int) -> float:
        return self.value
