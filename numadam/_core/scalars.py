"""Scalars of a step: powers of the betas, running products, bias corrections."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, register_jitable

from numadam._core import options as op
from numadam._core.plan import Plan
from numadam._core.rule import named
from numadam._core.synonyms import library
from numadam._jit.functions import cast, linked

# --- scalars of one step -------------------------------------------------------------------------
# A row of scalars holds those of the rule's formula (`RuleSpec.scalar_type`), then those of the
# loop (`GroupScalars`). An array adds the two factors of its clip by norm (`LoopScalars`).


class LoopScalars(NamedTuple):
    """The scalars `k` of a loop."""

    scale: float  # of the gradient: its sign, and `pre` of the clip
    clip: float  # largest element of the gradient, times `pre`
    decay: float  # L2 decay
    lost: float  # share of the parameters that decoupled decay takes
    per_element: float  # the part of it that goes with a step size per element
    low: float  # scalar bounds
    high: float
    weight: float  # of the new parameters in the average
    factor: float  # of the gradient, for the clip by norm: with `pre`, which keeps it normal
    zero: float


#: The first of them, which all arrays of a group share.
GroupScalars = named("GroupScalars", LoopScalars._fields[:8])


def tiny(dtype: np.dtype[Any]) -> float:
    """Below it a first moment becomes 0: denormal numbers slow many CPUs down."""
    return float(np.finfo(dtype).smallest_normal)


@register_jitable
def is_due(t: int) -> bool:
    """Whether denormal numbers that stay become 0 at step t: at one in 64, 89 apart at most.

    By multiples of the golden ratio: rows that are visited at every k-th step meet one, too.
    """
    return (t * 2654435769) & 4294967295 < 67108864


def loop_start(plan: Plan) -> int:
    """Place of the loop's scalars in a row, behind those of the formula."""
    return len(plan.rule.scalar_type._fields)


def width_of(plan: Plan) -> int:
    """Scalars of one row."""
    return loop_start(plan) + len(GroupScalars._fields)


@functools.cache
def reader(kind: Any, first: int) -> Any:
    """``read(row)``: a named tuple of the numbers of a contiguous row from place `first` on."""
    size = len(kind._fields)

    def read(typingctx: Any, row: Any) -> Any:
        result = types.NamedUniTuple(row.dtype, size, kind)

        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            data = context.make_array(row)(context, builder, args[0]).data
            places = [ir.Constant(cgutils.intp_t, first + k) for k in range(size)]
            items = [builder.load(builder.gep(data, [place])) for place in places]
            return context.make_tuple(builder, result, items)

        return result(row), codegen

    return intrinsic(read)


@register_jitable
def f32(x):
    """Round to float32, and go on in float64 (`float` of a float32 is one for Numba)."""
    return np.float64(np.float32(x))


@register_jitable
def ema_at(ema, warmup, debias, t, late):
    """The decay of the average at step t; `late`: it begins as the parameters after the first."""
    if warmup != 0.0:
        return min(ema, (1.0 + t) / (10.0 + t))
    if late and t == 1.0 and debias == 0.0:
        return 0.0
    return ema


def make_loop_scalars(like: str, wrap: Any) -> Any:
    """``loop_scalars(row, lr, t, elementwise)``: the loop's own scalars of a group at step t.

    In float64. `row` is a `ControlRow`.
    """
    late = library(like).late_average

    def loop_scalars(row, lr, t, elementwise):
        decay, ema = row.weight_decay, row.ema
        lost, per_element = decay, 0.0
        if row.decay_free == 0.0:
            lost = lr * decay
            if elementwise != 0.0:
                lost, per_element = 0.0, lost
        if row.ema_warmup != 0.0:
            ema = min(ema, (1.0 + t) / (10.0 + t))
        elif late and t == 1.0 and row.ema_debias == 0.0:
            ema = 0.0
        return GroupScalars(
            scale=row.sign,
            clip=row.clip_value,
            decay=decay,
            lost=lost,
            per_element=per_element,
            low=row.low,
            high=row.high,
            weight=1.0 - ema,
        )

    return wrap(loop_scalars)


def with_clip(k, pre, factor, zero):
    """The scalars of a loop: those of a group, and the clip factor of an array in two steps."""
    return LoopScalars(
        scale=k.scale * pre,
        clip=k.clip * pre,
        decay=k.decay,
        lost=k.lost,
        per_element=k.per_element,
        low=k.low,
        high=k.high,
        weight=k.weight,
        factor=factor,
        zero=zero,
    )


def make_scalars(plan: Plan) -> Any:
    """``scalars(row, pre, factor) -> h, k``: of an array, from the row of its group.

    `pre` and `factor` are its clip factor in two steps. Where both are the constant 1, the compiler
    drops the two multiplications.
    """
    read_h, read_k = reader(plan.rule.scalar_type, 0), reader(GroupScalars, loop_start(plan))
    clipped, one = linked(with_clip), plan.real.type(1)

    def scalars(row, pre, factor):
        return cast(read_h(row), one), cast(clipped(read_k(row), pre, factor, 0.0), one)

    return linked(scalars)


def _none(row):
    return None


