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
from numadam._cpu.parts import make_control_of, make_products_of
from numadam._jit.pointers import as_pointer


def make_tabulate(plan: Plan, wrap: Any) -> Any:
    """``tabulate(meta, batch, begin, steps)``: the scalars of some steps, for all problems."""
    fill_row, advance_row = make_fill_row(plan), make_advance_row(plan, wrap)
    control_of, products_of = make_control_of(plan), make_products_of(plan)
    width, count = width_of(plan), len(plan.products)

    def tabulate(meta, batch, begin, steps):
        changing, group, t = batch.changing, batch.group, meta.steps + begin
        most = batch.table_steps
        row, now = control_of(meta)[group], products_of(meta)[group]
        rows = carray(as_pointer(batch.scalars), (steps, width), np.float64)
        rates = carray(as_pointer(batch.rates), begin + steps, np.float64)
        products = carray(as_pointer(batch.products), (most + 1, count), np.float64)
        columns = carray(as_pointer(batch.columns), changing, np.int64)
        changes = carray(as_pointer(batch.changes), (begin + steps, changing), np.float64)
        for i in range(count):  # the last of the steps before, or those of the state
            products[0, i] = products[most, i] if begin > 0 else now[i]
        for it in range(steps):
            for c in range(changing):
                row[columns[c]] = changes[begin + it, c]
            fill_row(rows[it], row, products[it], rates[begin + it], float(t + 1 + it), 1.0)
            for i in range(count):
                products[it + 1, i] = products[it, i]
            advance_row(products[it + 1], row, float(t + 1 + it))

    return wrap(tabulate)


def scratch_size(plan: Plan, numbers: int) -> int:
    """Numbers of scratch of a block: control row, scalars, partial sums, two clip factors."""
    wide = op.RULE + plan.rule.width
    return wide + width_of(plan) + int(norms.blocks(numbers)) + 2


def make_control_row(plan: Plan, wrap: Any) -> Any:
    """``control_row(meta, batch, scratch, begin, it)``: that of a step, in a block's scratch.

    Schedules besides lr have changed the control block itself to the last step of the table.
    """
    wide, control_of = op.RULE + plan.rule.width, make_control_of(plan)

    def control_row(meta, batch, scratch, begin, it):
        changing, group, control = batch.changing, batch.group, control_of(meta)
        columns = carray(as_pointer(batch.columns), changing, np.int64)
        changes = carray(as_pointer(batch.changes), (batch.steps, changing), np.float64)
        row = scratch[:wide]
        for c in range(wide):
            row[c] = control[group, c]
        for c in range(changing):
            row[columns[c]] = changes[begin + it, c]
        return row

    return wrap(control_row)


def make_own_scalars(plan: Plan, wrap: Any) -> Any:
    """``own_scalars(...) -> row``: the scalars of a problem with an lr of its own, in scratch."""
    fill_row, count = make_fill_row(plan), len(plan.products)
    wide, width = op.RULE + plan.rule.width, width_of(plan)

    def own_scalars(meta, batch, scratch, problem, begin, it, shared):
        lr = carray(as_pointer(batch.own_lr), batch.problems, np.float64)[problem]
        products = carray(as_pointer(batch.products), (it + 1, count), np.float64)
        t = float(meta.steps + 1 + begin + it)
        out = scratch[wide : wide + width]
        fill_row(out, scratch[:wide], products[it], lr, t, 1.0)
        return out

    return wrap(own_scalars)


def shared_scalars(meta, batch, scratch, problem, begin, it, shared):
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


def make_advance_batch(plan: Plan, wrap: Any) -> Any:
    """``advance(meta, batch, begin, steps)``: t and the running products after these steps."""
    count, products_of = len(plan.products), make_products_of(plan)

    def advance(meta, batch, begin, steps):
        taken = steps
        if batch.problems == 1:  # it may have stopped earlier
            taken = carray(as_pointer(batch.nit), 1, np.int64)[0] - batch.done - begin
        now = products_of(meta)[batch.group]
        after = carray(as_pointer(batch.products), (batch.table_steps + 1, count), np.float64)
        for i in range(count):
            now[i] = after[taken, i]
        batch.taken = begin + taken
        meta.steps += begin + taken

    return wrap(advance)
