"""Guard numbers around r and J, and the call that checks what residuals write.

Compiled residuals write by index, unchecked: too small an m, or an index that slips, goes on into
other memory. Before the first fit they are called on r and J that hold marks, between guards; and
guards stay around r and J during the fits.

What is found are four numbers: a kind, and what it says.
"""

from __future__ import annotations

import math

import numpy as np

from numadam._jit.calls import call7, inner
from numadam._least_squares.factors import padded

#: In guards, and where nothing is written yet: a sum that begins with it is as one from 0.
MARKS = {np.float64: 3.1415926e-300, np.float32: 3.1415926e-36}
#: Numbers of a guard at least; else it has the length of what it guards.
_SHORTEST_GUARD = 256
#: Problems that are called at most, until together they have written every residual.
CHECKED_PROBLEMS = 1000
#: ``WRITTEN, count, first, last`` of r; an index of r; ``PAST_J, row, column``; a problem.
FINE, WRITTEN, PAST_R, PAST_J, RAISED = range(5)


@inner
def evaluate(s, i, x, r, J, m, args):
    """Call the residuals of problem i: not 0 where they raised.

    They write J where they derive. With m below 0 rows of J are twice as long, as in `check`.
    """
    return call7(s.fun, i, x.ctypes.data, r.ctypes.data, J.ctypes.data, s.n, m, args)


@inner
def _guard(size):
    """Numbers of a guard."""
    return max(size, _SHORTEST_GUARD)


@inner
def places(n, m):
    """Places of r, r2, J and J2 in the memory of a worker, and its length, in numbers."""
    wide, of_J = padded(m), n * padded(m)
    r2 = 2 * _guard(wide) + wide
    J = r2 + wide + _guard(wide) + _guard(of_J)
    J2 = J + of_J + _guard(of_J)
    return _guard(wide), r2, J, J2, J2 + of_J + _guard(of_J)


@inner
def places_of_check(n, m, derives):
    """Places of r and J in the memory of the check, and its length; rows of J are twice n."""
    J = m + 2 * _guard(m) + _guard(2 * n * m)
    return _guard(m), J, J + 2 * n * m + _guard(2 * n * m) if derives != 0 else m + 2 * _guard(m)


def large_size(n: int, m: int) -> int:
    """The length of the memory of a worker, as of `places`."""
    wide = int(padded.py_func(m))
    return sum(2 * size + 3 * max(size, _SHORTEST_GUARD) for size in (wide, n * wide))


def check_size(n: int, m: int, derives: bool) -> int:
    """The length of the memory of the check, as of `places_of_check`."""
    return sum(size + 2 * max(size, _SHORTEST_GUARD) for size in (m, 2 * n * m)[: 1 + derives])


@inner
def _changed(numbers, begin, end, value):
    """The first place of another value; -1 where there is none."""
    for k in range(begin, end):
        if numbers[k] != value:
            return k
    return -1


@inner
def set_guards(numbers, n, m, mark):
    """Fill the guards in the memory of a worker, and what they guard with zeros."""
    r, r2, J, J2, total = places(n, m)
    for k in range(total):
        numbers[k] = mark
    for k in range(padded(m)):
        numbers[r + k] = numbers[r2 + k] = 0.0
    for k in range(n * padded(m)):
        numbers[J + k] = numbers[J2 + k] = 0.0


@inner
def find_past(numbers, n, m, mark, found):
    """Look at the guards of a worker, and at the zeros behind r and the columns of J."""
    r, r2, J, J2, _ = places(n, m)
    wide, of_J, zero = padded(m), n * padded(m), mark - mark
    for begin, end, of, value in (
        (0, r, r, mark),
        (r + m, r + wide, r, zero),
        (r + wide, r2, r, mark),
        (r2 + m, r2 + wide, r2, zero),
        (r2 + wide, r2 + wide + r, r2, mark),
    ):
        k = _changed(numbers, begin, end, value)
        if k >= 0:
            found[0], found[1] = PAST_R, k - of
            return
    for turn in range(2):
        of = J if turn == 0 else J2
        k = _changed(numbers, of - _guard(of_J), of, mark)
        for j in range(n):
            k = k if k >= 0 else _changed(numbers, of + j * wide + m, of + (j + 1) * wide, zero)
        if k < 0:
            k = _changed(numbers, of + of_J, of + of_J + _guard(of_J), mark)
        if k >= 0:
            found[0], found[1], found[2] = PAST_J, (k - of) % wide, (k - of) // wide
            return


@inner
def check(s, of, numbers, trial, found, args):
    """Call residuals on marks; what they do goes into `found`: whether that is all, or an error."""
    n, m = s.n, s.m
    at, of_J, total = places_of_check(n, m, s.jac)
    rows = m if s.jac != 0 else 0
    end = of_J + 2 * n * rows
    r, J = numbers[at : at + m], numbers[of_J:end].reshape(rows, 2 * n)
    mark = numbers[0]
    for j in range(n):
        trial[j] = min(max(of.x[j], of.low[j]), of.high[j])
    for turn in range(2):
        if evaluate(s, of.number, trial, r, J, -m, args) != 0:
            found[0], found[1] = RAISED, of.number
            return True
        whole = True
        for k in range(m):
            if turn == 1 and r[k] == 0.0 and math.copysign(1.0, r[k]) < 0.0:
                r[k] = mark
            elif turn == 0 and r[k] == mark:  # or a sum of 0: that changes -0
                r[k], whole = -0.0, False
        if whole:
            break
    count, first, last = 0, 0, -1
    for k in range(m + 2 * at):
        if numbers[k] != mark:
            if count == 0:
                first = k - at
            count, last = count + 1, k - at
    found[0], found[1], found[2], found[3] = WRITTEN, count, first, last
    if count > 0 and (first < 0 or last >= m):
        return True
    if rows > 0:
        k = _changed(numbers, m + 2 * at, of_J, mark)
        for row in range(rows):
            begin = of_J + 2 * n * row
            k = k if k >= 0 else _changed(numbers, begin + n, begin + 2 * n, mark)
        k = k if k >= 0 else _changed(numbers, end, total, mark)
        if k >= 0:
            found[0], found[1], found[2] = PAST_J, (k - of_J) // (2 * n), (k - of_J) % (2 * n)
            return True
    if count >= s.need:
        found[0] = FINE
    return count >= s.need
