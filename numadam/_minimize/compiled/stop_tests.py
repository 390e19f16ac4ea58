"""Stop tests of a batch: best points, history, and which problems go on."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numba import carray

from numadam._core import plan as pl
from numadam._core.plan import Plan
from numadam._cpu.parts import leaves_of, make_views
from numadam._jit.pointers import as_pointer
from numadam._minimize import stopping as st
from numadam._minimize.compiled.records import F_BEFORE, F_BEST, LARGEST, F
from numadam._minimize.stopping import RUNNING, check_convergence


class BlockState(NamedTuple):
    """The fields of BATCH that a block reads, as values.

    A record lies in memory, which the compiler reads again after every store.
    """

    updates: int
    numbers: int
    problems: int
    fun: int
    shape: int
    values: int
    codes: int
    nit: int
    every: int
    before: int
    best: int
    scalars: int
    factors: int
    scratch: int


def _swap_words(i_at, j_at, count):
    a = carray(as_pointer(i_at), count, np.uint32)
    b = carray(as_pointer(j_at), count, np.uint32)
    for i in range(count):
        a[i], b[i] = b[i], a[i]


def _make_swap(plan: Plan, wrap: Any) -> Any:
    """``swap(meta, batch, i, j)``: problems i and j change places, with all that is theirs."""
    slots = tuple(slot for slot in range(pl.SLOTS) if plan.has(slot))
    bytes_each = tuple(plan.stride(slot) for slot in slots)
    count, item, swap_words = len(slots), plan.real.itemsize, wrap(_swap_words)

    def swap(meta, batch, i, j):
        # seldom: everything is read from memory, and all arrays go through one call, which LLVM
        # would otherwise copy to each place (half the machine code of a block)
        at = leaves_of(meta)[0].address
        for s in range(count + 10):
            size = 8
            if s < count:
                first, size = at[slots[s]], batch.updates * bytes_each[s]
            elif s < count + 4:
                first = batch.values + 8 * (s - count) * batch.problems
            elif s == count + 4:
                first, size = batch.before, batch.numbers * item
            elif s == count + 5:
                first, size = batch.best, batch.numbers * item
            elif s == count + 6:
                first = batch.order
            elif s == count + 7:
                first = batch.codes
            elif s == count + 8:
                first = batch.nit
            else:
                first = batch.own_lr
            if first != 0:
                swap_words(first + i * size, first + j * size, size // 4)

    return wrap(swap)


def _keep(batch, number, f, largest, lr):
    """Write a line of the history of the only problem."""
    capacity, kept = batch.capacity, batch.kept
    lines = carray(as_pointer(batch.history), (capacity, 4), np.float64)
    if kept < capacity:
        lines[kept, 0], lines[kept, 1] = number, f
        lines[kept, 2], lines[kept, 3] = largest, lr
        batch.kept = kept + 1


def _make_test_problem(plan: Plan, wrap: Any) -> Any:
    """``test_problem(d, at, ends, tolerances, row, later) -> code``: test one problem's iterate."""
    steep, far, large = (
        st.make_largest(element, wrap) for element in (st.projected, st.moved, st.itself)
    )
    views, strides, _ = make_views(plan)
    vx, vg, vl, vh = (views[slot] for slot in (pl.P, pl.G, pl.LOW, pl.HIGH))
    scalar_box, check, bytes_x = (
        plan.bounds == "scalar",
        wrap(check_convergence, forceinline=True),
        strides[pl.P],
    )

    def test_problem(d, at, ends, tolerances, row, later):
        n, problems = d.numbers, d.problems
        values = carray(as_pointer(d.values), (4, problems), np.float64)
        skip = row * d.updates * bytes_x
        x, g = vx(at[pl.P] + skip, n), vg(at[pl.G] + skip, n)
        low, high = vl(at[pl.LOW] + skip, n), vh(at[pl.HIGH] + skip, n)
        f = values[F, row]
        if scalar_box:
            largest = steep(n, x, g, None, None, ends[0], ends[1])
        else:
            largest = steep(n, x, g, low, high, None, None)
        way = size = 0.0
        if tolerances[2] > 0.0 and later:
            before = vx(d.before + skip, n)
            way = far(n, x, before, None, None, None, None)
            size = large(n, x, before, None, None, None, None)
        if d.best != 0 and f < values[F_BEST, row] and math.isfinite(f):
            values[F_BEST, row] = f
            best = vx(d.best + skip, n)
            for i in range(n):
                best[i] = x[i]
        code = check(f, values[F_BEFORE, row], largest, way, size, later, tolerances)
        values[F_BEFORE, row], values[LARGEST, row] = f, largest
        return code

    return wrap(test_problem, forceinline=True)


def make_test_block(plan: Plan, wrap: Any) -> Any:
    """``test_block(meta, batch, d, at, ...) -> live``: test all, and move who stops to the end."""
    test_problem, swap, keep = _make_test_problem(plan, wrap), _make_swap(plan, wrap), wrap(_keep)

    def test_block(meta, batch, d, at, ends, tolerances, first, live, number, lr):
        problems = d.problems
        codes = carray(as_pointer(d.codes), problems, np.int64)
        counts = carray(as_pointer(d.nit), problems, np.int64)
        for row in range(first + live - 1, first - 1, -1):
            code = test_problem(d, at, ends, tolerances, row, number > 0)
            counts[row] = number
            if d.every > 0 and (number % d.every == 0 or code != RUNNING):
                values = carray(as_pointer(d.values), (4, problems), np.float64)
                keep(batch, number, values[F, row], values[LARGEST, row], lr)
            if code != RUNNING:
                codes[row] = code
                live -= 1
                if row != first + live:
                    swap(meta, batch, row, first + live)
        return live

    return wrap(test_block, forceinline=True)
