"""A value that stays, or falls by one formula."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass

from numadam._core.hyper import Hyper
from numadam.schedules.base import Scheduled, between


@dataclass(frozen=True)
class Constant(Scheduled):
    """The same value at every step.

    Parameters
    ----------
    value : float in [0, inf]
        The value.

    Examples
    --------
    >>> Constant(1e-3)(1000)
    0.001
    """

    value: float

    def __post_init__(self) -> None:
        self._check((Hyper("value", closed=True),))

    def _at(self, t: int) -> float:
        return self.value


@dataclass(frozen=True)
class Step(Scheduled):
    r"""Constant for `steps` steps, then multiplied by `factor`, again and again.

    .. math:: start \cdot factor^{\lfloor t / steps \rfloor}

    Parameters
    ----------
    start : float in [0, inf)
        Value at the first step.
    steps : int
        Steps between two reductions.
    factor : float in [0, 1], default 0.1
        Factor of each reduction.

    References
    ----------
    Ge, Kakade, Kidambi and Netrapalli, "The Step Decay Schedule", NeurIPS 2019.

    Examples
    --------
    >>> schedule = Step(1.0, steps=30, factor=0.5)
    >>> [schedule(t) for t in (0, 29, 30, 60)]
    [1.0, 1.0, 0.5, 0.25]
    """

    start: float
    steps: int
    _: KW_ONLY
    factor: float = 0.1

    def __post_init__(self) -> None:
        self._check((Hyper("start"), Hyper("factor", 0.0, 1.0, closed=True)), {"steps": 1})

    def _at(self, t: int) -> float:
        value: float = self.start * self.factor ** (t // self.steps)
        return value


@dataclass(frozen=True)
class Exponential(Scheduled):
    r"""Exponential: multiplied by `factor` in every `steps` steps, smoothly, until `end`.

    .. math:: start \cdot factor^{t / steps}

    Parameters
    ----------
    start : float in [0, inf)
        Value at the first step.
    factor : float in [0, inf)
        Factor for `steps` steps. Above 1 the values grow, and `start` has to be above 0.
    steps : int, default 1
        Steps in which the value is multiplied by `factor` once.
    end : float in [0, inf), default 0.0
        Limit of the values: at most `start`, or at least `start` if the values grow.

    References
    ----------
    Li and Arora, "An Exponential Learning Rate Schedule for Deep Learning", ICLR 2020.

    Examples
    --------
    >>> schedule = Exponential(1.0, factor=0.25, steps=2, end=0.1)
    >>> [schedule(t) for t in (0, 1, 2, 10)]
    [1.0, 0.5, 0.25, 0.1]
    """

    start: float
    factor: float
    _: KW_ONLY
    steps: int = 1
    end: float = 0.0

    def __post_init__(self) -> None:
        self._check((Hyper("start"), Hyper("factor"), Hyper("end")), {"steps": 1})
        if self.factor > 1.0 and self.start == 0.0:
            raise ValueError(f"start: expected a number above 0 to grow by {self.factor:g}, got 0.")
        if self.end < self.start if self.factor > 1.0 else self.end > self.start:
            side = "least" if self.factor > 1.0 else "most"
            raise ValueError(
                f"end: expected a number of at {side} start={self.start:g}, as factor is "
                f"{self.factor:g}, got {self.end:g}."
            )

    def _at(self, t: int) -> float:
        try:
            value: float = self.start * self.factor ** (t / self.steps)
        except OverflowError:  # only what grows gets there
            return self.end
        return min(value, self.end) if self.factor > 1.0 else max(value, self.end)


@dataclass(frozen=True)
class Polynomial(Scheduled):
    r"""From `start` to `end` in `steps` steps: a straight line, or a power of it.

    .. math:: end + (start - end) (1 - t / steps)^{power}

    Parameters
    ----------
    start : float in [0, inf)
        Value at the first step.
    steps : int
        Steps until `end`.
    end : float in [0, inf), default 0.0
        Value after `steps` steps.
    power : float in [0, inf), default 1.0
        1 is a straight line.

    References
    ----------
    Chen et al., "DeepLab", IEEE TPAMI 2018 ("poly", with a power of 0.9).

    Examples
    --------
    >>> schedule = Polynomial(1.0, steps=4, power=2.0)
    >>> [schedule(t) for t in (0, 2, 4, 5)]
    [1.0, 0.25, 0.0, 0.0]
    """

    start: float
    steps: int
    _: KW_ONLY
    end: float = 0.0
    power: float = 1.0

    def __post_init__(self) -> None:
        self._check((Hyper("start"), Hyper("end"), Hyper("power")), {"steps": 1})

    def _at(self, t: int) -> float:
        left = (1.0 - t / self.steps) ** self.power if t < self.steps else 0.0
        return between(self.start, self.end, left)
