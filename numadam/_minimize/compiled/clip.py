"""The clip by norm of one problem, computed in one thread."""

from __future__ import annotations

from typing import Any

import numpy as np

from numadam._core import norms
from numadam._core import options as op
from numadam._core.element import make_norm_gradient
from numadam._core.plan import Plan
from numadam._core.scalars import tiny


def make_clip(plan: Plan, wrap: Any) -> Any:
    """``clip(row, n, x, g, low, high, k, partials) -> pre, factor``: of a problem's gradient.

    `partials` are ``norms.words(n)`` of int64; the last is the exponent to begin with.
    """
    if not plan.norm:
        return wrap(_no_clip)
    ranged, small = plan.real == np.float64, tiny(plan.real)
    block = norms.make_block(make_norm_gradient(plan, wrap), wrap, ranged)
    column = op.COLUMN.clip_norm if plan.norm == "all" else op.COLUMN.clip_array_norm
    margin = op.COLUMN.margin

    def clip(row, n, x, g, low_bounds, high_bounds, k, partials):
        blocks = norms.blocks(n)
        exponent, settled = norms.forget(partials[2 * blocks]), False
        high, low, large = 0, 0, 0.0
        while not settled:
            unit = norms.unit(exponent, ranged)
            for b in range(blocks):
                e = b * norms.NORM_BLOCK
                m = n - e if n - e < norms.NORM_BLOCK else norms.NORM_BLOCK
                block(e, m, x, g, None, low_bounds, high_bounds, None, k, unit, partials, b)
            high, low, large = norms.combine(partials, 0, blocks)
            tried = exponent
            exponent = norms.next_exponent(high, low, large, tried, ranged)
            settled = exponent == tried
        exponent = partials[2 * blocks] = norms.forget(exponent)
        total = norms.total_of(high, low, large)
        return norms.clip_factor(total, exponent, row[column], row[margin], small)

    return wrap(clip)


def _no_clip(row, n, x, g, low, high, k, partials):
    return 1.0, 1.0
