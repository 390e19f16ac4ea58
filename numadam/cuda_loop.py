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
(`cuda_table`), and each block of threads works on one array. The scalars of a step lie in the
GPU's memory, formed by a kernel before (`cuda_scalars`), so that a captured graph finds new ones
at each replay.
"""
# mypy: disallow-untyped-defs=False, disallow-untyped-calls=False

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numba import cuda  # here and not in a function: the simulator swaps the module's global

from numadam import cuda as policy
from numadam import plan as pl
from numadam.cuda_tiles import WIDEST, make_fetch, make_numbers, make_put
from numadam.pieces import width_of
from numadam.plan import Plan
from numadam.storage import memory_dtype
from numadam.turn import SEED, ZERO, make_add, make_start, make_turn

#: A kernel as a plain function, and the types of its arguments.
Made = tuple[Callable[..., None], Any]

# A record of the table: where the tiles of an array begin, how many there are and how many turns
# of the loop with them; its row of scalars; its first block of the pass and how many it has; the
# same for the norm, how many numbers that adds up and whether in tiles; addresses by slot.
HEAD, TILES, ITEMS, ROW, FIRST, BLOCKS, SUMS_FIRST, SUMS_SIZE, SUMS_TILED, ADDRESS = range(10)
RECORD = ADDRESS + pl.SLOTS

_READ_ONLY = {pl.G, pl.LOW, pl.HIGH, pl.RATE}


def wrapper() -> Any:
    """Compile device functions, each once for a kernel."""
    known: dict[Any, Any] = {}

    def wrap(function: Callable[..., Any]) -> Any:
        if function not in known:
            known[function] = cuda.jit(device=True)(function)
        return known[function]

    return wrap


def _absent(address, i):
    return None


def _left(room, address, i):
    return None


def step_slots(plan: Plan, has_out: bool) -> tuple[int, ...]:
    """The arrays of a step, in the order in which its kernel takes them."""
    return tuple(s for s in range(pl.SLOTS) if (has_out if s == pl.OUT else plan.has(s)))


def start_slots(plan: Plan, averages: bool) -> tuple[int, ...]:
    """Those that begin as copies of the parameters, and the bounds that these keep."""
    own = {pl.AVERAGE: averages and plan.average, pl.MASTER: plan.master}
    own[pl.LOW] = own[pl.HIGH] = plan.bounds == "array"
    return pl.P, *(slot for slot in sorted(own) if own[slot])


def tile_turns(plan: Plan, slots: Sequence[int]) -> int:
    """Turns of the loop in a tile: as many as 16 bytes of the widest array have."""
    return max(1, WIDEST // max(plan.stride(slot) for slot in slots))


class Pass(NamedTuple):
    """What a kernel does: its arrays, those that it reads and writes, and with which element.

    ``element(i, p, g, s0, s1, s2, out, total, average, low, high, rate, master, h, k)`` works on
    rooms; absent arrays are None there.
    """

    plan: Plan
    slots: tuple[int, ...]
    loaded: tuple[int, ...]
    stored: tuple[int, ...]
    element: Any


def step_pass(plan: Plan, has_out: bool, wrap: Any) -> Pass:
    """The whole step."""
    slots = step_slots(plan, has_out)
    unread = {pl.OUT, *([pl.P] if plan.master else [])}
    kept = _READ_ONLY | {pl.SUM} | ({pl.P} if has_out else set())
    loaded = tuple(s for s in slots if s not in unread)
    stored = tuple(s for s in slots if s not in kept)
    return Pass(plan, slots, loaded, stored, make_turn(plan, wrap))


def sum_pass(plan: Plan, first: bool, wrap: Any) -> Pass:
    """One more gradient on the sum, or the first one."""
    add, slots = make_add(plan, wrap), (pl.G, pl.SUM)

    def element(i, p, g, s0, s1, s2, out, total, average, low, high, rate, master, h, k):
        for one in range(numbers):
            add(numbers * i + one, first, g, total, k)

    numbers = plan.numbers // plan.unit
    return Pass(plan, slots, slots[:1] if first else slots, slots[1:], wrap(element))


def start_pass(plan: Plan, averages: bool, wrap: Any) -> Pass:
    """Parameters into their bounds, and the copies that follow them."""
    start, slots = make_start(plan, wrap), start_slots(plan, averages)

    def element(i, p, g, s0, s1, s2, out, total, average, low, high, rate, master, h, k):
        for one in range(numbers):
            start(numbers * i + one, p, average, low, high, master, k)

    numbers = plan.numbers // plan.unit
    loaded = (pl.P, *(s for s in slots if s in _READ_ONLY))
    stored = tuple(s for s in slots if s in (pl.AVERAGE, pl.MASTER) or (s == pl.P and plan.bounds))
    return Pass(plan, slots, loaded, stored, wrap(element))


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


def _make_visit(one: Pass, turns: int, wrap: Any) -> Any:
    """``visit(a, i, e, h, k)``: a tile of so many turns from turn i on, or one turn.

    The gradient is that of turn e, which is i unless its rows lie elsewhere.
    """
    fetches, puts = make_rooms(one, turns, wrap)
    element, place = one.element, [one.slots.index(s) if s in one.slots else 0 for s in range(12)]
    f0, f1, f2, f3, f4, f5, f6, f7, f8, f9, f10, f11 = fetches
    w0, _, w2, w3, w4, w5, w6, w7, _, _, _, w11 = puts
    a0, a1, a2, a3, a4, a5, a6, a7, a8, a9, a10, a11 = place

    def visit(a, i, e, h, k):
        p, g, s0, s1 = f0(a[a0], i), f1(a[a1], e), f2(a[a2], i), f3(a[a3], i)
        s2, out, total, average = f4(a[a4], i), f5(a[a5], i), f6(a[a6], i), f7(a[a7], i)
        low, high, rate, master = f8(a[a8], i), f9(a[a9], i), f10(a[a10], i), f11(a[a11], i)
        # spelled out: in a loop that is not unrolled the rooms would be memory, not registers
        element(0, p, g, s0, s1, s2, out, total, average, low, high, rate, master, h, k)
        if turns > 1:
            element(1, p, g, s0, s1, s2, out, total, average, low, high, rate, master, h, k)
        if turns > 2:
            element(2, p, g, s0, s1, s2, out, total, average, low, high, rate, master, h, k)
            element(3, p, g, s0, s1, s2, out, total, average, low, high, rate, master, h, k)
        if turns > 4:
            element(4, p, g, s0, s1, s2, out, total, average, low, high, rate, master, h, k)
            element(5, p, g, s0, s1, s2, out, total, average, low, high, rate, master, h, k)
            element(6, p, g, s0, s1, s2, out, total, average, low, high, rate, master, h, k)
            element(7, p, g, s0, s1, s2, out, total, average, low, high, rate, master, h, k)
        w0(p, a[a0], i)
        w2(s0, a[a2], i)
        w3(s1, a[a3], i)
        w4(s2, a[a4], i)
        w5(out, a[a5], i)
        w6(total, a[a6], i)
        w7(average, a[a7], i)
        w11(master, a[a11], i)

    return wrap(visit)


def _make_span(one: Pass, wrap: Any) -> Any:
    """``span(a, item, stride, head, tiles, items, h, k)``: every `stride`-th item from `item` on.

    First come the tiles, which begin at turn `head`, then the turns before and behind them.
    """
    # those of the table, whatever arrays this pass has: it may lack the widest
    turns = tile_turns(one.plan, step_slots(one.plan, has_out=False))
    whole, single = _make_visit(one, turns, wrap), _make_visit(one, 1, wrap)

    def span(a, item, stride, head, tiles, items, h, k):
        while item < items:
            if item < tiles:
                i = head + item * turns
                whole(a, i, i, h, k)
            else:
                i = item - tiles
                if i >= head:
                    i += tiles * turns
                single(a, i, i, h, k)
            item += stride

    return wrap(span)


def make_scalars(plan: Plan, wrap: Any) -> Any:
    """``scalars(rows, factors, row) -> h, k``: those of the rule's formula and the loop's own.

    `factors` is the address of the clip factor in two steps, 0 where nothing is clipped by norm.
    """
    width, real = width_of(plan), plan.real
    own_from, last = width - SEED - 1, SEED + 1
    rule = make_numbers(real, range(own_from))
    own = make_numbers(real, range(own_from, width))
    pair, size = make_numbers(real, range(2)), width * real.itemsize
    none, one = real.type(0), real.type(1)
    assert last + 2 == ZERO

    def scalars(rows, factors, row):
        place = rows + row * size
        k, pre, factor = own(place), one, one
        if factors != 0:
            pre, factor = pair(factors)
        own_k = (k[0] * pre, k[1], k[2] * pre)
        return rule(place), own_k + k[3:] + (factor, pre, none)

    return wrap(scalars)


def _one_or_many(one: Pass, many: bool, wrap: Any) -> Made:
    span, scalars = _make_span(one, wrap), make_scalars(one.plan, wrap)
    places = [ADDRESS + slot for slot in one.slots]
    addresses = make_numbers(np.dtype(np.int64), places)
    facts = make_numbers(np.dtype(np.int64), (HEAD, TILES, ITEMS, ROW, FIRST, BLOCKS))
    flag, leaf_of = make_numbers(np.dtype(np.int64), (0,)), make_numbers(np.dtype(np.int32), (0,))
    block, record, of_array = policy.BLOCK, 8 * RECORD, 2 * one.plan.real.itemsize
    by_array = of_array if one.plan.norm == "array" else 0
    i8 = cuda.types.int64

    def over_one(a, head, tiles, items, rows, factors, go):
        if go != 0 and flag(go)[0] == 0:
            return
        h, k = scalars(rows, factors, 0)  # the host gives the address of the array's own row
        item, stride = cuda.grid(1), cuda.gridsize(1)
        span(a, item, stride, head, tiles, items, h, k)

    def over_many(table, leaves, rows, factors, go):
        if go != 0 and flag(go)[0] == 0:
            return
        mine = np.int64(cuda.blockIdx.x)
        leaf = np.int64(leaf_of(leaves + 4 * mine)[0])
        at = table + leaf * record
        head, tiles, items, row, first, blocks = facts(at)
        if factors != 0:
            factors += leaf * by_array
        h, k = scalars(rows, factors, row)
        item = (mine - first) * block + np.int64(cuda.threadIdx.x)
        span(addresses(at), item, blocks * block, head, tiles, items, h, k)

    if many:
        return over_many, cuda.types.void(i8, i8, i8, i8, i8)
    return over_one, cuda.types.void(cuda.types.UniTuple(i8, len(places)), *[i8] * 6)


def make_step(plan: Plan, has_out: bool, many: bool) -> Made:
    """The whole step over one array: ``step(addresses, head, tiles, items, rows, factors, go)``.

    Over many: ``step(table, leaves, rows, factors, go)``. It does nothing where the number at
    `go` is 0.
    """
    wrap = wrapper()
    return _one_or_many(step_pass(plan, has_out, wrap), many, wrap)


def make_sum(plan: Plan, first: bool, many: bool) -> Made:
    """A gradient on the sum of them; arguments as of the step."""
    wrap = wrapper()
    return _one_or_many(sum_pass(plan, first, wrap), many, wrap)


def make_begin(plan: Plan, averages: bool, many: bool) -> Made:
    """What a step finds before the first one; arguments as of the step."""
    wrap = wrapper()
    return _one_or_many(start_pass(plan, averages, wrap), many, wrap)


def make_lazy(plan: Plan) -> Made:
    """``step(addresses, index, width, n, rows, factors, go)``: the rows of a sparse gradient.

    `index` is the address of their numbers, and `width` how long one is. With such gradients
    there are no sums, no averages and no `out`.
    """
    wrap = wrapper()
    one = step_pass(plan, False, wrap)
    single, scalars = _make_visit(one, 1, wrap), make_scalars(plan, wrap)
    row_of, flag = (make_numbers(np.dtype(np.int64), (0,)) for _ in range(2))

    def step(a, index, width, n, rows, factors, go):
        if go != 0 and flag(go)[0] == 0:
            return
        h, k = scalars(rows, factors, 0)
        for e in range(cuda.grid(1), n, cuda.gridsize(1)):
            which = e // width
            i = row_of(index + 8 * which)[0] * width + (e - which * width)
            single(a, i, e, h, k)

    i8 = cuda.types.int64
    return step, cuda.types.void(cuda.types.UniTuple(i8, len(one.slots)), *[i8] * 6)
