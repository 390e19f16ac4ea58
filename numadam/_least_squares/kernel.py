"""The compiled loop over the problems: Levenberg-Marquardt with MINPACK's radius and tests.

Each thread fits one problem after the other: a worker has the problems whose number it has,
modulo the number of workers, and memory for one. So a result depends on its own problem alone.

The objective is known by its address, so the loop is compiled once, for float64 and for float32.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np
from numba import int64, prange

from numadam._core.rule import named
from numadam._jit import build
from numadam._jit.calls import array_at, call3, call7, inner
from numadam._jit.private import dot
from numadam._least_squares.differences import differentiate
from numadam._least_squares.factors import (
    bend,
    covariance,
    damped_step,
    factorize,
    gradient,
    length,
    padded,
)
from numadam._least_squares.guards import FINE, MARKS, check, find_past, places, set_guards

#: ``status`` of a problem: 0 to 4 as in SciPy. UNDETERMINED: an unknown that r does not
#: show; STUCK: J promises what r does not keep; BUSY inside the loop alone.
UNFINISHED, MAX_NFEV, BY_GTOL, BY_FTOL, BY_XTOL, BY_BOTH = range(-1, 5)
LOST, UNDETERMINED, STUCK, BUSY = range(5, 9)

#: Numbers, addresses and tolerances that the loop reads.
_INTEGERS = (
    *("workers", "first", "end", "n", "m", "boxes", "jac", "max_nfev", "absolute_sigma"),
    *("checks", "need", "problems"),
)
_ADDRESSES = (
    *("fun", "x", "low", "high", "points", "cost", "optimality", "cov"),
    *("status", "nfev", "njev", "small", "large", "trial", "raised", "past"),
    *("residuals", "jacobian"),
)
#: Whole numbers, then those of float64, as they lie in memory.
INTEGERS, FLOATS = (*_INTEGERS, *_ADDRESSES), ("ftol", "xtol", "gtol", "eps")
Fits: Any = named("Fits", (*INTEGERS, *FLOATS))

#: Vectors and matrices of n numbers in the memory of a worker, float64.
_VECTORS, _MATRICES = 13, 2
#: The radius of the first step, in lengths of x; of r where r does not show that.
_FACTOR = 100.0
#: The last step that a claim allows, in error bars, and in roundings of the model.
_OF_ERROR, _OF_ROUNDING = 0.01, 1.0
#: A column of J is taken for a sum of others where less of it is left, in roundings.
_WEAK = 1e4
#: The changes of the cost by two steps that are alike, relative to the steps.
_ALIKE = 0.25
#: A smaller norm has lost digits of its squares, which underflow.
_UNDERFLOWS = 1e-146
#: The gain from which a step is taken, and those from which the radius shrinks and grows.
_GAINED, _POOR, _GOOD = 1e-4, 0.25, 0.75


def small_size(n: int) -> int:
    """Numbers of float64 in the memory of a worker, for what has no points."""
    return _VECTORS * n + _MATRICES * n * n


# --- parts of an iteration -----------------------------------------------------------------------


@inner
def _cosine(g, sizes, free, norm):
    """The largest cosine of the angle between r and a free column of J."""
    largest = 0.0
    for j in range(len(g)):
        if free[j] != 0.0 and sizes[j] > 0.0 and norm > 0.0:
            largest = max(largest, abs(g[j]) / sizes[j] / norm)
    return largest


@inner
def _largest(g, free):
    """The largest element of g that is free."""
    largest = 0.0
    for j in range(len(g)):
        if free[j] != 0.0:
            largest = max(largest, abs(g[j]))
    return largest


@inner
def _go(x, p, low, high, fixed, trial):
    """Go to x - p; rounding may neither leave the box nor miss a bound that was met."""
    for j in range(len(p)):
        trial[j] = min(max(x[j] - p[j], low[j]), high[j])
        if fixed[j] != 0.0 and p[j] != 0.0:
            trial[j] = low[j] if p[j] > 0.0 else high[j]


@inner
def _predict(R, qr, p, norm):
    """The share of the sum of squares that the linear model loses along -p, and half its slope."""
    square, along, inverse = 0.0, 0.0, 1.0 / norm
    for j in range(len(p)):
        moved = 0.0
        for k in range(j, len(p)):
            moved += R[j, k] * p[k]
        moved *= inverse
        square += moved * moved
        along += qr[j] * inverse * moved
    return 2.0 * along - square, -along


@inner
def _adapt(gain, actual, slope, far, radius, size, damping):
    """Radius and damping after a step of that gain, as in MINPACK; also where it is NaN."""
    if not gain > _POOR:
        shrunk = 0.5 if actual >= 0.0 else 0.5 * slope / (slope + 0.5 * actual)
        if far or not 0.1 <= shrunk <= 0.5:
            shrunk = 0.1
        return shrunk * min(radius, 10.0 * size), damping / shrunk
    if damping == 0.0 or gain >= _GOOD:
        return 2.0 * size, 0.5 * damping
    return radius, damping


@inner
def _stopped(s, gain, actual, predicted, radius, size_of_x, least):
    """The status that MINPACK's tests of f and x give, or BUSY."""
    flat = abs(actual) <= s.ftol and 0.0 <= predicted <= s.ftol and gain <= 2.0
    near = radius <= s.xtol * size_of_x or radius <= least
    if flat:
        return BY_BOTH if near else BY_FTOL
    return BY_XTOL if near else BUSY


