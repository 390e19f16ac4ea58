"""The CPU back end: NumPy arrays through the door into the compiled step."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from numadam._arrays.layout import SKEW, Layout
from numadam._backend import Backend, FunctionalStep, Leaves
from numadam._core import plan as pl
from numadam._cpu import validate as dr
from numadam._cpu.functional import update
from numadam._cpu.state import CpuState
from numadam._cpu.step import CpuStep, Named
from numadam._jit import forks
from numadam._jit.interrupts import defer_interrupts
from numadam._settings.settings import Settings


class CpuBackend(CpuState, Backend):
    """State and compiled step of NumPy parameters."""

    def __init__(self, settings: Settings, params: Leaves, names: Sequence[str]) -> None:
        super().__init__(settings, params, names)
        self._pass = CpuStep(
            self._table,
            self._title,
            self.params,
            owned=self._named_state,
            sparse=settings.options["sparse"],
        )
        self._pass.check()
        self.begin()
        self._one = len(params) == 1
        self._meta_at, self._ids_at = self._table.meta_at, self._pass.ids_at

    def step(
        self, grads: Leaves, lr: float, params: Leaves | None = None, out: Leaves | None = None
    ) -> bool:
        """Check everything, then take the whole step; t advances last.

        Returns False where the guard stopped the step.
        """
        if params is None and out is None and self._one:
            # the only gradient goes by value: 2 us less than a table of ids
            (grad,) = grads
            run = self._pass
            kernel = run.serial if forks.serial_only else run.kernel
            status = kernel(self._meta_at, self._ids_at, id(grad), 0, lr)
            if status == dr.OK:
                return True
            if status == dr.NOT_FINITE:
                return False
        used = {pl.G: grads}
        if params is not None:
            used[pl.P] = params
        if out is not None:
            used[pl.OUT] = out
        return self._pass.run(used, lr) == dr.OK

    def flush(self, lr: float) -> bool:
        """Take a step with the mean of the gradients that have been added up."""
        table, plan = self._table, self.settings.plan
        # one block of zeros stands for every gradient: the sum is what counts
        longest = max(layout for layout in self._layout.sizes) * plan.dtype.itemsize
        zeros = np.zeros(longest + 64, np.uint8)
        with defer_interrupts():
            try:
                table.own(pl.G, np.full(len(self.params), zeros.ctypes.data))
                table.meta[dr.FLUSHING] = 1
                return self._pass.run({}, lr) == dr.OK
            finally:
                table.meta[dr.FLUSHING] = 0

    def drop(self) -> None:
        """Forget the gradients that have been added up."""
        self._table.meta[dr.CALLS] = 0

    def _title(self, slot: int, leaf: int) -> str:
        what = {pl.P: "params", pl.G: "grads", pl.OUT: "out"}[slot]
        return what + self.names[leaf].removeprefix("params")

    def _named_state(self) -> Named:
        return [(f"state[{key!r}]", view) for key, views in self.state.items() for view in views]

    def gradients(self) -> list[np.ndarray]:
        """Gradient buffers of the parameters' shapes in one flat buffer."""
        block, (first,) = Layout.allocate(0, [self._layout], skew=3 * SKEW)
        return self._layout.views(block[first:])

    @classmethod
    def update(cls, call: FunctionalStep) -> None:
        """Take one step on the caller's own arrays."""
        update(call)
