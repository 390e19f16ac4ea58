"""The numbers of a step over CuPy arrays: scalars, counters, norms, clip factors."""

from __future__ import annotations

from typing import Any

import numpy as np

from numadam._core.plan import Plan
from numadam._cuda import launch as policy
from numadam._cuda.arguments import KernelArguments
from numadam._cuda.compiler import compiled
from numadam._cuda.norms import make_combine, make_settle, make_sums, norm_slots
from numadam._cuda.scalar_kernels import COUNTS, FINITE, GO
from numadam._cuda.scalars import GpuRows, HostRow
from numadam._cuda.upload import Upload


class CudaNumbers:
    """Forms what a step needs besides its arrays, without a wait of the host.

    Its methods are called while the GPU is the current one.

    Parameters
    ----------
    plan : Plan
    control : numpy.ndarray
        The control block on the host, read anew at each step.
    table : KernelArguments
    device : int
    led : bool
        Whether the GPU alone knows t.
    rate : array, optional
        A 0-d array on the GPU from which each step reads lr.

    Attributes
    ----------
    rows : HostRow or GpuRows
        The scalars.
    by_value : bool
        Whether kernels get them as numbers.
    counts : cupy.ndarray of int64
        The counters of `cuda_scalars`.
    go : int
        The address at which the GPU says whether the step is taken; 0 where it always is.
    """

    def __init__(
        self,
        plan: Plan,
        control: np.ndarray,
        table: KernelArguments,
        device: int,
        *,
        led: bool = False,
        rate: Any = None,
    ) -> None:
        import cupy

        self._plan, self._host, self._table = plan, control, table
        of_leaves = set(table.rows)
        self.by_value = len(of_leaves) == 1 and not led
        self.counts = cupy.zeros(COUNTS, np.int64)
        self._counts_at = int(self.counts.data.ptr)
        self._control = cupy.zeros(control.shape, np.float64)
        self._upload = Upload(self._control)
        self.rows: HostRow | GpuRows = (
            HostRow(plan, control, *of_leaves)
            if self.by_value
            else GpuRows(plan, self._control, self.counts, device, rate)
        )
        self._each = 2 * plan.real.itemsize if plan.norm == "array" else 0
        self._factors_at = self.go = 0
        if plan.norm:
            self._make_norms(device)
            self._factors_at, self.go = int(self._factors.data.ptr), self._counts_at + 8 * GO

    def _make_norms(self, device: int) -> None:
        import cupy

        plan, table = self._plan, self._table
        sums = len(table.records) if plan.norm == "array" else 1
        firsts = table.sums_first if plan.norm == "array" else [0, table.parts]
        self.norms = cupy.full(sums, np.nan, np.float64)
        self._factors = cupy.ones((sums, 2), plan.real)
        self._totals, self._exponents = cupy.zeros(sums, np.float64), cupy.zeros(sums, np.int64)
        self._slots = norm_slots(plan)
        self._partials = cupy.zeros(max(1, table.parts), np.float64)
        self._firsts = cupy.asarray(np.array(firsts, np.int64))
        held = self._partials, self._totals, self._exponents, self._firsts, self.norms
        self._norms_at = tuple(int(array.data.ptr) for array in held)
        sums_of = compiled(make_sums, device, plan, self.by_value, table.many)
        self._sums = sums_of.ready(self.rows.values)
        self._combine = compiled(make_combine, device, plan).ready()
        self._settle = compiled(make_settle, device, plan).ready()

    def prepare(self, lr: float, t: int, n: int, *, alone: bool, flushing: bool = False) -> None:
        """Form the scalars of every row for step t; 0: the one after those counted on the GPU.

        lr NaN stands for the array. `alone`: no norm decides, a step that the GPU counts is
        counted now.
        """
        if isinstance(self.rows, HostRow):
            self.rows.prepare(lr, t, n, flushing=flushing)
        else:
            self._upload(self._host)
            self.rows.prepare(lr, t, n, flushing=flushing, alone=alone)

    def factors(self, leaf: int) -> int:
        """Where the clip factor of a leaf lies, in two steps; 0 where nothing is clipped."""
        return self._factors_at + leaf * self._each

    def form_norms(self, t: int, guard: int) -> None:
        """Norms, clip factors and the verdict; a step that is taken is counted."""
        self._upload(self._host)
        partials, totals, exponents, firsts, norms = self._norms_at
        # float64 may leave its range when squared: a second time, scaled, where it did
        for again in (0, 1) if self._plan.real == np.float64 else (0,):
            self._add_up(partials, exponents, again)
            numbers = partials, firsts, totals, exponents, again
            self._combine(len(self.norms), policy.BLOCK, numbers)
        products, groups = self.rows.of_products
        begin = int(self._control.data.ptr), products, self._counts_at, totals, exponents
        end = self._factors_at, norms, len(self.norms), groups, t, guard
        self._settle(1, policy.BLOCK, (*begin, *end))

    def _add_up(self, partials: int, exponents: int, again: int) -> None:
        table = self._table
        if not table.parts:
            return
        end = partials, exponents, again
        if table.many:
            begin = table.address, table.sum_leaves_at
            self._sums(table.parts, policy.BLOCK, (*begin, *end, *self.rows.at(0)))
            return
        size, tiled, row = table.sum_facts()
        addresses = table.addresses(self._slots, 0)
        numbers = size, tiled, *end, *self.rows.at(row)
        self._sums(table.parts, policy.BLOCK, numbers, addresses)

    def read_counts(self) -> np.ndarray:
        """The counters as they are now: this waits for the GPU."""
        import cupy

        return np.asarray(cupy.asnumpy(self.counts))

    def finite(self) -> bool:
        """Whether the last gradients were: this waits for the GPU."""
        return bool(self.read_counts()[FINITE])