@inner
def _is_loose(J, r, x, sizes, free, norm, eps):
    """Whether there are no data, or r shows nothing of an unknown within max(|x|, 1)."""
    empty, unknowns = True, 0
    for j in range(len(x)):
        if free[j] == 0.0:
            continue
        unknowns += 1
        empty = empty and sizes[j] == 0.0
        reach = max(abs(float(x[j])), 1.0)
        if norm > 0.0 and sizes[j] * reach <= eps * norm:
            shown = False
            for k in range(len(r)):
                shown = shown or abs(float(J[j, k])) * reach > eps * abs(float(r[k]))
            if not shown:
                return True
    return empty and unknowns > 0


@inner
def _is_settled(s, R, p, x, sizes, norm, freedom):
    """Whether the undamped step -p is small against the error bars, or against rounding of r.

    MINPACK's tests compare a step with x and with the cost alone.
    """
    weak = min(1e3 * math.sqrt(s.eps), 1e-2) if s.jac == 0 else _WEAK * s.eps
    square, reach = 0.0, norm
    for j in range(len(p)):
        reach = max(reach, sizes[j] * abs(x[j]))
        if R[j, j] > weak * sizes[j]:
            moved = 0.0
            for k in range(j, len(p)):
                moved += R[j, k] * p[k]
            square += moved * moved
    error = norm / math.sqrt(max(freedom, 1))
    return math.sqrt(square) <= max(_OF_ERROR * error, _OF_ROUNDING * s.eps * reach)


# --- a problem -----------------------------------------------------------------------------------


