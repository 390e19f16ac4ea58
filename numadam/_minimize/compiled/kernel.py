"""The compiled minimisation of many problems side by side; one problem is a batch of one.

A block of problems is evaluated by one call, looked at one by one, and stepped as one array: all
have taken equally many steps. A problem that has stopped changes places with the last one that
runs, so that it costs nothing any more. Elements depend on nothing but their own problem, so
neither company, order nor threads change a bit.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numba import carray, int64, prange
from numba.np.unsafe.ndarray import to_fixed_tuple

from numadam._core import norms
from numadam._core import options as op
from numadam._core import plan as pl
from numadam._core.plan import Plan
from numadam._core.scalars import make_scalars, width_of
from numadam._cpu import validate as dr
from numadam._cpu.kernel import make_run
from numadam._cpu.parts import make_views
from numadam._jit.functions import cast, jit_once
from numadam._jit.pointers import as_pointer
from numadam._minimize.compiled import desk as dk
from numadam._minimize.compiled.calls import call7
from numadam._minimize.compiled.scalars import (
    make_clip,
    make_close,
    make_line,
    make_own,
    make_tabulate,
    no_own,
)
from numadam._minimize.compiled.stop_tests import Block, make_look
from numadam._minimize.stopping import RAISED

Kernel = Callable[..., Any]


def _make_rows(plan: Plan, wrap: Any) -> Any:
    """``step_rows(at, h, k, first, turns)``: some turns of the loop from problem `first` on."""
    run = make_run(plan, wrap)
    (vp, vg, v0, v1, v2, _, _, va, vl, vh, vr, _), b, c = make_views(plan)

    def step_rows(at, h, k, e, n):
        p, g = vp(at[0] + e * b[0], n * c[0]), vg(at[1] + e * b[1], n * c[1])
        s0, s1 = v0(at[2] + e * b[2], n * c[2]), v1(at[3] + e * b[3], n * c[3])
        s2, average = v2(at[4] + e * b[4], n * c[4]), va(at[7] + e * b[7], n * c[7])
        low, high = vl(at[8] + e * b[8], n * c[8]), vh(at[9] + e * b[9], n * c[9])
        rate = vr(at[10] + e * b[10], n * c[10])
        run(n, p, g, s0, s1, s2, None, None, average, low, high, rate, None, h, k)

    return wrap(step_rows, forceinline=True)


def _make_step(plan: Plan, wrap: Any) -> Any:
    """``step(meta, desk, d, at, block, first, live, begin, it)``: a block's live problems."""
    step_rows, scalars = _make_rows(plan, wrap), make_scalars(plan)
    width = width_of(plan)

    def step(meta, desk, d, at, block, first, live, begin, it):
        row = carray(as_pointer(d.rows + 8 * width * it), width, np.float64)
        factors = carray(as_pointer(d.factors), (3, 1), np.float64)
        h, k = scalars(row, factors, 0)
        step_rows(at, h, k, first * d.turns, live * d.turns)

    return wrap(step, forceinline=True)


def _make_step_each(plan: Plan, own_lr: bool, wrap: Any) -> Any:
    """As `_make_step` where each problem has scalars of its own: an lr, or a clip factor."""
    step_rows, scalars = _make_rows(plan, wrap), make_scalars(plan)
    clip, own = make_clip(plan, wrap), make_own(plan, wrap) if own_lr else wrap(no_own)
    line = make_line(plan, wrap)
    views, b, _ = make_views(plan)
    vp, vg, vl, vh = (views[slot] for slot in (pl.P, pl.G, pl.LOW, pl.HIGH))
    width, wide, normed = width_of(plan), op.RULE + plan.rule.width, plan.norm != ""

    def step(meta, desk, d, at, block, first, live, begin, it):
        turns, n, bytes_each = d.turns, d.numbers, d.turns * b[0]
        jit_once = carray(as_pointer(d.rows + 8 * width * it), width, np.float64)
        length = wide + width + norms.blocks(n) + 2
        room_at = d.scratch + 8 * block * length
        room = carray(as_pointer(room_at), length, np.float64)
        factors = carray(as_pointer(room_at + 8 * (length - 2)), (2, 1), np.float64)
        control = line(meta, desk, room, begin, it)
        for row in range(first, first + live):
            given = own(meta, desk, room, row, begin, it, jit_once)
            factors[0, 0] = factors[1, 0] = 1.0
            if normed:
                _, k = scalars(given, factors, 0)
                x, g = vp(at[0] + row * bytes_each, n), vg(at[1] + row * bytes_each, n)
                low, high = (
                    vl(at[8] + row * bytes_each, n),
                    vh(at[9] + row * bytes_each, n),
                )
                clip(control, n, x, g, low, high, k, room[wide + width :], factors)
            h, k = scalars(given, factors, 0)
            step_rows(at, h, k, row * turns, turns)

    return wrap(step, forceinline=True)


def _copy_words(to_at, of_at, count):
    to, of = (
        carray(as_pointer(to_at), count, np.uint32),
        carray(as_pointer(of_at), count, np.uint32),
    )
    for i in range(count):
        to[i] = of[i]


def _give_up(desk, first, live, number):
    """Mark the problems among which the objective raised."""
    desk[dk.FAILED] = 1
    codes = carray(as_pointer(desk[dk.CODE]), first + live, np.int64)
    counts = carray(as_pointer(desk[dk.NIT]), first + live, np.int64)
    for row in range(first, first + live):
        codes[row], counts[row] = RAISED, number


