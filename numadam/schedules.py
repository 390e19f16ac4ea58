"""Schedules: the learning rate, or any hyperparameter, as a function of the steps taken.

A schedule is a callable: ``schedule(t)`` is the value for the step after t steps, 0 at the first.
Any function ``f(t) -> float`` works as a schedule; these are the usual ones. They compute in
float64 and load neither NumPy nor Numba. `start`, `peak`, `end` and the numbers in `values` are in
units of the hyperparameter; `steps`, `warmup` and `boundaries` count steps. After its end a
schedule keeps its last value. The first two arguments may be positional if they have no default:
``Cosine(0.1, 100)``. Arguments are checked by the constructor: the error names the argument, what
it got and what is expected. Schedules can be pickled, copied and compared.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, dataclass, field
from typing import TYPE_CHECKING, ClassVar

from numadam._arrays import formatting
from numadam._core.hyper import Hyper, PlateauMode, ThresholdMode, check_choice, count, several
from numadam._core.synonyms import schedule_hint

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


def check_warmup(warmup: int, steps: int) -> None:
    """Refuse a warm-up that leaves no step after it."""
    if warmup >= steps:
        raise ValueError(f"warmup: expected fewer than steps={steps}, got {warmup}.")


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
        """Value for the step that follows `t` steps, 0 at the first; refuses what is no number."""
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


@dataclass(frozen=True)
class Cosine(Scheduled):
    r"""Half a cosine from `start` to `end` in `steps` steps, once or with restarts.

    .. math:: end + (start - end) \frac{1 + \cos(\pi t / steps)}{2}

    Parameters
    ----------
    start : float in [0, inf)
        Value at the first step.
    steps : int
        Steps until `end`, in the first cycle.
    end : float in [0, inf), default 0.0
        Value after these steps. It may be above `start`.
    restart_mult : int, default 0
        0: one cycle. Otherwise each cycle is followed by one that is this many times as long and
        begins at `start`, at the step at which the cycle before would reach `end`.

    References
    ----------
    Loshchilov and Hutter, "SGDR: Stochastic Gradient Descent with Warm Restarts", ICLR 2017.

    Examples
    --------
    >>> [round(Cosine(1.0, steps=4)(t), 3) for t in range(6)]
    [1.0, 0.854, 0.5, 0.146, 0.0, 0.0]
    >>> [round(Cosine(1.0, steps=2, restart_mult=2)(t), 3) for t in range(7)]
    [1.0, 0.5, 1.0, 0.854, 0.5, 0.146, 1.0]
    """

    start: float
    steps: int
    _: KW_ONLY
    end: float = 0.0
    restart_mult: int = 0

    def __post_init__(self) -> None:
        self._check((Hyper("start"), Hyper("end")), {"steps": 1, "restart_mult": 0})

    def _at(self, t: int) -> float:
        steps = self.steps
        if self.restart_mult == 1:
            t %= steps
        while self.restart_mult > 1 and t >= steps:
            t, steps = t - steps, steps * self.restart_mult
        return half_cosine(self.start, self.end, t, steps)


@dataclass(frozen=True)
class WarmupCosine(Scheduled):
    r"""A straight line up to `peak` in `warmup` steps, then half a cosine down to `end`.

    .. math::
        &start + (peak - start) \frac{t}{warmup}, \quad \text{then} \\
        &end + (peak - end) \frac{1 + \cos(\pi (t - warmup) / (steps - warmup))}{2}

    Parameters
    ----------
    peak : float in [0, inf)
        Value after the warm-up.
    steps : int
        Steps until `end`, including the warm-up.
    warmup : int
        Steps of the warm-up, fewer than `steps`; 0 for none.
    start : float in [0, inf), default 0.0
        Value at the first step: a learning rate of 0 moves nothing there.
    end : float in [0, inf), default 0.0
        Value from `steps` on.

    References
    ----------
    Goyal et al., "Accurate, Large Minibatch SGD: Training ImageNet in 1 Hour", 2017 (warm-up).
    Loshchilov and Hutter, "SGDR: Stochastic Gradient Descent with Warm Restarts", ICLR 2017.

    Examples
    --------
    >>> schedule = WarmupCosine(1.0, steps=6, warmup=2, end=0.5)
    >>> [round(schedule(t), 3) for t in range(8)]
    [0.0, 0.5, 1.0, 0.927, 0.75, 0.573, 0.5, 0.5]
    """

    peak: float
    steps: int
    _: KW_ONLY
    warmup: int
    start: float = 0.0
    end: float = 0.0

    def __post_init__(self) -> None:
        self._check((Hyper("peak"), Hyper("start"), Hyper("end")), {"steps": 1, "warmup": 0})
        check_warmup(self.warmup, self.steps)

    def _at(self, t: int) -> float:
        if t < self.warmup:
            return between(self.start, self.peak, 1.0 - t / self.warmup)
        return half_cosine(self.peak, self.end, t - self.warmup, self.steps - self.warmup)


@dataclass(frozen=True)
class OneCycle(Scheduled):
    """Half a cosine up to `peak` in `warmup` steps, then half a cosine down to `end`.

    The formula of each half is that of `Cosine`. The matching schedule for beta1, which decreases
    first, is ``OneCycle(0.85, steps=steps, start=0.95, end=0.95)``.

    Parameters
    ----------
    peak : float in [0, inf)
        Value after the warm-up.
    steps : int
        Steps until `end`, including the warm-up.
    warmup : int, optional
        Steps of the warm-up, fewer than `steps`; by default ``0.3 * steps``, rounded down.
    start : float in [0, inf), optional
        Value at the first step, by default ``peak / 25``.
    end : float in [0, inf), optional
        Value from `steps` on, by default ``start / 1e4``.

    References
    ----------
    Smith and Topin, "Super-Convergence: Very Fast Training of Neural Networks Using Large Learning
    Rates", 2018.

    Examples
    --------
    >>> schedule = OneCycle(1.0, steps=10)
    >>> [round(schedule(t), 3) for t in (0, 3, 5, 10)]
    [0.04, 1.0, 0.812, 0.0]
    """

    peak: float
    steps: int
    _: KW_ONLY
    warmup: int | None = None
    start: float | None = None
    end: float | None = None

    def __post_init__(self) -> None:
        given = [Hyper(name) for name in ("start", "end") if getattr(self, name) is not None]
        counts = {"steps": 1} if self.warmup is None else {"steps": 1, "warmup": 0}
        self._check((Hyper("peak"), *given), counts)
        if self.warmup is not None:
            check_warmup(self.warmup, self.steps)

    def _at(self, t: int) -> float:
        warmup = 3 * self.steps // 10 if self.warmup is None else self.warmup
        start = self.peak / 25.0 if self.start is None else self.start
        if t < warmup:
            return half_cosine(start, self.peak, t, warmup)
        end = start / 1e4 if self.end is None else self.end
        return half_cosine(self.peak, end, t - warmup, self.steps - warmup)


@dataclass(frozen=True)
class Piecewise(Scheduled):
    """Values, or schedules, one after the other.

    Parameters
    ----------
    values : sequence of float in [0, inf] or callable
        One more than `boundaries`. A callable gets the steps since the start of its own piece, 0 at
        the first.
    boundaries : sequence of int
        Steps after which the next piece starts, increasing.

    References
    ----------
    He et al., "Deep Residual Learning for Image Recognition", CVPR 2016 (0.1 divided by 10 after
    32000 and 48000 steps).

    Examples
    --------
    >>> schedule = Piecewise([0.1, 0.01, 0.001], boundaries=[32000, 48000])
    >>> [schedule(t) for t in (0, 31999, 32000, 48000)]
    [0.1, 0.1, 0.01, 0.001]
    >>> schedule = Piecewise([lambda t: t / 4, 1.0], boundaries=[4])
    >>> [schedule(t) for t in (0, 2, 4, 6)]
    [0.0, 0.5, 1.0, 1.0]
    """

    values: Sequence[float | Callable[[int], float]]
    boundaries: Sequence[int]

    def __post_init__(self) -> None:
        kept = {name: several(name, getattr(self, name)) for name in ("values", "boundaries")}
        values = tuple(
            value if callable(value) else Hyper(f"values[{k}]", closed=True).check(value)
            for k, value in enumerate(kept["values"])
        )
        boundaries: list[int] = []
        for k, value in enumerate(kept["boundaries"]):
            least = boundaries[-1] + 1 if boundaries else 1
            boundaries.append(count(f"boundaries[{k}]", value, least))
        if len(values) != len(boundaries) + 1:
            raise ValueError(
                f"values: expected one more than boundaries, {len(boundaries) + 1}, "
                f"got {len(values)}."
            )
        object.__setattr__(self, "values", values)
        object.__setattr__(self, "boundaries", tuple(boundaries))

    def _at(self, t: int) -> float:
        k = bisect_right(self.boundaries, t)
        piece = self.values[k]
        if not callable(piece):
            return piece
        begin = self.boundaries[k - 1] if k else 0
        return Hyper(f"values[{k}]", closed=True).check(piece(t - begin))


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

    def observe(self, f: float) -> None:
        """Pass the next f to the schedule, which then may reduce `value`.

        Parameters
        ----------
        f : float
            The objective. NaN counts as no improvement; what is no number raises a TypeError.
        """
        try:
            f = _F.check(f)
        except ValueError:
            f = math.nan
        margin = self.threshold
        if self.threshold_mode == "rel" and math.isfinite(self.best):
            margin *= abs(self.best)
        better = f < self.best - margin if self.mode == "min" else f > self.best + margin
        value, best = self.value, f if better else self.best
        waited = 0 if better or self.cooling else self.waited + 1
        cooling = max(self.cooling - 1, 0)
        if waited > self.patience:
            value, waited, cooling = max(value * self.factor, self.end), 0, self.cooldown
        self._become(value, best, waited, cooling)

    def _at(self, t: int) -> float:
        return self.value
