"""Guard numbers around r and J, and the call that checks what residuals write.

Compiled residuals write by index, unchecked: too small an m, or an index that slips, goes on into
other memory. Before the first fit they are called on r and J that hold marks, between guards; and
guards stay around r and J during the fits.

What is found are four numbers: a kind, and what it says.
"""

from __future__ import annotations

import math

import numpy as np

from numadam._jit.calls import array_at, call7, inner
from numadam._least_squares.factors import padded

#: In guards, and where nothing is written yet: a sum that begins with it is as one from 0.
MARKS = {np.float64: 3.1415926e-300, np.float32: 3.1415926e-36}
#: Numbers of a guard at least; else it has the length of what it guards.
_SHORTEST_GUARD = 256
#: Problems that are called at most, until together they have written every residual.
CHECKED_PROBLEMS = 1000
#: ``WRITTEN, count, first, last`` of r; an index of r; ``PAST_J, row, column``.
FINE, WRITTEN, PAST_R, PAST_J = 0, 1, 2, 3


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
def check(s, mark, item, memory_at, args_at):
    """Call residuals on marks; what they do goes into `past`."""
    n, m = s.n, s.m
    r, J, total = places_of_check(n, m, s.jac)
    numbers, found = array_at(memory_at, total, mark), array_at(s.past, 4, 0)
    trial = array_at(s.trial, n, mark)
    for k in range(total):
        numbers[k] = mark
    of_J = 2 * n * m
    for i in range(min(s.end, CHECKED_PROBLEMS)):
        x, box = array_at(s.x, (i + 1, n), mark)[i], i % s.boxes
        low = array_at(s.low, (box + 1, n), mark)[box]
        high = array_at(s.high, (box + 1, n), mark)[box]
        for j in range(n):
            trial[j] = min(max(x[j], low[j]), high[j])
        J_at = memory_at + J * item if s.jac != 0 else 0
        for turn in range(2):
            if call7(s.fun, i, s.trial, memory_at + r * item, J_at, n, -m, args_at) != 0:
                array_at(s.raised, 1, 0)[0] = i
                return
            whole = True
            for k in range(r, r + m):
                if turn == 1 and numbers[k] == 0.0 and math.copysign(1.0, numbers[k]) < 0.0:
                    numbers[k] = mark
                elif turn == 0 and numbers[k] == mark:  # or a sum of 0: that changes -0
                    numbers[k], whole = -0.0, False
            if whole:
                break
        count, first, last = 0, 0, -1
        for k in range(m + 2 * r):
            if numbers[k] != mark:
                if count == 0:
                    first = k - r
                count, last = count + 1, k - r
        found[0], found[1], found[2], found[3] = WRITTEN, count, first, last
        if count > 0 and (first < 0 or last >= m):
            return
        if s.jac != 0:
            k = _changed(numbers, m + 2 * r, J, mark)
            for row in range(m):
                begin = J + 2 * n * row
                k = k if k >= 0 else _changed(numbers, begin + n, begin + 2 * n, mark)
            k = k if k >= 0 else _changed(numbers, J + of_J, total, mark)
            if k >= 0:
                found[0], found[1] = PAST_J, (k - J) // (2 * n)
                found[2] = (k - J) % (2 * n)
                return
        if count >= s.need:
            found[0] = FINE
            return
