"""Parts that all CUDA kernels have: the arrays of each leaf, and the scalars of a step.

A kernel over many leaves finds the arrays of each in a record. Scalars come by value from the host,
or from the GPU's memory. There they are computed in float64 and rounded once to the dtype: one
thread for each row of the control block runs the functions of the CPU loop. So nothing of such a
step but lr and the number of gradients comes from the host, and a captured graph counts on by
itself.
"""
# mypy: disallow-untyped-defs=False, disallow-untyped-calls=False

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numba import cuda
from numba.np.numpy_support import from_dtype

from numadam._core import options as op
from numadam._core import plan as pl
from numadam._core.element import make_add, make_element_update, make_start
from numadam._core.plan import Plan
from numadam._core.products import make_advance_row, make_products, product_width
from numadam._core.scalars import (
    GroupScalars,
    loop_start,
    make_fill_row,
    width_of,
    with_clip,
)
from numadam._cuda.memory import WIDEST, make_array_view, make_load, make_opaque, offset_of
from numadam._jit.functions import jit_once

#: A kernel as a plain function, and the types of its arguments.
KernelSource = tuple[Callable[..., None], Any]

#: The record of a leaf in the table that kernels over many leaves read.
LEAF = np.dtype(
    [
        ("head", np.int64),  # iteration at which the first tile begins
        ("tiles", np.int64),  # whole tiles
        ("items", np.int64),  # items of work: the tiles, then each iteration outside of them
        ("group", np.int64),  # its row of the control block, and of the scalars
        ("first_block", np.int64),  # its first block of threads in the step
        ("blocks", np.int64),  # its blocks of threads in the step
        ("first_part", np.int64),  # its first partial sum in the norm
        ("norm_size", np.int64),  # numbers that the norm adds up
        ("norm_tiled", np.int64),  # 1 where the norm reads whole tiles
        ("norm_rounds", np.int64),  # rounds of each partial sum
        ("addresses", np.int64, (pl.SLOTS,)),  # where its arrays begin, by slot
    ]
)
#: Fields that a kernel over one leaf gets as arguments.
WORK_FIELDS = "head", "tiles", "items", "group"

_READ_ONLY = {pl.G, pl.LOW, pl.HIGH, pl.RATE, pl.OWNED}


def make_load_addresses(slots: Sequence[int]) -> Any:
    """``load(record) -> tuple``: the addresses of a leaf's arrays in these slots."""
    first = offset_of(LEAF, "addresses") // 8
    return make_load(np.dtype(np.int64), [first + slot for slot in slots])


def step_slots(plan: Plan, has_out: bool) -> tuple[int, ...]:
    """The arrays of a step, in the order in which its kernel takes them."""
    return tuple(s for s in range(pl.STEPPED) if (has_out if s == pl.OUT else plan.has(s)))


def start_slots(plan: Plan, averages: bool) -> tuple[int, ...]:
    """Slots that begin as copies of the parameters, and the bounds that these keep."""
    own = {pl.AVERAGE: averages and plan.average, pl.MASTER: plan.master}
    own[pl.LOW] = own[pl.HIGH] = plan.bounds == "array"
    return pl.P, *(slot for slot in sorted(own) if own[slot])


