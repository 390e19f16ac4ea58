"""Dense linear algebra of a fit: QR factors by columns, the damped step, the covariance.

J is stored as (n, m), so that sums run along the points. Points are of the dtype of x, float32 or
float64. Sums and all that has n elements are float64.
"""

from __future__ import annotations

import math

import numpy as np

from numadam._jit.calls import inner
from numadam._jit.private import POINTS, dot

#: A column depends on those before it where no larger share of it is left, in units of eps.
_DEPENDENT = 10.0
#: Shares of a column from which they overflow in float32, or in float64.
_LARGE_32, _LARGE_64 = 1e38, 1e300
#: Factors of a step, and of the bounds of its length, as in MINPACK.
_TINY, _NEAR, _SEARCHES = 2.3e-308, 0.1, 10

# --- sums along the points -----------------------------------------------------------------------


@inner
def _subtract(a, b, factor):
    """Subtract factor * b from a."""
    for k in range(len(a)):
        a[k] -= factor * b[k]


@inner
def padded(m):
    """Points that a row of J has room for, with zeros behind its own: whole vectors."""
    return (m + POINTS - 1) // POINTS * POINTS


# --- factors -------------------------------------------------------------------------------------


@inner
def gradient(J, r, x, low, high, g, sizes, scale, free):
    """Form g = J^T r, the sizes of the columns of J, and what is free; False if not finite.

    An element at a bound is not free while descent would leave the box.
    """
    finite = True
    for j in range(len(g)):
        g[j], sizes[j] = dot(J[j], r), math.sqrt(dot(J[j], J[j]))
        finite = finite and abs(g[j]) < np.inf and sizes[j] < np.inf
        scale[j] = max(scale[j], sizes[j])
        held = (x[j] <= low[j] and g[j] > 0.0) or (x[j] >= high[j] and g[j] < 0.0)
        free[j] = 0.0 if held or low[j] == high[j] else 1.0
    return finite


@inner
def factorize(J, r, free, sizes, eps, R, qr):
    """QR of the free columns of J by Gram-Schmidt, modified: R, and qr = Q^T r.

    r goes through it as one more column, which makes the solutions as accurate as those of
    Householder. Columns that are not free, or that depend on those before, get a row and a column
    of zeros: their elements do not move. J and r are overwritten.
    """
    n, largest = len(J), 0.0
    limit = _LARGE_64 if eps < 1e-10 else _LARGE_32
    for j in range(n):
        largest = max(largest, sizes[j])
        qr[j] = 0.0
        for k in range(n):
            R[j, k] = 0.0
    for j in range(n):
        size = 0.0
        if free[j] != 0.0:
            size = math.sqrt(dot(J[j], J[j])) if j > 0 else sizes[0]
        if not size > _DEPENDENT * eps * sizes[j] or largest > limit * size:
            continue
        inverse = 1.0 / size
        onto = dot(J[j], r) * inverse
        if abs(onto) > limit * size:
            continue
        R[j, j] = size
        for k in range(j + 1, n):
            if free[k] != 0.0:
                R[j, k] = dot(J[j], J[k]) * inverse
                _subtract(J[k], J[j], r.dtype.type(R[j, k] * inverse))
        qr[j] = onto
        _subtract(r, J[j], r.dtype.type(qr[j] * inverse))


@inner
def _solve(R, b, p):
    """Write into p: R^-1 b for the upper triangle R; 0 where its diagonal is."""
    n = len(p)
    for j in range(n - 1, -1, -1):
        p[j] = 0.0
        if R[j, j] != 0.0:
            total = b[j]
            for k in range(j + 1, n):
                total -= R[j, k] * p[k]
            p[j] = total / R[j, j]


@inner
def _solve_transposed(R, b):
    """Write into b: R^-T b; 0 where the diagonal is."""
    n = len(b)
    for j in range(n):
        if R[j, j] == 0.0:
            b[j] = 0.0
            continue
        b[j] /= R[j, j]
        for k in range(j + 1, n):
            b[k] -= R[j, k] * b[j]


@inner
def _rotate(S, rotated, row, last, first):
    """Bring a row of the system, and its right-hand side, into the triangle S."""
    n = len(rotated)
    for k in range(first, n):
        if row[k] == 0.0:
            continue
        size = math.sqrt(S[k, k] * S[k, k] + row[k] * row[k])
        cosine, sine = S[k, k] / size, row[k] / size
        S[k, k] = size
        rotated[k], last = cosine * rotated[k] + sine * last, cosine * last - sine * rotated[k]
        for c in range(k + 1, n):
            S[k, c], row[c] = cosine * S[k, c] + sine * row[c], cosine * row[c] - sine * S[k, c]


