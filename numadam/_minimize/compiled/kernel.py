"""The compiled minimisation of many problems side by side; one problem is a batch of one.

A block of problems is evaluated by one call, tested one by one, and stepped as one array: all
have taken equally many steps. A problem that has stopped changes places with the last one that
runs, so that it costs nothing any more. Elements depend on nothing but their own problem, so
neither the other problems, order nor threads change a bit.

x, gradient and state have one row a problem, and the live ones of a block lie together::

    block 0                     block 1
    | live ... | stopped ... |  | live ... | stopped ... |
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
from numadam._cpu.kernel import make_run
from numadam._cpu.parts import leaves_of, make_control_of, make_views
from numadam._cpu.records import META
from numadam._jit.functions import cast, jit_once
from numadam._jit.pointers import as_pointer, record_at
from numadam._minimize.compiled.calls import call7
from numadam._minimize.compiled.records import BATCH
from numadam._minimize.compiled.scalars import (
    make_advance_batch,
    make_clip,
    make_control_row,
    make_own_scalars,
    make_tabulate,
    scratch_size,
    shared_scalars,
)
from numadam._minimize.compiled.stop_tests import BlockState, make_test_block
from numadam._minimize.stopping import RAISED

Kernel = Callable[..., Any]


def _make_update_span(plan: Plan, wrap: Any) -> Any:
    """``update_span(at, h, k, first, n)``: n element updates from number `first` on.

    `at` are the addresses of all slots, as a tuple: from memory they would be loaded again.
    """
    run = make_run(plan, wrap)
    (vp, vg, v0, v1, v2, _, _, va, vl, vh, vr, _), b, c = make_views(plan)

    def update_span(at, h, k, e, n):
        p, g = vp(at[0] + e * b[0], n * c[0]), vg(at[1] + e * b[1], n * c[1])
        s0, s1 = v0(at[2] + e * b[2], n * c[2]), v1(at[3] + e * b[3], n * c[3])
        s2, average = v2(at[4] + e * b[4], n * c[4]), va(at[7] + e * b[7], n * c[7])
        low, high = vl(at[8] + e * b[8], n * c[8]), vh(at[9] + e * b[9], n * c[9])
        rate = vr(at[10] + e * b[10], n * c[10])
        run(n, p, g, s0, s1, s2, None, None, average, low, high, rate, None, h, k)

    return wrap(update_span, forceinline=True)


def _make_step(plan: Plan, wrap: Any) -> Any:
    """``step(meta, batch, d, at, block, first, live, begin, it)``: a block's live problems."""
    update_span, width = _make_update_span(plan, wrap), width_of(plan)
    scalars = make_scalars(plan)

    def step(meta, batch, d, at, block, first, live, begin, it):
        row = carray(as_pointer(d.scalars + 8 * width * it), width, np.float64)
        factors = carray(as_pointer(d.factors), (3, 1), np.float64)
        h, k = scalars(row, factors, 0)
        update_span(at, h, k, first * d.updates, live * d.updates)

    return wrap(step, forceinline=True)


def _make_step_each(plan: Plan, own_lr: bool, wrap: Any) -> Any:
    """As `_make_step` where each problem has scalars of its own: an lr, or a clip factor."""
    update_span, width = _make_update_span(plan, wrap), width_of(plan)
    scalars = make_scalars(plan)
    clip, control_row = make_clip(plan, wrap), make_control_row(plan, wrap)
    own_scalars = make_own_scalars(plan, wrap) if own_lr else wrap(shared_scalars)
    views, b, _ = make_views(plan)
    vp, vg, vl, vh = (views[slot] for slot in (pl.P, pl.G, pl.LOW, pl.HIGH))
    # what scratch holds besides the partial sums: control row and scalars before, factors after
    before, normed = op.RULE + plan.rule.width + width, plan.norm != ""
    least = scratch_size(plan, 0)

    def step(meta, batch, d, at, block, first, live, begin, it):
        updates, n, bytes_each = d.updates, d.numbers, d.updates * b[0]
        shared = carray(as_pointer(d.scalars + 8 * width * it), width, np.float64)
        length = least + norms.blocks(n)
        scratch_at = d.scratch + 8 * block * length
        scratch = carray(as_pointer(scratch_at), length, np.float64)
        factors = carray(as_pointer(scratch_at + 8 * (length - 2)), (2, 1), np.float64)
        control = control_row(meta, batch, scratch, begin, it)
        for row in range(first, first + live):
            given = own_scalars(meta, batch, scratch, row, begin, it, shared)
            factors[0, 0] = factors[1, 0] = 1.0
            if normed:
                _, k = scalars(given, factors, 0)
                x, g = vp(at[0] + row * bytes_each, n), vg(at[1] + row * bytes_each, n)
                low, high = vl(at[8] + row * bytes_each, n), vh(at[9] + row * bytes_each, n)
                clip(control, n, x, g, low, high, k, scratch[before:], factors)
            h, k = scalars(given, factors, 0)
            update_span(at, h, k, row * updates, updates)

    return wrap(step, forceinline=True)


