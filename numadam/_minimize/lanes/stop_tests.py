"""Stop tests of many problems, and their best points: all lanes of a packet at once."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from numadam._core import plan as pl
from numadam._core.norms import lane_memory
from numadam._core.plan import Plan
from numadam._cpu.parts import make_views
from numadam._jit.functions import jit_once
from numadam._jit.pointers import array_at
from numadam._minimize import stopping as st
from numadam._minimize.lanes.records import VALUE_BEFORE, VALUE_BEST, VALUE_F, VALUE_LARGEST
from numadam._minimize.stopping import RUNNING, check_convergence


class BlockState(NamedTuple):
    """The fields of LANES that each iteration of a block reads, as values.

    A record lies in memory, which the compiler reads again after every store.
    """

    updates: int
    numbers: int
    positions: int
    fun: int
    shape: int
    values: int
    tests: int
    before: int
    best: int
    scalars: int
    factors: int
    scratch: int


def _make_largest(element: Any, lanes: int, numbers: int, wrap: Any) -> Any:
    """``largest(out, n, x, y, low, high, lo, hi)``: of each lane the largest ``|element|``.

    NaN where one is. `n` are the real numbers of one problem.
    """
    if lanes == 1:
        of_one = st.make_largest(element, wrap)

        def largest(out, n, x, y, low, high, lo, hi):
            out[0] = of_one(n, x, y, low, high, lo, hi)

        return wrap(largest, forceinline=True)
    one, wide = wrap(element), lanes * numbers

    def largest_of_lanes(out, n, x, y, low, high, lo, hi):
        tops = array_at(lane_memory(), wide, np.float64)
        for j in range(wide):
            tops[j] = 0.0
        # unsigned: a signed index may count from the end, which prevents vectorising
        at, row = np.uint64(0), np.uint64(wide)
        for _ in range(n // numbers):
            for j in range(row):
                a, b = abs(np.float64(one(at + j, x, y, low, high, lo, hi))), tops[j]
                tops[j] = a if a > b or a != a else b
            at += row
        for j in range(lanes):
            top = tops[numbers * j]
            for c in range(1, numbers):
                a = tops[numbers * j + c]
                top = a if a > top or a != a else top
            out[j] = top

    return wrap(largest_of_lanes, forceinline=True)


def _make_keep_best(lanes: int, numbers: int, wrap: Any) -> Any:
    """``keep_best(n, x, best, f, f_best)``: the best f and x of each lane."""

    def keep_best(n, x, best, f, f_best):
        if f[0] < f_best[0] and math.isfinite(f[0]):
            f_best[0] = f[0]
            for i in range(n):
                best[i] = x[i]

    wide = lanes * numbers

    def keep_best_of_lanes(n, x, best, f, f_best):
        better = array_at(lane_memory(), wide, np.float64)
        for j in range(lanes):
            low = f[j] < f_best[j] and math.isfinite(f[j])
            f_best[j] = f[j] if low else f_best[j]
            for c in range(numbers):
                better[numbers * j + c] = 1.0 if low else 0.0
        at, row = np.uint64(0), np.uint64(wide)
        for _ in range(n // numbers):
            for j in range(row):  # both are read before the choice, or it would not vectorise
                a, b = x[at + j], best[at + j]
                best[at + j] = a if better[j] > 0.0 else b
            at += row

    return wrap(keep_best if lanes == 1 else keep_best_of_lanes, forceinline=True)


def _make_checks(wrap: Any) -> tuple[Any, Any]:
    """The stop tests at `count` iterates, with the relative changes of f and x and without them.

    Both write what holds into `tests`, and return 0 where all problems go on.
    """
    check = wrap(check_convergence, forceinline=True)

    def gradient_tests(count, tests, f, largest, gtol):
        # constants for the tests that are off, which the compiler leaves out
        stopped = np.int64(0)
        for j in range(np.uint64(count)):
            tests[j] = code = check(f[j], 0.0, largest[j], 0.0, 0.0, False, (gtol, 0.0, 0.0))
            stopped |= np.int64(code != RUNNING)
        return stopped

    def all_tests(count, tests, f, f_before, largest, way, size, later, tolerances):
        stopped = np.int64(0)
        for j in range(np.uint64(count)):
            code = check(f[j], f_before[j], largest[j], way[j], size[j], later, tolerances)
            tests[j], f_before[j] = code, f[j]
            stopped |= np.int64(code != RUNNING)
        return stopped

    return wrap(gradient_tests, forceinline=True), wrap(all_tests)


def make_test_packet(plan: Plan, lanes: int, wrap: Any) -> Any:
    """``test_packet(d, at, ends, tolerances, first, count, later) -> stopped``.

    Tests the iterates of the `count` problems of a packet, whose first position is `first`, and
    writes what holds into `tests`; `stopped` is 0 where all of them go on. Long, for the views of
    all that the tests read are built here, once for a packet.
    """
    # Each is optimised by itself first. Linked, `keep_best` is not vectorised, and an iteration
    # takes 1.5 times as long; the largest components of float32 take 1.1 times as long.
    steep, far, large = (
        _make_largest(element, lanes, plan.numbers, jit_once)
        for element in (st.projected, st.moved, st.itself)
    )
    keep_best = _make_keep_best(lanes, plan.numbers, jit_once)
    views, strides, _ = make_views(plan)
    vx, vg, vl, vh = (views[slot] for slot in (pl.P, pl.G, pl.LOW, pl.HIGH))
    scalar_box, bytes_x = plan.bounds == "scalar", strides[pl.P]
    gradient_tests, all_tests = _make_checks(wrap)

    def test_packet(d, at, ends, tolerances, first, count, later):
        n, all_n, skip = d.numbers, d.numbers * lanes, first * d.updates * bytes_x
        x, g = vx(at[pl.P] + skip, all_n), vg(at[pl.G] + skip, all_n)
        low, high = vl(at[pl.LOW] + skip, all_n), vh(at[pl.HIGH] + skip, all_n)
        rows, column = 8 * d.positions, d.values + 8 * first
        f = array_at(column + rows * VALUE_F, lanes, np.float64)
        largest = array_at(column + rows * VALUE_LARGEST, lanes, np.float64)
        f_best = array_at(column + rows * VALUE_BEST, lanes, np.float64)
        f_before = array_at(column + rows * VALUE_BEFORE, lanes, np.float64)
        tests = array_at(d.tests + 8 * first, lanes, np.int64)
        if scalar_box:
            steep(largest, n, x, g, None, None, ends[0], ends[1])
        else:
            steep(largest, n, x, g, low, high, None, None)
        keep_best(n, x, vx(d.best + skip, all_n), f, f_best)
        if tolerances[1] == 0.0 and tolerances[2] == 0.0:
            return gradient_tests(count, tests, f, largest, tolerances[0])
        way = array_at(lane_memory(), lanes, np.float64)
        size = array_at(lane_memory(), lanes, np.float64)
        if tolerances[2] > 0.0 and later:
            before = vx(d.before + skip, all_n)
            far(way, n, x, before, None, None, None, None)
            large(size, n, x, before, None, None, None, None)
        return all_tests(count, tests, f, f_before, largest, way, size, later, tolerances)

    return wrap(test_packet, forceinline=True)