def _make_block(plan: Plan, own_lr: bool, wrap: Any) -> Any:
    """``block(b, meta, desk, args_at)``: some iterations of the problems of a block."""
    each = own_lr or plan.norm != ""
    look_all = make_look(plan, wrap)
    step = _make_step_each(plan, own_lr, wrap) if each else _make_step(plan, wrap)
    copy_words, give_up = wrap(_copy_words), wrap(_give_up)
    low, high = op.COLUMN.low, op.COLUMN.high
    bytes_x, real, wide = plan.stride(pl.P), plan.real.type(1), op.RULE + plan.rule.width

    def block(b, meta, desk, args_at, begin, steps):
        # as tuples: what lies in memory would be read again after everything that is written
        d = Block(
            desk[dk.TURNS],
            desk[dk.NUMBERS],
            desk[dk.PROBLEMS],
            desk[dk.FUN],
            desk[dk.DIMS],
            desk[dk.VALUES],
            desk[dk.CODE],
            desk[dk.NIT],
            desk[dk.EVERY],
            desk[dk.BEFORE],
            desk[dk.BEST],
            desk[dk.OWN_LR],
            desk[dk.ROWS],
            desk[dk.FACTORS],
            desk[dk.SCRATCH],
            desk[dk.ROW],
        )
        table = carray(as_pointer(meta[dr.TABLE]), (dr.ROWS, 2), np.int64)
        at = (
            table[dr.ADDRESS + 0, 0],
            table[dr.ADDRESS + 1, 0],
            table[dr.ADDRESS + 2, 0],
            table[dr.ADDRESS + 3, 0],
            table[dr.ADDRESS + 4, 0],
            table[dr.ADDRESS + 5, 0],
            table[dr.ADDRESS + 6, 0],
            table[dr.ADDRESS + 7, 0],
            table[dr.ADDRESS + 8, 0],
            table[dr.ADDRESS + 9, 0],
            table[dr.ADDRESS + 10, 0],
            table[dr.ADDRESS + 11, 0],
        )
        tolerances = to_fixed_tuple(carray(as_pointer(desk[dk.TOLERANCES]), 3, np.float64), 3)
        first, turns = b * desk[dk.LANES], d.turns
        of_blocks = carray(as_pointer(desk[dk.LIVE]), b + 1, np.int64)
        live = of_blocks[b]
        control = carray(as_pointer(meta[dr.CONTROL]), (meta[dr.GROUPS], wide), np.float64)
        line = control[d.row]
        ends = cast((line[low], line[high]), real)
        rates = carray(as_pointer(desk[dk.RATES]), begin + steps + 1, np.float64)
        skip, size = first * turns * bytes_x, turns * bytes_x
        x_at, g_at = at[pl.P] + skip, at[pl.G] + skip
        f_at, numbers_at = d.values + 8 * first, desk[dk.ORDER] + 8 * first
        looking, number = desk[dk.FIRST] != 0 and begin == 0, desk[dk.DONE] + begin
        it = np.int64(0)
        while live > 0 and (looking or it < steps):
            if not looking:
                if d.before != 0:
                    copy_words(d.before + skip, x_at, live * size // 4)
                step(meta, desk, d, at, b, first, live, begin, it)
                number += 1
            failed = call7(d.fun, live, x_at, g_at, f_at, numbers_at, d.dims, args_at)
            if failed != 0:
                give_up(desk, first, live, number)
                break
            live = look_all(
                meta, desk, d, at, ends, tolerances, first, live, number, rates[begin + it]
            )
            it = it if looking else it + 1
            looking = False
        of_blocks[b] = live

    return wrap(block)


def make_kernels(plan: Plan, name: str, own_lr: bool) -> tuple[Kernel, Kernel]:
    """Some iterations of some blocks, serial and parallel over blocks."""
    wrap = jit_once
    tabulate, block = make_tabulate(plan, wrap), _make_block(plan, own_lr, wrap)
    close, any_live = make_close(plan, wrap), wrap(_any_live)

    def twin(each: Any) -> Kernel:
        def kernel(meta_at, desk_at, args_at):
            meta = carray(as_pointer(meta_at), dr.META, np.int64)
            desk = carray(as_pointer(desk_at), dk.DESK, np.int64)
            begin = steps = np.int64(0)
            going = True
            while going:  # so few steps at a time that their scalars stay in the first cache
                begin += steps
                left = desk[dk.STEPS] - begin
                steps = left if left < desk[dk.INNER] else desk[dk.INNER]
                tabulate(meta, desk, begin, steps)
                for b in each(desk[dk.TO] - desk[dk.FROM]):
                    block(desk[dk.FROM] + int64(b), meta, desk, args_at, begin, steps)
                # the last of several groups goes on, though all of its own have stopped: it
                # brings t and the running products to where the others are
                all_groups = desk[dk.LAST] != 0 and desk[dk.PROBLEMS] > 1
                going = left > steps and desk[dk.FAILED] == 0 and (any_live(desk) or all_groups)
            if desk[dk.LAST] != 0:
                close(meta, desk, begin, steps)
                desk[dk.FIRST] = 0
            return 0

        kernel.__qualname__ = f"{name}.{'serial' if each is range else 'parallel'}.kernel"
        return kernel

    return twin(range), twin(prange)


def _any_live(desk):
    of_blocks = carray(as_pointer(desk[dk.LIVE]), desk[dk.TO], np.int64)
    live = 0
    for b in range(desk[dk.FROM], desk[dk.TO]):
        live += of_blocks[b]
    return live > 0
