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
    """``clip(row, n, x, g, low, high, k, partials) -> pre, factor``: of a problem's gradient."""
    if not plan.norm:
        return wrap(_no_clip)
    ranged, small = plan.real == np.float64, tiny(plan.real)
    block = norms.make_block(make_norm_gradient(plan, wrap), wrap, scaled=ranged)
    column = op.COLUMN.clip_norm if plan.norm == "all" else op.COLUMN.clip_array_norm
    margin = op.COLUMN.margin

    def clip(row, n, x, g, low, high, k, partials):
        exponent, blocks = 0, norms.blocks(n)
        while True:
            for b in range(blocks):
                e = b * norms.NORM_BLOCK
                m = n - e if n - e < norms.NORM_BLOCK else norms.NORM_BLOCK
                if ranged:
                    scale = norms.power(-exponent)
                    partials[b] = block(e, m, x, g, None, low, high, (k, scale))
                else:
                    partials[b] = block(e, m, x, g, None, low, high, k)
            total = norms.combine(partials, 0, blocks)
            if not ranged or exponent != 0:
                break
            exponent = norms.exponent_of(total)
            if exponent == 0:
                break
        return norms.clip_factor(total, exponent, row[column], row[margin], small)

    return wrap(clip)


def _no_clip(row, n, x, g, low, high, k, partials):
    return 1.0, 1.0