@inner
def _solve_damped(R, qr, scale, root, fixed, moved, S, rotated, row, p):
    """Write into p what minimises |R p - qr|^2 + |root * scale * p|^2; S is the triangle of both.

    Elements that are fixed are those of `moved`.
    """
    n = len(p)
    for j in range(n):
        rotated[j] = qr[j]
        for k in range(n):
            S[j, k] = R[j, k]
    for j in range(n):
        if fixed[j] != 0.0:
            for k in range(j + 1):
                rotated[k] -= R[k, j] * moved[j]
                S[k, j] = 0.0
    for j in range(n):
        for k in range(n):
            row[k] = S[j, k] if fixed[j] != 0.0 else 0.0
        if fixed[j] != 0.0:  # its row is one of the others', now
            last, rotated[j] = rotated[j], 0.0
            for k in range(j, n):
                S[j, k] = 0.0
        else:
            row[j], last = root * scale[j], 0.0
        _rotate(S, rotated, row, last, j)
    _solve(S, rotated, p)
    for j in range(n):
        if fixed[j] != 0.0:
            p[j] = moved[j]


@inner
def length(scale, p):
    """The norm of scale * p."""
    total = 0.0
    for j in range(len(p)):
        total += scale[j] * p[j] * (scale[j] * p[j])
    return math.sqrt(total)


@inner
def _slope(R, scale, p, size, v):
    """|R^-T D^2 p / size|^2: how fast the length of the step falls with the damping."""
    for j in range(len(p)):
        v[j] = scale[j] * (scale[j] * p[j] / size)
    _solve_transposed(R, v)
    total = 0.0
    for j in range(len(p)):
        total += v[j] * v[j]
    return total


@inner
def damped_step(R, qr, scale, radius, damping, fixed, S, rotated, row, v, p):
    """Write minus the step of a length near `radius` into p, return its damping: `lmpar`.

    Undamped where that step is short enough; else Newton's method finds the damping, between
    bounds that close in on it.
    """
    n = len(p)
    for j in range(n):
        fixed[j] = 0.0
    _solve(R, qr, p)
    size = length(scale, p)
    excess = size - radius
    if excess <= _NEAR * radius:
        return 0.0
    low, high = 0.0, 0.0
    whole = True
    for j in range(n):
        whole = whole and R[j, j] != 0.0
    if whole:
        low = excess / radius / _slope(R, scale, p, size, v)
    for j in range(n):
        total = 0.0
        for k in range(j + 1):
            total += R[k, j] * qr[k]
        high += (total / scale[j]) ** 2 if total != 0.0 else 0.0
    steepest = math.sqrt(high)
    high = max(steepest / radius, _TINY / min(radius, _NEAR))
    damping = min(max(damping, low), high)
    if damping == 0.0:
        damping = steepest / size
    for search in range(_SEARCHES):
        if damping == 0.0:
            damping = max(_TINY, 1e-3 * high)
        _solve_damped(R, qr, scale, math.sqrt(damping), fixed, v, S, rotated, row, p)
        size, before = length(scale, p), excess
        excess = size - radius
        falling = low == 0.0 and excess <= before and before < 0.0
        if abs(excess) <= _NEAR * radius or falling or search == _SEARCHES - 1:
            break
        correction = excess / radius / _slope(S, scale, p, size, v)
        if excess > 0.0:
            low = max(low, damping)
        else:
            high = min(high, damping)
        damping = max(low, damping + correction)
    return damping


@inner
def bend(R, qr, scale, damping, x, low, high, fixed, moved, S, rotated, row, p):
    """Bend the path to x - p along the bounds that it meets, one after another.

    An element stops at its bound, and p is solved again for the others. So the model falls all
    along the path, whatever the correlations.
    """
    n = len(p)
    for j in range(n):
        moved[j] = 0.0
    met = 0
    while met >= 0:
        share, met = 1.0, -1
        for j in range(n):
            if fixed[j] == 0.0 and p[j] != moved[j]:
                end = low[j] if p[j] > moved[j] else high[j]
                if abs(end) < np.inf:
                    room = (x[j] - moved[j] - end) / (p[j] - moved[j])
                    if room < share:
                        share, met = max(room, 0.0), j
        for j in range(n):
            if fixed[j] == 0.0:
                moved[j] += share * (p[j] - moved[j])
        if met >= 0:
            moved[met] = x[met] - (low[met] if p[met] > moved[met] else high[met])
            fixed[met] = 1.0
            _solve_damped(R, qr, scale, math.sqrt(damping), fixed, moved, S, rotated, row, p)
    for j in range(n):
        p[j] = moved[j]


# --- covariance ----------------------------------------------------------------------------------


@inner
def covariance(R, qr, scale, factor, fixed, moved, S, rotated, row, v, p, cov):
    """Write factor * (R^T R)^-1 of what is not fixed, inf if singular, and NaN for the rest."""
    n = len(p)
    for j in range(n):
        moved[j] = 0.0
    _solve_damped(R, qr, scale, 0.0, fixed, moved, S, rotated, row, p)
    whole = factor != np.inf
    for j in range(n):
        whole = whole and (S[j, j] != 0.0 or fixed[j] != 0.0)
    for j in range(n):
        for k in range(n):
            v[k] = 1.0 if k == j else 0.0
        _solve_transposed(S, v)
        _solve(S, v, p)
        for k in range(j + 1):
            value = factor * p[k] if whole else np.inf
            value = value if fixed[j] == 0.0 and fixed[k] == 0.0 else np.nan
            cov[j, k] = cov[k, j] = value
