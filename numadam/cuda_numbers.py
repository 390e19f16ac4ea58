"""The numbers of a step on the GPU: control block, counters, scalars, norms, clip factors."""

from __future__ import annotations

from typing import Any

import numpy as np

from numadam import cuda as policy
from numadam.cuda_compile import compiled
from numadam.cuda_norms import make_combine, make_settle, make_sums, norm_slots
from numadam.cuda_scalars import COUNTS, FINITE, GO, make_prepare
from numadam.cuda_table import CudaTable
from numadam.pieces import width_of
from numadam.plan import Plan


class CudaNumbers:
    """Forms on the GPU what a step needs besides its arrays, without a wait of the host.

    Its methods are called while the GPU is the current one.

    Parameters
    ----------
    plan : Plan
    control : numpy.ndarray
        The control block on the host: brought to the GPU when it has changed.
    table : CudaTable
    device : int
    rate : array, optional
        A 0-d array on the GPU from which each step reads lr.
    """

    def __init__(
        self, plan: Plan, control: np.ndarray, table: CudaTable, device: int, rate: Any = None
    ) -> None:
        import cupy

        self._plan, self._host, self._table = plan, control, table
        groups, sums = len(control), len(table.records) if plan.norm == "array" else 1
        self._control = cupy.zeros(control.shape, np.float64)
        self._upload = policy.Upload(self._control)
        self.products = cupy.ones((groups, max(1, len(plan.products))), np.float64)
        self.counts = cupy.zeros(COUNTS, np.int64)
        self._rows = cupy.zeros((groups, width_of(plan)), plan.real)
        self._rate = cupy.zeros((), np.float64) if rate is None else rate
        self._prepare = compiled(make_prepare, device, plan, self._rate.dtype)
        self._at = [int(a.data.ptr) for a in (self._rows, self._control, self.products)]
        self._at += [int(self.counts.data.ptr), groups, int(self._rate.data.ptr)]
        self._row_bytes = width_of(plan) * plan.real.itemsize
        self._each = 2 * plan.real.itemsize if plan.norm == "array" else 0
        self._factors_at = 0
        if plan.norm:
            self._make_norms(sums, device)
            self._factors_at = int(self._factors.data.ptr)
        #: where the GPU says whether the step is taken; 0 where it always is
        self.go = self._at[3] + 8 * GO if plan.norm else 0

    def _make_norms(self, sums: int, device: int) -> None:
        import cupy

        plan, table = self._plan, self._table
        firsts = table.sums_first if plan.norm == "array" else [0, table.parts]
        self.norms = cupy.full(sums, np.nan, np.float64)
        self._factors = cupy.ones((sums, 2), plan.real)
        self._totals, self._exponents = cupy.zeros(sums, np.float64), cupy.zeros(sums, np.int64)
        self._slots = norm_slots(plan)
        self._partials = cupy.zeros(max(1, table.parts), np.float64)
        self._firsts = cupy.asarray(np.array(firsts, np.int64))
        self._sums = compiled(make_sums, device, plan, table.many)
        self._combine = compiled(make_combine, device, plan)
        self._settle = compiled(make_settle, device, plan)

    def prepare(self, lr: float, t: int, n: int, *, alone: bool, flushing: bool = False) -> None:
        """Form the scalars of every row for step t; 0: the one after those counted on the GPU.

        lr NaN stands for the array. `alone`: no norm decides, the step is counted now.
        """
        self._upload(self._host)
        numbers = (*self._at, float(lr), t, float(n), int(alone), int(flushing))
        self._prepare(1, min(policy.BLOCK, self._at[4]), numbers)

    def rows(self, row: int) -> int:
        """Where the scalars of a row lie."""
        return self._at[0] + row * self._row_bytes

    def factors(self, leaf: int) -> int:
        """Where the clip factor of a leaf lies, in two steps; 0 where nothing is clipped."""
        return self._factors_at + leaf * self._each

    def form_norms(self, t: int, guard: int, *, counting: bool = True) -> None:
        """Norms, clip factors and the verdict; a step that is taken is counted."""
        sums = len(self.norms)
        at = [int(a.data.ptr) for a in (self._partials, self._exponents, self._firsts)]
        partials, exponents, firsts = at
        totals = int(self._totals.data.ptr)
        # float64 may leave its range when squared: a second time, scaled, where it did
        for again in (0, 1) if self._plan.real == np.float64 else (0,):
            self._add_up(partials, exponents, again)
            self._combine(sums, policy.BLOCK, (partials, firsts, totals, exponents, again))
        _, control, products, counts, groups, _ = self._at
        out = self._factors_at, int(self.norms.data.ptr)
        numbers = (control, products, counts, totals, exponents, *out, sums)
        self._settle(1, policy.BLOCK, (*numbers, groups if counting else 0, t, guard))

    def _add_up(self, partials: int, exponents: int, again: int) -> None:
        table = self._table
        if not table.parts:
            return
        addresses: list[int] = []
        if table.many:
            begin = (table.address, int(table.sum_leaves.data.ptr), self._at[0])
        else:
            size, tiled, row = table.sum_facts()
            begin, addresses = (size, tiled, self.rows(row)), table.addresses(self._slots, 0)
        end = (partials, exponents, again)
        self._sums(table.parts, policy.BLOCK, (*begin, *end), addresses)

    def read_counts(self) -> np.ndarray:
        """The counters as they are now: this waits for the GPU."""
        import cupy

        return np.asarray(cupy.asnumpy(self.counts))

    def finite(self) -> bool:
        """Whether the last gradients were: this waits for the GPU."""
        return bool(self.read_counts()[FINITE])
