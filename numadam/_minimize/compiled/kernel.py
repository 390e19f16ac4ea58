"""The compiled minimisation of one problem: evaluate, run the stop tests, step.

An iteration is one chain, from x over the gradient, the moments, the root and the division to the
next x: about 90 cycles for two numbers. All else has to fit beside it. So the scalars of a step
are computed in the iteration itself, and wait for nothing of the chain: 28 ns an iteration, where
a table of the scalars of 64 steps, filled between two of them, made it 36. Instructions count
all the same: some 400 fit beside the chain.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from numadam._core import norms
from numadam._core import options as op
from numadam._core import plan as pl
from numadam._core.element import make_norm_gradient
from numadam._core.norms import NORM_LANES, lane_memory
from numadam._core.plan import Plan
from numadam._core.scalars import (
    LoopScalars,
    make_advance_row,
    make_fill_row,
    make_products,
    make_scalars,
    tiny,
    width_of,
)
from numadam._cpu.denormals import make_settle
from numadam._cpu.kernel import make_run
from numadam._cpu.parts import (
    leaves_of,
    make_control_of,
    make_leaf_views,
    make_products_of,
)
from numadam._cpu.records import META, NUMBER, POINTER
from numadam._jit.functions import linked
from numadam._jit.pointers import array_at, record_at, view_of
from numadam._minimize.compiled.objective import call7
from numadam._minimize.stopping import RAISED, RUNNING, make_ends, make_test

# --- memory shared with Python -------------------------------------------------------------------


REAL = np.dtype(np.float64)

#: State of one problem, and a call of its kernel, which takes some iterations.
SINGLE = np.dtype(
    [
        ("updates", NUMBER),  # element updates in a step
        ("numbers", NUMBER),  # real numbers of x
        ("group", NUMBER),  # row of the control block
        # the call at hand
        ("steps", NUMBER),  # iterations that it may take
        ("at_start", NUMBER),  # 1 as long as x0 has not been evaluated
        ("code", NUMBER),  # RUNNING, or the test that holds
        ("done", NUMBER),  # iterations of the run
        # the objective
        ("fun", POINTER),  # machine code of `evaluate`
        ("shape", POINTER),  # int64: shape of x
        ("number", POINTER),  # int64: number of the problem, 0
        ("f", POINTER),  # float64: as the objective returned it
        # the iterate
        ("f_before", REAL),  # f at the iterate tested last
        ("size", REAL),  # norm of the projected gradient there
        ("f_best", REAL),
        ("size_best", REAL),
        ("before", POINTER),  # x before the step, 0 if no test asks for it
        ("best", POINTER),  # best x, 0 if it is not tracked
        ("best_gradient", POINTER),
        ("firsts", POINTER),  # the first gradient of each number, see `share_of_own`
        # each step
        ("rates", POINTER),  # float64: lr of each step of the call
        ("rate_step", NUMBER),  # 0 if they are one number
        ("columns", POINTER),  # int64[changing]: columns of the control block with a schedule
        ("changes", POINTER),  # float64[steps, changing]: what they hold at each step
        ("changing", NUMBER),
        ("partials", POINTER),  # int64: partial sums of the gradient's norm, and its exponent
        # stop tests and history
        ("gtol", REAL),
        ("gtol_rel", REAL),
        ("first", REAL),  # norm of the first projected gradient, NaN before it is known
        ("limit", REAL),  # norm of the gradient at which the run stops
        ("ftol", REAL),
        ("xtol", REAL),
        ("history", POINTER),  # float64[capacity, 4]: iteration, f, gradient, lr
        ("every", NUMBER),  # iterations from one line of it to the next, 0: none
        ("kept", NUMBER),  # lines written
        ("capacity", NUMBER),
    ]
)


# --- the clip by norm ----------------------------------------------------------------------------


def make_clip(plan: Plan) -> Any:
    """``clip(row, n, slots, k, partials) -> pre, factor``: of a problem's gradient.

    `partials` are ``norms.words(n)`` of int64; the last is the exponent to begin with.
    """
    if not plan.norm:
        return linked(_no_clip)
    ranged, small = plan.real == np.float64, tiny(plan.real)
    block = norms.make_block(make_norm_gradient(plan, linked), linked, ranged)
    column = op.COLUMN.clip_norm if plan.norm == "all" else op.COLUMN.clip_array_norm
    margin = op.COLUMN.margin

    def clip(row, n, slots, k, partials):
        x, g, low_bounds, high_bounds = slots[pl.P], slots[pl.G], slots[pl.LOW], slots[pl.HIGH]
        blocks = norms.blocks(n)
        exponent, settled = norms.forget(partials[2 * blocks]), False
        high, low, large = 0, 0, 0.0
        while not settled:
            unit = norms.unit(exponent, ranged)
            for b in range(blocks):
                e = b * norms.NORM_BLOCK
                m = n - e if n - e < norms.NORM_BLOCK else norms.NORM_BLOCK
                block(e, m, x, g, low_bounds, high_bounds, k, unit, partials, b)
            high, low, large = norms.combine(partials, 0, blocks)
            tried = exponent
            exponent = norms.next_exponent(high, low, large, tried, ranged)
            settled = exponent == tried
        exponent = partials[2 * blocks] = norms.forget(exponent)
        total = norms.total_of(high, low, large)
        return norms.clip_factor(total, exponent, row[column], row[margin], small)

    return linked(clip)


def _no_clip(row, n, slots, k, partials):
    return 1.0, 1.0


# --- the loop ------------------------------------------------------------------------------------


def _make_update(plan: Plan) -> Any:
    """``update(n, slots, h, k)``: n element updates; `slots` are the arrays of all slots."""
    run, one, most = make_run(plan), plan.real.type(1), plan.real.type(np.inf)

    def update(n, slots, h, k):
        if k.scale == one and k.clip == most:
            # scale and clip, as constants, fold: two operations less in the chain of an iteration,
            # 6 %
            folded = LoopScalars(one, most, *k[2:])
            run(n, *slots, h, folded)
        else:
            run(n, *slots, h, k)

    return linked(update, forceinline=True)


def _make_step(plan: Plan) -> Any:
    """``step(d, slots, row, own, q, it, t)``: the step number t, `it` of this call."""
    update, scalars, fill_row = _make_update(plan), make_scalars(plan), make_fill_row(plan)
    find_products, advance_row = make_products(plan), make_advance_row(plan)
    clip = make_clip(plan)
    normed = plan.norm != ""

    def step(d, slots, row, own, q, it, t):
        lr = array_at(d.rates, it * d.rate_step + 1, np.float64)[it * d.rate_step]
        find_products(q, row, float(t))
        fill_row(own, row, q, lr, float(t))
        pre = factor = 1.0
        if normed:
            n = d.numbers
            partials = array_at(d.partials, norms.words(n), np.int64)
            _, k = scalars(own, 1.0, 1.0)
            pre, factor = clip(row, n, slots, k, partials)
        h, k = scalars(own, pre, factor)
        update(d.updates, slots, h, k)
        advance_row(q)

    return linked(step, forceinline=True)


def _keep(d, number, f, size, lr):
    """Write a line of the history."""
    if d.kept < d.capacity:
        lines = array_at(d.history, (d.capacity, 4), np.float64)
        lines[d.kept, 0], lines[d.kept, 1] = number, f
        lines[d.kept, 2], lines[d.kept, 3] = size, lr
        d.kept += 1


def _copy(to, of, n):
    for i in range(n):
        to[i] = of[i]


def _change(d, control, it):
    """Write what schedules say about a step into the control block."""
    columns = array_at(d.columns, d.changing, np.int64)
    changes = array_at(d.changes, (it + 1, d.changing), np.float64)
    for c in range(d.changing):
        control[columns[c]] = changes[it, c]


def make_kernel(plan: Plan, norm: float, name: str) -> Callable[..., Any]:
    """``kernel(meta_at, single_at, args_at)``: evaluate x0, or take some iterations.

    One function of 45 lines: what its parts return would pass through memory.
    """
    step, test, keep = _make_step(plan), make_test(norm), linked(_keep)
    make_box = make_ends(plan.bounds, plan.real)
    copy, views, view = linked(_copy), make_leaf_views(plan, False), view_of(plan.real)
    control_of, products_of = make_control_of(plan), make_products_of(plan)
    low, high, change = op.COLUMN.low, op.COLUMN.high, linked(_change)
    settle = make_settle(plan)
    wide, width = op.RULE + plan.rule.width, width_of(plan)
    if max(wide, width) > NORM_LANES:
        raise ValueError(f"{plan.rule.name}: has more scalars than fit into a row of lanes.")

    def kernel(meta_at, single_at, args_at):
        meta, d = record_at(meta_at, META), record_at(single_at, SINGLE)
        leaf = leaves_of(meta)[0]
        # made once in a call, so that no address is read anew after a store
        slots = views(leaf, 0, 0, d.updates)
        x_at, g_at = leaf.address[pl.P], leaf.address[pl.G]
        control, q = control_of(meta)[d.group], products_of(meta)[d.group]
        ends = make_box(control[low], control[high])
        # on the stack of this function, where the compiler holds them in registers, and computes
        # once in a call what no step changes: 7 % of an iteration
        row, own = (
            array_at(lane_memory(), wide, np.float64),
            array_at(lane_memory(), width, np.float64),
        )
        f_at = array_at(d.f, 1, np.float64)
        rates = array_at(d.rates, d.steps + 1, np.float64)
        n, code, number = d.numbers, RUNNING, d.done
        x, g, before = slots[0], slots[1], view(d.before, n)
        best_x, best_g = view(d.best, n), view(d.best_gradient, n)
        firsts, low_x, high_x = view(d.firsts, n), slots[pl.LOW], slots[pl.HIGH]
        it = -1 if d.at_start != 0 else 0  # -1: x0 is evaluated, and no step taken
        while it < d.steps and code == RUNNING:
            if d.changing > 0 and it >= 0:
                change(d, control, it)
            for c in range(wide):
                row[c] = control[c]
            until = it + 1 if d.changing > 0 else d.steps  # as far as the control block holds
            while it < until and code == RUNNING:
                if it >= 0:
                    if d.before != 0:
                        copy(before, x, n)
                    step(d, slots, row, own, q, it, meta.steps + 1)
                    meta.steps += 1
                    settle(meta, leaf, 0, d.updates, meta.steps)
                    number += 1
                if call7(d.fun, 1, x_at, g_at, d.f, d.number, d.shape, args_at) != 0:
                    code = RAISED
                    break
                f = f_at[0]
                later, early = number > 0, meta.steps <= 1
                code, size, _, _ = test(
                    d, n, x, g, low_x, high_x, ends, before, firsts, f, later, early
                )
                if d.best != 0 and f < d.f_best and math.isfinite(f):
                    d.f_best, d.size_best = f, size
                    copy(best_x, x, n)
                    copy(best_g, g, n)
                if d.every > 0 and (number % d.every == 0 or code != RUNNING):
                    keep(d, number, f, size, rates[max(it, 0) * d.rate_step])
                d.size = size
                it += 1
        d.code, d.done, d.at_start = code, number, 0
        return 0

    inner = linked(kernel)

    def run(meta_at, single_at, args_at):
        return inner(meta_at, single_at, args_at)

    run.__qualname__ = f"{name}.kernel"
    return run