@inner
def fit(w, i, s, one, item, args_at):
    """Fit a problem in the memory of a worker; 0, or -1 where the residuals raised.

    Long, for it is one loop over what some thirty names hold.
    """
    n, m, problem = s.n, s.m, i % s.problems  # other starts of the same problems follow
    x, box = array_at(s.x, (i + 1, n), one)[i], i % s.boxes
    low = array_at(s.low, (box + 1, n), one)[box]
    high = array_at(s.high, (box + 1, n), one)[box]
    small = array_at(s.small + w * 8 * n * (_VECTORS + 2 * n), (_VECTORS + 2 * n, n), 0.0)
    g, sizes, scale, free, qr, p = small[0], small[1], small[2], small[3], small[4], small[5]
    rotated, row, v, fixed = small[6], small[7], small[8], small[9]
    steps, changes, units = small[10], small[11], small[12]
    R, S = small[_VECTORS : _VECTORS + n], small[_VECTORS + n :]
    wide = padded(m)
    of_r, of_r2, of_J, of_J2, total = places(n, m)
    trial_at, large_at = s.trial + w * n * item, s.large + w * total * item
    r_at, r2_at = large_at + of_r * item, large_at + of_r2 * item
    J_at, J2_at = large_at + of_J * item, large_at + of_J2 * item
    trial = array_at(trial_at, n, one)
    r, r2 = array_at(r_at, wide, one), array_at(r2_at, wide, one)
    J, spare_slope = array_at(J_at, (n, wide), one), array_at(J2_at, wide, one)
    freedom = array_at(s.points, problem + 1, 0)[problem] if s.points != 0 else m
    empty = freedom == 0
    for j in range(n):
        x[j] = trial[j] = min(max(x[j], low[j]), high[j])
        scale[j] = steps[j] = changes[j] = 0.0
        freedom -= 1 if low[j] < high[j] else 0  # else it is known
    nfev, njev, status = 1, 0, BUSY
    if call7(s.fun, problem, trial_at, r_at, J_at, n, m, args_at) != 0:
        return -1
    norm = math.sqrt(dot(r, r))
    if not norm < np.inf or (norm < _UNDERFLOWS and r.any()):
        status = LOST
    radius = damping = size_of_x = size_before = change_before = 0.0
    derived, first, taken, loose, follows, now = s.jac != 0, True, True, False, 0, norm
    while status != LOST:
        if not derived:
            count = differentiate(
                s, problem, norm, x, low, high, r, J, spare_slope, trial, r2, (trial_at, r2_at),
                args_at, steps, changes, units,
            )  # fmt: skip
            if count < 0:
                return -1
            nfev, njev, derived = nfev + count, njev + 1, True
        if taken:
            if not gradient(J, r, x, low, high, g, sizes, scale, free):
                status = LOST
                break
            loose = empty or _is_loose(J, r, x, sizes, free, norm, s.eps)
            if status == BUSY and _cosine(g, sizes, free, norm) <= s.gtol:
                status = UNDETERMINED if loose else BY_GTOL
            elif status == BUSY and nfev >= s.max_nfev:
                status = MAX_NFEV
            if s.residuals != 0:  # kept before they are overwritten
                kept = array_at(s.residuals, (i + 1, m), one)[i]
                kept_J = array_at(s.jacobian, (i + 1, m, n), one)[i]
                for k in range(m):
                    kept[k] = r[k]
                    for j in range(n):
                        kept_J[k, j] = J[j, k]
            factorize(J, r, free, sizes, s.eps, R, qr)
            size_of_x = length(scale, x)
            if first:
                # in the unit of r: MINPACK takes 1 at x = 0, which large data never leave,
                # and at 1e-300 no step that r shows
                radius = _FACTOR * (size_of_x if size_of_x > s.eps * norm else norm)
        if BY_FTOL <= status <= BY_BOTH:
            damped_step(R, qr, scale, np.inf, 0.0, fixed, S, rotated, row, v, p)
            bend(R, qr, scale, 0.0, x, low, high, fixed, v, S, rotated, row, p)
            if _is_settled(s, R, p, x, sizes, norm, freedom):
                status = UNDETERMINED if loose else status
            elif radius > s.eps * max(size_of_x, norm):
                status = BUSY if nfev < s.max_nfev else MAX_NFEV
            elif not now < np.inf:
                status = LOST
            elif loose or follows > 1:
                status = UNDETERMINED if loose else STUCK
            else:
                status = BY_XTOL
        if status != BUSY:
            break
        damping = damped_step(R, qr, scale, radius, damping, fixed, S, rotated, row, v, p)
        size = length(scale, p)
        if first:
            radius = min(radius, size)
        bend(R, qr, scale, damping, x, low, high, fixed, v, S, rotated, row, p)
        _go(x, p, low, high, fixed, trial)
        predicted, slope = _predict(R, qr, p, norm)
        if call7(s.fun, problem, trial_at, r2_at, J2_at, n, m, args_at) != 0:
            return -1
        nfev += 1
        now = math.sqrt(dot(r2, r2))
        far = not 0.1 * now < norm
        actual = -1.0 if far else 1.0 - (now / norm) * (now / norm)
        gain = actual / predicted if predicted > 0.0 else 0.0
        radius, damping = _adapt(gain, actual, slope, far, radius, size, damping)
        # the last step is taken too where rounding hides what it gains
        last = abs(actual) <= 4.0 * s.eps and 0.0 < predicted <= s.ftol
        taken = gain >= _GAINED or last
        if taken:
            for j in range(n):
                x[j] = trial[j]
            norm, first, size_of_x = now, False, length(scale, x)
            r, r2, r_at, r2_at = r2, r, r2_at, r_at
            if s.jac != 0:
                J_at, J2_at = J2_at, J_at
                J = array_at(J_at, (n, wide), one)
            derived = s.jac != 0
        if gain > _POOR:
            follows, size_before = 0, 0.0
        elif now < np.inf and not far:
            # a right J foretells the gain of a small step: where that stays poor, and the cost
            # follows smaller and smaller steps, it is no rounding
            size = length(scale, p)
            if actual == 0.0:
                follows += 2 if size > math.sqrt(s.eps) * size_of_x else 0
            elif size < 0.9 * size_before:
                of_now, of_before = abs(actual) / size, change_before / size_before
                apart = abs(of_now - of_before)
                follows += 1 if apart <= _ALIKE * max(of_now, of_before) else 0
            size_before, change_before = size, abs(actual)
        status = _stopped(s, gain, actual, predicted, radius, size_of_x, s.eps * norm)
        if taken and norm < _UNDERFLOWS and r.any():
            status = LOST
        if status == BUSY and nfev >= s.max_nfev:
            status = MAX_NFEV
    array_at(s.nfev, i + 1, 0)[i] = nfev
    array_at(s.njev, i + 1, 0)[i] = nfev if s.jac != 0 else njev
    array_at(s.cost, i + 1, 0.0)[i] = 0.5 * norm * norm
    array_at(s.status, i + 1, 0)[i] = status
    if status != LOST:  # else they stay NaN
        array_at(s.optimality, i + 1, 0.0)[i] = _largest(g, free)
        for j in range(n):
            fixed[j] = 0.0 if low[j] < x[j] < high[j] else 1.0
        factor = 1.0
        if s.absolute_sigma == 0:
            factor = norm * norm / freedom if freedom > 0 else np.inf
        cov = array_at(s.cov, (i + 1, n, n), 0.0)[i]
        covariance(R, qr, scale, factor, fixed, g, S, rotated, row, v, p, cov)
    return 0


