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
from numba import int64, njit, prange

from numadam._core.rule import named
from numadam._jit import build
from numadam._jit.calls import array_at, call3, inner
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
from numadam._least_squares.guards import (
    CHECKED_PROBLEMS,
    FINE,
    MARKS,
    RAISED,
    check,
    evaluate,
    find_past,
    places,
    places_of_check,
    set_guards,
)

#: ``status`` of a problem: 0 to 4 as in SciPy. UNDETERMINED: an unknown that r does not
#: show; STUCK: J promises what r does not keep; BUSY inside the loop alone.
UNFINISHED, MAX_NFEV, BY_GTOL, BY_FTOL, BY_XTOL, BY_BOTH = range(-1, 5)
LOST, UNDETERMINED, STUCK, BUSY = range(5, 9)

#: Numbers, addresses and tolerances that the loop reads.
_INTEGERS = (
    *("workers", "first", "end", "n", "m", "boxes", "jac", "max_nfev", "absolute_sigma"),
    *("checks", "need", "problems", "keeps"),
)
_ADDRESSES = (
    *("fun", "x", "low", "high", "points", "counts", "numbers", "cov", "residuals", "jacobian"),
    *("small", "large", "trial", "found"),
)
#: Whole numbers, then those of float64, as they lie in memory.
INTEGERS, FLOATS = (*_INTEGERS, *_ADDRESSES), ("ftol", "xtol", "gtol", "eps")
Fits: Any = named("Fits", (*INTEGERS, *FLOATS))
#: Views of what belongs to a problem. `counts` are status, nfev, njev; `numbers` cost, optimality.
_OF_A_PROBLEM = "number", "points", "x", "low", "high", "counts", "numbers", "cov"
Problem: Any = named("Problem", (*_OF_A_PROBLEM, "residuals", "jacobian"))
#: Views of the memory of a worker, which fits a problem in it.
Memory: Any = named("Memory", ("small", "trial", "r", "r2", "J", "J2"))

#: Vectors and matrices of n numbers in the memory of a worker, float64.
VECTORS, MATRICES = 13, 2
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


#: For a function that is long and called once: as one with its caller it is optimised once.
_one_body = njit(error_model="numpy", inline="always")


def small_size(n: int) -> int:
    """Numbers of float64 in the memory of a worker, for what has no points."""
    return VECTORS * n + MATRICES * n * n


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
def _shows(r):
    """Whether a residual is not 0."""
    for number in r:  # noqa: SIM110  # a generator costs more to compile
        if number != 0.0:
            return True
    return False


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


