"""Scalars of a step: functions that texts and Python share, and products over the steps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numba.extending import register_jitable

from numadam._core import options as op
from numadam._core.plan import Plan
from numadam._core.rule import named


def tiny(dtype: np.dtype[Any]) -> float:
    """The smallest number that is not denormal: such numbers slow many CPUs down."""
    return float(np.finfo(dtype).smallest_normal)


@register_jitable
def is_due(t: int) -> bool:
    """Whether denormal numbers that stay become 0 at step t: at one in 64, 89 apart at most.

    By multiples of the golden ratio: rows that are visited at every k-th step meet one, too.
    """
    return (t * 2654435769) & 4294967295 < 67108864


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
