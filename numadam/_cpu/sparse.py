"""Gradients that touch a few rows, in a step over NumPy arrays."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np

from numadam._arrays.sparse import clear, coalesce_for, is_sparse, scatter
from numadam._backend import Leaves
from numadam._core import plan as pl
from numadam._cpu.arguments import KernelArguments, iterations
from numadam._jit.interrupts import defer_interrupts


class SparseGradients:
    """Puts sparse gradients where the compiled step finds them, for one step.

    Lazily the step visits the rows with a gradient alone. Densely it gets an ordinary gradient,
    which is kept and cleared row by row.

    Parameters
    ----------
    arguments : KernelArguments
    how : {None, "lazy", "dense"}
    title : callable
        ``title(slot, leaf)``: what the user calls that array.
    """

    def __init__(
        self, arguments: KernelArguments, how: str | None, title: Callable[[int, int], str]
    ) -> None:
        self._arguments, self._how, self._title = arguments, how, title
        self._dense: dict[int, np.ndarray] = {}
        #: rows and values that are installed, by leaf: the arrays must stay alive
        self.rows: dict[int, tuple[np.ndarray, np.ndarray]] = {}

    @contextmanager
    def installed(self, used: dict[int, Leaves]) -> Iterator[None]:
        """Within this block the sparse gradients of `used` are what the step reads."""
        found = [k for k, grad in enumerate(used.get(pl.G, ())) if is_sparse(grad)]
        layout = self._arguments.layout
        parts = {
            leaf: coalesce_for(
                used[pl.G][leaf], self._title(pl.G, leaf), self._how, layout, leaf, "numpy"
            )
            for leaf in found
        }
        with defer_interrupts():  # no other step may begin meanwhile
            try:
                if self._how == "lazy":
                    self._install(parts)
                else:
                    used[pl.G] = self._as_dense(used[pl.G], parts)
                yield
            finally:
                self._remove(parts)

    def _install(self, parts: Mapping[int, tuple[Any, Any]]) -> None:
        leaves, counts = self._arguments.leaves, self._dense_counts()
        for leaf, (rows, values) in parts.items():
            values = self._in_order(values, leaf)
            self.rows[leaf] = rows, values
            counts[leaf] = values.size
            # without rows there is nothing to look up, and no address to be trusted
            leaves["rows"][leaf] = rows.ctypes.data if len(rows) else 0
            leaves["width"][leaf] = values.size // max(len(rows), 1) or 1
            leaves["address"][leaf, pl.G] = values.ctypes.data
        self._arguments.set_iterations(counts)

    def _dense_counts(self) -> list[int]:
        """Iterations of each leaf whose gradient is dense."""
        return iterations(self._arguments.plan, self._arguments.layout)

    def _in_order(self, values: np.ndarray, leaf: int) -> np.ndarray:
        """Rows of values in the memory order of a row of the parameter."""
        layout = self._arguments.layout
        shape, order = layout.shapes[leaf], layout.orders[leaf]
        if order == tuple(range(len(order))):
            return values
        return np.ascontiguousarray(values.reshape(len(values), *shape[1:]).transpose(order))

    def _as_dense(self, grads: Leaves, parts: Mapping[int, tuple[Any, Any]]) -> list[Any]:
        dense = list(grads)
        layout = self._arguments.layout
        for leaf, (rows, values) in parts.items():
            if leaf not in self._dense:
                self._dense[leaf] = np.zeros(layout.shapes[leaf], layout.dtype)
            scatter(rows, values, self._dense[leaf])
            dense[leaf] = self._dense[leaf]
        return dense

    def _remove(self, parts: Mapping[int, tuple[Any, Any]]) -> None:
        if self.rows:
            self.rows.clear()
            self._arguments.leaves["rows"][list(parts)] = 0
            self._arguments.set_iterations(self._dense_counts())
        for leaf, (rows, _) in parts.items():
            if leaf in self._dense:
                clear(rows, self._dense[leaf])
