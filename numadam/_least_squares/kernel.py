"""The compiled loop over the problems: Levenberg-Marquardt with MINPACK's radius and tests.

Each thread fits one problem after the other: a worker has the problems whose number it has,
modulo the number of workers, and memory for one. So a result depends on its own problem alone.

The objective is known by its address, so the loop is compiled once, for float64 and for float32.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numba import int64, prange

from numadam._jit.functions import linked
from numadam._jit.pointers import array_at, record_at
from numadam._least_squares.factors import (
    bend,
    covariance,
    damped_step,
    dot,
    factorize,
    gradient,
    length,
    padded,
)
from numadam._minimize.compiled.objective import call7

#: ``status`` of a problem: 0 to 4 as in SciPy; BUSY inside the loop alone.
UNFINISHED, MAX_NFEV, BY_GTOL, BY_FTOL, BY_XTOL, BY_BOTH, LOST, BUSY = -1, 0, 1, 2, 3, 4, 5, 6

#: All that the loop reads, numbers and addresses.
_COUNTS = ("workers", "first", "end", "n", "m", "boxes", "jac", "max_nfev", "absolute_sigma")
_ADDRESSES = (
    *("fun", "x", "low", "high", "points", "cost", "optimality", "cov"),
    *("status", "nfev", "njev", "small", "large", "trial", "raised"),
)
FITS = np.dtype(
    [(name, np.int64) for name in (*_COUNTS, *_ADDRESSES)]
    + [(name, np.float64) for name in ("ftol", "xtol", "gtol", "eps")]
)

#: Vectors and matrices of n numbers in the memory of a worker, float64.
_VECTORS, _MATRICES = 10, 2
#: The radius of the first step, in lengths of x, or of r where x is 0.
_FACTOR = 100.0
#: A smaller norm has lost digits of its squares, which underflow.
_UNDERFLOWS = 1e-146
#: The gain from which a step is taken, and those from which the radius shrinks and grows.
_GAINED, _POOR, _GOOD = 1e-4, 0.25, 0.75


def small_size(n: int) -> int:
    """Numbers of float64 in the memory of a worker, for what has no points."""
    return _VECTORS * n + _MATRICES * n * n


def large_size(n: int, m: int) -> int:
    """Numbers of the dtype of x in the memory of a worker: r and J, twice."""
    return 2 * (n + 1) * int(padded.py_func(m))


# --- parts of an iteration -----------------------------------------------------------------------


@linked
def _difference(x, low, high, root):
    """The step of a forward difference, as MINPACK has it; 0 where the bounds fix x."""
    step = root * abs(x)
    if step == 0.0:
        step = root
    if x + step > high:  # backward; where neither fits, towards the farther bound
        step = -step
        if x + step < low:
            step = high - x if high - x >= x - low else low - x
    return step


@linked
def _differentiate(s, i, x, low, high, r, J, trial, spare, addresses, args_at):
    """J by forward differences at x, where the residuals are r; -1 if the objective raised."""
    trial_at, spare_at = addresses
    root = math.sqrt(s.eps)
    for j in range(s.n):
        trial[j] = x[j]
    for j in range(s.n):
        trial[j] = x[j] + _difference(x[j], low[j], high[j], root)
        step = trial[j] - x[j]
        if step != 0.0:
            failed = call7(s.fun, i, trial_at, spare_at, 0, s.n, s.m, args_at)
            if failed != 0:
                return failed
        trial[j] = x[j]
        for k in range(len(r)):
            J[j, k] = (spare[k] - r[k]) / step if step != 0.0 else 0.0
    return 0


@linked
def _cosine(g, sizes, free, norm):
    """The largest cosine of the angle between r and a free column of J."""
    largest = 0.0
    for j in range(len(g)):
        if free[j] != 0.0 and sizes[j] > 0.0 and norm > 0.0:
            largest = max(largest, abs(g[j]) / sizes[j] / norm)
    return largest


@linked
def _largest(g, free):
    """The largest element of g that is free."""
    largest = 0.0
    for j in range(len(g)):
        if free[j] != 0.0:
            largest = max(largest, abs(g[j]))
    return largest


@linked
def _go(x, p, low, high, fixed, trial):
    """Go to x - p; rounding may neither leave the box nor miss a bound that was met."""
    for j in range(len(p)):
        trial[j] = min(max(x[j] - p[j], low[j]), high[j])
        if fixed[j] != 0.0 and p[j] != 0.0:
            trial[j] = low[j] if p[j] > 0.0 else high[j]


@linked
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


@linked
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


@linked
def _stopped(s, gain, actual, predicted, radius, size_of_x):
    """The status that MINPACK's tests of f and x give, or BUSY."""
    flat = abs(actual) <= s.ftol and 0.0 <= predicted <= s.ftol and gain <= 2.0
    near = radius <= s.xtol * size_of_x
    if flat:
        return BY_BOTH if near else BY_FTOL
    return BY_XTOL if near else BUSY


# --- a problem -----------------------------------------------------------------------------------


