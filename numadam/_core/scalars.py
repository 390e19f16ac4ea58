"""Scalars of one step, from a row of the control block; compiled for the CPU and for CUDA.

A row of scalars holds those of the rule's formula (`RuleSpec.scalar_type`), then those of the
loop (`GroupScalars`). An array adds the two factors of its clip by norm (`LoopScalars`).
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, register_jitable

from numadam._core import options as op
from numadam._core.plan import Plan
from numadam._core.presets import library
from numadam._core.rule import named
from numadam._jit.functions import cast, compiles, linked


class LoopScalars(NamedTuple):
    """The scalars `k` of a loop."""

    scale: float  # of the gradient: its sign, the loss scale, and `pre` of the clip
    gradients: float  # number of them in the mean
    clip: float  # largest element of the gradient, times `pre`
    decay: float  # L2 decay
    lost: float  # share of the parameters that decoupled decay takes
    per_element: float  # the part of it that goes with a step size per element
    low: float  # scalar bounds
    high: float
    weight: float  # of the new parameters in the average
    seed: float  # makes this step's roundings of 16-bit moments differ from another's
    factor: float  # of the gradient, for the clip by norm: pre * factor
    pre: float  # 1, or a power of two that keeps `factor` a normal number
    zero: float


#: The first of them, which all arrays of a group share.
GroupScalars = named("GroupScalars", LoopScalars._fields[:10])


def tiny(dtype: np.dtype[Any]) -> float:
    """Below it a first moment becomes 0: denormal numbers slow many CPUs down."""
    return float(np.finfo(dtype).smallest_normal)


def loop_start(plan: Plan) -> int:
    """Place of the loop's scalars in a row, behind those of the formula."""
    return len(plan.rule.scalar_type._fields)


def width_of(plan: Plan) -> int:
    """Scalars of one row."""
    return loop_start(plan) + len(GroupScalars._fields)


def is_float32(real: np.dtype[Any]) -> bool:
    """Whether the arithmetic is in float32."""
    return bool(real == np.float32)


def _read_in_python(kind: Any, first: int) -> Any:
    return lambda row: kind(*row[first : first + len(kind._fields)])


def _read_compiled(kind: Any, first: int) -> Any:
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


@functools.cache
def reader(kind: Any, first: int, wrap: Any = linked) -> Any:
    """``read(row)``: a named tuple of the numbers of a contiguous row from place `first` on.

    `wrap` as for `make_fill_row`.
    """
    return (_read_compiled if compiles(wrap) else _read_in_python)(kind, first)


@register_jitable
def f32(x):
    """Round to float32, and go on in float64 (`float` of a float32 is one for Numba)."""
    return np.float64(np.float32(x))


def make_loop_scalars(like: str, wrap: Any) -> Any:
    """``loop_scalars(row, lr, t, n, elementwise)``: the loop's own scalars of a group at step t.

    In float64. `row` is a `ControlRow`, and `n` the number of gradients in the mean.
    """
    rounded, late = library(like).decay_in_float32, library(like).late_average

    def loop_scalars(row, lr, t, n, elementwise):
        decay, ema = row.weight_decay, row.ema
        if rounded:
            decay = f32(decay)
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
            scale=row.sign / row.loss_scale,
            gradients=n,
            clip=row.clip_value,
            decay=decay,
            lost=lost,
            per_element=per_element,
            low=row.low,
            high=row.high,
            weight=1.0 - ema,
            seed=t % 2.0**24,
        )

    return wrap(loop_scalars)


def with_clip(k, pre, factor, zero):
    """The scalars of a loop: those of a group, and the clip factor of an array in two steps."""
    return LoopScalars(
        scale=k.scale * pre,
        gradients=k.gradients,
        clip=k.clip * pre,
        decay=k.decay,
        lost=k.lost,
        per_element=k.per_element,
        low=k.low,
        high=k.high,
        weight=k.weight,
        seed=k.seed,
        factor=factor,
        pre=pre,
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


def make_fill_row(plan: Plan, wrap: Any = linked) -> Any:
    """``fill_row(out, row, q, lr, t, n)``: the scalars of step t from a row of the control block.

    `q` is the row of products up to the step, and `n` the gradients in the mean.
    """
    scalars, small = wrap(plan.scalars), tiny(plan.real)
    own_scalars = make_loop_scalars(plan.like, wrap)
    control, kind = reader(op.ControlRow, 0, wrap), plan.rule.product_type
    products = wrap(_none) if kind is None else reader(kind, len(plan.products), wrap)
    hypers, size = reader(plan.rule.hyper_type, op.RULE, wrap), loop_start(plan) - 2
    single, per_element = is_float32(plan.real), float(plan.elementwise)
    own = len(GroupScalars._fields)

    def fill_row(out, row, q, lr, t, n):
        shared = control(row)
        rate = shared.lr if shared.lr == shared.lr else lr
        h = scalars(hypers(row), products(q), rate, t, single)
        k = own_scalars(shared, rate, t, n, per_element)
        for i in range(size):
            out[i] = h[i]
        out[size] = small * shared.flush
        out[size + 1] = 0.0
        for i in range(own):
            out[size + 2 + i] = k[i]

    return wrap(fill_row, forceinline=True) if compiles(wrap) else wrap(fill_row)
