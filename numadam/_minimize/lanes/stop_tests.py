"""Stop tests of many problems, and their best points: all lanes of a packet at once."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from numadam._core import plan as pl
from numadam._core.norms import lane_memory
from numadam._core.plan import Plan
from numadam._cpu.parts import make_leaf_views
from numadam._cpu.records import NUMBER, POINTER
from numadam._jit.functions import jit_once, linked
from numadam._jit.pointers import array_at, view_of
from numadam._minimize import stopping as st
from numadam._minimize.stopping import RUNNING, check_convergence

# --- memory shared with Python -------------------------------------------------------------------


#: State of a batch. A problem has a position, which changes when another one stops, and a number,
#: which is the user's. A call of the kernel takes some iterations of some blocks.
LANES = np.dtype(
    [
        # those of `BlockState`
        ("updates", NUMBER),  # element updates of one problem in a step
        ("numbers", NUMBER),  # real numbers of one problem
        ("positions", NUMBER),  # of problems, the last of them not in use
        ("fun", POINTER),  # machine code of `evaluate`
        ("shape", POINTER),  # int64: shape of one problem
        ("values", POINTER),  # float64[VALUES, positions], see VALUE
        ("tests", POINTER),  # int64[positions]: RUNNING, or the test that holds
        ("before", POINTER),  # x before the step, 0 if no test asks for it
        ("best", POINTER),  # best x
        ("best_g", POINTER),  # its gradient
        ("firsts", POINTER),  # the first gradient of each number, see `share_of_own`
        ("scalars", POINTER),  # float64[table_steps, width]
        ("scratch", POINTER),  # float64[blocks, ...]: see `make_own_scalars`
        # the batch
        ("problems", NUMBER),
        ("elements", NUMBER),  # elements of one problem
        ("block", NUMBER),  # positions of a block, evaluated by one call and stepped as one array
        ("group", NUMBER),  # row of the control block
        # the call at hand
        ("first_block", NUMBER),
        ("end_block", NUMBER),
        ("last", NUMBER),  # 1 if its blocks are the batch's last ones, so that t advances
        ("steps", NUMBER),  # iterations that it may take
        ("done", NUMBER),  # iterations before it
        ("table_steps", NUMBER),  # iterations whose scalars are computed at a time
        ("at_start", NUMBER),  # 1 as long as x0 has not been evaluated
        ("taken", NUMBER),  # iterations by which t has advanced
        ("failed", NUMBER),  # 1 if the objective raised
        # each position
        ("order", POINTER),  # int64[positions]: number of the problem
        ("own_lr", POINTER),  # float64[positions], 0 if they share a learning rate
        # each problem, by its number; written when it stops
        ("codes", POINTER),  # int64[problems]: RUNNING, or the test that holds
        ("nit", POINTER),  # int64[problems]: iterations taken; of running ones at each call
        ("result", POINTER),  # float64[RESULTS, problems]: the first ones of VALUE
        ("rows", POINTER),  # int64[4]: addresses of the last x, best x, its gradient, average
        # each block
        ("live", POINTER),  # int64[blocks]: problems that still run; they are the first ones
        # each step
        ("rates", POINTER),  # float64: lr of each step of the call
        ("columns", POINTER),  # int64[changing]: columns of the control block with a schedule
        ("changes", POINTER),  # float64[steps, changing]: what they hold at each step
        ("changing", NUMBER),
        ("products", POINTER),  # float64[table_steps + 1, n]: of each step, see `_core.products`
        ("tolerances", POINTER),  # float64[4]: gtol, ftol, xtol, gtol_rel
    ]
)

#: Rows of `values`: f; the best f, and the norm of the projected gradient there; that norm at x,
#: at the start, and where the problem stops; f before the step. The first ones are results.
VALUE_F, VALUE_BEST, VALUE_BEST_NORM, VALUE_NORM, VALUE_FIRST, VALUE_LIMIT, VALUE_BEFORE = range(7)
VALUES, RESULTS = 7, 5


# --- tests ---------------------------------------------------------------------------------------


class BlockState(NamedTuple):
    """The first fields of LANES, which each iteration of a block reads, as values.

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
    best_g: int
    firsts: int
    scalars: int
    scratch: int


def _make_largest(one: Any, lanes: int, numbers: int) -> Any:
    """``largest(out, n, x, y, low, high, lo, hi)``: of each lane the largest ``|one|``."""
    wide = lanes * numbers

    def largest(out, n, x, y, low, high, lo, hi):
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

    return jit_once(largest, forceinline=True)


