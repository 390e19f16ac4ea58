"""The compiled minimisation of many problems, vectorised across the problems.

`lanes` problems make a packet. Its x, gradient and state lie as (element, lane), so that the
element update, the stop tests and the objective run over the lanes of an element, which the
compiler vectorises. A block is some packets, evaluated by one call, and stepped as one flat array::

    block 0                                        block 1
    | packet 0          | packet 1          | ... |  | packet ...
    | x0 .. | x1 .. |  | x0 .. | x1 .. |        |  |

Problems that run are the first ones of their block: one that stops is written to its place in the
result, and the last one that runs takes its position, so that it costs nothing any more. Lanes
behind them are stepped, but nobody reads them. Elements depend on nothing but their own problem,
so neither the other problems, their order nor threads change a bit.

With one lane to a packet each problem is contiguous: for large problems, which vectorise by
themselves, for few of them, for objectives that take no strided x, and where problems have scalars
of their own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numba import int64, prange
from numba.np.unsafe.ndarray import to_fixed_tuple

from numadam._core import norms
from numadam._core import options as op
from numadam._core import plan as pl
from numadam._core.element import make_norm_gradient
from numadam._core.plan import Plan
from numadam._core.scalars import (
    make_advance_row,
    make_fill_row,
    make_products,
    make_scalars,
    product_width,
    tiny,
    width_of,
)
from numadam._cpu.denormals import make_settle
from numadam._cpu.kernel import make_run
from numadam._cpu.parts import leaves_of, make_control_of, make_leaf_views, make_products_of
from numadam._cpu.records import META
from numadam._jit.calls import call7
from numadam._jit.functions import linked
from numadam._jit.pointers import array_at, record_at
from numadam._minimize.lanes.stop_tests import LANES, RESULTS, VALUES, BlockState, make_test_packet
from numadam._minimize.stopping import RAISED, RUNNING, make_ends

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


# --- scalars of the steps ------------------------------------------------------------------------


def make_fill_steps(plan: Plan) -> Any:
    """``fill_steps(rows, products, control, rates, columns, changes, t)``: the scalars after t.

    Of as many steps as `rows` has. `products` are those before each step; the first are given.
    """
    fill_row, advance_row = make_fill_row(plan), make_advance_row(plan)
    find_products, count = make_products(plan), product_width(plan)

    def fill_steps(rows, products, control, rates, columns, changes, t):
        for it in range(len(rows)):
            for c in range(len(columns)):
                control[columns[c]] = changes[it, c]
            find_products(products[it], control, float(t + 1 + it))
            fill_row(rows[it], control, products[it], rates[it], float(t + 1 + it))
            for i in range(count):
                products[it + 1, i] = products[it, i]
            advance_row(products[it + 1])

    return linked(fill_steps)


def make_tabulate(plan: Plan) -> Any:
    """``tabulate(meta, batch, begin, steps)``: the scalars of some steps, for all problems."""
    control_of, products_of = make_control_of(plan), make_products_of(plan)
    fill_steps, width, count = make_fill_steps(plan), width_of(plan), product_width(plan)

    def tabulate(meta, batch, begin, steps):
        changing, group, most = batch.changing, batch.group, batch.table_steps
        rows = array_at(batch.scalars, (steps, width), np.float64)
        rates = array_at(batch.rates + 8 * begin, steps, np.float64)
        products = array_at(batch.products, (most + 1, count), np.float64)
        columns = array_at(batch.columns, changing, np.int64)
        changes = array_at(batch.changes + 8 * begin * changing, (steps, changing), np.float64)
        control, now = control_of(meta)[group], products_of(meta)[group]
        for i in range(count):  # the last of the steps before, or those of the state
            products[0, i] = products[most, i] if begin > 0 else now[i]
        fill_steps(rows, products, control, rates, columns, changes, meta.steps + begin)

    return linked(tabulate)


def scratch_size(plan: Plan, numbers: int) -> int:
    """Numbers of scratch of a block: control row, scalars, partial sums."""
    return op.RULE + plan.rule.width + width_of(plan) + int(norms.words(numbers))


def make_control_row(plan: Plan) -> Any:
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

    return linked(control_row)


def make_own_scalars(plan: Plan) -> Any:
    """``own_scalars(out, ...)``: write the scalars of a problem with an lr of its own."""
    fill_row, count = make_fill_row(plan), product_width(plan)

    def own_scalars(out, control, meta, batch, problem, begin, it):
        lr = array_at(batch.own_lr, batch.problems, np.float64)[problem]
        products = array_at(batch.products, (it + 1, count), np.float64)
        t = float(meta.steps + 1 + begin + it)
        fill_row(out, control, products[it], lr, t)

    return linked(own_scalars)


def shared_scalars(out, control, meta, batch, problem, begin, it):
    """Nothing: all problems share the scalars of the step."""


def make_advance_batch(plan: Plan) -> Any:
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

    return linked(advance)


# --- problems that stop --------------------------------------------------------------------------


def _copy_words(to_at, to_step, of_at, of_step, count, words):
    """Copy `count` elements of so many words, which lie `step` words apart."""
    to = array_at(to_at, count * to_step, np.uint32)
    of = array_at(of_at, count * of_step, np.uint32)
    for i in range(count):
        for w in range(words):
            to[i * to_step + w] = of[i * of_step + w]


def _move_values(batch, problem, position, last, number):
    """Write the result of a problem that stops, and move the last one, as far as numbers go."""
    positions, problems = batch.positions, batch.problems
    values = array_at(batch.values, (VALUES, positions), np.float64)
    result = array_at(batch.result, (RESULTS, problems), np.float64)
    tests = array_at(batch.tests, positions, np.int64)
    array_at(batch.codes, problems, np.int64)[problem] = tests[position]
    array_at(batch.nit, problems, np.int64)[problem] = number
    for row in range(VALUES):
        if row < RESULTS:
            result[row, problem] = values[row, position]
        values[row, position] = values[row, last]
    if batch.own_lr != 0:
        own_lr = array_at(batch.own_lr, positions, np.float64)
        own_lr[position] = own_lr[last]


def make_retire(plan: Plan, lanes: int) -> Any:
    """``retire(meta, batch, position, last, number)``: a problem has stopped.

    Its results are written to the place of its number, and the problem at `last` moves to its
    position.
    """
    slots = tuple(slot for slot in range(pl.SLOTS) if plan.has(slot))
    item = tuple(plan.stride(slot) * plan.unit // 4 for slot in slots)
    kept = tuple({pl.P: 0, pl.AVERAGE: 3}.get(slot, -1) for slot in slots)
    item_x, copy, count = item[0], linked(_copy_words), len(slots)
    move_values = linked(_move_values)

    def retire(meta, batch, position, last, number):
        # seldom: all arrays go through one call, which LLVM would otherwise copy to each place
        n, at = batch.elements, leaves_of(meta)[0].address
        order = array_at(batch.order, batch.positions, np.int64)
        problem = order[position]
        rows = array_at(batch.rows, 4, np.int64)
        here = position // lanes * n * lanes + position % lanes
        there = last // lanes * n * lanes + last % lanes
        for s in range(count + 3):
            words, row, first = item_x, s - count + 1, batch.best
            if s < count:
                words, row, first = item[s], kept[s], at[slots[s]]
            elif s == count + 1:
                first = batch.best_g
            elif s > count:
                row, first = -1, batch.firsts
            step, mine, other = words * lanes, first + 4 * words * here, first + 4 * words * there
            if row >= 0:
                copy(rows[row] + 4 * words * n * problem, words, mine, step, n, words)
            if position != last:
                copy(mine, step, other, step, n, words)
        move_values(batch, problem, position, last, number)
        order[position] = order[last]

    return linked(retire)


def make_retire_block(plan: Plan, lanes: int) -> Any:
    """``retire_block(meta, batch, first, live, number) -> live``: all that have stopped."""
    retire = make_retire(plan, lanes)

    def retire_block(meta, batch, first, live, number):
        tests = array_at(batch.tests, first + live, np.int64)
        for position in range(first + live - 1, first - 1, -1):
            if tests[position] != RUNNING:
                live -= 1
                retire(meta, batch, position, first + live, number)
        return live

    return linked(retire_block)


# --- the loop ------------------------------------------------------------------------------------


Kernel = Callable[..., Any]


def _make_step(plan: Plan) -> Any:
    """``step(meta, batch, d, leaf, block, first, filled, begin, it)``: a block's live packets.

    `filled` are the positions from `first` on to the end of the last packet with a live problem.
    """
    run, views = make_run(plan), make_leaf_views(plan, False)
    scalars, width, settle = make_scalars(plan), width_of(plan), make_settle(plan)

    def step(meta, batch, d, leaf, block, first, filled, begin, it):
        row = array_at(d.scalars + 8 * width * it, width, np.float64)
        h, k = scalars(row, 1.0, 1.0)
        begins, n = first * d.updates, filled * d.updates
        run(n, *views(leaf, begins, begins, n), h, k)
        settle(meta, leaf, begins, n, meta.steps + 1 + begin + it)

    return linked(step, forceinline=True)


def _make_step_each(plan: Plan, own_lr: bool) -> Any:
    """As `_make_step`, one lane to a packet, where each problem has an lr or a clip of its own."""
    run, views = make_run(plan), make_leaf_views(plan, False)
    scalars, width, settle = make_scalars(plan), width_of(plan), make_settle(plan)
    clip, control_row = make_clip(plan), make_control_row(plan)
    own_scalars = make_own_scalars(plan) if own_lr else linked(shared_scalars)
    wide, normed = op.RULE + plan.rule.width, plan.norm != ""
    least = scratch_size(plan, 0) - int(norms.words(0))  # without the partial sums

    def step(meta, batch, d, leaf, block, first, filled, begin, it):
        updates, n = d.updates, d.numbers
        scratch_at = d.scratch + 8 * block * (least + norms.words(n))
        control = array_at(scratch_at, wide, np.float64)
        given_at = scratch_at + 8 * wide if own_lr else d.scalars + 8 * width * it
        given = array_at(given_at, width, np.float64)
        partials = array_at(scratch_at + 8 * least, norms.words(n), np.int64)
        control_row(control, meta, batch, begin, it)
        for row in range(first, first + filled):
            own_scalars(given, control, meta, batch, row, begin, it)
            slots = views(leaf, row * updates, row * updates, updates)
            pre = factor = 1.0
            if normed:
                _, k = scalars(given, 1.0, 1.0)
                pre, factor = clip(control, n, slots, k, partials)
            h, k = scalars(given, pre, factor)
            run(updates, *slots, h, k)
            settle(meta, leaf, row * updates, updates, meta.steps + 1 + begin + it)

    return linked(step, forceinline=True)


def _copy_memory(to_at, of_at, count):
    to = array_at(to_at, count, np.uint32)
    of = array_at(of_at, count, np.uint32)
    for i in range(count):
        to[i] = of[i]


def _count_iterations(batch, first, live, number, failed):
    """Note how far the problems that run have come, and whether the objective raised."""
    problems = batch.problems
    order = array_at(batch.order, first + live, np.int64)
    counts = array_at(batch.nit, problems, np.int64)
    codes = array_at(batch.codes, problems, np.int64)
    if failed:
        batch.failed = 1
    for position in range(first, first + live):
        counts[order[position]] = number
        if failed:
            codes[order[position]] = RAISED


def _make_block(plan: Plan, lanes: int, own_lr: bool, norm: float) -> Any:
    """``block(b, meta_at, batch_at, args_at, begin, steps)``: some iterations of a block.

    Long, for the loop needs what lies in memory as values, read once before it.
    """
    each = own_lr or plan.norm != ""
    test_packet, control_of = make_test_packet(plan, lanes, norm), make_control_of(plan)
    retire_block = make_retire_block(plan, lanes)
    step = _make_step_each(plan, own_lr) if each else _make_step(plan)
    copy_memory, count_iterations = linked(_copy_memory), linked(_count_iterations)
    low, high = op.COLUMN.low, op.COLUMN.high
    make_box = make_ends(plan.bounds, plan.real)
    bytes_x, values = plan.stride(pl.P), len(BlockState._fields)

    def block(b, meta_at, batch_at, args_at, begin, steps):
        meta, batch = record_at(meta_at, META), record_at(batch_at, LANES)
        # as a tuple: what lies in memory would be read again after everything that is written
        d = BlockState(*to_fixed_tuple(array_at(batch_at, values, np.int64), values))
        leaf = leaves_of(meta)[0]
        tolerances = to_fixed_tuple(array_at(batch.tolerances, 4, np.float64), 4)
        row = control_of(meta)[batch.group]
        ends = make_box(row[low], row[high])
        first = b * batch.block
        of_blocks = array_at(batch.live, b + 1, np.int64)
        live = of_blocks[b]
        size = d.updates * bytes_x
        skip = first * size
        x_at, g_at = leaf.address[pl.P] + skip, leaf.address[pl.G] + skip
        f_at, order_at = d.values + 8 * first, batch.order + 8 * first
        # -1: x0 is evaluated, and no step taken
        it = np.int64(-1 if batch.at_start != 0 and begin == 0 else 0)
        number, failed = batch.done + begin, np.int64(0)
        while live > 0 and it < steps:
            filled = (live + lanes - 1) // lanes * lanes
            if it >= 0:
                if d.before != 0:
                    copy_memory(d.before + skip, x_at, filled * size // 4)
                step(meta, batch, d, leaf, b, first, filled, begin, it)
                number += 1
            failed = call7(d.fun, live, x_at, g_at, f_at, order_at, d.shape, args_at)
            if failed != 0:
                break
            stopped = np.int64(0)
            for place in range(first, first + live, lanes):
                count = min(lanes, first + live - place)
                stopped |= test_packet(d, leaf, ends, tolerances, place, count, number)
            if stopped != 0:
                live = retire_block(meta, batch, first, live, number)
            it += 1
        count_iterations(batch, first, live, number, failed != 0)
        of_blocks[b] = live

    return linked(block)


def make_kernels(
    plan: Plan, lanes: int, own_lr: bool, norm: float, name: str
) -> tuple[Kernel, Kernel]:
    """``kernel(meta_at, batch_at, args_at)``: some iterations of some blocks.

    Serial, and parallel over blocks.
    """
    tabulate = make_tabulate(plan)
    block = _make_block(plan, lanes, own_lr, norm)
    # a call, for Numba may move a parallel loop past what only reads fields
    advance, goes_on = make_advance_batch(plan), linked(_goes_on)

    def make_kernel(each: Any) -> Kernel:
        def kernel(meta_at, batch_at, args_at):
            meta, batch = record_at(meta_at, META), record_at(batch_at, LANES)
            first, end = batch.first_block, batch.end_block
            begin = steps = np.int64(0)
            going = True
            while going:  # so few steps at a time that their scalars stay in the cache
                begin += steps
                left = batch.steps - begin
                steps = left if left < batch.table_steps else batch.table_steps
                tabulate(meta, batch, begin, steps)
                for b in each(end - first):
                    block(first + int64(b), meta_at, batch_at, args_at, begin, steps)
                going = goes_on(batch) and left > steps
            if batch.last != 0:
                advance(meta, batch, begin, steps)
                batch.at_start = 0
            return 0

        kernel.__qualname__ = f"{name}.{'serial' if each is range else 'parallel'}.kernel"
        return kernel

    return make_kernel(range), make_kernel(prange)


def _goes_on(batch):
    """Whether a block has a problem that still runs, and none has failed."""
    if batch.failed != 0:
        return False
    # the call with the last blocks goes on, though all of its own have stopped: it brings t and the
    # running products to where the others are
    if batch.last != 0 and batch.problems > 1:
        return True
    of_blocks = array_at(batch.live, batch.end_block, np.int64)
    live = 0
    for b in range(batch.first_block, batch.end_block):
        live += of_blocks[b]
    return live > 0