# --- the loop ------------------------------------------------------------------------------------


_WORK = """
def work(w, state_at, args_at):
    words = array_at(state_at, {words}, 0)
    numbers = array_at(state_at + 8 * {words}, {floats}, 0.0)
    s = Fits({fields})
    size = places(s.n, s.m)[4]
    if s.checks != 0:
        check(s, mark, item, s.large, args_at)  # in the memory that the workers get next
        for k in range(s.checks):
            set_guards(array_at(s.large + k * size * item, size, mark), s.n, s.m, mark)
        return 0
    for i in range(s.first + w, s.end, s.workers):
        if fit(w, i, s, mark, item, args_at) != 0:
            array_at(s.raised, w + 1, 0)[w] = i
            break
    found = array_at(s.past, (w + 1, 4), 0)[w]
    find_past(array_at(s.large + w * size * item, size, mark), s.n, s.m, mark, found)
    return 0
"""

_ALL_WORK = f"""
def share(state_at, work_at, args_at):
    words = array_at(state_at, {len(INTEGERS)}, 0)
    workers = words[0]
    for w in prange(workers):
        call3(work_at, int64(w), state_at, args_at)
    count = 0
    for w in range(workers):
        raised = array_at(words[{INTEGERS.index("raised")}], w + 1, 0)
        past = array_at(words[{INTEGERS.index("past")}], 4 * w + 1, 0)
        count += 1 if raised[w] >= 0 or past[4 * w] != {FINE} else 0
    return count
"""
_CALLED = int64(int64, int64, int64)


@functools.cache
def work_address(dtype: np.dtype[Any]) -> int:
    """The address of ``work(worker, state_at, args_at)``: fit the problems of a worker."""
    fields = [f"words[{k}]" for k in range(len(INTEGERS))]
    fields += [f"numbers[{k}]" for k in range(len(FLOATS))]
    text = _WORK.format(words=len(INTEGERS), floats=len(FLOATS), fields=", ".join(fields))
    scope: dict[str, Any] = {"array_at": array_at, "Fits": Fits, "places": places, "fit": fit}
    scope |= {"check": check, "set_guards": set_guards, "find_past": find_past}
    scope |= {"mark": dtype.type(MARKS[dtype.type]), "item": dtype.itemsize}
    return build.address(f"least-squares-{dtype}", text, scope, _CALLED, entry="work")


@functools.cache
def share_address(parallel: bool) -> int:
    """The address of ``share(state_at, work_at, args_at)``: let all workers work.

    It returns how many of them have something to tell, in `raised` or in `past`.
    """
    scope = {"array_at": array_at, "prange": prange, "int64": int64, "call3": call3}
    name = "workers-of-fits"
    return build.address(name, _ALL_WORK, scope, _CALLED, entry="share", parallel=parallel)