@_one_body
def fit(s, of, memory, args):
    """Fit a problem in the memory of a worker; 0, or -1 where the residuals raised.

    Long, for it is one loop over what some thirty names hold.
    """
    n, x, low, high = s.n, of.x, of.low, of.high
    small, trial = memory.small, memory.trial
    r, r2, J, J2 = memory.r, memory.r2, memory.J, memory.J2
    g, sizes, scale, free, qr, p = small[0], small[1], small[2], small[3], small[4], small[5]
    rotated, row, v, fixed = small[6], small[7], small[8], small[9]
    steps, changes, units = small[10], small[11], small[12]
    R, S = small[VECTORS : VECTORS + n], small[VECTORS + n :]
    freedom = of.points
    empty = freedom == 0
    for j in range(n):
        x[j] = trial[j] = min(max(x[j], low[j]), high[j])
        scale[j] = steps[j] = changes[j] = 0.0
        freedom -= 1 if low[j] < high[j] else 0  # else it is known
    nfev, njev, status = 1, 0, BUSY
    if evaluate(s, of.number, trial, r, J, s.m, args) != 0:
        return -1
    norm = math.sqrt(dot(r, r))
    if not norm < np.inf or (norm < _UNDERFLOWS and _shows(r)):
        status = LOST
    radius = damping = size_of_x = size_before = change_before = 0.0
    derived, first, taken, loose, follows, now = s.jac != 0, True, True, False, 0, norm
    while status != LOST:
        if not derived:
            count = differentiate(
                s, of.number, norm, x, low, high, r, J, J2[0], trial, r2, args, steps,
                changes, units,
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
            for k in range(len(of.residuals)):  # kept before they are overwritten
                of.residuals[k] = r[k]
                for j in range(n):
                    of.jacobian[k, j] = J[j, k]
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
        if evaluate(s, of.number, trial, r2, J2, s.m, args) != 0:
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
            r, r2 = r2, r
            if s.jac != 0:
                J, J2 = J2, J
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
        if taken and norm < _UNDERFLOWS and _shows(r):
            status = LOST
        if status == BUSY and nfev >= s.max_nfev:
            status = MAX_NFEV
    of.counts[0], of.counts[1], of.counts[2] = status, nfev, nfev if s.jac != 0 else njev
    of.numbers[0] = 0.5 * norm * norm
    if status != LOST:  # else they stay NaN
        of.numbers[1] = _largest(g, free)
        for j in range(n):
            fixed[j] = 0.0 if low[j] < x[j] < high[j] else 1.0
        factor = 1.0
        if s.absolute_sigma == 0:
            factor = norm * norm / freedom if freedom > 0 else np.inf
        covariance(R, qr, scale, factor, fixed, g, S, rotated, row, v, p, of.cov)
    return 0


# --- the loop ------------------------------------------------------------------------------------


@inner
def problem_at(s, i, mark, item):
    """Views of problem i."""
    n, number, box = s.n, i % s.problems, i % s.boxes  # other starts of the same problems follow
    points = array_at(s.points + 8 * number, 1, 0)[0] if s.points != 0 else s.m
    kept = s.m if s.keeps != 0 else 0
    return Problem(
        number,
        points,
        array_at(s.x + i * n * item, n, mark),
        array_at(s.low + box * n * item, n, mark),
        array_at(s.high + box * n * item, n, mark),
        array_at(s.counts + i * 3 * 8, 3, 0),
        array_at(s.numbers + i * 2 * 8, 2, 0.0),
        array_at(s.cov + i * n * n * 8, (n, n), 0.0),
        array_at(s.residuals + i * kept * item, kept, mark),
        array_at(s.jacobian + i * kept * n * item, (kept, n), mark),
    )


@inner
def memory_of(s, w, mark, item):
    """Views of the memory of worker w."""
    n, wide = s.n, padded(s.m)
    of_r, of_r2, of_J, of_J2, total = places(n, s.m)
    large = s.large + w * total * item
    return Memory(
        array_at(s.small + w * 8 * n * (VECTORS + 2 * n), (VECTORS + 2 * n, n), 0.0),
        array_at(s.trial + w * n * item, n, mark),
        array_at(large + of_r * item, wide, mark),
        array_at(large + of_r2 * item, wide, mark),
        array_at(large + of_J * item, (n, wide), mark),
        array_at(large + of_J2 * item, (n, wide), mark),
    )


_WORK = """
def work(w, state_at, args_at):
    words = array_at(state_at, {words}, 0)
    numbers = array_at(state_at + 8 * {words}, {floats}, 0.0)
    s = Fits({fields})
    size, found = places(s.n, s.m)[4], array_at(s.found + 32 * w, 4, 0)
    if s.checks != 0:  # in the memory that the workers get next
        marked = array_at(s.large, places_of_check(s.n, s.m, s.jac)[2], mark)
        marked[:] = mark
        trial = array_at(s.trial, s.n, mark)
        for i in range(min(s.end, {most})):
            if check(s, problem_at(s, i, mark, item), marked, trial, found, args_at):
                break
        for k in range(s.checks):
            set_guards(array_at(s.large + k * size * item, size, mark), s.n, s.m, mark)
        return 0
    memory = memory_of(s, w, mark, item)
    for i in range(s.first + w, s.end, s.workers):
        if fit(s, problem_at(s, i, mark, item), memory, args_at) != 0:
            found[0], found[1] = {raised}, i
            return 0
    find_past(array_at(s.large + w * size * item, size, mark), s.n, s.m, mark, found)
    return 0
"""

_ALL_WORK = f"""
def share(state_at, work_at, args_at):
    words = array_at(state_at, {len(INTEGERS)}, 0)
    workers = words[0]
    for w in prange(workers):
        call3(work_at, int64(w), state_at, args_at)
    found = array_at(words[{INTEGERS.index("found")}], (workers, 4), 0)
    count = 0
    for w in range(workers):
        count += 1 if found[w, 0] != {FINE} else 0
    return count
"""
_CALLED = int64(int64, int64, int64)


@functools.cache
def work_address(dtype: np.dtype[Any]) -> int:
    """The address of ``work(worker, state_at, args_at)``: fit the problems of a worker."""
    fields = [f"words[{k}]" for k in range(len(INTEGERS))]
    fields += [f"numbers[{k}]" for k in range(len(FLOATS))]
    lengths = {"words": len(INTEGERS), "floats": len(FLOATS), "most": CHECKED_PROBLEMS}
    text = _WORK.format(**lengths, raised=RAISED, fields=", ".join(fields))
    scope: dict[str, Any] = {"array_at": array_at, "Fits": Fits, "places": places, "fit": fit}
    scope |= {"check": check, "set_guards": set_guards, "find_past": find_past}
    scope |= {"problem_at": problem_at, "memory_of": memory_of, "places_of_check": places_of_check}
    scope |= {"mark": dtype.type(MARKS[dtype.type]), "item": dtype.itemsize}
    return build.address(f"least-squares-{dtype}", text, scope, _CALLED, entry="work")


@functools.cache
def share_address(parallel: bool) -> int:
    """The address of ``share(state_at, work_at, args_at)``: let all workers work.

    It returns how many of them have something to tell, in `found`.
    """
    scope = {"array_at": array_at, "prange": prange, "int64": int64, "call3": call3}
    name = "workers-of-fits"
    return build.address(name, _ALL_WORK, scope, _CALLED, entry="share", parallel=parallel)
