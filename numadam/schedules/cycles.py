"""Cosines: falling, after a warm-up, and up and down again."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass

from numadam._core.hyper import Hyper
from numadam.schedules.base import Scheduled, between, check_warmup, half_cosine


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
