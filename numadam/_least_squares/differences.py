"""J by forward differences, over steps that r shows.

The step of an unknown is found once, by its effect on r alone: x may be 0 or have any unit or
offset. It is kept from one J to the next, and found again where it changes r by another size, or x
has become far shorter. So a J takes little more than n evaluations. A column stays 0 where no step
is seen.
"""

from __future__ import annotations

import math

import numpy as np

from numadam._jit.calls import inner
from numadam._jit.private import dot
from numadam._least_squares.guards import evaluate

#: A change of r is seen from so many of its roundings on.
_SEEN = 16.0
#: Two steps whose ratio is this have to give the same slope within this share of it.
_APART, _SHARE = 8.0, 1.0 / 3.0
#: The first step of a search changes r by sqrt(eps) of its size, up to this factor.
_WINDOW = 64.0
#: So much of r changes only where a step is far too long.
_FAR = 1e-3
#: A step is kept while the change of r stays within this factor of what it was.
_KEPT = 16.0
#: Evaluations of one part of a search at most.
_TRIES = 40


@inner
def _end_of(x, step, low, high):
    """Go a step forward from x; backward at a bound, and up to the farther one in a small box."""
    if step < high - x:
        return x + step
    if step < x - low:
        return x - step
    return high if high - x >= x - low else low


@inner
def _probe(s, i, j, step, x, low, high, r, trial, spare, slope, args):
    """Write the slope of r over a step of x[j]: whether fun raised, the step, the change of r.

    The step is 0, and nothing evaluated, where x does not move.
    """
    trial[j] = min(max(_end_of(x[j], step, low[j], high[j]), low[j]), high[j])
    taken = float(trial[j]) - float(x[j])
    if taken == 0.0:
        return 0, 0.0, 0.0
    failed = evaluate(s, i, trial, spare, slope, s.m, args)
    trial[j] = x[j]
    for k in range(len(r)):
        slope[k] = (float(spare[k]) - float(r[k])) / taken
    return failed, abs(taken), abs(taken) * math.sqrt(dot(slope, slope))


@inner
def _unit(x, norm, slope):
    """The length of an unknown: its own, or that which would change r by its norm."""
    return max(abs(float(x)), norm / slope)


@inner
def _mismatch(a, b):
    """Distance of two slopes, as a share of the larger one: down to sqrt(eps)."""
    of_a, of_b = dot(a, a), dot(b, b)
    larger = max(of_a, of_b)
    if not 0.0 < larger < np.inf:
        return np.inf
    return math.sqrt(max(of_a + of_b - 2.0 * dot(a, b), 0.0) / larger)


@inner
def _first_step(s, i, j, step, size, norm, x, low, high, r, trial, spare, slope, args):
    """A step of which r shows sqrt(eps) of its size, or nearly: evaluations, step, change.

    The last number is the step of which `slope` is. Halves the logarithm between a step that is
    too short and one that is too long. The step is 0 where none is seen; the evaluations are -1
    where fun raised.
    """
    root, tiny = math.sqrt(s.eps), _SEEN * s.eps * norm
    most = max(abs(x[j]), 1.0)
    if norm > 0.0:
        most = max(most, norm) / s.eps
    short, long, found, of_found, taken, jumps, count = 0.0, np.inf, 0.0, 0.0, 0.0, 0, 0
    for _ in range(_TRIES):
        failed, taken, change = _probe(s, i, j, step, x, low, high, r, trial, spare, slope, args)
        if failed != 0:
            return -1, 0.0, 0.0, 0.0
        count += 1 if taken > 0.0 else 0
        if not change < np.inf:
            long = step
            step = step * root if short == 0.0 else math.sqrt(short) * math.sqrt(long)
        elif not change > tiny:
            short = step
            if long < np.inf:
                step = math.sqrt(short) * math.sqrt(long)
            else:  # first in the unit of 1, then as far as a step from there may go
                step = min(root if step < root else step / root, most)
        else:
            found, of_found = taken, change
            goal = root * max(size, change / taken * abs(x[j]))
            # far outside, x may have another unit; else r may have fewer digits
            searched = jumps >= 3 and change <= _FAR * norm
            if searched or goal / _WINDOW <= change <= goal * _WINDOW:
                break
            if change < goal:
                short = step
            else:
                long = step
            jumps += 1
            step = min(step * (goal / change), most)
            if not short < step < long:
                step = math.sqrt(short) * math.sqrt(long)
        if not (short * _APART < long and short < most) or step == 0.0:
            break
        if 0.0 < taken < 0.5 * short:  # the bounds end it
            break
    return count, found, of_found, taken


