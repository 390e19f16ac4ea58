"""The CUDA loops, once, for every rule: a pass over one array, or over any number of them.

They share the element of the pass (`turn`) and the rule's ``element`` with the CPU loop and hold
no arithmetic of their own.

* No fastmath: square roots and divisions are rounded correctly, NaN and denormals stay.
* ``a*b + c`` becomes one fused multiply-add. That is the compiler's default, numba-cuda has no
  option against it, and it only drops a rounding. So GPU and CPU agree to a bound and not bit
  for bit; on one GPU the bits do not depend on grid, stream or layout.
* Device functions are inlined into the kernel: no call and no local memory is left.
* No line information: it would put paths of the build machine into the compiled kernel.

A kernel over one array gets the addresses as numbers; one over many finds them in a table
(`cuda_table`), and each block of threads works on one array. The scalars of a step are numbers
too. Only where the host cannot know them (a captured graph counts on by itself), or where there
are several rows of them, they lie in the GPU's memory, formed by a kernel before
(`cuda_scalars`).
"""
# mypy: disallow-untyped-defs=False, disallow-untyped-calls=False

from __future__ import annotations

from typing import Any

import numpy as np
from numba import cuda  # here and not in a function: the simulator swaps the module's global

from numadam._core import plan as pl
from numadam._core.half import memory_dtype
from numadam._core.plan import Plan
from numadam._cuda import launch as policy
from numadam._cuda.kernel_spec import (
    ADDRESS,
    BLOCKS,
    FIRST,
    HEAD,
    ITEMS,
    RECORD,
    ROW,
    TILES,
    Made,
    Pass,
    start_pass,
    step_pass,
    step_slots,
    sum_pass,
    tile_iterations,
    wrapper,
)
from numadam._cuda.memory import make_again, make_fetch, make_numbers, make_put
from numadam._cuda.scalar_kernels import make_scalars, scalars_type

_LONG, _INT = np.dtype(np.int64), np.dtype(np.int32)


def _absent(address, i):
    return None


def _left(room, address, i):
    return None


def make_rooms(one: Pass, turns: int, wrap: Any) -> tuple[list[Any], list[Any]]:
    """For every slot a function that reads `turns` turns into a room, and one that writes them."""
    absent, left, plan = wrap(_absent), wrap(_left), one.plan
    fetches, puts = [], []
    for slot in range(pl.SLOTS):
        memory, step = memory_dtype(plan.storage(slot)), plan.stride(slot)
        count = turns * step // memory.itemsize
        used, loaded, stored = slot in one.slots, slot in one.loaded, slot in one.stored
        fetches.append(make_fetch(memory, count, step, loaded) if used else absent)
        puts.append(make_put(memory, count, step) if stored else left)
    return fetches, puts


def _given(place):
    return place


def _make_visit(one: Pass, turns: int, many: bool, read: Any, wrap: Any) -> Any:
    """``visit(place, i, e, scalars)``: a tile of so many turns from turn i on, or one turn.

    `place` are the addresses, or of `many` arrays that of the record. The gradient is that of
    turn e, which is i unless its rows lie elsewhere. ``read(scalars)`` says what they are.
    """
    fetches, puts = make_rooms(one, turns, wrap)
    in_record = [ADDRESS + slot for slot in one.slots]
    addresses = make_numbers(_LONG, in_record) if many else wrap(_given)
    again = make_again()
    turn, order = one.element, [one.slots.index(s) if s in one.slots else 0 for s in range(12)]
    f0, f1, f2, f3, f4, f5, f6, f7, f8, f9, f10, f11 = fetches
    w0, _, w2, w3, w4, w5, w6, w7, _, _, _, w11 = puts
    a0, a1, a2, a3, a4, a5, a6, a7, a8, a9, a10, a11 = order

    def element(n, p, g, s0, s1, s2, out, total, average, low, high, rate, master, scalars):
        h, k = read(scalars)
        turn(n, p, g, s0, s1, s2, out, total, average, low, high, rate, master, h, k)

    element = wrap(element)

    def visit(place, i, e, scalars):
        a = addresses(place)
        p, g, s0, s1 = f0(a[a0], i), f1(a[a1], e), f2(a[a2], i), f3(a[a3], i)
        s2, out, total, average = f4(a[a4], i), f5(a[a5], i), f6(a[a6], i), f7(a[a7], i)
        low, high, rate, master = f8(a[a8], i), f9(a[a9], i), f10(a[a10], i), f11(a[a11], i)
        # spelled out: in a loop that is not unrolled the rooms would be memory, not registers
        element(0, p, g, s0, s1, s2, out, total, average, low, high, rate, master, scalars)
        if turns > 1:
            element(1, p, g, s0, s1, s2, out, total, average, low, high, rate, master, scalars)
        if turns > 2:
            element(2, p, g, s0, s1, s2, out, total, average, low, high, rate, master, scalars)
            element(3, p, g, s0, s1, s2, out, total, average, low, high, rate, master, scalars)
        if turns > 4:
            element(4, p, g, s0, s1, s2, out, total, average, low, high, rate, master, scalars)
            element(5, p, g, s0, s1, s2, out, total, average, low, high, rate, master, scalars)
            element(6, p, g, s0, s1, s2, out, total, average, low, high, rate, master, scalars)
            element(7, p, g, s0, s1, s2, out, total, average, low, high, rate, master, scalars)
        # formed once more: kept since they were read, they would take two registers an array
        a, i = addresses(again(place)), again(i)
        w0(p, a[a0], i)
        w2(s0, a[a2], i)
        w3(s1, a[a3], i)
        w4(s2, a[a4], i)
        w5(out, a[a5], i)
        w6(total, a[a6], i)
        w7(average, a[a7], i)
        w11(master, a[a11], i)

    return wrap(visit)


