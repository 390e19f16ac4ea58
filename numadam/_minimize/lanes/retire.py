"""Problems that stop: their results are written, and the last one that runs takes their place."""

from __future__ import annotations

from typing import Any

import numpy as np

from numadam._core import plan as pl
from numadam._core.plan import Plan
from numadam._cpu.parts import leaves_of
from numadam._jit.pointers import array_at
from numadam._minimize.lanes.records import RESULTS, VALUES
from numadam._minimize.stopping import RUNNING


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


def make_retire(plan: Plan, lanes: int, wrap: Any) -> Any:
    """``retire(meta, batch, position, last, number)``: a problem has stopped.

    Its results are written to the place of its number, and the problem at `last` moves to its
    position.
    """
    slots = tuple(slot for slot in range(pl.STEPPED) if plan.has(slot))
    item = tuple(plan.stride(slot) * plan.unit // 4 for slot in slots)
    kept = tuple({pl.P: 0, pl.AVERAGE: 3}.get(slot, -1) for slot in slots)
    item_x, copy, count = item[0], wrap(_copy_words), len(slots)
    move_values = wrap(_move_values)

    def retire(meta, batch, position, last, number):
        # seldom: all arrays go through one call, which LLVM would otherwise copy to each place
        n, at = batch.elements, leaves_of(meta)[0].address
        order = array_at(batch.order, batch.positions, np.int64)
        problem = order[position]
        rows = array_at(batch.rows, 4, np.int64)
        here = position // lanes * n * lanes + position % lanes
        there = last // lanes * n * lanes + last % lanes
        for s in range(count + 2):
            words, row, first = item_x, s - count + 1, batch.best
            if s < count:
                words, row, first = item[s], kept[s], at[slots[s]]
            elif s > count:
                first = batch.best_g
            step, mine, other = words * lanes, first + 4 * words * here, first + 4 * words * there
            if row >= 0:
                copy(rows[row] + 4 * words * n * problem, words, mine, step, n, words)
            if position != last:
                copy(mine, step, other, step, n, words)
        move_values(batch, problem, position, last, number)
        order[position] = order[last]

    return wrap(retire)


def make_retire_block(plan: Plan, lanes: int, wrap: Any) -> Any:
    """``retire_block(meta, batch, first, live, number) -> live``: all that have stopped."""
    retire = make_retire(plan, lanes, wrap)

    def retire_block(meta, batch, first, live, number):
        tests = array_at(batch.tests, first + live, np.int64)
        for position in range(first + live - 1, first - 1, -1):
            if tests[position] != RUNNING:
                live -= 1
                retire(meta, batch, position, first + live, number)
        return live

    return wrap(retire_block)
