"""The scalars of the steps in a batch: for all problems at once, or for one with its own."""

from __future__ import annotations

from typing import Any

import numpy as np

from numadam._core import norms
from numadam._core import options as op
from numadam._core.plan import Plan
from numadam._core.products import make_advance_row, make_products, product_width
from numadam._core.scalars import make_fill_row, width_of
from numadam._cpu.parts import make_control_of, make_products_of
from numadam._jit.pointers import array_at


def make_tabulate(plan: Plan, wrap: Any) -> Any:
    """``tabulate(meta, batch, begin, steps)``: the scalars of some steps, for all problems."""
    fill_row, advance_row = make_fill_row(plan), make_advance_row(plan, wrap)
    control_of, products_of = make_control_of(plan), make_products_of(plan)
    find_products, width, count = make_products(plan), width_of(plan), product_width(plan)

    def tabulate(meta, batch, begin, steps):
        changing, group, t = batch.changing, batch.group, meta.steps + begin
        most = batch.table_steps
        row, now = control_of(meta)[group], products_of(meta)[group]
        rows = array_at(batch.scalars, (steps, width), np.float64)
        rates = array_at(batch.rates, begin + steps, np.float64)
        products = array_at(batch.products, (most + 1, count), np.float64)
        columns = array_at(batch.columns, changing, np.int64)
        changes = array_at(batch.changes, (begin + steps, changing), np.float64)
        for i in range(count):  # the last of the steps before, or those of the state
            products[0, i] = products[most, i] if begin > 0 else now[i]
        for it in range(steps):
            for c in range(changing):
                row[columns[c]] = changes[begin + it, c]
            find_products(products[it], row, float(t + 1 + it))
            fill_row(rows[it], row, products[it], rates[begin + it], float(t + 1 + it), 1.0)
            for i in range(count):
                products[it + 1, i] = products[it, i]
            advance_row(products[it + 1])

    return wrap(tabulate)


def scratch_size(plan: Plan, numbers: int) -> int:
    """Numbers of scratch of a block: control row, scalars, partial sums."""
    return op.RULE + plan.rule.width + width_of(plan) + int(norms.words(numbers))


def make_control_row(plan: Plan, wrap: Any) -> Any:
    """``control_row(row, meta, batch, begin, it)``: write that of a step into a row.

    Schedules besides lr have changed the control block itself to the last step of the table.
    """
    wide, control_of = op.RULE + plan.rule.width, make_control_of(plan)

    def control_row(row, meta, batch, begin, it):
        changing, group, control = batch.changing, batch.group, control_of(meta)
        columns = array_at(batch.columns, changing, np.int64)
        changes = array_at(batch.changes, (batch.steps, changing), np.float64)
        for c in range(wide):
            row[c] = control[group, c]
        for c in range(changing):
            row[columns[c]] = changes[begin + it, c]

    return wrap(control_row)


def make_own_scalars(plan: Plan, wrap: Any) -> Any:
    """``own_scalars(out, ...)``: write the scalars of a problem with an lr of its own."""
    fill_row, count = make_fill_row(plan), product_width(plan)

    def own_scalars(out, control, meta, batch, problem, begin, it):
        lr = array_at(batch.own_lr, batch.problems, np.float64)[problem]
        products = array_at(batch.products, (it + 1, count), np.float64)
        t = float(meta.steps + 1 + begin + it)
        fill_row(out, control, products[it], lr, t, 1.0)

    return wrap(own_scalars)


def shared_scalars(out, control, meta, batch, problem, begin, it):
    """Nothing: all problems share the scalars of the step."""


def make_advance_batch(plan: Plan, wrap: Any) -> Any:
    """``advance(meta, batch, begin, steps)``: t and the products after these steps."""
    count, products_of = product_width(plan), make_products_of(plan)

    def advance(meta, batch, begin, steps):
        taken = steps
        if batch.problems == 1:  # it may have stopped earlier
            taken = array_at(batch.nit, 1, np.int64)[0] - batch.done - begin
        now = products_of(meta)[batch.group]
        after = array_at(batch.products, (batch.table_steps + 1, count), np.float64)
        for i in range(count):
            now[i] = after[taken, i]
        batch.taken = begin + taken
        meta.steps += begin + taken

    return wrap(advance)
