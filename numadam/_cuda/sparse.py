"""Gradients that touch a few rows, in a step over CuPy arrays."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from numadam._arrays import checks as ar
from numadam._arrays.layout import Layout
from numadam._arrays.sparse import clear, coalesce, is_sparse, scatter
from numadam._backend import Leaves
from numadam._core import plan as pl
from numadam._core.plan import Plan
from numadam._cuda import validate as ca
from numadam._jit.interrupts import defer_interrupts

Parts = dict[int, tuple[Any, Any]]


class SparseGradients:
    """Brings sparse gradients to the form that a step takes, for one step.

    Lazily the step visits the rows with a gradient alone. Densely it gets an ordinary gradient,
    kept and cleared row by row. To sort the rows and look for wrong ones, the host waits for the
    GPU.

    Parameters
    ----------
    plan : Plan
    layout : Layout
    device : int
        Number of the GPU.
    how : {None, "lazy", "dense"}
    title : callable
        ``title(slot, leaf)``: what the user calls that array.
    """

    def __init__(
        self,
        plan: Plan,
        layout: Layout,
        device: int,
        how: str | None,
        title: Callable[[int, int], str],
    ) -> None:
        self._plan, self._layout, self._device = plan, layout, device
        self._how, self._title = how, title
        self._dense: dict[int, Any] = {}

    @contextmanager
    def lent(self, used: dict[int, Leaves]) -> Iterator[Parts]:
        """Yield rows and values of lazy gradients; dense ones take their place in `used`."""
        grads = used[pl.G]
        parts = {k: self._coalesced(g, k) for k, g in enumerate(grads) if is_sparse(g)}
        if self._how == "lazy" or not parts:
            yield parts
            return
        with defer_interrupts():  # the kept gradients are zeros again after it, whatever happens
            try:
                used[pl.G] = self._as_dense(grads, parts)
                yield {}
            finally:
                for leaf, (rows, _) in parts.items():
                    if leaf in self._dense:
                        clear(rows, ca.in_memory(self._dense[leaf]))

    def _coalesced(self, grad: Any, leaf: int) -> tuple[Any, Any]:
        import cupy

        name, layout = self._title(pl.G, leaf), self._layout
        shape, order = layout.shapes[leaf], layout.orders[leaf]
        if self._how is None:
            raise ValueError(
                f"{name}: is sparse. Make the optimiser with sparse='lazy' (rows without a "
                "gradient stay as they are) or 'dense' (the same numbers as a dense gradient)."
            )
        if self._plan.numbers == 2:
            raise TypeError(f"{name}: is sparse, but the parameters are complex. Pass it dense.")
        if self._how == "lazy" and order[:1] not in ((), (0,)):
            raise ValueError(
                f"{name}: sparse='lazy' needs parameters whose rows lie together; use "
                "cupy.ascontiguousarray for them, or sparse='dense'."
            )
        rows, values = coalesce(grad, name, shape, layout.dtype)
        if not isinstance(values, cupy.ndarray):
            raise TypeError(f"{name}: {ar.describe(values, 'CuPy')}")
        ca.check_device(values, name, self._device, self._title(pl.P, leaf))
        if self._how == "lazy" and order != tuple(range(len(order))):
            # the rows as they lie in the parameter
            lying = ca.in_memory(values).reshape(len(values), *shape[1:]).transpose(order)
            values = cupy.ascontiguousarray(lying)
        return rows, values

    def _as_dense(self, grads: Leaves, parts: Parts) -> list[Any]:
        import cupy

        dense = list(grads)
        for leaf, (rows, values) in parts.items():
            if leaf not in self._dense:
                self._dense[leaf] = cupy.zeros(self._layout.shapes[leaf], self._layout.dtype)
            dense[leaf] = self._dense[leaf]
            scatter(rows, ca.in_memory(values), ca.in_memory(dense[leaf]))
        return dense
