"""The scalars of a step as kernels get them: numbers from the host, or rows in the GPU's memory.

Numbers cost a thread no register, and no kernel before the step. Rows are for where the host
cannot know the numbers, since the GPU alone counts the steps, and for several rows. They are
formed there in float64 and rounded once to the dtype: one thread for each row of the control
block runs the functions of the CPU loop. So nothing of such a step but lr and the number of
gradients comes from the host, and a captured graph counts on by itself.
"""
# mypy: disallow-untyped-defs=False, disallow-untyped-calls=False

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from numba import cuda
from numba.np.numpy_support import from_dtype

from numadam._core import options as op
from numadam._core.element import SEED, ZERO
from numadam._core.plan import Plan
from numadam._core.scalars import make_advance_row, make_fill_row, width_of
from numadam._cuda.kernel_spec import Made
from numadam._cuda.memory import SIMULATED, make_again, make_line, make_numbers, plain
from numadam._jit.functions import jit_once

#: The integers of a step on the GPU: t, steps skipped in all and in a row, whether the last
#: gradients were finite, and whether the step is taken.
T, SKIPPED, IN_A_ROW, FINITE, GO = range(5)
COUNTS = 5

_DOUBLE, _LONG = np.dtype(np.float64), np.dtype(np.int64)


def _ignoring(function: Any) -> Any:
    """In the simulator NumPy's numbers divide by zero as a GPU does, without a warning."""
    if not SIMULATED:
        return function

    @functools.wraps(function)
    def quiet(*arguments: Any) -> Any:
        with np.errstate(all="ignore"):
            return function(*arguments)

    return quiet


def control_width(plan: Plan) -> int:
    """Numbers in one row of the control block."""
    return op.RULE + plan.rule.width


def make_advance_all(plan: Plan) -> Any:
    """``advance(products, control, row, t)``: the running products of a row after step t."""
    advance_row = make_advance_row(plan, plain if SIMULATED else jit_once)
    line, wide, count = make_line(_DOUBLE), control_width(plan), len(plan.products)

    def advance(products, control, row, t):
        if count > 0:
            own = line(products + 8 * row * count, count)
            advance_row(own, line(control + 8 * row * wide, wide), t)

    return cuda.jit(device=True)(_ignoring(advance))


def make_prepare(plan: Plan, rate: np.dtype[Any]) -> Made:
    """``prepare(rows, control, products, counts, groups, lr_at, lr, t, n, alone, flushing)``.

    Launched with a thread for each row of the control block, in one block. The step is number
    `t`, or the one after those counted on the GPU where `t` is 0. lr is a number, or where that
    is NaN what lies at `lr_at`. `n` are the gradients in the mean. Where the step is `alone`, with
    no norm that may stop it, it is counted here.
    """
    fill_row = make_fill_row(plan, plain if SIMULATED else jit_once)
    advance, real, width = make_advance_all(plan), plan.real, width_of(plan)
    line, doubles, longs = make_line(real), make_line(_DOUBLE), make_line(_LONG)
    rates, wide, count = make_line(rate), control_width(plan), len(plan.products)
    scale, size, one = width - SEED - 1, real.itemsize, real.type(1)

    def prepare(rows, control, products, counts, groups, lr_at, lr, t, n, alone, flushing):
        counted = longs(counts, COUNTS)
        if t == 0:
            t = counted[T] + 1
        if lr != lr:
            lr = np.float64(rates(lr_at, 1)[0])
        cuda.syncthreads()  # all have read what is counted
        for r in range(cuda.threadIdx.x, groups, cuda.blockDim.x):
            out = line(rows + size * r * width, width)
            own = doubles(products + 8 * r * count, count)
            fill_row(out, doubles(control + 8 * r * wide, wide), own, lr, np.float64(t), n)
            if flushing != 0:  # all gradients are in the sum already
                out[scale] = one
            if alone != 0:
                advance(products, control, r, np.float64(t))
        if alone != 0 and cuda.threadIdx.x == 0:
            counted[T] = t

    i8, f8 = cuda.types.int64, cuda.types.float64
    types = cuda.types.void(i8, i8, i8, i8, i8, i8, f8, i8, f8, i8, i8)
    return _ignoring(prepare), types


def scalars_type(plan: Plan, by_value: bool) -> Any:
    """The type of a kernel's last argument: the scalars one by one, or the address of rows."""
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
    own_from, last = width - SEED - 1, SEED + 1
    pair, size = make_numbers(real, range(2)), width * real.itemsize
    none, one = real.type(0), real.type(1)
    assert last + 2 == ZERO

    def clipped(h, k, factors):
        pre, factor = one, one
        if factors != 0:
            pre, factor = pair(factors)
        own_k = (k[0] * pre, k[1], k[2] * pre)
        return h, own_k + k[3:] + (factor, pre, none)

    clipped = wrap(clipped)
    if by_value:
        return wrap(
            lambda rows, factors, row: clipped(rows[:own_from], rows[own_from:], factors)
        ), wrap(lambda found: found)
    rule, own = make_numbers(real, range(own_from)), make_numbers(real, range(own_from, width))

    def scalars(rows, factors, row):
        place = rows + row * size
        return clipped(rule(place), own(place), factors)

    scalars = wrap(scalars)
    if real != np.float64 or plan.modulus:
        return scalars, wrap(lambda found: found)
    # read for each element, which takes 44 to 62 registers: held, 20 doubles make it 66 to 78
    again = make_again()
    return (
        wrap(lambda rows, factors, row: (rows, factors, row)),
        wrap(lambda found: scalars(again(found[0]), found[1], found[2])),
    )
