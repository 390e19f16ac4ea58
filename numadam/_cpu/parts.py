"""Parts of the compiled step: array views by address, and the scalars of every group."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import carray

from numadam._core import options as op
from numadam._core import plan as pl
from numadam._core.half import memory_dtype
from numadam._core.plan import Plan
from numadam._core.scalars import loop_start, make_advance_row, make_fill_row, width_of
from numadam._cpu.records import CPU_LEAF, META
from numadam._jit.functions import jit_once
from numadam._jit.pointers import as_pointer, inner, record_at


def _absent(address, n):
    return None


_NONE = inner(_absent)


def _view_of(memory: np.dtype[Any]) -> Any:
    def view(address, n):
        return carray(as_pointer(address), n, memory)

    return jit_once(view)


def make_views(plan: Plan) -> tuple[list[Any], tuple[int, ...], tuple[int, ...]]:
    """For each slot ``view(address, n)``, which is None where the slot is not in use.

    With them, for each slot: bytes from one iteration to the next, and numbers in an iteration.
    """
    slots = range(pl.SLOTS)
    memory = [memory_dtype(plan.storage(slot)) for slot in slots]
    there = [slot == pl.OUT or plan.has(slot) for slot in slots]
    views = [_view_of(memory[slot]) if there[slot] else _NONE for slot in slots]
    strides = tuple(plan.stride(slot) for slot in slots)
    return views, strides, tuple(strides[slot] // memory[slot].itemsize for slot in slots)


@inner
def leaves_of(meta):
    """The array of CPU_LEAF records."""
    return carray(as_pointer(meta.leaves), meta.count + 1, CPU_LEAF)


@inner
def factors_of(meta):
    """Clip factor in two steps and norm of each leaf."""
    return carray(as_pointer(meta.factors), (3, meta.count + 1), np.float64)


@inner
def find_leaf(begins, count, i):
    """The leaf that holds iteration (or block) i: `begins` is where each leaf's begin."""
    j, after = 0, count
    while after - j > 1:
        middle = (j + after) // 2
        if begins[middle] <= i:
            j = middle
        else:
            after = middle
    return j


@inner
def part_of(q, size, total):
    """Begin and end of part q where `total` is cut into parts of `size`."""
    end = q * size + size
    return q * size, end if end < total else total


def make_scalars_of(width: int) -> Any:
    """``scalars_of(meta)``: the scalars that `fill` has computed, a row for each group."""

    def scalars_of(meta):
        return carray(as_pointer(meta.scalars), (meta.groups, width), np.float64)

    return jit_once(scalars_of)


def make_control_of(plan: Plan) -> Any:
    """``control_of(meta)``: the control block, a row for each group."""
    wide = op.RULE + plan.rule.width

    def control_of(meta):
        return carray(as_pointer(meta.control), (meta.groups, wide), np.float64)

    return jit_once(control_of)


def make_products_of(plan: Plan) -> Any:
    """``products_of(meta)``: the running products, a row for each group."""
    count = len(plan.products)

    def products_of(meta):
        return carray(as_pointer(meta.products), (meta.groups, count), np.float64)

    return jit_once(products_of)


def make_fill(plan: Plan, wrap: Any) -> Any:
    """``fill(meta_at, lr)``: the scalars of every group for this step."""
    fill_row, width, scale = make_fill_row(plan), width_of(plan), loop_start(plan)
    scalars_of, control_of = make_scalars_of(width), make_control_of(plan)
    products_of = make_products_of(plan)

    def fill(meta_at, lr):
        meta = record_at(meta_at, META)
        rows, control, products = scalars_of(meta), control_of(meta), products_of(meta)
        t, n = float(meta.steps + 1), float(meta.calls + 1 - meta.flushing)
        flushing = meta.flushing != 0
        for r in range(meta.groups):
            fill_row(rows[r], control[r], products[r], lr, t, n)
            if flushing:  # of the gradients: their newest one is zero
                rows[r, scale] = 1.0

    return wrap(fill)


def make_advance(plan: Plan, wrap: Any) -> Any:
    """``advance(meta_at)``: the running products of every group after a step."""
    if not plan.products:
        return wrap(_no_products)
    advance_row = make_advance_row(plan, wrap)
    control_of, products_of = make_control_of(plan), make_products_of(plan)

    def advance(meta_at):
        meta = record_at(meta_at, META)
        control, products, t = control_of(meta), products_of(meta), float(meta.steps + 1)
        for r in range(meta.groups):
            advance_row(products[r], control[r], t)

    return wrap(advance)


def _no_products(meta_at):
    return None
