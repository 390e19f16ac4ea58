"""Kernels of a step on a GPU: what is compiled, and the loop itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numba import cuda
from numba.np.numpy_support import from_dtype

from numadam._core import options as op
from numadam._core import plan as pl
from numadam._core.element import make_element_update
from numadam._core.plan import Plan
from numadam._core.scalars import (
    GroupScalars,
    loop_start,
    make_fill_row,
    make_products_at,
    product_width,
    width_of,
    with_clip,
)
from numadam._cuda import launch as policy
from numadam._cuda.memory import (
    WIDEST,
    Tile,
    doubles,
    load_int,
    load_long,
    make_array_view,
    make_load,
    make_load_fields,
    make_opaque,
    make_read_tiles,
    make_write_tiles,
)
from numadam._jit.pointers import offset_of

# --- parts that all CUDA kernels have ------------------------------------------------------------
# A kernel over many leaves finds the arrays of each in a record. Scalars come from the host, by
# value or in a table: computed in float64 by the functions of the CPU loop, and rounded once to the
# dtype. Those of rows with a count of their own a kernel computes, a thread a row.

# mypy: disallow-untyped-defs=False, disallow-untyped-calls=False


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

_READ_ONLY = {pl.G, pl.LOW, pl.HIGH, pl.RATE}


def make_load_addresses(slots: Sequence[int]) -> Any:
    """``load(record) -> tuple``: the addresses of a leaf's arrays in these slots."""
    first = offset_of(LEAF, "addresses") // 8
    return make_load(np.int64, [first + slot for slot in slots])


def step_slots(plan: Plan, has_out: bool) -> tuple[int, ...]:
    """The arrays of a step, in the order in which its kernel takes them."""
    return tuple(s for s in range(pl.SLOTS) if (has_out if s == pl.OUT else plan.has(s)))