def _copy_words(to_at, of_at, count):
    to = carray(as_pointer(to_at), count, np.uint32)
    of = carray(as_pointer(of_at), count, np.uint32)
    for i in range(count):
        to[i] = of[i]


def _mark_failed(batch, first, live, number):
    """Mark the problems among which the objective raised."""
    batch.failed = 1
    codes = carray(as_pointer(batch.codes), first + live, np.int64)
    counts = carray(as_pointer(batch.nit), first + live, np.int64)
    for row in range(first, first + live):
        codes[row], counts[row] = RAISED, number


def _block_state(batch):
    return BlockState(
        batch.updates,
        batch.numbers,
        batch.problems,
        batch.fun,
        batch.shape,
        batch.values,
        batch.codes,
        batch.nit,
        batch.every,
        batch.before,
        batch.best,
        batch.scalars,
        batch.factors,
        batch.scratch,
    )


def _make_block(plan: Plan, own_lr: bool, wrap: Any) -> Any:
    """``block(b, meta_at, batch_at, args_at, begin, steps)``: some iterations of a block."""
    each = own_lr or plan.norm != ""
    test_block, control_of = make_test_block(plan, wrap), make_control_of(plan)
    step = _make_step_each(plan, own_lr, wrap) if each else _make_step(plan, wrap)
    copy_words, mark_failed = wrap(_copy_words), wrap(_mark_failed)
    block_state = wrap(_block_state, forceinline=True)
    low, high = op.COLUMN.low, op.COLUMN.high
    bytes_x, real, slots = plan.stride(pl.P), plan.real.type(1), pl.SLOTS

    def block(b, meta_at, batch_at, args_at, begin, steps):
        meta, batch = record_at(meta_at, META), record_at(batch_at, BATCH)
        # as tuples: what lies in memory would be read again after everything that is written
        d, at = block_state(batch), to_fixed_tuple(leaves_of(meta)[0].address, slots)
        tolerances = to_fixed_tuple(carray(as_pointer(batch.tolerances), 3, np.float64), 3)
        row = control_of(meta)[batch.group]
        ends = cast((row[low], row[high]), real)
        first = b * batch.lanes
        of_blocks = carray(as_pointer(batch.live), b + 1, np.int64)
        live = of_blocks[b]
        rates = carray(as_pointer(batch.rates), begin + steps + 1, np.float64)
        size = d.updates * bytes_x
        skip = first * size
        x_at, g_at = at[pl.P] + skip, at[pl.G] + skip
        f_at, order_at = d.values + 8 * first, batch.order + 8 * first
        # -1: x0 is evaluated, and no step taken
        it = np.int64(-1 if batch.at_start != 0 and begin == 0 else 0)
        number = batch.done + begin
        while live > 0 and it < steps:
            if it >= 0:
                if d.before != 0:
                    copy_words(d.before + skip, x_at, live * size // 4)
                step(meta, batch, d, at, b, first, live, begin, it)
                number += 1
            failed = call7(d.fun, live, x_at, g_at, f_at, order_at, d.shape, args_at)
            if failed != 0:
                mark_failed(batch, first, live, number)
                break
            lr = rates[begin + max(it, 0)]
            live = test_block(meta, batch, d, at, ends, tolerances, first, live, number, lr)
            it += 1
        of_blocks[b] = live

    return wrap(block)


def make_kernels(plan: Plan, name: str, own_lr: bool) -> tuple[Kernel, Kernel]:
    """``kernel(meta_at, batch_at, args_at)``: some iterations of some blocks.

    Serial, and parallel over blocks.
    """
    wrap = jit_once
    tabulate, block = make_tabulate(plan, wrap), _make_block(plan, own_lr, wrap)
    # a call, for Numba may move a parallel loop past what only reads fields
    advance, goes_on = make_advance_batch(plan, wrap), wrap(_goes_on)

    def make_kernel(each: Any) -> Kernel:
        def kernel(meta_at, batch_at, args_at):
            meta, batch = record_at(meta_at, META), record_at(batch_at, BATCH)
            first, end = batch.first_block, batch.end_block
            begin = steps = np.int64(0)
            going = True
            while going:  # so few steps at a time that their scalars stay in the first cache
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
    # the last of several groups goes on, though all of its own have stopped: it brings t and the
    # running products to where the others are
    if batch.last != 0 and batch.problems > 1:
        return True
    of_blocks = carray(as_pointer(batch.live), batch.end_block, np.int64)
    live = 0
    for b in range(batch.first_block, batch.end_block):
        live += of_blocks[b]
    return live > 0