def tile_iterations(plan: Plan, slots: Sequence[int]) -> int:
    """Iterations in a tile: as many as 16 bytes of the widest array have."""
    return max(1, WIDEST // max(plan.stride(slot) for slot in slots))


class Pass(NamedTuple):
    """One pass over memory: its arrays, those that it loads and stores, and the element update.

    ``element(i, p, g, s0, s1, s2, out, total, average, low, high, rate, master, h, k)`` works on
    element i of tiles; absent arrays are None there.
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
    return Pass(plan, slots, loaded, stored, make_element_update(plan, wrap))


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


def device_jit() -> Any:
    """A decorator that compiles each device function once for a kernel."""
    known: dict[Any, Any] = {}

    def wrap(function: Callable[..., Any]) -> Any:
        if function not in known:
            known[function] = cuda.jit(device=True)(function)
        return known[function]

    return wrap


# --- the scalars of a step -----------------------------------------------------------------------


#: The integers of a step on the GPU.
COUNTERS = np.dtype(
    [
        ("t", np.int64),  # steps taken
        ("skipped", np.int64),  # steps that the guard skipped
        ("skipped_in_a_row", np.int64),  # of these those since the last one taken
        ("finite", np.int64),  # 1 where the last gradients were finite
        ("go", np.int64),  # 1 where the present step is taken; step kernels read it
    ],
    align=True,  # else Numba loads byte by byte
)


def control_width(plan: Plan) -> int:
    """Numbers in one row of the control block."""
    return op.RULE + plan.rule.width


def make_advance_all(plan: Plan) -> Any:
    """``advance(products, row)``: the products of a row that are carried, after a step."""
    advance_row = make_advance_row(plan, jit_once)
    doubles, count = make_array_view(np.dtype(np.float64)), product_width(plan)
    carries = bool(plan.products)

    def advance(products, row):
        if carries:
            advance_row(doubles(products + 8 * row * count, count))

    return cuda.jit(device=True)(advance)


def make_prepare(plan: Plan, rate: np.dtype[Any]) -> KernelSource:
    """``prepare(rows, control, products, counters, groups, lr_at, lr, t, n, counts, flushing)``.

    Launched with a thread for each row of the control block, in one block. The step is number
    `t`, or where that is 0 the one after those counted on the GPU. lr is a number, or where that
    is NaN what lies at `lr_at`. `n` are the gradients in the mean. With `counts`, no norm may stop
    the step, and it is counted here.
    """
    fill_row, find_products = make_fill_row(plan), make_products(plan)
    advance, real, width = make_advance_all(plan), plan.real, width_of(plan)
    reals, doubles = make_array_view(real), make_array_view(np.dtype(np.float64))
    rates, records = make_array_view(rate), make_array_view(COUNTERS)
    wide, count = control_width(plan), product_width(plan)
    scale, size, one = loop_start(plan), real.itemsize, real.type(1)

    def prepare(rows, control, products, counters, groups, lr_at, lr, t, n, counts, flushing):
        counted = records(counters, 1)[0]
        if t == 0:
            t = counted.t + 1
        if lr != lr:
            lr = np.float64(rates(lr_at, 1)[0])
        cuda.syncthreads()  # all have read what is counted
        for r in range(cuda.threadIdx.x, groups, cuda.blockDim.x):
            out = reals(rows + size * r * width, width)
            own = doubles(products + 8 * r * count, count)
            row = doubles(control + 8 * r * wide, wide)
            find_products(own, row, np.float64(t))
            fill_row(out, row, own, lr, np.float64(t), n)
            if flushing != 0:  # all gradients are in the sum already
                out[scale] = one
            if counts != 0:
                advance(products, r)
        if counts != 0 and cuda.threadIdx.x == 0:
            counted.t = t

    i8, f8 = cuda.types.int64, cuda.types.float64
    types = cuda.types.void(i8, i8, i8, i8, i8, i8, f8, i8, f8, i8, i8)
    return prepare, types


def scalars_type(plan: Plan, by_value: bool) -> Any:
    """The type of a kernel's last argument: the scalars one by one, or the address of the rows."""
    if not by_value:
        return cuda.types.int64
    return cuda.types.UniTuple(from_dtype(plan.real), width_of(plan))


def make_scalars(plan: Plan, by_value: bool, wrap: Any) -> tuple[Any, Any]:
    """``scalars(rows, factors, row) -> found``, and ``read(found) -> h, k``.

    `rows` is the only row, `by_value`, or the address of all. `factors` is that of the clip
    factor in two steps, 0 where nothing is clipped by norm. `h` are the scalars of the rule's
    formula, `k` the loop's own.
    """
    width, real = width_of(plan), plan.real
    own_from, of_rule, of_group = loop_start(plan), plan.rule.scalar_type, GroupScalars
    pair, size = make_load(real, range(2)), width * real.itemsize
    none, one, join = real.type(0), real.type(1), wrap(with_clip)

    def clipped(h, k, factors):
        pre, factor = one, one
        if factors != 0:
            pre, factor = pair(factors)
        return of_rule(*h), join(of_group(*k), pre, factor, none)

    clipped = wrap(clipped)
    if by_value:
        return wrap(
            lambda rows, factors, row: clipped(rows[:own_from], rows[own_from:], factors)
        ), wrap(lambda found: found)
    rule, own = make_load(real, range(own_from)), make_load(real, range(own_from, width))

    def scalars(rows, factors, row):
        place = rows + row * size
        return clipped(rule(place), own(place), factors)

    scalars = wrap(scalars)
    if real != np.float64 or plan.modulus:
        return scalars, wrap(lambda found: found)
    # loaded for each element, which takes 44 to 62 registers: kept, 20 doubles make it 66 to 78
    opaque = make_opaque()
    return (
        wrap(lambda rows, factors, row: (rows, factors, row)),
        wrap(lambda found: scalars(opaque(found[0]), found[1], found[2])),
    )
