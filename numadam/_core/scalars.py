"""Scalars of one step, from a row of the control block; compiled for the CPU and for CUDA."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba.np.unsafe.ndarray import to_fixed_tuple

from numadam._core import options as op
from numadam._core.plan import Plan
from numadam._jit.functions import cast, jit_once

#: Scalars of a row that the loop itself needs (`options.loop_scalars`).
_OWN = 10


def tiny(dtype: np.dtype[Any]) -> float:
    """Below it a first moment becomes 0: denormal numbers slow many CPUs down."""
    return float(np.finfo(dtype).smallest_normal)


def width_of(plan: Plan) -> int:
    """Scalars of one row: the formula's, tiny and zero, and the loop's own."""
    c, q = np.zeros(plan.rule.width), np.full(len(plan.products), 0.5)
    c[: len(plan.rule.hypers)] = 0.5  # any values will do, with all switches off
    return len(plan.scalars(c, q, 1.0, 1.0, single_of(plan.real))) + 2 + _OWN


def single_of(real: np.dtype[Any]) -> float:
    """1.0 where the arithmetic is float32, else 0.0."""
    return 0.0 if real == np.float64 else 1.0


def make_scalars(width: int, real: np.dtype[Any]) -> Any:
    """``scalars(row, factors, j)``: what leaf j needs, from the scalars of its row."""
    own_from, one = width - _OWN, real.type(1)

    def scalars(row, factors, j):
        h = to_fixed_tuple(row, own_from)
        own = to_fixed_tuple(row[own_from:], _OWN)
        pre, factor = factors[0, j], factors[1, j]
        k = (own[0] * pre, own[1], own[2] * pre) + own[3:] + (factor, pre, 0.0)
        return cast(h, one), cast(k, one)

    return jit_once(scalars)


def make_fill_row(plan: Plan, wrap: Any = jit_once) -> Any:
    """``fill_row(out, row, q, lr, t, n)``: the scalars of step t from a row of the control block.

    `q` are the running products before the step, and `n` the gradients in the mean.
    """
    scalars, own_scalars, small = wrap(plan.scalars), wrap(op.loop_scalars), tiny(plan.real)
    single, per_element = single_of(plan.real), float(plan.elementwise)

    def fill_row(out, row, q, lr, t, n):
        rate = row[op.RATE] if row[op.RATE] == row[op.RATE] else lr
        h = scalars(row[op.RULE :], q, rate, t, single) + (small * row[op.FLUSH], 0.0)
        k = own_scalars(row, rate, t, n, per_element)
        for i in range(len(h)):
            out[i] = h[i]
        for i in range(_OWN):
            out[len(h) + i] = k[i]

    return jit_once(fill_row, forceinline=True) if wrap is jit_once else wrap(fill_row)


def make_advance_row(plan: Plan, wrap: Any) -> Any:
    """``advance_row(q, row, t)``: the running products after step t."""
    if not plan.products:
        return wrap(_no_products)
    after, count, single = wrap(plan.advance), len(plan.products), single_of(plan.real)

    def advance_row(q, row, t):
        new = after(row[op.RULE :], q, t, single)
        for i in range(count):
            q[i] = new[i]

    return wrap(advance_row)


def _no_products(q, row, t):
    return None