def tile_iterations(plan: Plan, slots: Sequence[int]) -> int:
    """Iterations in a tile: as many as 16 bytes of the widest array have."""
    return max(1, WIDEST // max(plan.stride(slot) for slot in slots))


class Pass(NamedTuple):
    """One pass over memory: its arrays, those that it loads and stores, and the element update.

    ``element(i, p, g, s0, s1, s2, out, average, low, high, rate, h, k)`` works on
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
    kept = _READ_ONLY | ({pl.P} if has_out else set())
    loaded = tuple(s for s in slots if s != pl.OUT)
    stored = tuple(s for s in slots if s not in kept)
    return Pass(plan, slots, loaded, stored, make_element_update(plan, wrap))


def device_jit() -> Any:
    """A decorator that compiles each device function once for a kernel."""
    known: dict[Any, Any] = {}

    def wrap(function: Callable[..., Any]) -> Any:
        if function not in known:
            known[function] = cuda.jit(device=True)(function)
        return known[function]

    return wrap


# --- the scalars of a step -----------------------------------------------------------------------


def control_width(plan: Plan) -> int:
    """Numbers in one row of the control block."""
    return op.RULE + plan.rule.width


def make_prepare_rows(plan: Plan) -> KernelSource:
    """``prepare(table, control, products, counts, index, n, lr)``: count rows, each by itself.

    A thread for each of `n` rows of a sparse gradient, whose numbers are at `index`: its step is
    added to `counts`, and `table` gets a row with the scalars of the step of that number. `control`
    is the row of the control block, and `products` is zeros, a row for each.
    """
    fill_row, products_at = make_fill_row(plan), make_products_at(plan)
    width, wide, count = width_of(plan), control_width(plan), product_width(plan)
    real, longs = plan.real, make_array_view(np.dtype(np.int64))
    reals, size = make_array_view(real), real.itemsize

    def prepare(table, control, products, counts, index, n, lr):
        row = doubles(control, wide)
        for e in range(cuda.grid(1), n, cuda.gridsize(1)):
            counted = longs(counts + 8 * load_long(index + 8 * e)[0], 1)
            counted[0] += 1
            t, q = np.float64(counted[0]), doubles(products + 8 * e * count, count)
            products_at(q, row, t, 0.0)
            fill_row(reals(table + size * e * width, width), row, q, lr, t)

    i8 = cuda.types.int64
    return prepare, cuda.types.void(*[i8] * 6, cuda.types.float64)


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


# --- the CUDA loops ------------------------------------------------------------------------------
# They share the element update and the rule's formula with the CPU loop and contain no arithmetic
# of their own. One thread takes one tile (`memory`) or one element at a time, in a loop over the
# grid.
#
# * No fastmath: square roots and divisions are rounded correctly, NaN and denormals stay.
# * ``a*b + c`` becomes one fused multiply-add. That is the compiler's default, numba-cuda has no
#   option against it, and it only drops a rounding. So GPU and CPU agree to a bound and not bit
#   for bit; on one GPU the bits do not depend on grid, stream or layout.
# * Device functions are inlined into the kernel: no call and no local memory is left.
# * No line information: it would put paths of the build machine into the compiled kernel.
#
# A kernel over one leaf gets the addresses as arguments. One over many finds them in a table with
# a record for each leaf (`LEAF`), and each block of threads works on one leaf. The scalars of a
# step are arguments, too; those of several groups lie in a table on the GPU.

# mypy: disallow-untyped-defs=False, disallow-untyped-calls=False


def make_tiles(one: Pass, count: int, slots: Sequence[int]) -> tuple[Any, Any]:
    """``read(addresses, i, e) -> tiles``, and ``write(tiles, addresses, i)``.

    A tile is `count` iterations from number i on, of a sparse gradient from e on. There is one for
    each of `slots`, None where the pass has no such array.
    """
    tiles: list[Tile | None] = []
    for slot in slots:
        if slot not in one.slots:
            tiles.append(None)
            continue
        real, step = one.plan.real, one.plan.stride(slot)
        place, size = one.slots.index(slot), count * step // real.itemsize
        how = slot in one.loaded, slot in one.stored, slot == pl.G
        tiles.append(Tile(place, real, size, step, *how))
    return make_read_tiles(tiles), make_write_tiles(tiles)


def make_each(one: Any, count: int, wrap: Any) -> Any:
    """``each(n, tiles, k, found) -> found``: `one`, with these arguments, for n and what follows.

    They are `count`, a power of two. Not a loop: an index that is no constant would put the tiles
    into local memory.
    """
    if count == 1:
        return one
    half, more = make_each(one, count // 2, wrap), count // 2

    def each(n, tiles, k, found):
        return half(n + more, tiles, k, half(n, tiles, k, found))

    return wrap(each)


def _unchanged(place):
    return place


def _make_visit(one: Pass, count: int, many: bool, scalars_of: Any, wrap: Any) -> Any:
    """``visit(place, i, e, scalars)``: `count` iterations from iteration i on, as one tile.

    `place` are the addresses of a leaf's arrays, or with `many` leaves the address of its record.
    The gradient is that of iteration e, which is i unless the gradient is sparse.
    ``scalars_of(scalars) -> h, k``.
    """
    read, write = make_tiles(one, count, range(pl.SLOTS))
    addresses = make_load_addresses(one.slots) if many else wrap(_unchanged)
    opaque, update = make_opaque(), one.element

    def element(n, tiles, scalars, found):
        h, k = scalars_of(scalars)
        update(n, *tiles, h, k)

    each = make_each(wrap(element), count, wrap)

    def visit(place, i, e, scalars):
        tiles = read(addresses(place), i, e)
        each(0, tiles, scalars, None)
        # computed again: kept since the loads, the places would take two registers an array
        write(tiles, addresses(opaque(place)), opaque(i))

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
    threads, record, of_array = policy.THREADS, LEAF.itemsize, 2 * one.plan.real.itemsize
    by_array = of_array if one.plan.norm == "array" else 0
    i8, of_rows = cuda.types.int64, scalars_type(one.plan, by_value)

    def over_one(a, head, tiles, items, factors, rows):
        item, stride = cuda.grid(1), cuda.gridsize(1)
        # the host gives the address of the leaf's own scalars
        span(a, item, stride, head, tiles, items, scalars(rows, factors, 0))

    def over_many(table, leaves, factors, rows):
        block = np.int64(cuda.blockIdx.x)
        leaf = np.int64(load_int(leaves + 4 * block)[0])
        place = table + leaf * record
        head, tiles, items, group, first, blocks = work(place)
        if factors != 0:
            factors += leaf * by_array
        item = (block - first) * threads + np.int64(cuda.threadIdx.x)
        span(place, item, blocks * threads, head, tiles, items, scalars(rows, factors, group))

    if many:
        return over_many, cuda.types.void(*[i8] * 3, of_rows)
    addresses = cuda.types.UniTuple(i8, len(one.slots))
    return over_one, cuda.types.void(addresses, *[i8] * 4, of_rows)


def make_step(plan: Plan, by_value: bool, many: bool, has_out: bool) -> KernelSource:
    """The whole step over one leaf: ``step(addresses, head, tiles, items, factors, rows)``.

    Over many: ``step(table, leaves, factors, rows)``. The last argument holds the scalars of the
    only group, `by_value`, or the address of all.
    """
    wrap = device_jit()
    return _one_or_many(step_pass(plan, has_out, wrap), by_value, many, wrap)


def make_lazy(plan: Plan, by_value: bool) -> KernelSource:
    """``step(addresses, index, width, n, factors, rows)``: the rows of a sparse gradient.

    `index` is the address of their numbers, `width` the elements of one row, `n` those of all.
    With such gradients there are no averages and no `out`. With ``count="row"`` there are
    scalars for each of them at `rows`.
    """
    wrap, by_row = device_jit(), plan.by_row
    one = step_pass(plan, False, wrap)
    scalars, read = make_scalars(plan, by_value, wrap)
    single = _make_visit(one, 1, False, read, wrap)

    def step(a, index, width, n, factors, rows):
        own = scalars(rows, factors, 0)
        for e in range(cuda.grid(1), n, cuda.gridsize(1)):
            which = e // width
            if by_row:
                own = scalars(rows, factors, which)
            i = load_long(index + 8 * which)[0] * width + (e - which * width)
            single(a, i, e, own)

    i8 = cuda.types.int64
    addresses = cuda.types.UniTuple(i8, len(one.slots))
    return step, cuda.types.void(addresses, *[i8] * 4, scalars_type(plan, by_value))
