"""Gradients that touch a few rows, in a step over NumPy arrays."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np

from numadam._arrays.sparse import clear, coalesce, is_sparse, scatter
from numadam._backend import Leaves
from numadam._core import plan as pl
from numadam._cpu import validate as dr
from numadam._cpu.arguments import KernelArguments
from numadam._jit.interrupts import defer_interrupts


class SparseGradients:
    """Puts sparse gradients where the compiled step finds them, for one step.

    Lazily the step visits the rows with a gradient alone. Densely it gets an ordinary gradient,
    kept and cleared row by row.

    Parameters
    ----------
    table : Table
    how : {None, "lazy", "dense"}
    title : callable
        ``title(slot, leaf)``: what the user calls that array.
    """

    def __init__(
        self, table: KernelArguments, how: str | None, title: Callable[[int, int], str]
    ) -> None:
        self._table, self._how, self._title = table, how, title
        self._dense: dict[int, np.ndarray] = {}
        #: leaves whose rows are lent to the table: the arrays that must stay alive
        self.rows: dict[int, tuple[np.ndarray, np.ndarray]] = {}

    @contextmanager
    def lent(self, used: dict[int, Leaves]) -> Iterator[None]:
        """Within this block the sparse gradients of `used` are what the step reads."""
        found = [k for k, grad in enumerate(used.get(pl.G, ())) if is_sparse(grad)]
        parts = {leaf: self._coalesced(used[pl.G][leaf], leaf) for leaf in found}
        if found and self._how == "lazy" and pl.OUT in used:
            raise ValueError(
                "out: sparse='lazy' visits some rows only, and the direction of the others would "
                "be left as it was. Use sparse='dense'."
            )
        with defer_interrupts():  # the table is another one meanwhile
            try:
                if self._how == "lazy":
                    self._lend(parts)
                else:
                    used[pl.G] = self._as_dense(used[pl.G], parts)
                yield
            finally:
                self._take_back(parts)

    def _coalesced(self, grad: Any, leaf: int) -> tuple[Any, Any]:
        name = self._title(pl.G, leaf)
        layout, plan = self._table.layout, self._table.plan
        if self._how is None:
            raise ValueError(
                f"{name}: is sparse. Make the optimiser with sparse='lazy' (rows without a "
                "gradient stay as they are) or 'dense' (the same numbers as a dense gradient)."
            )
        if plan.numbers == 2:
            raise TypeError(f"{name}: is sparse, but the parameters are complex. Pass it dense.")
        if self._how == "lazy" and layout.orders[leaf][:1] not in ((), (0,)):
            raise ValueError(
                f"{name}: sparse='lazy' needs parameters whose rows lie together; use "
                "numpy.ascontiguousarray for them, or sparse='dense'."
            )
        return coalesce(grad, name, layout.shapes[leaf], layout.dtype)

    def _lend(self, parts: Mapping[int, tuple[Any, Any]]) -> None:
        table = self._table
        turns = [size * table.plan.unit for size in table.layout.sizes]
        for leaf, (rows, values) in parts.items():
            values = self._in_order(values, leaf)
            self.rows[leaf] = rows, values
            turns[leaf] = values.size
            # without rows there is nothing to look up, and no address to be trusted
            table.blocks[dr.INDEX, leaf] = rows.ctypes.data if len(rows) else 0
            table.blocks[dr.WIDTH, leaf] = values.size // max(len(rows), 1) or 1
            table.blocks[dr.ADDRESS + pl.G, leaf] = values.ctypes.data
        table.set_iterations(turns)

    def _in_order(self, values: np.ndarray, leaf: int) -> np.ndarray:
        """Rows of values in the memory order of a row of the parameter."""
        shape, order = self._table.layout.shapes[leaf], self._table.layout.orders[leaf]
        if order == tuple(range(len(order))):
            return values
        return np.ascontiguousarray(values.reshape(len(values), *shape[1:]).transpose(order))

    def _as_dense(self, grads: Leaves, parts: Mapping[int, tuple[Any, Any]]) -> list[Any]:
        dense = list(grads)
        layout = self._table.layout
        for leaf, (rows, values) in parts.items():
            if leaf not in self._dense:
                self._dense[leaf] = np.zeros(layout.shapes[leaf], layout.dtype)
            scatter(rows, values, self._dense[leaf])
            dense[leaf] = self._dense[leaf]
        return dense

    def _take_back(self, parts: Mapping[int, tuple[Any, Any]]) -> None:
        table = self._table
        if self.rows:
            self.rows.clear()
            table.blocks[dr.INDEX, list(parts)] = 0
            table.set_iterations([size * table.plan.unit for size in table.layout.sizes])
        for leaf, (rows, _) in parts.items():
            if leaf in self._dense:
                clear(rows, self._dense[leaf])
