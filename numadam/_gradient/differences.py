"""Differences of a function along directions, and what they say of its derivatives."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from numadam._gradient.point import Point

#: Steps that are tried, as multiples of eps^(1/3) times the size of x: the best one for a smooth
#: function that is exact to rounding, longer ones against noise, shorter ones for short scales,
#: and long ones where a value is far larger than it changes.
_MULTIPLES = (1.0, 8.0, 1 / 32, 64.0, 1 / 1024, 1 / 32_768, 512.0, 4096.0)
#: Longest step relative to the size of x; the shortest is eps^(2/3).
_LONGEST = 0.1
#: Multiples of eps^(1/3), where no number tells the scale of x.
_WITHOUT_SCALE = tuple(10.0 ** (-1.5 * k) for k in range(11))
#: Change of a value, relative to it, from which no step beyond the size of x is tried.
_SEEN_CHANGE = 1e-4
#: Estimated errors that a slope may be away.
SAFETY = 4.0
#: Roundings of the largest derivative that one by hand may be off, beside exact ones.
_ALLOWED = 64.0
#: Part of a slope above which its error is too large to tell.
LOOSE = 0.1
#: Shortest step at which two slopes are told from each other, in rounding errors of their change.
_SHORTEST = 320.0
#: Part of the gap to a formula that the error may be where the slope refutes it.
_OF_GAP = 0.25
#: Error that the fourth difference stands for where the function is noisy, times the step.
_OF_FOURTH = 0.2
#: Rounding errors of a value in a slope, times the step.
_CENTRAL, _ONE_SIDED = 2.0, 8.0
#: Ratio of the jumps of the slope with two steps, at a kink. Elsewhere that is the steps' ratio.
_KINK = 0.75
#: Part of the jump of the slope by which a subgradient may be beyond it.
_SLACK = 0.01
#: Relative error of a derivative that is allowed by default; eps^(1/3) in float32.
_ALLOWED = 1e-4
#: Elements up to which all are checked; above, so many at random, and so many directions.
_ALL_UP_TO, _SOME, _DIRECTIONS = 100, 40, 10
#: Size of an element that is nearly 0, relative to the others of its array.
_SMALLEST = 0.1
#: Part of the largest slope that counts as nothing, where one is small.
_NEGLIGIBLE = 1e-3


class Probe(NamedTuple):
    """A direction, ``x + t * d``, of one element or at random.

    The bounds leave room for a step of the length `room`, on both sides where it is `central`.
    """

    d: np.ndarray
    central: bool
    room: float
    element: int | None
    name: str


class Prober:
    """Checks of derivatives, one direction after another.

    `f` and `J` are the values and their derivatives at x0, `eps` is the relative error of a value
    by rounding alone, and `tolerance` that of a derivative which is allowed.
    """

    def __init__(self, point: Point, tolerance: float | None, rng: np.random.Generator) -> None:
        self._point, self._rng = point, rng
        self.f, self.J = point.start()
        self.exact = point.exact()
        self._scale = np.concatenate([_sizes(part) for part in np.split(point.x, point.ends[:-1])])
        with np.errstate(all="ignore"):
            step = (abs(point.x) if point.x.any() else self._scale) * point.eps ** (1 / 3)
            #: an x where all elements have moved by the first step
            self._near = np.clip(point.x + step, point.low, point.high)
            again = [point.values(point.x) for _ in range(2)]
            self._jitter = np.max(abs(again - self.f), axis=0)
            # `fun` may narrow x to float32
            values = np.array([self.f, point.values(self._near)])
            is_narrow = np.isfinite(values) & (values.astype(np.float32) == values)
            steep = np.where(np.isfinite(self.J), abs(self.J), 0.0) * self._scale
            self._negligible = _NEGLIGIBLE * np.max(steep, axis=1)
        self.eps = max(point.eps, float(np.finfo(np.float32).eps) * is_narrow.all())
        self._first = self.eps ** (1 / 3)
        self.tolerance = tolerance or max(_ALLOWED, self._first)
        self.is_random = bool((self._jitter > 0.0).any())

    def gives_other_gradient(self) -> bool:
        """Whether the gradient at x0 is another one when it is evaluated again."""
        if self.is_random:
            return False
        self._point.values(self._near)  # the last x is another one
        _, again = self._point.start(need_f=False)
        top = float(np.max(abs(self.J), initial=0.0))
        away = np.max(abs(again - self.J), initial=0.0)
        return bool(np.isfinite(top) and not away <= self.eps**0.5 * top)

    @np.errstate(all="ignore")
    def probes(self, elements: int | None, directions: int | None) -> list[Probe]:
        """The elements and random directions to check; elements that bounds fix are left out."""
        point, rng = self._point, self._rng
        free = np.flatnonzero(point.low < point.high)
        chosen, size = free, len(free)
        if elements is None:
            elements = size if size <= _ALL_UP_TO else _SOME
        if elements < size:
            chosen = np.sort(rng.choice(free, elements, replace=False))
            directions = _DIRECTIONS if directions is None else directions
        found = [
            self._probe(np.arange(len(point.x)) == place, place, "") for place in chosen.tolist()
        ]
        for number in range(1, (directions or 0) * (size > 0) + 1):
            signs = np.zeros(len(point.x))
            signs[free] = rng.choice([-1.0, 1.0], size) * rng.uniform(0.5, 1.0, size)
            found.append(self._probe(signs, None, f"random direction {number}"))
        return found

    def _probe(self, signs: np.ndarray, element: int | None, name: str) -> Probe:
        """A direction that stays in the box: one-sided, and shorter, where a bound is near."""
        x, d = self._point.x, signs * self._scale
        below, above = x - self._point.low, self._point.high - x
        room, longest = np.minimum(below, above), min(64 * self._first, _LONGEST)
        tight = room < longest * abs(d)
        if not tight.any():
            return Probe(d, True, float(np.min(room[d != 0] / abs(d[d != 0]))), element, name)
        inside = np.minimum(abs(d), np.maximum(below, above) / longest)
        d = np.where(tight, np.where(above >= below, inside, -inside), d)
        return Probe(d, False, longest, element, name)

    def judge(self, probe: Probe) -> np.ndarray:
        """Compare derivatives with differences along a probe: the columns of `Verdicts`."""
        J = np.where(probe.d != 0.0, self.J, 0.0)
        if self.exact is not None:
            exact = np.where(probe.d != 0.0, self.exact, 0.0)
            formula, value = J @ probe.d, exact @ probe.d
            error = _ALLOWED * self.eps * np.max(abs(self.exact), axis=1) * np.max(abs(probe.d))
            off = abs(formula - value) - SAFETY * error
            wrong = ~(off <= self.tolerance * np.fmax(abs(formula), abs(value)))
            return np.array([formula, value, error, error, 0.0 * value, wrong, *[0.0 * value] * 2])
        with np.errstate(all="ignore"):  # values may be infinite
            formula = J @ probe.d
            near = np.where(np.isfinite(J), abs(J), 0.0) @ abs(self._point.x)
            noise = self.eps * (abs(self.f) + near) + SAFETY * self._jitter
            done, seen = ~np.isfinite(formula + self.f), list[np.ndarray]()
            wrong, no = np.isfinite(self.f) & done, 0.0 * formula
            found = np.array([formula, *[no + np.nan] * 3, no, wrong, no, ~wrong])
            for h in self._tries(probe):
                if done.all() or (h > _LONGEST and _moved(seen, self.f)):
                    break
                seen.append(self._slope(probe, noise, h))
                now, sure = _compare(seen, formula, self.tolerance, self._negligible)
                found, done = np.where(done, found, now), done | sure
            if (wrong := (found[5] > 0.0) & np.isfinite(found[1])).any():
                # waves or stairs that all steps jump over: the shortest step may show the formula
                h = _SHORTEST * max(self.eps, np.max((noise / abs(formula - found[1]))[wrong]))
                _, value, error, *_ = self._slope(probe, noise, h)
                waves = wrong & _agrees(formula, value, error, self.tolerance)
                waves &= SAFETY * error <= _OF_GAP * abs(value - found[1])
                found[5:] = np.where(waves, [no, no, no + 1.0], found[5:])
        return found

    def _tries(self, probe: Probe) -> list[float]:
        """The steps along a probe, in units of its size."""
        sizes, scale = (a[probe.d != 0.0] for a in (abs(self._point.x), self._scale))
        steps = [self._first * one for one in _MULTIPLES]
        steps = [h for h in steps if self._first**2 <= h <= _LONGEST]
        own = float(sizes[0] / scale[0])
        if probe.element is not None and 0.0 < own < 1.0:
            # an element far smaller than others: its own step first, as `fun` may fail further away
            steps = [steps[0] * own, steps[0], steps[1] * own, *steps[1:]]
        absolute = [self._first * one / float(scale.max()) for one in _WITHOUT_SCALE]
        if sizes.any():  # up, until the function is seen to change
            absolute = [h for h in absolute[::-1] if h > _LONGEST]
        return [h for h in dict.fromkeys(steps + absolute) if h <= probe.room]

    def _slope(self, probe: Probe, noise: np.ndarray, h: float) -> np.ndarray:
        """Step, slope, error, error by rounding, mean slope and jump at x0, and flatness."""
        point, f0, f = self._point, self.f, []
        for t in (1.0, -1.0, 0.5, -0.5) if probe.central else (1.0, 0.5, 0.25):
            f.append(point.values(np.clip(point.x + t * h * probe.d, point.low, point.high)))
        if probe.central:
            right, left, near_right, near_left = f
            coarse, fine = (right - left) / (2 * h), (near_right - near_left) / h
            jump, near_jump = right - 2 * f0 + left, 2 * (near_right - 2 * f0 + near_left)
            rounding = _CENTRAL * (noise + self.eps * np.maximum(abs(left), abs(right))) / h
        else:
            far, middle, near = f
            coarse, fine = (4 * middle - far - 3 * f0) / h, 2 * (4 * near - middle - 3 * f0) / h
            jump = near_jump = 0 * f0
            rounding = _ONE_SIDED * (noise + self.eps * abs(far)) / h
        jump, near_jump = jump / h, near_jump / h
        error = abs(fine - coarse) + _OF_FOURTH * abs(jump - 2 * near_jump) + rounding
        kink = _alike(near_jump, jump) & (abs(jump) > 2 * SAFETY * rounding)
        flat = (np.array(f) == f0).all(axis=0)
        value = (4 * fine - coarse) / 3
        return np.array([0 * f0 + h, value, error, rounding, fine, kink * near_jump, flat])


@np.errstate(all="ignore")
def _sizes(part: np.ndarray) -> np.ndarray:
    """Size of each element of an array: its own, where it is not far below those of the others."""
    sizes = abs(part)
    top = float(np.max(sizes, initial=0.0))  # a square of x itself may overflow
    typical = top * float(np.sqrt(np.mean((sizes / top) ** 2))) if top else 0.0
    return np.maximum(sizes, _SMALLEST * typical) if typical else np.ones_like(sizes)


def _alike(jump: np.ndarray, other: np.ndarray) -> Any:
    """Whether the slope jumps as far with one step as with another."""
    low, high = np.minimum(abs(jump), abs(other)), np.maximum(abs(jump), abs(other))
    return (np.sign(jump) * np.sign(other) > 0) & (low > _KINK * high)


def _agrees(formula: Any, value: Any, error: Any, tolerance: float) -> Any:
    """Whether slopes by formula are those by differences, as far as tolerance and error allow."""
    size = np.fmax(abs(formula), abs(value))
    return abs(formula - value) <= tolerance * size + SAFETY * error


def _moved(seen: list[np.ndarray], f0: np.ndarray) -> bool:
    """Whether a step before the last has changed values enough to see their slope."""
    return any(np.max(abs(one[0] * one[1])) > _SEEN_CHANGE * np.max(abs(f0)) for one in seen[:-1])


def _compare(
    seen: list[np.ndarray], formula: np.ndarray, tolerance: float, negligible: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The columns of `Verdicts` after some steps, and where no other step could tell more."""
    h, value, error, rounding, mean, jump, flat = np.array(seen).transpose(1, 0, 2)
    agrees, size = _agrees(formula, value, error, tolerance), np.fmax(abs(formula), abs(value))
    usable = np.isfinite(value) & np.isfinite(error)
    # a value may be rounded so coarsely that a longer step alone changes it
    telling = usable & ((flat == 0.0) | agrees)
    usable = np.where(telling.any(axis=0), telling, usable)
    settles = usable & agrees & (SAFETY * error <= tolerance * np.maximum(size, negligible))

    # a step refutes a formula where it is sharp, f is smooth, and another step says the same
    smooth = SAFETY * error <= np.maximum(abs(value), SAFETY**2 * rounding)
    rejects = usable & smooth & ~agrees & (SAFETY * error <= _OF_GAP * abs(formula - value))
    near = LOOSE * np.maximum(abs(value)[:, None], abs(value)) + SAFETY * (error[:, None] + error)
    same = (abs(value[:, None] - value) <= near) & (h[:, None] != h)
    refutes = rejects & (same & rejects).any(axis=1)

    # a kink is seen by the shortest step that can see it, and by another one
    sees = usable & (2 * SAFETY * rounding < np.max(abs(jump), axis=0))
    best = _least(error, np.where(settles.any(axis=0), settles, usable))
    shortest = _least(h, sees)
    bent = sees & (h != _at(h, shortest)) & _alike(jump, _at(jump, shortest))
    kinks = bent.any(axis=0) & ~_at(settles, best)
    refuted = refutes.any(axis=0) & ~kinks & ~_at(agrees, best)
    chosen = np.select([kinks, refuted], [shortest, _least(error, refutes)], best)
    half = (0.5 + _SLACK) * abs(_at(jump, shortest))
    spans = kinks & (abs(formula - _at(mean, shortest)) <= half)
    lost = np.where(usable.any(axis=0), 0.0, np.nan)
    told = [lost + _at(one, chosen) for one in (value, error, rounding)]
    wrong, doubt = refuted | (kinks & ~spans), ~kinks & ~refuted & ~_at(agrees, chosen)
    found = np.array([formula, *told, _at(flat, chosen), wrong, spans, doubt])
    return found, settles.any(axis=0) | refutes.any(axis=0)


