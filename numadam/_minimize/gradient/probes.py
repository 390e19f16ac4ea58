"""Differences of f along directions, and what they say of a gradient."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from numadam._minimize.gradient.point import Point

# --- slopes of `fun` along one direction by differences ------------------------------------------

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


# --- directions along which a gradient is checked ------------------------------------------------

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


class Probe(NamedTuple):
    """A direction: ``x + t * d`` at the elements `places`; `name` is that of an element.

    The bounds leave room for a step of the length `room`, on both sides where it is `central`.
    `formula` is the slope by formula. `noise` is the error of f as far as its rounding and repeated
    calls show it.
    """

    places: Any
    d: np.ndarray
    central: bool
    room: float
    name: str
    element: int | None
    formula: float
    noise: float


class Finding(NamedTuple):
    """A probe with its slope by differences, and the verdict on the formula.

    "kink": f has a kink, and the formula is between the slopes on both sides; "doubt": differences
    are too bad to tell. `longer`: the slope over a longer step, where that alone is not the
    formula's.
    """

    probe: Probe
    slope: Slope
    verdict: str  # "right", "kink", "wrong" or "doubt"
    longer: Slope | None = None


class Verdicts:
    """The findings as a table, with a row for each; an attribute is a column.

    `value`, `error`, `rounding` of the slopes by differences are NaN where none is finite. `size`
    is the larger of the slopes by formula and by differences. `spread` is the error of differences,
    NaN where f has a kink. `hidden`: the slope is too small beside f for them to tell it from
    others. `excess` is the relative error of the formula that they do not explain.
    """

    def __init__(self, findings: list[Finding]) -> None:
        self.rows = findings
        self.name = np.array([finding.probe.name for finding in findings], object)
        self.is_element = np.array(
            [finding.probe.element is not None for finding in findings], bool
        )
        self.formula = np.array([finding.probe.formula for finding in findings])
        slopes = np.array([finding.slope for finding in findings]).reshape(-1, len(NO_SLOPE))
        _, self.value, self.error, self.rounding, _, _, self._flat = slopes.T
        verdict = np.array([finding.verdict for finding in findings], str)
        self.wrong, self.kink, self.doubt = (verdict == v for v in ("wrong", "kink", "doubt"))
        with np.errstate(all="ignore"):
            self.size = np.fmax(abs(self.formula), abs(self.value))
            self.spread = np.where(self.kink, np.nan, SAFETY * self.error)
            self.hidden = (self.formula != 0.0) & (self.spread > LOOSE * self.size)
            away = (abs(self.formula - self.value) - self.spread) / self.size
            self.excess = np.where(np.isfinite(self.formula), np.fmax(0.0, away), np.inf)
            order = np.where(self.size > 0.0, np.nan_to_num(self.error / self.size), 0.0)
        keys = zip(self.wrong, self.excess, order, range(0, -len(findings), -1), strict=True)
        self.worst = -max(keys, default=(0, 0, 0, 0))[-1]

    @property
    def rough(self) -> np.ndarray:
        """Whether the slope may be any, even beside the largest one: f jumps or has a kink near."""
        return np.asarray((self._flat == 0.0) & (self.spread > LOOSE * self.size.max()))

    @property
    def resolved(self) -> np.ndarray:
        """Whether the differences are good enough to tell, beside the largest slope."""
        largest = self.size.max()
        enough = self.spread <= LOOSE * np.maximum(self.size, LOOSE * largest)
        return np.asarray(enough & ~self.doubt & (largest > 0.0))


class Prober:
    """Checks of one gradient, one direction after another.

    `f` and `g` are the objective and its gradient at x0, `eps` is the relative error of f by
    rounding alone, and `tolerance` that of the gradient which is allowed.
    """

    def __init__(self, point: Point, tolerance: float | None, rng: np.random.Generator) -> None:
        self._point, self._rng = point, rng
        self.f, self.g = point.at_start()
        parts = np.split(point.x, point.ends[:-1])
        self._scale = np.concatenate([_sizes(part) for part in parts])
        #: whether each array of x0 is 0; the last entry is for a probe that moves all
        self._is_zero = [not part.any() for part in (*parts, point.x)]
        self._near = self._beside()
        self.eps = self._precision()
        self.tolerance = tolerance or max(_ALLOWED, self.eps ** (1 / 3))
        self._steps, self._long = steps(self.eps), steps(self.eps, LONG_MULTIPLES)
        self._at_zero = [step * self._steps[0] for step in _AT_ZERO]
        self._jitter = max(abs(point.value(point.x) - self.f) for _ in range(_REPEATS))
        with np.errstate(invalid="ignore", over="ignore"):
            steep = abs(self.g * self._scale)
        self._steepest = float(np.max(steep[np.isfinite(steep)], initial=0.0))
        #: the step that served last, in each array of x
        self._served: dict[int, float] = {}

    def _beside(self) -> np.ndarray:
        """An x where all elements have moved by the first step."""
        point = self._point
        sizes = abs(point.x) if point.x.any() else self._scale
        with np.errstate(over="ignore"):
            near = point.x + sizes * point.eps ** (1 / 3)
        return np.asarray(np.clip(near, point.low, point.high))

    def _precision(self) -> float:
        """Eps of the dtype in which f is computed: fun may narrow x to float32."""
        point, narrow = self._point, float(np.finfo(np.float32).eps)
        if point.eps >= narrow:
            return point.eps
        values = self.f, point.value(self._near)
        with np.errstate(over="ignore"):
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
        self._point.value(self._near)  # the last x is another one
        again, top = self._point.gradient(), float(np.max(abs(self.g), initial=0.0))
        allowed = {"rtol": 0.0, "atol": self.eps**0.5 * top, "equal_nan": True}
        if not math.isfinite(top) or np.allclose(again, self.g, **allowed):
            return 1.0
        unit = self.g / top if top else self.g
        factor = float(unit @ again / (unit @ unit)) / top if top else math.nan
        multiple = abs(factor - 1.0) > LOOSE and np.allclose(again, factor * self.g, **allowed)
        return factor if multiple else math.nan

    def probes(self, elements: int | None, directions: int | None) -> list[Probe]:
        """The elements and random directions to check; elements that bounds fix are left out."""
        free = np.flatnonzero(self._point.low < self._point.high)
        if elements is None:
            elements = len(free) if len(free) <= _ALL_UP_TO else _SOME
        whole = elements >= len(free)
        if directions is None:
            directions = 0 if whole else _DIRECTIONS
        chosen = free if whole else np.sort(self._rng.choice(free, elements, replace=False))
        found = [
            self._probe(np.array([place]), 1.0, self._point.name(place), place)
            for place in chosen.tolist()
        ]
        return found + [self._at_random(free, number) for number in range(1, directions + 1)]

    def judge(self, probe: Probe) -> Finding:
        """Compare the gradient with differences along one direction."""
        formula = probe.formula
        if not math.isfinite(formula):
            return Finding(probe, NO_SLOPE, "wrong")
        seen = self._measure(probe)
        if not seen:
            return Finding(probe, NO_SLOPE, "doubt")
        best = min(seen, key=lambda slope: slope.error)
        shortest = min(seen, key=lambda slope: slope.step)
        if shortest.same_kink(seen) and not self._settles(best, formula):
            return Finding(probe, shortest, "kink" if shortest.spans(formula) else "wrong")
        if against := self._refuting(seen, formula):
            if close := self._closest(probe, against):
                return Finding(probe, close, "doubt", longer=against)
            return Finding(probe, against, "wrong")
        best = self._most_telling(seen, formula, best)
        if best.step in (*self._steps, *self._at_zero):
            self._served[self._leaf(probe)] = best.step
        agrees = best.agrees(formula, self.tolerance)
        return Finding(probe, best, "right" if agrees else "doubt")

    def _measure(self, probe: Probe) -> list[Slope]:
        """Slopes by one step after the other, until one is sharp, or two refute the formula."""
        seen: list[Slope] = []
        flat: list[Slope] = []
        for slope in self._slopes(probe, self._tries(probe)):
            # f may be rounded so coarsely that a longer step alone changes it
            says_nothing = slope.flat and not slope.agrees(probe.formula, self.tolerance)
            (flat if says_nothing else seen).append(slope)
            if self._settles(slope, probe.formula) or self._refuting(seen, probe.formula):
                break
        return seen or flat

    def _most_telling(self, seen: list[Slope], formula: float, best: Slope) -> Slope:
        """The slope to judge by: `best`, of the least error, unless others confirm the formula."""
        if best.agrees(formula, self.tolerance):
            return best
        against = [slope for slope in seen if slope.rejects(formula, self.tolerance)]
        confirming = [
            slope
            for slope in seen
            if slope.confirms(formula, self.tolerance)
            and not any(one.step < slope.step and one.error < slope.error for one in against)
        ]  # a shorter step saw the digits of f, and not its slope
        return min(confirming, key=lambda slope: slope.error, default=best)

    def _slopes(self, probe: Probe, tries: list[float]) -> Iterator[Slope]:
        """Slopes over one step after the other, where differences are finite."""
        measure = _central if probe.central else _one_sided
        along = functools.partial(self._value, probe)
        for h in tries:
            with np.errstate(all="ignore"):  # f may be infinite
                found = measure(along, self.f, probe.noise, self.eps, h)
            if np.isfinite(found.value) and np.isfinite(found.error):
                yield found

    def _closest(self, probe: Probe, pair: Slope) -> Slope | None:
        """The slope over the shortest step, where it is that of the formula; else None.

        Then f has waves or stairs that the steps of `pair` jump over.
        """
        gap = abs(probe.formula - pair.value)
        # the shortest at which two slopes so far apart are told from each other
        step = max(self.eps, probe.noise / gap) * _CENTRAL * SAFETY / (LOOSE * _OF_GAP)
        if step >= pair.step:
            return None
        for slope in self._slopes(probe, [step]):
            if slope.agrees(probe.formula, self.tolerance) and slope.rejects(pair.value, 0.0):
                return slope
        return None

    def _refuting(self, seen: list[Slope], formula: float) -> Slope | None:
        """A slope that differs from the formula, where another one says the same."""
        against = [
            slope
            for slope in seen
            if slope.rejects(formula, self.tolerance) and slope.settled(seen)
        ]
        sure = [slope.error for slope in seen if slope.confirms(formula, self.tolerance)]
        for one, other in itertools.combinations(against, 2):
            size = max(abs(one.value), abs(other.value))
            allowed = LOOSE * size + SAFETY * (one.error + other.error)
            same = abs(one.value - other.value) <= allowed
            # far below the formula it may be that of waves which both steps jump over
            low, high = sorted((one.step, other.step))
            waves = size < LOOSE * abs(formula) and high < _APART * low
            if same and not waves and max(one.error, other.error) < min(sure, default=np.inf):
                return min(one, other, key=lambda slope: slope.error)
        return None

    def _settles(self, slope: Slope, formula: float) -> bool:
        """Whether a slope is the formula's, and no other step could tell more."""
        size = max(abs(formula), abs(slope.value), _NEGLIGIBLE * self._steepest)
        sharp = SAFETY * slope.error <= self.tolerance * size
        return sharp and slope.agrees(formula, self.tolerance)

    def _leaf(self, probe: Probe) -> int:
        """The number of the array that a probe is in; -1 where it moves all."""
        return -1 if probe.element is None else self._point.leaf_of(probe.element)

    def _tries(self, probe: Probe) -> list[float]:
        """The steps, with the one first that served last in this array."""
        leaf = self._leaf(probe)
        first = self._served.get(leaf, self._steps[0])
        last = self._at_zero if self._is_zero[leaf] else []
        rest = [step for step in (*self._steps, *last, *self._long) if step != first]
        tries = [first, *rest]
        if (place := probe.element) is not None:
            # an element that is far smaller than others may want far shorter steps
            own = abs(self._point.x[place]) / self._scale[place]
            if 0.0 < own < 1.0:  # its own step first: fun may fail further away
                short = [step * own for step in self._steps[:2]]
                tries = [short[0], first, *short[1:], *rest]
        return [step for step in tries if step <= probe.room]

    def _value(self, probe: Probe, t: float) -> float:
        x = self._point.x.copy()
        x[probe.places] += t * probe.d
        return self._point.value(np.clip(x, self._point.low, self._point.high))

    def _at_random(self, free: np.ndarray, number: int) -> Probe:
        """A direction in which all elements move, each by its own size."""
        signs = self._rng.choice([-1.0, 1.0], len(free)) * self._rng.uniform(0.5, 1.0, len(free))
        return self._probe(free, signs, f"random direction {number}", None)

    def _probe(self, places: Any, signs: Any, name: str, element: int | None) -> Probe:
        """A direction that stays in the box: one-sided, and shorter, where a bound is near."""
        x, g, d = self._point.x[places], self.g[places], signs * self._scale[places]
        below, above = x - self._point.low[places], self._point.high[places] - x
        longest = max(self._steps)
        tight = np.minimum(below, above) < longest * abs(d)
        if central := not tight.any():
            room = float(np.min(np.minimum(below, above) / abs(d)))
        else:
            room, inside = longest, np.minimum(abs(d), np.maximum(below, above) / longest)
            d = np.where(tight, np.where(above >= below, inside, -inside), d)
        with np.errstate(invalid="ignore", over="ignore"):
            formula = float(np.dot(g, d))
            near = float(abs(x) @ np.where(np.isfinite(g), abs(g), 0.0))
        noise = self.eps * (abs(self.f) + near) + SAFETY * self._jitter
        return Probe(places, d, central, room, name, element, formula, noise)


def _sizes(part: np.ndarray) -> np.ndarray:
    """Size of each element of an array: its own, where it is not far below those of the others."""
    sizes = abs(part)
    top = float(np.max(sizes, initial=0.0))  # a square of x itself may overflow
    typical = top * float(np.sqrt(np.mean((sizes / top) ** 2))) if top else 0.0
    return np.maximum(sizes, _SMALLEST * typical) if typical else np.ones_like(sizes)
