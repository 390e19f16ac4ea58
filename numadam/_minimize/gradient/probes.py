"""Directions along which a gradient is checked: elements of x, and random directions."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from numadam._minimize.gradient.differences import (
    LOOSE,
    SAFETY,
    Slope,
    long_steps,
    shortest_step,
    slopes,
    steps,
)
from numadam._minimize.gradient.finding import Finding, Probe
from numadam._minimize.gradient.point import Point

#: Relative error of a gradient that is allowed by default; the cube root of eps in float32.
_ALLOWED = 1e-4
#: Elements up to which all are checked; above, so many at random, and so many directions.
_ALL_UP_TO, _SOME, _DIRECTIONS = 100, 40, 10
#: Size of an element that is nearly 0, relative to the others of its array.
_SMALLEST = 0.1
#: Part of the largest slope that counts as nothing, where one is small.
_NEGLIGIBLE = 1e-3
#: Steps beside 0, as multiples of the first one, where no number tells the scale of x.
_AT_ZERO = (1e-3, 1e-6, 1e-9, 1e-12, 1e-15)
#: Ratio of two steps that have no wave in common.
_APART = 30.0
#: Repeated calls of `fun` at x0, which tell whether it is random.
_REPEATS = 2


class Prober:
    """Checks of one gradient, one direction after another.

    Parameters
    ----------
    point : Point
    tolerance : float, optional
        Relative error of the gradient that is allowed.
    rng : numpy.random.Generator

    Attributes
    ----------
    f, g
        The objective and its gradient at x0.
    eps : float
        Relative error of f by rounding alone.
    tolerance : float
    """

    def __init__(self, point: Point, tolerance: float | None, rng: np.random.Generator) -> None:
        self._point, self._rng = point, rng
        self.f, self.g = point.at_start()
        self._scale = self._sizes()
        self.eps = self._precision()
        self.tolerance = tolerance or max(_ALLOWED, self.eps ** (1 / 3))
        self._steps, self._long = steps(self.eps), long_steps(self.eps)
        self._at_zero = [step * self._steps[0] for step in _AT_ZERO]
        self._jitter = max(abs(point.value(point.x) - self.f) for _ in range(_REPEATS))
        with np.errstate(invalid="ignore", over="ignore"):
            steep = abs(self.g * self._scale)
        self._steepest = float(np.max(steep[np.isfinite(steep)], initial=0.0))
        #: the step that served last, in each array of x
        self._served: dict[int, float] = {}

    def _precision(self) -> float:
        """Eps of the dtype in which f is computed: fun may narrow x to float32."""
        point, narrow = self._point, float(np.finfo(np.float32).eps)
        if point.eps >= narrow:
            return point.eps
        sizes = abs(point.x) if point.x.any() else self._scale
        with np.errstate(over="ignore"):
            near = point.x + sizes * point.eps ** (1 / 3)
            values = self.f, point.value(np.clip(near, point.low, point.high))
            exact = all(math.isfinite(f) and float(np.float32(f)) == f for f in values)
        return narrow if exact else point.eps

    @property
    def is_random(self) -> bool:
        """Whether f was another number when it was evaluated again."""
        return self._jitter > 0.0

    def again(self) -> float:
        """Ratio of the gradient, evaluated again, to the first one; NaN where there is none."""
        if self.is_random:
            return 1.0
        again, top = self._point.at_start()[1], float(np.max(abs(self.g), initial=0.0))
        allowed = {"rtol": 0.0, "atol": self.eps**0.5 * top, "equal_nan": True}
        if not math.isfinite(top) or np.allclose(again, self.g, **allowed):
            return 1.0
        unit = self.g / top if top else self.g
        factor = float(unit @ again / (unit @ unit)) / top if top else math.nan
        return factor if np.allclose(again, factor * self.g, **allowed) else math.nan

    def probes(self, elements: int | None, directions: int | None) -> list[Probe]:
        """The elements and random directions to check; elements that bounds fix are left out."""
        free = np.flatnonzero(self._point.low < self._point.high)
        if elements is None:
            elements = len(free) if len(free) <= _ALL_UP_TO else _SOME
        whole = elements >= len(free)
        if directions is None:
            directions = 0 if whole else _DIRECTIONS
        chosen = free if whole else np.sort(self._rng.choice(free, elements, replace=False))
        found = [self._along_element(int(place)) for place in chosen]
        return found + [self._at_random(free, number) for number in range(1, directions + 1)]

    def judge(self, probe: Probe) -> Finding:
        """Compare the gradient with differences along one direction."""
        x, g = self._point.x, self.g[probe.places]
        with np.errstate(invalid="ignore", over="ignore"):
            formula = float(np.dot(g, probe.d))
            near = float(abs(x[probe.places]) @ np.where(np.isfinite(g), abs(g), 0.0))
        if not np.isfinite(formula):
            return Finding(probe, formula, None, wrong=True)
        seen, leaf = self._measure(probe, formula, near)
        if not seen:
            return Finding(probe, formula, None, doubt=True)
        best = min(seen, key=lambda slope: slope.error)
        shortest = min(seen, key=lambda slope: slope.step)
        agrees = best.agrees(formula, self.tolerance)
        if shortest.same_kink(seen) and not (agrees and self._is_sharp(best, formula)):
            inside = shortest.spans(formula)
            return Finding(probe, formula, shortest, wrong=not inside, kink=inside)
        if (pair := self._refuted(seen, formula)) is not None:
            close = self._closest(probe, formula, near, pair)
            if close is not None:
                return Finding(probe, formula, close, doubt=True, longer=pair)
            return Finding(probe, formula, pair, wrong=True)
        sharper = [one for one in seen if one.rejects(formula, self.tolerance)]
        confirming = [
            one
            for one in seen
            if one.confirms(formula, self.tolerance)
            and not any(other.step < one.step and other.error < one.error for other in sharper)
        ]
        if confirming and not agrees:  # a shorter step saw the digits of f, and not its slope
            best = min(confirming, key=lambda slope: slope.error)
        if best.step in (*self._steps, *self._at_zero):
            self._served[leaf] = best.step
        return Finding(probe, formula, best, doubt=not best.agrees(formula, self.tolerance))

    def _measure(self, probe: Probe, formula: float, near: float) -> tuple[list[Slope], int]:
        """Slopes until one is sharp, or two refute the formula; and the number of the array."""
        tries, leaf = self._tries(probe)
        seen: list[Slope] = []
        flat: list[Slope] = []
        for slope in self._slopes(probe, near, tries):
            agrees = slope.agrees(formula, self.tolerance)
            # f may be rounded so coarsely that a longer step alone changes it
            (flat if slope.flat and not agrees else seen).append(slope)
            if agrees and self._is_sharp(slope, formula):
                break
            if self._refuted(seen, formula) is not None:
                break
        return seen or flat, leaf

    def _slopes(self, probe: Probe, near: float, tries: list[float]) -> Iterator[Slope]:
        along = functools.partial(self._value, probe)
        return slopes(along, self.f, self._noise(near), self.eps, probe.central, tries)

    def _noise(self, near: float) -> float:
        """Error of f as far as its rounding and repeated calls show it."""
        return self.eps * (abs(self.f) + near) + SAFETY * self._jitter

    def _closest(self, probe: Probe, formula: float, near: float, pair: Slope) -> Slope | None:
        """The slope over the shortest step, where it is that of the formula; else None.

        Then f has waves or stairs that the steps of `pair` jump over.
        """
        step = shortest_step(self._noise(near), self.eps, abs(formula - pair.value))
        if step >= pair.step:
            return None
        for slope in self._slopes(probe, near, [step]):
            if slope.agrees(formula, self.tolerance) and slope.rejects(pair.value, 0.0):
                return slope
        return None

    def _refuted(self, seen: list[Slope], formula: float) -> Slope | None:
        """A slope that differs from the formula, where another one says the same."""
        against = [
            one for one in seen if one.rejects(formula, self.tolerance) and one.settled(seen)
        ]
        sure = [one.error for one in seen if one.confirms(formula, self.tolerance)]
        for one, other in itertools.combinations(against, 2):
            size = max(abs(one.value), abs(other.value))
            allowed = LOOSE * size + SAFETY * (one.error + other.error)
            same = abs(one.value - other.value) <= allowed
            # far below the formula it may be that of waves which both steps jump over
            low = size < LOOSE * abs(formula) and not _far_apart(one.step, other.step)
            if same and not low and max(one.error, other.error) < min(sure, default=np.inf):
                return min(one, other, key=lambda slope: slope.error)
        return None

    def _is_sharp(self, slope: Slope, formula: float) -> bool:
        """Whether no other step could tell more."""
        size = max(abs(formula), abs(slope.value), _NEGLIGIBLE * self._steepest)
        return SAFETY * slope.error <= self.tolerance * size

    def _tries(self, probe: Probe) -> tuple[list[float], int]:
        """The steps, with the one first that served last in this array; and the array."""
        if probe.element is None:
            leaf, more = -1, []
        else:
            leaf, place = self._point.leaf_of(probe.element), probe.element
            # an element that is far smaller than others may want far shorter steps
            own = abs(self._point.x[place]) / self._scale[place]
            more = [step * own for step in self._steps[:2]] if 0.0 < own < 1.0 else []
        first = self._served.get(leaf, self._steps[0])
        last = self._at_zero if self._is_zero(probe) else []
        rest = [step for step in (*self._steps, *last, *self._long) if step != first]
        # its own step first: fun may fail further away
        tries = [*more[:1], first, *more[1:], *rest]
        return [step for step in tries if step <= probe.room], leaf

    def _is_zero(self, probe: Probe) -> bool:
        """Whether all arrays that the probe moves are 0."""
        if probe.element is None:
            return not self._point.x.any()
        leaf = self._point.leaf_of(probe.element)
        return not np.split(self._point.x, self._point.ends[:-1])[leaf].any()

    def _value(self, probe: Probe, t: float) -> float:
        x = self._point.x.copy()
        x[probe.places] += t * probe.d
        return self._point.value(np.clip(x, self._point.low, self._point.high))

    def _sizes(self) -> np.ndarray:
        """Size of each element: its own, where it is not far below those of its array."""
        parts = np.split(abs(self._point.x), self._point.ends[:-1])
        sizes = []
        for part in parts:
            top = float(np.max(part, initial=0.0))  # a square of x itself may overflow
            typical = top * float(np.sqrt(np.mean((part / top) ** 2))) if top else 0.0
            sizes.append(np.maximum(part, _SMALLEST * typical) if typical else np.ones_like(part))
        return np.concatenate(sizes)

    def _along_element(self, place: int) -> Probe:
        places = np.array([place])
        inside = self._inside(places, self._scale[places])
        return Probe(places, *inside, self._point.name(place), place)

    def _at_random(self, free: np.ndarray, number: int) -> Probe:
        """A direction in which all elements move, each by its own size."""
        signs = self._rng.choice([-1.0, 1.0], len(free)) * self._rng.uniform(0.5, 1.0, len(free))
        inside = self._inside(free, signs * self._scale[free])
        return Probe(free, *inside, f"random direction {number}", None)

    def _inside(self, places: Any, d: np.ndarray) -> tuple[np.ndarray, bool, float]:
        """A direction that stays in the box, whether on both sides of x0, and the longest step."""
        below = self._point.x[places] - self._point.low[places]
        above = self._point.high[places] - self._point.x[places]
        reach = max(self._steps) * abs(d)
        tight = np.minimum(below, above) < reach
        if not tight.any():
            return d, True, float(np.min(np.minimum(below, above) / abs(d)))
        longest = np.minimum(abs(d), np.maximum(below, above) / max(self._steps))
        d = np.where(tight, np.where(above >= below, longest, -longest), d)
        return d, False, max(self._steps)


def _far_apart(step: float, other: float) -> bool:
    low, high = sorted((step, other))
    return _APART * low <= high
