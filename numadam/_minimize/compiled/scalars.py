"""The scalars of the steps in a batch: for all problems at once, or for one with its own."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import carray

from numadam._core import norms
from numadam._core import options as op
from numadam._core.element import make_norm_gradient
from numadam._core.plan import Plan
from numadam._core.scalars import make_advance_row, make_fill_row, tiny, width_of
from numadam._cpu import validate as dr
from numadam._jit.pointers import as_pointer
from numadam._minimize.compiled import desk as dk


def make_tabulate(plan: Plan, wrap: Any) -> Any:
    """``tabulate(meta, desk, begin, steps)``: the scalars of some steps, for all problems."""
    fill_row, advance_row = make_fill_row(plan), make_advance_row(plan, wrap)
    wide, width, count = op.RULE + plan.rule.width, width_of(plan), len(plan.products)

    def tabulate(meta, desk, begin, steps):
        changing, t = desk[dk.COUNT], meta[dr.STEPS] + begin
        control = carray(as_pointer(meta[dr.CONTROL]), (meta[dr.GROUPS], wide), np.float64)
        now = carray(as_pointer(meta[dr.PRODUCTS]), (meta[dr.GROUPS], count), np.float64)
        row, line = control[desk[dk.ROW]], desk[dk.ROW]
        rows = carray(as_pointer(desk[dk.ROWS]), (steps, width), np.float64)
        rates = carray(as_pointer(desk[dk.RATES]), begin + steps, np.float64)
        products = carray(as_pointer(desk[dk.PRODUCTS]), (desk[dk.INNER] + 1, count), np.float64)
        columns = carray(as_pointer(desk[dk.COLUMNS]), changing, np.int64)
        values = carray(as_pointer(desk[dk.CHANGING]), (begin + steps, changing), np.float64)
        for i in range(count):  # the last of the steps before, or those of the state
            products[0, i] = products[desk[dk.INNER], i] if begin > 0 else now[line, i]
        for it in range(steps):
            for c in range(changing):
                row[columns[c]] = values[begin + it, c]
            fill_row(rows[it], row, products[it], rates[begin + it], float(t + 1 + it), 1.0)
            for i in range(count):
                products[it + 1, i] = products[it, i]
            advance_row(products[it + 1], row, float(t + 1 + it))

    return wrap(tabulate)


def make_line(plan: Plan, wrap: Any) -> Any:
    """``line(meta, desk, room, begin, it)``: the control row of a step, in a block's memory.

    Schedules besides lr have changed the row itself to the last step of the table.
    """
    wide = op.RULE + plan.rule.width

    def line(meta, desk, room, begin, it):
        changing = desk[dk.COUNT]
        control = carray(as_pointer(meta[dr.CONTROL]), (meta[dr.GROUPS], wide), np.float64)
        columns = carray(as_pointer(desk[dk.COLUMNS]), changing, np.int64)
        values = carray(as_pointer(desk[dk.CHANGING]), (desk[dk.STEPS], changing), np.float64)
        row = room[:wide]
        for c in range(wide):
            row[c] = control[desk[dk.ROW], c]
        for c in range(changing):
            row[columns[c]] = values[begin + it, c]
        return row

    return wrap(line)


def make_own(plan: Plan, wrap: Any) -> Any:
    """``own(...) -> scratch``: the scalars of a problem with an lr of its own."""
    fill_row, count = make_fill_row(plan), len(plan.products)
    wide, width = op.RULE + plan.rule.width, width_of(plan)

    def own(meta, desk, room, problem, begin, it, shared):
        lr = carray(as_pointer(desk[dk.OWN_LR]), desk[dk.PROBLEMS], np.float64)[problem]
        products = carray(as_pointer(desk[dk.PRODUCTS]), (it + 1, count), np.float64)
        t = float(meta[dr.STEPS] + 1 + begin + it)
        out = room[wide : wide + width]
        fill_row(out, room[:wide], products[it], lr, t, 1.0)
        return out

    return wrap(own)


def no_own(meta, desk, room, problem, begin, it, shared):
    """The scalars that all problems share."""
    return shared


def make_clip(plan: Plan, wrap: Any) -> Any:
    """``clip(row, n, x, g, low, high, k, partials, factors)``: a problem's clip factor."""
    if not plan.norm:
        return wrap(_no_clip)
    ranged, small = plan.real == np.float64, tiny(plan.real)
    block = norms.make_block(make_norm_gradient(plan, wrap), wrap, scaled=ranged)
    column = op.COLUMN.clip_norm if plan.norm == "all" else op.COLUMN.clip_array_norm
    margin = op.COLUMN.margin

    def clip(row, n, x, g, low, high, k, partials, factors):
        exponent, blocks = 0, norms.blocks(n)
        while True:
            for b in range(blocks):
                e = b * norms.NORM_BLOCK
                m = n - e if n - e < norms.NORM_BLOCK else norms.NORM_BLOCK
                if ranged:
                    scale = norms.power(-exponent)
                    partials[b] = block(e, m, x, g, None, low, high, (k, scale))
                else:
                    partials[b] = block(e, m, x, g, None, low, high, k)
            total = norms.combine(partials, 0, blocks)
            if not ranged or exponent != 0:
                break
            exponent = norms.exponent_of(total)
            if exponent == 0:
                break
        pre, factor = norms.clip_factor(total, exponent, row[column], row[margin], small)
        factors[0, 0], factors[1, 0] = pre, factor

    return wrap(clip)


def _no_clip(row, n, x, g, low, high, k, partials, factors):
    return None


def make_close(plan: Plan, wrap: Any) -> Any:
    """``close(meta, desk, begin, steps)``: t and the running products after these steps."""
    count = len(plan.products)

    def close(meta, desk, begin, steps):
        taken = steps
        if desk[dk.PROBLEMS] == 1:  # it may have stopped earlier
            taken = carray(as_pointer(desk[dk.NIT]), 1, np.int64)[0] - desk[dk.DONE] - begin
        now = carray(as_pointer(meta[dr.PRODUCTS]), (meta[dr.GROUPS], count), np.float64)
        after = carray(as_pointer(desk[dk.PRODUCTS]), (desk[dk.INNER] + 1, count), np.float64)
        for i in range(count):
            now[desk[dk.ROW], i] = after[taken, i]
        desk[dk.TAKEN] = begin + taken
        meta[dr.STEPS] += begin + taken

    return wrap(close)