def _least(cost: np.ndarray, where: np.ndarray) -> Any:
    """The step of the least cost for each value, among some."""
    return np.argmin(np.where(where, cost, np.inf), axis=0)


def _at(table: np.ndarray, steps: np.ndarray) -> Any:
    """Entries of a table of steps and values, at one step for each value."""
    return np.take_along_axis(table, steps[None], axis=0)[0]


class Verdicts:
    """Findings along all probes as a table, with a row for each value and probe.

    `value`, `error`, `rounding` of the slopes by differences are NaN where none is finite.
    `flat`: the value never changed. `kink`: the function has a kink, and the formula is between
    the slopes on both sides; `doubt`: differences are too bad to tell. `size` is the larger of the
    slopes by formula and by differences. `spread` is the error of differences, NaN at a kink.
    `hidden`: the slope is too small beside f for them to tell it from others. `excess` is the
    relative error of the formula that they do not explain. `largest` is the largest size.
    """

    def __init__(self, point: Point, prober: Prober, probes: list[Probe]) -> None:
        found = [prober.judge(probe) for probe in probes]
        rows = [(probe, k) for probe in probes for k in range(point.values_of)]
        self.J, self.tolerance, self.probes = prober.J, prober.tolerance, [p for p, _ in rows]
        self.name = np.array([p.name or point.name(p.element or 0, k) for p, k in rows], "O")
        self.is_element = np.array([probe.element is not None for probe in self.probes], bool)
        table = np.concatenate(found, axis=1)
        self.formula, self.value, self.error, self.rounding = table[:4]
        self.flat, self.wrong, self.kink, self.doubt = table[4:] > 0.0
        with np.errstate(all="ignore"):
            self.size = np.fmax(abs(self.formula), abs(self.value))
            self.largest = np.max(self.size)
            self.spread = np.where(self.kink, np.nan, SAFETY * self.error)
            self.hidden = (self.formula != 0.0) & (self.spread > LOOSE * self.size)
            away = (abs(self.formula - self.value) - self.spread) / self.size
            self.excess = np.where(np.isfinite(self.formula), np.fmax(0.0, away), np.inf)

    @np.errstate(all="ignore")
    def of_worst(self) -> dict[str, Any]:
        """Name and figures of the worst derivative, along a direction of length 1."""
        by_error = np.where(self.size > 0.0, np.nan_to_num(self.error / self.size), 0.0)
        k = int(np.lexsort((-np.arange(len(by_error)), by_error, self.excess, self.wrong))[-1])
        d, element = self.probes[k].d, self.probes[k].element
        unit = np.linalg.norm(d) if element is None else d[element]
        figures = self.excess[k], *(column[k] / unit for column in (self.formula, self.value))
        names = "max_error", "value", "difference", "difference_error"
        found = dict(zip(names, map(float, (*figures, self.error[k] / abs(unit))), strict=True))
        return {"worst": self.name[k], **found}