def _make_span(one: Pass, many: bool, read: Any, wrap: Any) -> Any:
    """``span(place, item, stride, head, tiles, items, scalars)``: every `stride`-th item.

    First come the tiles, which begin at turn `head`, then the turns before and behind them.
    """
    # those of the table, whatever arrays this pass has: it may lack the widest
    turns = tile_iterations(one.plan, step_slots(one.plan, has_out=False))
    whole, single = (_make_visit(one, count, many, read, wrap) for count in (turns, 1))

    def span(place, item, stride, head, tiles, items, scalars):
        while item < items:
            if item < tiles:
                i = head + item * turns
                whole(place, i, i, scalars)
            else:
                i = item - tiles
                if i >= head:
                    i += tiles * turns
                single(place, i, i, scalars)
            item += stride

    return wrap(span)


def _one_or_many(one: Pass, by_value: bool, many: bool, wrap: Any) -> Made:
    scalars, read = make_scalars(one.plan, by_value, wrap)
    span = _make_span(one, many, read, wrap)
    facts = make_numbers(_LONG, (HEAD, TILES, ITEMS, ROW, FIRST, BLOCKS))
    flag, leaf_of = make_numbers(_LONG, (0,)), make_numbers(_INT, (0,))
    block, record, of_array = policy.BLOCK, 8 * RECORD, 2 * one.plan.real.itemsize
    by_array = of_array if one.plan.norm == "array" else 0
    i8, of_rows = cuda.types.int64, scalars_type(one.plan, by_value)

    def over_one(a, head, tiles, items, factors, go, rows):
        if go != 0 and flag(go)[0] == 0:
            return
        item, stride = cuda.grid(1), cuda.gridsize(1)
        # the host gives the address of the array's own row
        span(a, item, stride, head, tiles, items, scalars(rows, factors, 0))

    def over_many(table, leaves, factors, go, rows):
        if go != 0 and flag(go)[0] == 0:
            return
        mine = np.int64(cuda.blockIdx.x)
        leaf = np.int64(leaf_of(leaves + 4 * mine)[0])
        at = table + leaf * record
        head, tiles, items, row, first, blocks = facts(at)
        if factors != 0:
            factors += leaf * by_array
        item = (mine - first) * block + np.int64(cuda.threadIdx.x)
        span(at, item, blocks * block, head, tiles, items, scalars(rows, factors, row))

    if many:
        return over_many, cuda.types.void(*[i8] * 4, of_rows)
    addresses = cuda.types.UniTuple(i8, len(one.slots))
    return over_one, cuda.types.void(addresses, *[i8] * 5, of_rows)


def make_step(plan: Plan, by_value: bool, many: bool, has_out: bool) -> Made:
    """The whole step over one array: ``step(addresses, head, tiles, items, factors, go, rows)``.

    Over many: ``step(table, leaves, factors, go, rows)``. It does nothing where the number at
    `go` is 0. Scalars are those of the only row, `by_value`, or `rows` is where they lie.
    """
    wrap = wrapper()
    return _one_or_many(step_pass(plan, has_out, wrap), by_value, many, wrap)


def make_sum(plan: Plan, by_value: bool, many: bool, first: bool) -> Made:
    """A gradient on the sum of them; arguments as of the step."""
    wrap = wrapper()
    return _one_or_many(sum_pass(plan, first, wrap), by_value, many, wrap)


def make_begin(plan: Plan, by_value: bool, many: bool, averages: bool) -> Made:
    """What a step finds before the first one; arguments as of the step."""
    wrap = wrapper()
    return _one_or_many(start_pass(plan, averages, wrap), by_value, many, wrap)


def make_lazy(plan: Plan, by_value: bool) -> Made:
    """``step(addresses, index, width, n, factors, go, rows)``: the rows of a sparse gradient.

    `index` is the address of their numbers, and `width` how long one is. With such gradients
    there are no sums, no averages and no `out`.
    """
    wrap = wrapper()
    one = step_pass(plan, False, wrap)
    scalars, read = make_scalars(plan, by_value, wrap)
    single = _make_visit(one, 1, False, read, wrap)
    row_of, flag = (make_numbers(_LONG, (0,)) for _ in range(2))

    def step(a, index, width, n, factors, go, rows):
        if go != 0 and flag(go)[0] == 0:
            return
        own = scalars(rows, factors, 0)
        for e in range(cuda.grid(1), n, cuda.gridsize(1)):
            which = e // width
            i = row_of(index + 8 * which)[0] * width + (e - which * width)
            single(a, i, e, own)

    i8 = cuda.types.int64
    addresses = cuda.types.UniTuple(i8, len(one.slots))
    return step, cuda.types.void(addresses, *[i8] * 5, scalars_type(plan, by_value))
