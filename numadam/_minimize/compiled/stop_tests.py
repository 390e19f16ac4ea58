"""What is looked at in a batch: stop tests, best points, history, who goes on."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numba import carray

from numadam._core import plan as pl
from numadam._core.plan import Plan
from numadam._cpu import validate as dr
from numadam._cpu.parts import make_views
from numadam._jit.pointers import as_pointer
from numadam._minimize import stopping as st
from numadam._minimize.compiled import desk as dk
from numadam._minimize.stopping import RUNNING, verdict


class Block(NamedTuple):
    """What a block reads of the desk, as values: memory is read again after every write."""

    turns: int
    numbers: int
    problems: int
    fun: int
    dims: int
    values: int
    code: int
    nit: int
    every: int
    before: int
    best: int
    own_lr: int
    rows: int
    factors: int
    scratch: int
    row: int


def _make_swap(plan: Plan, wrap: Any) -> Any:
    """``swap(meta, desk, i, j)``: problems i and j change places, with all that is theirs."""
    slots = tuple(slot for slot in range(pl.SLOTS) if plan.has(slot))
    bytes_each = tuple(plan.stride(slot) for slot in slots)
    item = plan.real.itemsize

    def swap_bytes(i_at, j_at, count):
        a = carray(as_pointer(i_at), count, np.uint32)
        b = carray(as_pointer(j_at), count, np.uint32)
        for i in range(count):
            a[i], b[i] = b[i], a[i]

    swap_words = wrap(swap_bytes)

    def swap(meta, desk, i, j):
        # seldom: everything is read from memory
        at = carray(as_pointer(meta[dr.TABLE]), (dr.ROWS, 2), np.int64)[dr.ADDRESS :, 0]
        turns, problems = desk[dk.TURNS], desk[dk.PROBLEMS]
        for s in range(len(slots)):
            size = turns * bytes_each[s]
            swap_words(at[slots[s]] + i * size, at[slots[s]] + j * size, size // 4)
        size = desk[dk.NUMBERS] * item
        for place in (dk.BEFORE, dk.BEST):
            if desk[place] != 0:
                swap_words(desk[place] + i * size, desk[place] + j * size, size // 4)
        for row in range(4):
            first = desk[dk.VALUES] + 8 * row * problems
            swap_words(first + 8 * i, first + 8 * j, 2)
        for place in (dk.ORDER, dk.CODE, dk.NIT, dk.OWN_LR):
            if desk[place] != 0:
                swap_words(desk[place] + 8 * i, desk[place] + 8 * j, 2)

    return wrap(swap)


def _make_keep(wrap: Any) -> Any:
    """``keep(desk, number, f, largest, lr)``: a line of the history of the only problem."""

    def keep(desk, number, f, largest, lr):
        capacity = desk[dk.CAPACITY]
        lines = carray(as_pointer(desk[dk.HISTORY]), (capacity, 4), np.float64)
        kept = desk[dk.KEPT]
        if kept < capacity:
            lines[kept, 0], lines[kept, 1] = number, f
            lines[kept, 2], lines[kept, 3] = largest, lr
            desk[dk.KEPT] = kept + 1

    return wrap(keep)


def _make_judge(plan: Plan, wrap: Any) -> Any:
    """``judge(d, at, ends, tolerances, row, later) -> code``: look at one problem's iterate."""
    steep, far, large = (
        st.make_largest(element, wrap) for element in (st.projected, st.moved, st.itself)
    )
    views, strides, _ = make_views(plan)
    vx, vg, vl, vh = (views[slot] for slot in (pl.P, pl.G, pl.LOW, pl.HIGH))
    scalar_box, check, bytes_x = (
        plan.bounds == "scalar",
        wrap(verdict, forceinline=True),
        strides[pl.P],
    )

    def judge(d, at, ends, tolerances, row, later):
        turns, n, problems = d.turns, d.numbers, d.problems
        values = carray(as_pointer(d.values), (4, problems), np.float64)
        skip = row * turns * bytes_x
        x, g = vx(at[pl.P] + skip, n), vg(at[pl.G] + skip, n)
        low, high = vl(at[pl.LOW] + skip, n), vh(at[pl.HIGH] + skip, n)
        f = values[dk.F, row]
        if scalar_box:
            largest = steep(n, x, g, None, None, ends[0], ends[1])
        else:
            largest = steep(n, x, g, low, high, None, None)
        way = size = 0.0
        if tolerances[2] > 0.0 and later:
            before = vx(d.before + skip, n)
            way = far(n, x, before, None, None, None, None)
            size = large(n, x, before, None, None, None, None)
        if d.best != 0 and f < values[dk.F_BEST, row] and math.isfinite(f):
            values[dk.F_BEST, row] = f
            best = vx(d.best + skip, n)
            for i in range(n):
                best[i] = x[i]
        code = check(f, values[dk.F_BEFORE, row], largest, way, size, later, tolerances)
        values[dk.F_BEFORE, row], values[dk.LARGEST, row] = f, largest
        return code

    return wrap(judge, forceinline=True)


def make_look(plan: Plan, wrap: Any) -> Any:
    """``look_all(meta, desk, d, at, ...) -> live``: look at a block, and say who goes on."""
    judge, swap, keep = _make_judge(plan, wrap), _make_swap(plan, wrap), _make_keep(wrap)

    def look_all(meta, desk, d, at, ends, tolerances, first, live, number, lr):
        problems = d.problems
        codes = carray(as_pointer(d.code), problems, np.int64)
        counts = carray(as_pointer(d.nit), problems, np.int64)
        for row in range(first + live - 1, first - 1, -1):
            code = judge(d, at, ends, tolerances, row, number > 0)
            counts[row] = number
            if d.every > 0 and (number % d.every == 0 or code != RUNNING):
                values = carray(as_pointer(d.values), (4, problems), np.float64)
                keep(desk, number, values[dk.F, row], values[dk.LARGEST, row], lr)
            if code != RUNNING:
                codes[row] = code
                live -= 1
                if row != first + live:
                    swap(meta, desk, row, first + live)
        return live

    return wrap(look_all, forceinline=True)