def _make_norm(element: Any, lanes: int, numbers: int, norm: float) -> Any:
    """``norms(out, n, x, y, low, high, lo, hi)``: of each lane the norm of ``element``.

    NaN where one element is. `n` are the real numbers of one problem.
    """
    if lanes == 1:
        of_one = st.make_norm(element, jit_once, norm)

        def norm_of_one(out, n, x, y, low, high, lo, hi):
            out[0] = of_one(n, x, y, low, high, lo, hi)

        return jit_once(norm_of_one, forceinline=True)
    one = jit_once(element)
    largest = _make_largest(one, lanes, numbers)
    if norm == math.inf:
        return largest

    def euclidean(out, n, x, y, low, high, lo, hi):
        largest(out, n, x, y, low, high, lo, hi)
        totals = array_at(lane_memory(), lanes, np.float64)
        scales = array_at(lane_memory(), lanes, np.float64)
        for j in range(lanes):  # as `stopping.make_norm`, in the same order
            totals[j] = 0.0
            scales[j] = out[j] if out[j] > 0.0 and math.isfinite(out[j]) else 1.0
        at = np.uint64(0)
        for _ in range(n // numbers):
            for j in range(np.uint64(lanes)):
                for _ in range(numbers):
                    a = np.float64(one(at, x, y, low, high, lo, hi)) / scales[j]
                    totals[j] += a * a
                    at += np.uint64(1)
        for j in range(lanes):
            if out[j] > 0.0 and math.isfinite(out[j]):
                out[j] *= math.sqrt(totals[j])

    return jit_once(euclidean, forceinline=True)


def _make_keep_best(lanes: int, numbers: int) -> Any:
    """``keep_best(n, x, g, best, best_g, f, norm, f_best, norm_best, first)``: of each lane.

    The first iterate is kept whatever its f is. Of an iteration with n = 2, the gradient takes 5 %
    and its norm 1 %; to evaluate them again at the end would call the objective of a problem that
    has raised, and count evaluations that `minimize` does not have.
    """

    def keep_best(n, x, g, best, best_g, f, norm, f_best, norm_best, first):
        if first or (f[0] < f_best[0] and math.isfinite(f[0])):
            f_best[0], norm_best[0] = f[0], norm[0]
            for i in range(n):
                best[i], best_g[i] = x[i], g[i]

    wide = lanes * numbers

    def keep_best_of_lanes(n, x, g, best, best_g, f, norm, f_best, norm_best, first):
        better = array_at(lane_memory(), wide, np.float64)
        for j in range(lanes):
            low = first or (f[j] < f_best[j] and math.isfinite(f[j]))
            f_best[j] = f[j] if low else f_best[j]
            for c in range(numbers):
                better[numbers * j + c] = 1.0 if low else 0.0
        # both are read before the choice, here and below, or it would not vectorise
        for j in range(lanes):
            a, b = norm[j], norm_best[j]
            norm_best[j] = a if better[numbers * j] > 0.0 else b
        at, row = np.uint64(0), np.uint64(wide)
        for _ in range(n // numbers):
            for j in range(row):
                a, b, c, d = x[at + j], best[at + j], g[at + j], best_g[at + j]
                best[at + j] = a if better[j] > 0.0 else b
                best_g[at + j] = c if better[j] > 0.0 else d
            at += row

    return jit_once(keep_best if lanes == 1 else keep_best_of_lanes, forceinline=True)


def _make_checks() -> tuple[Any, Any]:
    """The stop tests at `count` iterates, with the relative changes of f and x and without them.

    Both write what holds into `tests`, and return 0 where all problems go on.
    """
    check = linked(check_convergence, forceinline=True)

    def gradient_tests(count, tests, f, norm, limit):
        # constants for the tests that are off, which the compiler leaves out
        stopped = np.int64(0)
        for j in range(np.uint64(count)):
            tests[j] = code = check(f[j], 0.0, norm[j], 0.0, 0.0, False, (limit[j], 0.0, 0.0))
            stopped |= np.int64(code != RUNNING)
        return stopped

    def all_tests(count, tests, f, f_before, norm, way, size, later, limit, ftol, xtol):
        stopped = np.int64(0)
        for j in range(np.uint64(count)):
            limits = limit[j], ftol, xtol
            code = check(f[j], f_before[j], norm[j], way[j], size[j], later, limits)
            tests[j], f_before[j] = code, f[j]
            stopped |= np.int64(code != RUNNING)
        return stopped

    return linked(gradient_tests, forceinline=True), linked(all_tests)


def _make_own(lanes: int, numbers: int) -> tuple[Any, Any]:
    """`stopping.make_own` of the lanes of a packet.

    ``learn(n, x, g, low, high, ends, firsts, norms, first)`` in each lane; ``limits(out, count, n,
    ..., firsts, norms, limit, gtol, share)`` writes the limits, `gtol` alone where a component
    remains. `norms` and `first` are those of each lane's gradients.
    """
    one, wide = linked(st.released), lanes * numbers

    def learn(n, x, g, low, high, ends, firsts, norms, first):
        for i in range(np.uint64(n * lanes)):
            a, j = abs(one(i, x, g, low, high, ends[0], ends[1])), i % np.uint64(wide)
            if a > firsts[i] and norms[j // numbers] <= first[j // numbers]:
                firsts[i] = a

    def limits(out, count, n, x, g, low, high, ends, firsts, norms, limit, gtol, share):
        for j in range(count):
            out[j] = limit[j]
            if not gtol < norms[j] <= limit[j]:
                continue
            for i in range(n):
                k = np.uint64(i // numbers * wide + j * numbers + i % numbers)
                a = abs(np.float64(one(k, x, g, low, high, ends[0], ends[1])))
                if a > share * firsts[k] and firsts[k] > 0:
                    out[j] = gtol
                    break

    return linked(learn), linked(limits)


def make_test_packet(plan: Plan, lanes: int, norm: float) -> Any:
    """``test_packet(d, leaf, ends, tolerances, first, count, number) -> stopped``.

    Tests the iterates of the `count` problems of a packet, whose first position is `first`, and
    writes what holds into `tests`; `stopped` is 0 where all of them go on. `number` is that of the
    iteration. Long, for the views of all that the tests read are built here, once for a packet.
    """
    # Each is optimised by itself first. Linked, `keep_best` is not vectorised, and an iteration
    # takes 1.5 times as long; the largest components of float32 take 1.1 times as long.
    steep, far, large = (
        _make_norm(element, lanes, plan.numbers, norm)
        for element in (st.projected, st.moved, st.itself)
    )
    keep_best = _make_keep_best(lanes, plan.numbers)
    views, view, bytes_x = make_leaf_views(plan, False), view_of(plan.real), plan.stride(pl.P)
    (gradient_tests, all_tests), limit_of = _make_checks(), linked(st.gradient_limit)
    (learn, limits), share_of = _make_own(lanes, plan.numbers), linked(st.share_of_own)

    def test_packet(d, leaf, ends, tolerances, first, count, number):
        gtol, ftol, xtol, gtol_rel = tolerances
        later = number > 0
        n, all_n, skip = d.numbers, d.numbers * lanes, first * d.updates * bytes_x
        slots = views(leaf, first * d.updates, first * d.updates, lanes * d.updates)
        x, g, low, high = slots[pl.P], slots[pl.G], slots[pl.LOW], slots[pl.HIGH]
        best, best_g = view(d.best + skip, all_n), view(d.best_g + skip, all_n)
        rows, column = 8 * d.positions, d.values + 8 * first
        f = array_at(column + rows * VALUE_F, lanes, np.float64)
        f_best = array_at(column + rows * VALUE_BEST, lanes, np.float64)
        norm_best = array_at(column + rows * VALUE_BEST_NORM, lanes, np.float64)
        norms = array_at(column + rows * VALUE_NORM, lanes, np.float64)
        limit = array_at(column + rows * VALUE_LIMIT, lanes, np.float64)
        f_before = array_at(column + rows * VALUE_BEFORE, lanes, np.float64)
        tests = array_at(d.tests + 8 * first, lanes, np.int64)
        steep(norms, n, x, g, low, high, ends[0], ends[1])
        firsts = view(d.firsts + skip, all_n)
        first_norm = array_at(column + rows * VALUE_FIRST, lanes, np.float64)
        if not later:
            for j in range(lanes):
                first_norm[j], limit[j] = norms[j], limit_of(gtol, gtol_rel, norms[j])
        if number <= 1:
            learn(n, x, g, low, high, ends, firsts, norms, first_norm)
        keep_best(n, x, g, best, best_g, f, norms, f_best, norm_best, not later)
        gradient_alone = ftol == 0.0 and xtol == 0.0
        if gradient_alone and gradient_tests(count, tests, f, norms, limit) == 0:
            return np.int64(0)
        own = array_at(lane_memory(), lanes, np.float64)
        share = share_of(gtol_rel)
        limits(own, count, n, x, g, low, high, ends, firsts, norms, limit, gtol, share)
        if gradient_alone:
            return gradient_tests(count, tests, f, norms, own)
        way = array_at(lane_memory(), lanes, np.float64)
        size = array_at(lane_memory(), lanes, np.float64)
        if xtol > 0.0 and later:
            before = view(d.before + skip, all_n)
            far(way, n, x, before, None, None, None, None)
            large(size, n, x, before, None, None, None, None)
        return all_tests(count, tests, f, f_before, norms, way, size, later, own, ftol, xtol)

    return linked(test_packet, forceinline=True)
