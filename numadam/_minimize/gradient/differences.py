"""Slopes of `fun` along one direction by differences, with their estimated errors."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

#: Steps that are tried, as multiples of eps^(1/3) times the size of x: the best one for a smooth
#: function that is exact to rounding, longer ones against noise, shorter ones for short scales.
MULTIPLES = (1.0, 8.0, 1 / 32, 64.0, 1 / 1024, 1 / 32_768)
#: Longer steps that are tried last, where f is far larger than it changes.
LONG_MULTIPLES = (512.0, 4096.0)
#: Longest step relative to the size of x; the shortest is eps^(2/3).
_LONGEST = 0.1
#: Estimated errors that a slope may be away.
SAFETY = 4.0
#: Part of a slope above which its error is too large to tell.
LOOSE = 0.1
#: Part of the gap to a formula that the error may be where the slope refutes it.
_OF_GAP = 0.25
#: Error that the fourth difference stands for where f is noisy, times the step.
_OF_FOURTH = 0.2
#: Rounding errors of f in a slope, times the step.
_CENTRAL, _ONE_SIDED = 2.0, 8.0
#: Power of the step as which the error falls at least where f is smooth: 3, and 2 where its slope
#: has a kink.
_FALL = 1.5
#: Ratio of the jumps of the slope with two steps, at a kink. Where f is smooth, that is the ratio
#: of the steps.
_KINK = 0.75
#: Part of the jump of the slope by which a subgradient may be beyond it.
_SLACK = 0.01


class Slope(NamedTuple):
    """A slope by differences with two step sizes.

    `low` and `high` are the slopes on both sides where f has a kink there, else `value`. `rounding`
    is the error that rounding alone explains. `flat`: f was the same number at all points.
    """

    step: float
    value: float
    error: float
    rounding: float
    low: float
    high: float
    flat: bool

    def agrees(self, slope: float, tolerance: float) -> bool:
        """Whether a slope by formula is this one, as far as `tolerance` and error allow."""
        size = max(abs(slope), abs(self.value))
        return bool(abs(slope - self.value) <= tolerance * size + SAFETY * self.error)

    def spans(self, slope: float) -> bool:
        """Whether a slope is between those on both sides of a kink."""
        slack = _SLACK * (self.high - self.low)
        return self.low - slack <= slope <= self.high + slack

    def rejects(self, slope: float, tolerance: float) -> bool:
        """Whether it is good enough to say that a slope by formula is another."""
        sharp = SAFETY * self.error <= _OF_GAP * abs(slope - self.value)
        return sharp and not self.agrees(slope, tolerance)

    def settled(self, others: Sequence[Slope]) -> bool:
        """Whether f is smooth at this step, as far as its rounding lets see.

        Else it changes as much within a short step as within a long one: on a scale that is
        shorter still, where its slope may be any.
        """
        if SAFETY * self.error <= max(abs(self.value), SAFETY**2 * self.rounding):
            return True
        longer = [one for one in others if one.step > self.step]
        falls = [self.moves <= one.moves * (self.step / one.step) ** _FALL for one in longer]
        return bool(falls) and all(falls)

    @property
    def moves(self) -> float:
        """Change of f within the step that the slope does not explain."""
        return self.step * self.error

    def confirms(self, slope: float, tolerance: float) -> bool:
        """Whether it is good enough to say that a slope by formula is right."""
        size = max(abs(slope), abs(self.value))
        return SAFETY * self.error <= LOOSE * size and self.agrees(slope, tolerance)

    def same_kink(self, others: Sequence[Slope]) -> bool:
        """Whether f has a kink there, which other steps see as well."""
        jumps = [one.high - one.low for one in others if one.step != self.step]
        return any(_alike(self.high - self.low, jump) for jump in jumps)


#: The slope where no difference is finite.
NO_SLOPE = Slope._make([np.nan] * 6 + [False])


def steps(eps: float, multiples: Sequence[float] = MULTIPLES) -> list[float]:
    """The steps to try, relative to the size of x."""
    best = eps ** (1 / 3)
    return [best * one for one in multiples if eps ** (2 / 3) <= best * one <= _LONGEST]


def shortest_step(noise: float, eps: float, gap: float) -> float:
    """The shortest step at which two slopes, `gap` apart, are told from each other."""
    return max(eps, noise / gap) * _CENTRAL * SAFETY / (LOOSE * _OF_GAP)


def slopes(
    f: Callable[[float], float],
    f0: float,
    noise: float,
    eps: float,
    central: bool,
    tries: list[float],
) -> Iterator[Slope]:
    """Slopes at 0 of a function of one number, for one step after the other.

    Parameters
    ----------
    f : callable
    f0 : float
        Its value at 0.
    noise : float
        Error of its values, as far as that is known at 0.
    eps : float
        Their relative error.
    central : bool
        Whether it can be evaluated on both sides of 0.
    tries : list of float
        The steps.
    """
    measure = _central if central else _one_sided
    for h in tries:
        with np.errstate(all="ignore"):  # f may be infinite
            found = measure(f, f0, noise, eps, h)
        if np.isfinite(found.value) and np.isfinite(found.error):
            yield found


def _alike(jump: float, other: float) -> bool:
    """Whether the slope jumps as far with one step as with another."""
    low, high = sorted((abs(jump), abs(other)))
    return bool(jump * other > 0 and low > _KINK * high)


def _central(f: Callable[[float], float], f0: float, noise: float, eps: float, h: float) -> Slope:
    right, left, near_right, near_left = (np.float64(f(t)) for t in (h, -h, h / 2, -h / 2))
    coarse, fine = (right - left) / (2 * h), (near_right - near_left) / h
    fourth = right + left - 4 * (near_right + near_left) + 6 * f0
    rounding = _CENTRAL * (noise + eps * max(abs(left), abs(right))) / h
    error = abs(fine - coarse) + _OF_FOURTH * abs(fourth) / h + rounding
    value = (4 * fine - coarse) / 3
    low = high = float(value)
    jump, near_jump = (right - 2 * f0 + left) / h, (near_right - 2 * f0 + near_left) / (h / 2)
    if _alike(near_jump, jump) and abs(jump) > 2 * SAFETY * rounding:
        sides = (near_right - f0) / (h / 2), (f0 - near_left) / (h / 2)
        low, high = float(min(sides)), float(max(sides))
    flat = bool(right == left == near_right == near_left == f0)
    return Slope(h, float(value), float(error), float(rounding), low, high, flat)


def _one_sided(f: Callable[[float], float], f0: float, noise: float, eps: float, h: float) -> Slope:
    far, middle, near = (np.float64(f(t)) for t in (h, h / 2, h / 4))
    coarse = (4 * middle - far - 3 * f0) / h
    fine = (4 * near - middle - 3 * f0) / (h / 2)
    rounding = _ONE_SIDED * (noise + eps * abs(far)) / h
    value, error = (4 * fine - coarse) / 3, abs(fine - coarse) + rounding
    flat, both = bool(far == middle == near == f0), float(value)
    return Slope(h, both, float(error), float(rounding), both, both, flat)
