"""Scalars of the coming steps of many problems, computed before the call that takes the steps."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from numba import from_dtype, int64, types

from numadam._core import options as op
from numadam._core.plan import Plan
from numadam._cpu.loop import text_of
from numadam._jit.build import compiled
from numadam._minimize.compiled.problem import StepTables

#: Each step has a row, or one for each of `factors` of the learning rate.
_FILL_ROWS = """\
def fill_rows(rows, limits, control, products, rates, factors, columns, changes, t):
    each = len(factors)
    for step in range(len(rows) // each):
        for c in range(len(columns)):
            control[columns[c]] = changes[step, c]
        for k in range(each):
            rate = rates[step] * factors[k]
            fill(rows[step * each + k], control, products, t + 1.0 + step, rate)
        for k in range({carried}):
            products[k] = products[{carried} + k]
        limits[step, 0], limits[step, 1] = control[{limit}], control[{margin}]
"""


class StepRows:
    """The scalars of the steps of a call.

    Parameters
    ----------
    backend : back end
        Of one array.
    lr : float or callable
        The learning rate of all problems; anything else is in the arrays of the back end.
    products : float64 array
        Products over the steps that are carried, before the next step.
    most : int
        Steps of a call at most.
    factors : float64 array
        Of the learning rate: one for each problem, or a 1.

    Attributes
    ----------
    rows : array (steps * factors, scalars)
    limits : float64 array (steps, 2)
        Limit and margin of a clip by norm at each step.
    control : float64 array
        The row of the control block.
    """

    def __init__(
        self, backend: Any, lr: Any, products: np.ndarray, most: int, factors: Any = (1.0,)
    ) -> None:
        settings = backend.settings
        self._plan, text = settings.plan, text_of(settings.plan)
        self._backend, self._lr, self.products = backend, lr, products
        self.control = settings.control[settings.group_of_leaf[0]]
        self._tables, self._factors = StepTables(settings, most), np.array(factors, np.float64)
        self._tables.rates[:] = lr if isinstance(lr, float) else np.nan
        #: rows of scalars of a step
        self.each = len(self._factors)
        self.rows = np.empty((most * self.each, text.width), self._plan.real)
        self.limits = np.empty((most, 2))
        self._after = products
        self._fill = _fill_rows(self._plan)

    def fill(self, steps: int) -> int:
        """Compute the scalars of so many steps, or fewer: returns how many."""
        self._after = self.products.copy()
        if steps == 0:
            return 0
        tables, t = self._tables, self._backend.t
        steps = tables.tabulate(self._lr, t, min(steps, len(self.limits)))
        rows = self.rows[: steps * self.each]
        given = tables.rates, self._factors, tables.columns, tables.changes
        self._fill(rows, self.limits, self.control, self._after, *given, t)
        return steps

    def advance(self, steps: int) -> None:
        """Move t and the products on to after these steps."""
        self.products[:] = self._after
        self._backend.count(steps)


@functools.cache
def _fill_rows(plan: Plan) -> Any:
    """``fill_rows`` of a plan, compiled."""
    text, f8 = text_of(plan), types.float64
    limit = op.COLUMN.clip_array_norm if plan.norm == "array" else op.COLUMN.clip_norm
    places = {"carried": len(plan.products), "limit": limit, "margin": op.COLUMN.margin}
    source = "\n\n\n".join([*text.functions, _FILL_ROWS.format(**places)])
    rows, row = from_dtype(plan.real)[:, ::1], f8[::1]
    signature = types.void(rows, f8[:, ::1], row, row, row, row, int64[::1], f8[:, ::1], f8)
    what = f"{plan.name}-rows", source, text.scope, signature
    return compiled(*what, entry="fill_rows", keep=not plan.rule.digest)