def _make_fit(real: Any) -> Any:
    """``fit(w, i, state_at, args_at)``: fit a problem in the memory of a worker; 0, or -1.

    Long, for it is one loop over what some thirty names hold.
    """
    item = np.dtype(real).itemsize

    def fit(w, i, state_at, args_at):
        s = record_at(state_at, FITS)
        n, m, f8 = s.n, s.m, np.float64
        x, box = array_at(s.x, (i + 1, n), real)[i], i % s.boxes
        low = array_at(s.low, (box + 1, n), real)[box]
        high = array_at(s.high, (box + 1, n), real)[box]
        small = array_at(s.small + w * 8 * n * (_VECTORS + 2 * n), (_VECTORS + 2 * n, n), f8)
        g, sizes, scale, free, qr, p = small[0], small[1], small[2], small[3], small[4], small[5]
        rotated, row, v, fixed = small[6], small[7], small[8], small[9]
        R, S = small[_VECTORS : _VECTORS + n], small[_VECTORS + n :]
        wide = padded(m)
        trial_at, r_at = s.trial + w * n * item, s.large + w * 2 * (n + 1) * wide * item
        r2_at, J_at, J2_at = (
            r_at + wide * item,
            r_at + 2 * wide * item,
            r_at + (n + 2) * wide * item,
        )
        trial, r, r2 = (
            array_at(trial_at, n, real),
            array_at(r_at, wide, real),
            array_at(r2_at, wide, real),
        )
        J = array_at(J_at, (n, wide), real)
        for j in range(n):
            x[j] = trial[j] = min(max(x[j], low[j]), high[j])
            scale[j] = 0.0
        nfev, njev, status = 1, 0, BUSY
        if call7(s.fun, i, trial_at, r_at, J_at, n, m, args_at) != 0:
            return -1
        norm = math.sqrt(dot(r, r))
        if not norm < np.inf or (norm < _UNDERFLOWS and r.any()):
            status = LOST
        radius = damping = size_of_x = 0.0
        derived, first, taken = s.jac != 0, True, True
        while status != LOST:
            if not derived:
                if _differentiate(s, i, x, low, high, r, J, trial, r2, (trial_at, r2_at), args_at):
                    return -1
                nfev, njev, derived = nfev + n, njev + 1, True
            if taken:
                if not gradient(J, r, x, low, high, g, sizes, scale, free):
                    status = LOST
                elif status == BUSY and _cosine(g, sizes, free, norm) <= s.gtol:
                    status = BY_GTOL
                elif status == BUSY and nfev >= s.max_nfev:
                    status = MAX_NFEV
                factorize(J, r, free, sizes, s.eps, R, qr)
                size_of_x = length(scale, x)
                if first:
                    # in the unit of r: MINPACK takes 1 at x = 0, which large data never leave
                    radius = _FACTOR * (size_of_x if size_of_x > 0.0 else norm)
            if status != BUSY:
                break
            damping = damped_step(R, qr, scale, radius, damping, fixed, S, rotated, row, v, p)
            size = length(scale, p)
            if first:
                radius = min(radius, size)
            bend(R, qr, scale, damping, x, low, high, fixed, v, S, rotated, row, p)
            _go(x, p, low, high, fixed, trial)
            predicted, slope = _predict(R, qr, p, norm)
            if call7(s.fun, i, trial_at, r2_at, J2_at, n, m, args_at) != 0:
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
                    J = array_at(J_at, (n, wide), real)
                derived = s.jac != 0
            status = _stopped(s, gain, actual, predicted, radius, size_of_x)
            if status == BY_XTOL and not now < np.inf:
                status = LOST
            if status == BUSY and nfev >= s.max_nfev:
                status = MAX_NFEV
        array_at(s.nfev, i + 1, np.int64)[i] = nfev
        array_at(s.njev, i + 1, np.int64)[i] = nfev if s.jac != 0 else njev
        array_at(s.cost, i + 1, f8)[i] = 0.5 * norm * norm
        array_at(s.status, i + 1, np.int64)[i] = status
        if status != LOST:  # else they stay NaN
            array_at(s.optimality, i + 1, f8)[i] = _largest(g, free)
            freedom = array_at(s.points, i + 1, np.int64)[i] if s.points != 0 else m
            for j in range(n):
                fixed[j] = 0.0 if low[j] < x[j] < high[j] else 1.0
                freedom -= 1 if low[j] < high[j] else 0  # else it is known
            factor = 1.0
            if s.absolute_sigma == 0:
                factor = norm * norm / freedom if freedom > 0 else np.inf
            cov = array_at(s.cov, (i + 1, n, n), f8)[i]
            covariance(R, qr, scale, factor, fixed, g, S, rotated, row, v, p, cov)
        return 0

    return linked(fit)


# --- the loop ------------------------------------------------------------------------------------


def make_kernels(real: Any, name: str) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """``kernel(0, state_at, args_at)``: fit some problems; serial, and parallel over workers."""
    fit = _make_fit(real)

    def work(w, state_at, args_at):
        s = record_at(state_at, FITS)
        for i in range(s.first + w, s.end, s.workers):
            if fit(w, i, state_at, args_at) != 0:
                array_at(s.raised, w + 1, np.int64)[w] = i
                break

    fit_share = linked(work)

    def make_kernel(each: Any) -> Callable[..., Any]:
        def kernel(meta_at, state_at, args_at):
            for w in each(record_at(state_at, FITS).workers):
                fit_share(int64(w), state_at, args_at)
            return 0

        kernel.__qualname__ = f"{name}.{'serial' if each is range else 'parallel'}.kernel"
        return kernel

    return make_kernel(range), make_kernel(prange)
