"""The CUDA loops, once, for every rule: a pass over one array, or over any number of them.

They share the element update and the rule's formula with the CPU loop and contain no arithmetic
of their own. One thread takes one tile (`memory`) or one element at a time, in a loop over the
grid.

* No fastmath: square roots and divisions are rounded correctly, NaN and denormals stay.
* ``a*b + c`` becomes one fused multiply-add. That is the compiler's default, numba-cuda has no
  option against it, and it only drops a rounding. So GPU and CPU agree to a bound and not bit
  for bit; on one GPU the bits do not depend on grid, stream or layout.
* Device functions are inlined into the kernel: no call and no local memory is left.
* No line information: it would put paths of the build machine into the compiled kernel.

A kernel over one leaf gets the addresses as arguments. One over many finds them in a table with a
record for each leaf (`kernel_spec.LEAF`), and each block of threads works on one leaf. The scalars
of a step are arguments, too. Only where the host cannot know them (a captured graph counts the
steps by itself), or where there are several groups, do they lie in the GPU's memory, computed by
a kernel before (`kernel_spec.make_prepare`).
"""
# mypy: disallow-untyped-defs=False, disallow-untyped-calls=False

from __future__ import annotations

from typing import Any

import numpy as np
from numba import cuda

from numadam._core import plan as pl
from numadam._core.half import memory_dtype
from numadam._core.plan import Plan
from numadam._cuda import launch as policy
from numadam._cuda.kernel_spec import (
    LEAF,
    KernelSource,
    Pass,
    device_jit,
    make_load_addresses,
    make_scalars,
    scalars_type,
    start_pass,
    step_pass,
    step_slots,
    sum_pass,
    tile_iterations,
)
from numadam._cuda.memory import (
    make_load,
    make_load_fields,
    make_opaque,
    make_read_tile,
    make_write_tile,
)


def _read_absent(address, i):
    return None


def _write_absent(tile, address, i):
    return None


def make_tile_access(one: Pass, count: int, wrap: Any) -> tuple[list[Any], list[Any]]:
    """For every slot a function that reads `count` iterations as a tile, and one that writes it.

    Of arrays that the pass does not have, they return None and do nothing: Numba prunes them.
    """
    absent, plan = wrap(_read_absent), one.plan
    reads, writes = [], []
    for slot in range(pl.SLOTS):
        memory, step = memory_dtype(plan.storage(slot)), plan.stride(slot)
        size = count * step // memory.itemsize
        used, loaded, stored = slot in one.slots, slot in one.loaded, slot in one.stored
        reads.append(make_read_tile(memory, size, step, loaded) if used else absent)
        writes.append(make_write_tile(memory, size, step) if stored else wrap(_write_absent))
    return reads, writes


def _unchanged(place):
    return place


def _make_visit(one: Pass, count: int, many: bool, read: Any, wrap: Any) -> Any:
    """``visit(place, i, e, scalars)``: `count` iterations from iteration i on, as one tile.

    `place` are the addresses of a leaf's arrays, or with `many` leaves the address of its record.
    The gradient is that of iteration e, which is i unless the gradient is sparse.
    ``read(scalars) -> h, k``.
    """
    reads, writes = make_tile_access(one, count, wrap)
    addresses = make_load_addresses(one.slots) if many else wrap(_unchanged)
    opaque = make_opaque()
    update = one.element
    # the place of each slot's address among those of the pass; any for an absent array
    order = [one.slots.index(s) if s in one.slots else 0 for s in range(pl.STEPPED)]
    r0, r1, r2, r3, r4, r5, r6, r7, r8, r9, r10, r11 = reads[: pl.STEPPED]
    w0, _, w2, w3, w4, w5, w6, w7, _, _, _, w11 = writes[: pl.STEPPED]
    a0, a1, a2, a3, a4, a5, a6, a7, a8, a9, a10, a11 = order

    def element(n, p, g, s0, s1, s2, out, total, average, low, high, rate, master, scalars):
        h, k = read(scalars)
        update(n, p, g, s0, s1, s2, out, total, average, low, high, rate, master, h, k)

    element = wrap(element)

    def visit(place, i, e, scalars):
        a = addresses(place)
        p, g, s0, s1 = r0(a[a0], i), r1(a[a1], e), r2(a[a2], i), r3(a[a3], i)
        s2, out, total, average = r4(a[a4], i), r5(a[a5], i), r6(a[a6], i), r7(a[a7], i)
        low, high, rate, master = r8(a[a8], i), r9(a[a9], i), r10(a[a10], i), r11(a[a11], i)
        # unrolled by hand: an index that is no constant would put the tiles into local memory
        element(0, p, g, s0, s1, s2, out, total, average, low, high, rate, master, scalars)
        if count > 1:
            element(1, p, g, s0, s1, s2, out, total, average, low, high, rate, master, scalars)
        if count > 2:
            element(2, p, g, s0, s1, s2, out, total, average, low, high, rate, master, scalars)
            element(3, p, g, s0, s1, s2, out, total, average, low, high, rate, master, scalars)
        if count > 4:
            element(4, p, g, s0, s1, s2, out, total, average, low, high, rate, master, scalars)
            element(5, p, g, s0, s1, s2, out, total, average, low, high, rate, master, scalars)
            element(6, p, g, s0, s1, s2, out, total, average, low, high, rate, master, scalars)
            element(7, p, g, s0, s1, s2, out, total, average, low, high, rate, master, scalars)
        # computed again: kept since the loads, the places would take two registers an array
        a, i = addresses(opaque(place)), opaque(i)
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
    """``span(place, item, stride, head, tiles, items, scalars)``: every `stride`-th item of work.

    Items are numbered so that neighbouring threads take neighbouring memory: first the tiles,
    which begin at iteration `head`, then one by one the iterations before and behind them.
    """
    # as the table has them, whatever this pass has: it may lack the widest array
    width = tile_iterations(one.plan, step_slots(one.plan, has_out=False))
    whole, single = (_make_visit(one, count, many, read, wrap) for count in (width, 1))

    def span(place, item, stride, head, tiles, items, scalars):
        while item < items:
            if item < tiles:
                i = head + item * width
                whole(place, i, i, scalars)
            else:
                i = item - tiles
                if i >= head:
                    i += tiles * width
                single(place, i, i, scalars)
            item += stride

    return wrap(span)


