"""Gradients that touch a few rows, in a step over CuPy arrays."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from numadam._arrays import checks as ar
from numadam._arrays.interop import Layout
from numadam._arrays.sparse import clear, coalesce_for, is_sparse, scatter
from numadam._backend import Leaves
from numadam._core import plan as pl
from numadam._cuda import arrays as ca
from numadam._jit.process import defer_interrupts

#: By leaf the rows of a sparse gradient, and their values.
Rows = Mapping[int, tuple[Any, Any]]


class SparseGradients:
    """Converts sparse gradients to the form that a step reads.

    With "lazy" the step visits only the rows of the gradient. With "dense" it reads an ordinary
    gradient, whose buffer is kept and cleared row by row. To sort and check the rows, the host
    waits for the GPU.

    Parameters
    ----------
    layout : Layout
    device : int
        Number of the GPU.
    how : {None, "lazy", "dense"}
    title : callable
        ``title(slot, leaf)``: what the user calls that array.

    Attributes
    ----------
    scattered : dict
        By leaf the rows of the dense buffers that are not zero: `clear` is due.
    """

    def __init__(
        self,
        layout: Layout,
        device: int,
        how: str | None,
        title: Callable[[int, int], str],
    ) -> None:
        self._layout, self._device = layout, device
        self._how, self._title = how, title
        self._dense: dict[int, Any] = {}
        self.scattered: dict[int, Any] = {}

    def convert(self, used: dict[int, Leaves]) -> Rows:
        """Rows and values of lazy gradients; dense ones take their place in `used`.

        Call `clear` after the step.
        """
        grads = used[pl.G]
        rows = {k: self._coalesced(g, k) for k, g in enumerate(grads) if is_sparse(g)}
        if self._how == "lazy" or not rows:
            return rows
        used[pl.G] = self._as_dense(grads, rows)
        return {}

    def clear(self) -> None:
        """Set the dense buffers to zero again."""
        with defer_interrupts():
            for leaf, rows in self.scattered.items():
                clear(rows, ca.in_memory(self._dense[leaf]))
            self.scattered = {}

    def _coalesced(self, grad: Any, leaf: int) -> tuple[Any, Any]:
        import cupy

        name, layout = self._title(pl.G, leaf), self._layout
        shape, order = layout.shapes[leaf], layout.orders[leaf]
        rows, values = coalesce_for(grad, name, self._how, layout, leaf, "cupy")
        if not isinstance(values, cupy.ndarray):
            raise TypeError(f"{name}: {ar.describe(values, 'CuPy')}")
        ca.check_device(values, name, self._device, self._title(pl.P, leaf))
        if self._how == "lazy" and order != tuple(range(len(order))):
            # each row in the parameter's order of axes
            ordered = ca.in_memory(values).reshape(len(values), *shape[1:]).transpose(order)
            values = cupy.ascontiguousarray(ordered)
        return rows, values

    def _as_dense(self, grads: Leaves, rows_of: Rows) -> list[Any]:
        import cupy

        for leaf in self.scattered:  # an interrupt came before `clear`
            del self._dense[leaf]
        self.scattered = {}
        dense = list(grads)
        for leaf, (rows, values) in rows_of.items():
            if leaf not in self._dense:
                self._dense[leaf] = cupy.zeros(self._layout.shapes[leaf], self._layout.dtype)
            dense[leaf] = self._dense[leaf]
            self.scattered[leaf] = rows
            scatter(rows, ca.in_memory(values), ca.in_memory(dense[leaf]))
        return dense
