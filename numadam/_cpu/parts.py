"""Parts of the compiled step: array views by address, and the scalars of every group."""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite.ir import FunctionType, IntType, VoidType
from numba import int64, types
from numba.core import cgutils
from numba.extending import intrinsic
from numba.np.numpy_support import from_dtype

from numadam._core import options as op
from numadam._core import plan as pl
from numadam._core.plan import Plan
from numadam._core.scalars import (
    make_advance_row,
    make_fill_row,
    make_products,
    make_products_at,
    product_width,
    width_of,
)
from numadam._cpu.records import CPU_LEAF, META
from numadam._jit.functions import linked
from numadam._jit.pointers import (
    array_at,
    array_of,
    load64,
    make_array,
    offset_of,
    record_at,
)

_FLOAT64 = np.dtype(np.float64)


def _address_in(builder: Any, leaf: Any, slot: int, i: Any, stride: int) -> Any:
    """Address of iteration i in the array of a slot, in LLVM's language."""
    word, place = cgutils.intp_t, offset_of(CPU_LEAF, "address") + 8 * slot
    at = cgutils.pointer_add(builder, leaf, place, word.as_pointer())
    return builder.add(builder.load(at), builder.mul(i, word(stride)))


def make_leaf_views(plan: Plan, out: bool) -> Any:
    """``views(leaf, i, e, n)``: of all slots n iterations from number i on, or None.

    `e` is the iteration of the gradient. With `out` for a step that writes the direction.
    """
    slots = range(pl.SLOTS)
    there = [plan.has(slot) or (slot == pl.OUT and out) for slot in slots]
    numbers = types.Array(from_dtype(plan.real), 1, "C")
    kinds = [numbers if used else types.none for used in there]
    word = cgutils.intp_t

    def views(typingctx: Any, leaf: Any, i: Any, e: Any, n: Any) -> Any:
        # one intrinsic: as 12 calls with their products it took 0.12 s to compile
        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            at, *iterations, count = args

            def view(slot: int) -> Any:
                if not there[slot]:
                    return context.get_dummy_value()
                stride = plan.stride(slot)
                address = _address_in(builder, at, slot, iterations[slot == pl.G], stride)
                size = builder.mul(count, word(stride // plan.real.itemsize))
                return make_array(context, builder, numbers, address, [size])

            result = signature.return_type
            return context.make_tuple(builder, result, list(map(view, slots)))

        return types.Tuple(kinds)(leaf, types.int64, types.int64, types.int64), codegen

    return intrinsic(views)


#: ``leaves_of(meta)``: the array of CPU_LEAF records.
leaves_of = array_of(META, "leaves", CPU_LEAF, ("count", 1))

#: ``factors_of(meta)``: clip factor in two steps and norm of each leaf.
factors_of = array_of(META, "factors", _FLOAT64, 3, ("count", 1))


@linked
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


@linked
def part_of(q, size, total):
    """Begin and end of part q where `total` is cut into parts of `size`."""
    end = q * size + size
    return q * size, end if end < total else total


def make_scalars_of(width: int) -> Any:
    """``scalars_of(meta)``: the scalars that `fill` has computed, a row for each group."""
    return array_of(META, "scalars", _FLOAT64, ("groups", 0), width)


def make_control_of(plan: Plan) -> Any:
    """``control_of(meta)``: the control block, a row for each group."""
    return array_of(META, "control", _FLOAT64, ("groups", 0), op.RULE + plan.rule.width)


def make_products_of(plan: Plan) -> Any:
    """``products_of(meta)``: the products over the steps, a row for each group."""
    return array_of(META, "products", _FLOAT64, ("groups", 0), product_width(plan))


def make_fill(plan: Plan) -> Any:
    """``fill(meta_at, lr)``: the scalars of every group for this step."""
    fill_row, width = make_fill_row(plan), width_of(plan)
    scalars_of, control_of = make_scalars_of(width), make_control_of(plan)
    products_of, find_products = make_products_of(plan), make_products(plan)

    def fill(meta_at, lr):
        meta = record_at(meta_at, META)
        rows, control, products = scalars_of(meta), control_of(meta), products_of(meta)
        t = float(record_at(meta.home, META).steps + 1)
        for r in range(meta.groups):
            find_products(products[r], control[r], t)
            fill_row(rows[r], control[r], products[r], lr, t)

    if not plan.by_row:
        return linked(fill)
    fill_groups, fill_tables = linked(fill), _make_fill_tables(plan)

    def fill_all(meta_at, lr):
        fill_groups(meta_at, lr)
        fill_tables(meta_at, lr)

    return linked(fill_all)


def make_prefetch(plan: Plan) -> Any:
    """``prefetch(leaf, i)``: ask for the memory of iteration i, where a later row begins."""
    slots = [slot for slot in range(pl.SLOTS) if plan.has(slot) and slot != pl.G]
    flag, byte = IntType(32), IntType(8).as_pointer()
    kind = FunctionType(VoidType(), [byte, flag, flag, flag])

    def prefetch(typingctx: Any, leaf: Any, i: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            ask = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
            for slot in slots:
                address = _address_in(builder, args[0], slot, args[1], plan.stride(slot))
                pointer = builder.inttoptr(address, byte)
                builder.call(ask, [pointer, flag(1), flag(3), flag(1)])  # to write, keep, data
            return context.get_dummy_value()

        return types.void(leaf, types.int64), codegen

    return intrinsic(prefetch)


def row_scalars_width(plan: Plan) -> int:
    """Numbers in a row of a leaf's table: scalars, or products, and the number of the step."""
    return max(width_of(plan), product_width(plan)) + 1


def make_row_at(plan: Plan) -> Any:
    """``row_at(meta, leaf, e)``: address of the scalars of iteration e of a leaf."""
    of_groups, of_counts = 8 * width_of(plan), 8 * row_scalars_width(plan)

    def of_group(meta, leaf, e):
        return meta.scalars + of_groups * leaf.group

    def of_count(meta, leaf, e):
        return leaf.table + of_counts * load64(leaf.classes + 8 * (e // leaf.width))

    return linked(of_count if plan.by_row else of_group)


def make_step_of(plan: Plan) -> Any:
    """``step_of(meta, leaf, e)``: the number of this step, for iteration e of a leaf."""
    row_at, width = make_row_at(plan), row_scalars_width(plan)

    def of_all(meta, leaf, e):
        return record_at(meta.home, META).steps + 1

    def of_row(meta, leaf, e):
        return int64(array_at(row_at(meta, leaf, e), width, _FLOAT64)[width - 1])

    return linked(of_row if plan.by_row else of_all)


def _make_fill_tables(plan: Plan) -> Any:
    """``fill_tables(meta_at, lr)``: the scalars of rows by their own number of steps."""
    fill_row, products_at = make_fill_row(plan), make_products_at(plan)
    control_of, width = make_control_of(plan), row_scalars_width(plan)

    def fill_tables(meta_at, lr):
        meta = record_at(meta_at, META)
        leaves = leaves_of(meta)
        for j in range(meta.count):
            leaf = leaves[j]
            table = array_at(leaf.table, (leaf.distinct + 1, width), _FLOAT64)
            control, q, taken = control_of(meta)[leaf.group], table[leaf.distinct], 0.0
            for r in range(leaf.distinct):  # counts are sorted
                t = table[r, width - 1]
                taken = products_at(q, control, t, taken)
                fill_row(table[r], control, q, lr, t)

    return linked(fill_tables)


def make_advance(plan: Plan) -> Any:
    """``advance(meta_at)``: count a step, and move on the products that are carried; t is last.

    With ``count="row"`` it counts in the rows, too: an exception in Python cannot come between.
    """
    advance_row, products_of = make_advance_row(plan), make_products_of(plan)
    carried, by_row = len(plan.products), plan.by_row

    def advance(meta_at):
        meta = record_at(meta_at, META)
        if by_row:
            leaves = leaves_of(meta)
            for j in range(meta.count):
                leaf = leaves[j]
                rows = array_at(leaf.rows, leaf.marked, np.int64)
                counts = array_at(leaf.counts, leaf.marked, np.int64)
                for k in range(leaf.marked):
                    counts[rows[k]] += 1
        if carried > 0:
            products = products_of(meta)
            for r in range(meta.groups):
                advance_row(products[r])
        home = record_at(meta.home, META)
        home.in_a_row = 0
        home.steps += 1

    return linked(advance)