def _one_or_many(one: Pass, by_value: bool, many: bool, wrap: Any) -> KernelSource:
    """The kernel of a pass over the only leaf, or over `many` of them."""
    scalars, read = make_scalars(one.plan, by_value, wrap)
    span = _make_span(one, many, read, wrap)
    names = "head", "tiles", "items", "group", "first_block", "blocks"
    work = make_load_fields(LEAF, *names)
    flag, leaf_of = make_load(np.dtype(np.int64), (0,)), make_load(np.dtype(np.int32), (0,))
    threads, record, of_array = policy.THREADS, LEAF.itemsize, 2 * one.plan.real.itemsize
    by_array = of_array if one.plan.norm == "array" else 0
    i8, of_rows = cuda.types.int64, scalars_type(one.plan, by_value)

    def over_one(a, head, tiles, items, factors, go, rows):
        if go != 0 and flag(go)[0] == 0:
            return
        item, stride = cuda.grid(1), cuda.gridsize(1)
        # the host gives the address of the leaf's own scalars
        span(a, item, stride, head, tiles, items, scalars(rows, factors, 0))

    def over_many(table, leaves, factors, go, rows):
        if go != 0 and flag(go)[0] == 0:
            return
        block = np.int64(cuda.blockIdx.x)
        leaf = np.int64(leaf_of(leaves + 4 * block)[0])
        place = table + leaf * record
        head, tiles, items, group, first, blocks = work(place)
        if factors != 0:
            factors += leaf * by_array
        item = (block - first) * threads + np.int64(cuda.threadIdx.x)
        span(place, item, blocks * threads, head, tiles, items, scalars(rows, factors, group))

    if many:
        return over_many, cuda.types.void(*[i8] * 4, of_rows)
    addresses = cuda.types.UniTuple(i8, len(one.slots))
    return over_one, cuda.types.void(addresses, *[i8] * 5, of_rows)


def make_step(plan: Plan, by_value: bool, many: bool, has_out: bool) -> KernelSource:
    """The whole step over one leaf: ``step(addresses, head, tiles, items, factors, go, rows)``.

    Over many: ``step(table, leaves, factors, go, rows)``. It does nothing where the number at
    `go` is 0. The last argument holds the scalars of the only group, `by_value`, or their address.
    """
    wrap = device_jit()
    return _one_or_many(step_pass(plan, has_out, wrap), by_value, many, wrap)


def make_sum(plan: Plan, by_value: bool, many: bool, first: bool) -> KernelSource:
    """Adds a gradient to the sum of them; arguments as of the step."""
    wrap = device_jit()
    return _one_or_many(sum_pass(plan, first, wrap), by_value, many, wrap)


def make_begin(plan: Plan, by_value: bool, many: bool, averages: bool) -> KernelSource:
    """The pass before the first step: bounds and copies; arguments as of the step."""
    wrap = device_jit()
    return _one_or_many(start_pass(plan, averages, wrap), by_value, many, wrap)


def make_lazy(plan: Plan, by_value: bool) -> KernelSource:
    """``step(addresses, index, width, n, factors, go, rows)``: the rows of a sparse gradient.

    `index` is the address of their numbers, `width` the elements of one row, `n` those of all.
    With such gradients there are no sums, no averages and no `out`.
    """
    wrap = device_jit()
    one = step_pass(plan, False, wrap)
    scalars, read = make_scalars(plan, by_value, wrap)
    single = _make_visit(one, 1, False, read, wrap)
    row_of, flag = (make_load(np.dtype(np.int64), (0,)) for _ in range(2))

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