@inner
def _calibrate(
    s, i, j, step, size, norm, x, low, high, r, J, spare_slope, trial, spare, args, steps,
    changes, units,
):  # fmt: skip
    """Find the step of x[j] and write its column of J: the number of evaluations, -1 if fun raised.

    The slopes of a step and of one 8 times as short agree best where rounding above and curvature
    below weigh the same: the search goes down to the first best from above, then upwards if that
    is poor.
    """
    quick, tiny = s.eps ** (1.0 / 3.0), _SEEN * s.eps * norm
    a, b = J[j], spare_slope
    steps[j] = changes[j] = 0.0
    count, top, of_top, last = _first_step(
        s, i, j, step, size, norm, x, low, high, r, trial, spare, a, args
    )
    best, kept, of_kept = np.inf, 0.0, 0.0
    if count >= 0 and top > 0.0:
        for way in range(2):  # down, then up
            factor = 1.0 / _APART if way == 0 else _APART
            here, of_here = top, of_top
            for turn in range(_TRIES):
                if turn == 0 and last != top:
                    failed, last, of_here = _probe(
                        s, i, j, top, x, low, high, r, trial, spare, a, args
                    )
                    count += 1
                    if failed != 0:
                        return -1
                failed, taken, change = _probe(
                    s, i, j, here * factor, x, low, high, r, trial, spare, b, args
                )
                if failed != 0:
                    return -1
                count += 1 if taken > 0.0 else 0
                if not tiny < change < np.inf or (way == 1 and taken < 2.0 * here):
                    break
                apart = _mismatch(a, b)
                if apart < best:
                    best, kept, of_kept = apart, taken, change
                    if apart <= quick and way == 0 and turn == 0:
                        kept, of_kept = here, of_here
                        break
                elif best <= _SHARE:
                    break
                for k in range(len(a)):
                    a[k] = b[k]
                here, of_here, last = taken, change, taken
                if best <= quick:
                    break
            if best <= quick:
                break
    if count < 0:
        return -1
    if best <= _SHARE:
        if kept != last:
            failed, kept, of_kept = _probe(s, i, j, kept, x, low, high, r, trial, spare, a, args)
            count += 1
            if failed != 0:
                return -1
        steps[j], changes[j] = kept, of_kept
        units[j] = _unit(x[j], norm, of_kept / kept)
    else:
        for k in range(len(a)):
            a[k] = 0.0
    return count


@inner
def differentiate(
    s, i, norm, x, low, high, r, J, spare_slope, trial, spare, args, steps, changes, units
):
    """Write J at x, where the residuals are r, of that norm; the evaluations, or -1.

    `steps` has the steps so far, 0 where there is none, `changes` by how much they changed r, and
    `units` the lengths of the unknowns.
    """
    root, count, fresh, size = math.sqrt(s.eps), 0, False, norm
    for j in range(s.n):
        trial[j] = x[j]
    for turn in range(2):
        for j in range(s.n):
            if low[j] == high[j]:
                for k in range(len(r)):
                    J[j, k] = 0.0
                continue
            step = root * abs(x[j]) if x[j] != 0.0 else root
            if turn == 0 and steps[j] > 0.0:
                failed, taken, change = _probe(
                    s, i, j, steps[j], x, low, high, r, trial, spare, J[j], args
                )
                if failed != 0:
                    return -1
                count += 1 if taken > 0.0 else 0
                step = steps[j]
                if taken > 0.0 and _SEEN * s.eps * norm < change < np.inf:
                    alike = changes[j] <= _KEPT * change and change <= _KEPT * changes[j]
                    unit = _unit(x[j], norm, change / taken)
                    if alike and units[j] <= _KEPT * unit:
                        size = max(size, change / taken * abs(x[j]))
                        continue
                    step *= min(changes[j] / change, unit / units[j])
            elif turn == 1:
                # too short for what the others are: where r adds terms, it shows only its own
                slope = changes[j] / steps[j] if steps[j] > 0.0 else 0.0
                if not fresh or slope == 0.0 or changes[j] * _WINDOW >= root * size:
                    continue
                step = root * size / slope
            fresh = True
            more = _calibrate(
                s, i, j, step, size, norm, x, low, high, r, J, spare_slope, trial, spare, args,
                steps, changes, units,
            )  # fmt: skip
            if more < 0:
                return -1
            count += more
            if steps[j] > 0.0:
                size = max(size, changes[j] / steps[j] * abs(x[j]))
    return count