def make_fill_row(plan: Plan) -> Any:
    """``fill_row(out, row, q, lr, t)``: the scalars of step t from a row of the control block.

    `q` is the row of products up to the step.
    """
    scalars, small = linked(plan.scalars), tiny(plan.real)
    loop_scalars = make_loop_scalars(plan.like, linked)
    control, kind = reader(op.ControlRow, 0), plan.rule.product_type
    products = linked(_none) if kind is None else reader(kind, len(plan.products))
    hypers, size = reader(plan.rule.hyper_type, op.RULE), loop_start(plan) - 2
    per_element, one = float(plan.elementwise), 1.0
    count = len(GroupScalars._fields)

    def fill_row(out, row, q, lr, t):
        shared = control(row)
        rate = shared.lr if shared.lr == shared.lr else lr
        h = cast(scalars(hypers(row), products(q), rate, t), one)
        k = loop_scalars(shared, rate, t, per_element)
        for i in range(size):
            out[i] = h[i]
        out[size] = small * shared.flush
        out[size + 1] = 0.0
        for i in range(count):
            out[size + 2 + i] = k[i]

    return linked(fill_row, forceinline=True)


# --- products over the steps ---------------------------------------------------------------------
# A group has a row of numbers for them, in memory that keeps from step to step::
#
#   [those carried, before step t | all, up to step t]


def _fields(plan: Plan) -> tuple[str, ...]:
    """Names of the products over the steps that the rule's scalars are computed from."""
    kind = plan.rule.product_type
    return () if kind is None else kind._fields


def product_width(plan: Plan) -> int:
    """Numbers in a row of products."""
    return len(plan.products) + len(_fields(plan))


def start_products(plan: Plan, groups: int) -> np.ndarray:
    """Rows of products before the first step, one for each group."""
    rows = np.zeros((groups, product_width(plan)))
    rows[:, : len(plan.products)] = 1.0
    return rows


def make_products(plan: Plan) -> Any:
    """``products(q, row, t)``: the products up to step t in a row q, from those before it.

    `row` is that of the control block. Where none is carried, steps need not come in order.
    """
    own, carried, fields = plan.own_products, len(plan.products), _fields(plan)
    if fields[:carried] != plan.products:
        raise ValueError(f"{plan.rule.name}: {plan.products} are not the first of {fields}.")
    powers = _make_powers(plan) if len(fields) > len(own) else linked(_nothing)
    if not own:
        return powers
    advance, before = linked(plan.advance), reader(named("Products", own), 0)
    hypers, count = reader(plan.rule.hyper_type, op.RULE), len(own)

    def products(q, row, t):
        new = advance(hypers(row), before(q), t)
        for i in range(count):
            q[carried + i] = new[i]
        powers(q, row, t)

    return linked(products)


def _make_powers(plan: Plan) -> Any:
    """``powers(q, row, t)``: the products of hyperparameters, in place."""
    own, fields, rule = plan.own_products, _fields(plan), plan.rule
    names = [hyper.name for hyper in rule.hypers]
    # where they lie in a row of the control block
    columns = tuple(op.RULE + names.index(name) for name in rule.powers)
    first, count = len(own), len(columns)
    place, changing = len(plan.products) + len(fields) - count, len(plan.products) > first

    def powers(q, row, t):
        for k in range(count):
            beta = row[columns[k]]
            q[place + k] = q[first + k] * beta if changing else beta**t

    return linked(powers)


def make_advance_row(plan: Plan) -> Any:
    """``advance_row(q)``: the step whose products `q` has is taken: those carried move on."""
    carried = len(plan.products)

    def advance_row(q):
        for i in range(carried):
            q[i] = q[carried + i]

    return linked(advance_row)


def make_products_at(plan: Plan) -> Any:
    """``products_at(q, row, t, taken) -> taken``: the products up to any step t in a row q.

    `q` has those after `taken` steps, fewer than t: zeros after none. As for powers, what is below
    2^-128 is as good as 0, and its product is not formed on.
    """
    find, advance, carried = make_products(plan), make_advance_row(plan), len(plan.products)

    def products_at(q, row, t, taken):
        if taken == 0.0:
            for i in range(carried):
                q[i] = 1.0
        matters = carried > 0
        while matters and taken < t - 1.0:
            taken += 1.0
            find(q, row, taken)
            advance(q)
            matters = False
            for i in range(carried):
                matters = matters or q[i] >= 2.0**-128
        find(q, row, t)
        return taken

    return linked(products_at)


def products_after(
    plan: Plan, steps: int, control: np.ndarray, refresh: Callable[[int], None] | None
) -> np.ndarray:
    """Products that are carried, after so many steps: a row for each group.

    `refresh` brings a step's numbers into `control`; None where they never change.
    """
    own, fields = plan.own_products, plan.products
    kind, rows = named("Products", own), np.ones((len(control), len(fields)))
    powers = [name.removesuffix("_product") for name in fields[len(own) :]]
    for step in range(steps):
        if refresh is not None:
            refresh(step)
        elif not rows.any():  # 0 it stays
            break
        for q, row in zip(rows, control, strict=True):
            c = plan.rule.hyper_type(*row[op.RULE :])
            factors = [getattr(c, name) for name in powers]
            after = plan.advance(c, kind(*q[: len(own)]), step + 1.0) if own else ()
            q[:] = [*after, *(q[len(own) :] * factors)]
    return rows


def _nothing(q, row, t):
    return None
