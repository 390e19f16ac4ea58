"""Parts of the compiled step: views of arrays by address, and the scalars of every group."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import carray

from numadam._core import options as op
from numadam._core import plan as pl
from numadam._core.half import memory_dtype
from numadam._core.plan import Plan
from numadam._core.scalars import loop_start, make_advance_row, make_fill_row, width_of
from numadam._cpu import validate as dr
from numadam._jit.functions import jit_once
from numadam._jit.pointers import as_pointer, inner


def _absent(address, n):
    return None


_NONE = inner(_absent)


def _view_of(memory: np.dtype[Any]) -> Any:
    def view(address, n):
        return carray(as_pointer(address), n, memory)

    return jit_once(view)


def make_views(plan: Plan) -> tuple[list[Any], tuple[int, ...], tuple[int, ...]]:
    """For each slot ``view(address, n)``, which is None where the slot is not in use.

    With them, for each slot: bytes from one turn of the loop to the next, and numbers in a turn.
    """
    slots = range(pl.SLOTS)
    memory = [memory_dtype(plan.storage(slot)) for slot in slots]
    there = [slot == pl.OUT or plan.has(slot) for slot in slots]
    views = [_view_of(memory[slot]) if there[slot] else _NONE for slot in slots]
    strides = tuple(plan.stride(slot) for slot in slots)
    return views, strides, tuple(strides[slot] // memory[slot].itemsize for slot in slots)


@inner
def find_leaf(start, count, low):
    """The array that holds turn `low` of the loop: `start` is where each one begins."""
    j, after = 0, count
    while after - j > 1:
        middle = (j + after) // 2
        if start[middle] <= low:
            j = middle
        else:
            after = middle
    return j


def make_fill(plan: Plan, wrap: Any) -> Any:
    """``fill(meta, lr)``: the scalars of every row for this step; returns them."""
    fill_row, wide, count = make_fill_row(plan), op.RULE + plan.rule.width, len(plan.products)
    width, scale = width_of(plan), loop_start(plan)

    def fill(meta, lr):
        groups, t = meta[dr.GROUPS], float(meta[dr.STEPS] + 1)
        control = carray(as_pointer(meta[dr.CONTROL]), (groups, wide), np.float64)
        rows = carray(as_pointer(meta[dr.SCALARS]), (groups, width), np.float64)
        products = carray(as_pointer(meta[dr.PRODUCTS]), (groups, count), np.float64)
        n = float(meta[dr.CALLS] + 1 - meta[dr.FLUSHING])
        for r in range(groups):
            fill_row(rows[r], control[r], products[r], lr, t, n)
            if meta[dr.FLUSHING] != 0:
                rows[r, scale] = 1.0
        return rows

    return wrap(fill)


def make_advance(plan: Plan, wrap: Any) -> Any:
    """``advance(meta)``: the running products of every row after a step."""
    advance_row = make_advance_row(plan, wrap)
    count, wide = len(plan.products), op.RULE + plan.rule.width

    def advance(meta):
        if count > 0:
            groups, t = meta[dr.GROUPS], float(meta[dr.STEPS] + 1)
            control = carray(as_pointer(meta[dr.CONTROL]), (groups, wide), np.float64)
            products = carray(as_pointer(meta[dr.PRODUCTS]), (groups, count), np.float64)
            for r in range(groups):
                advance_row(products[r], control[r], t)

    return wrap(advance)
