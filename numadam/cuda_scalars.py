"""The scalars of a step over CuPy arrays, formed on the host by the functions of the CPU loop."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from numadam import options as op
from numadam.pieces import single_of, tiny
from numadam.plan import Plan

_NEUTRAL = (1.0, 1.0)


def cast(values: Sequence[float], real: np.dtype[Any]) -> tuple[Any, ...]:
    """Scalars rounded once to the dtype of the arithmetic; one too large becomes infinite."""
    with np.errstate(over="ignore"):
        return tuple(map(real.type, values))


class StepScalars:
    """What every leaf needs at step t: formed in float64, and rounded once to the dtype.

    Parameters
    ----------
    plan : Plan
    control : numpy.ndarray
        The control block.
    products : numpy.ndarray
        The running products before this step, a row for each row of the control block.
    rows : sequence of int
        Each leaf's row.
    lr : float
        Where a row sets none of its own.
    t : int
        Number of the step.
    n : int
        Gradients in the mean that the step takes.
    flushing : bool
        Whether all of them are in the sum already.
    """

    def __init__(
        self,
        plan: Plan,
        control: np.ndarray,
        products: np.ndarray,
        rows: Sequence[int],
        lr: float,
        t: int,
        n: int = 1,
        flushing: bool = False,
    ) -> None:
        self._plan, self._rows, self._t = plan, rows, np.float64(t)
        self._control, self._products = control, products
        self._own: list[tuple[float, ...]] = []
        self._rule: list[tuple[Any, ...]] = []
        self._cast: dict[tuple[Any, ...], tuple[Any, ...]] = {}
        single, small = single_of(plan.real), tiny(plan.real)
        # numbers of NumPy's, which divide by zero as compiled code does
        with np.errstate(all="ignore"):
            for row, q in zip(control, products, strict=True):
                rate = np.float64(lr) if np.isnan(row[op.RATE]) else row[op.RATE]
                h = plan.scalars(row[op.RULE :], q, rate, self._t, single)
                self._rule.append(cast((*h, small * row[op.FLUSH], 0.0), plan.real))
                own = op.loop_scalars(row, rate, self._t, float(n), float(plan.elementwise))
                self._own.append((1.0, *own[1:]) if flushing else own)

    def h(self, leaf: int) -> tuple[Any, ...]:
        """The scalars of the rule's formula."""
        return self._rule[self._rows[leaf]]

    def k(self, leaf: int, factors: tuple[float, float] = _NEUTRAL) -> tuple[Any, ...]:
        """The scalars of the loop itself, with a clip factor in two steps."""
        key = (self._rows[leaf], *factors)
        if key not in self._cast:  # not the same scalars for each of many arrays
            own, (pre, factor) = self._own[key[0]], factors
            clip = own[2] * pre
            values = (own[0] * pre, own[1], clip, *own[3:], factor, pre, 0.0)
            self._cast[key] = cast(values, self._plan.real)
        return self._cast[key]

    def advanced(self) -> np.ndarray:
        """The running products after the step."""
        after, single = self._products.copy(), single_of(self._plan.real)
        if self._plan.products:
            with np.errstate(all="ignore"):
                for row, q in zip(self._control, after, strict=True):
                    q[:] = self._plan.advance(row[op.RULE :], q, self._t, single)[: len(q)]
        return after
