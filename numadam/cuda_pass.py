"""One pass over CuPy arrays: checks, work arrays, and the launches of a plan's kernels."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from numadam import cuda_arrays as ca
from numadam import cuda_loop as cl
from numadam import plan as pl
from numadam.cuda_launch import SUMS, launch, launch_sums, numba_view
from numadam.cuda_norms import GradNorm, make_norm, norm_slots
from numadam.cuda_scalars import StepScalars
from numadam.engine import Leaves
from numadam.plan import Plan
from numadam.table import Layout

Title = Callable[[int, int], str]
#: Flat arrays or their views, leaf by leaf, by slot.
Flat = dict[int, list[Any]]
#: What a lazy step has instead of a dense gradient: its rows and their values, by leaf.
Sparse = Mapping[int, tuple[Any, Any]]
NO_ROWS: Sparse = {}


class CudaPass:
    """The kernels of a plan over leaves of a layout, and the work arrays of strided leaves.

    Its methods are called while the GPU of the leaves is the current one.

    Parameters
    ----------
    plan : Plan
    layout : Layout
    device : int
        Number of the GPU.
    title : callable
        ``title(slot, leaf)``: what the user calls that array.
    outs : sequence of bool
        Whether there shall be steps without and with `out`.
    lazy : bool
        Whether there shall be steps that visit the rows of a sparse gradient alone.
    """

    def __init__(
        self,
        plan: Plan,
        layout: Layout,
        device: int,
        title: Title,
        outs: Sequence[bool] = (False, True),
        lazy: bool = False,
    ) -> None:
        import cupy

        self.plan, self.layout = plan, layout
        self._device, self._title = device, title
        #: views of the engine's own arrays, which every step has
        self.own: Flat = {}
        self._steps = {out: cl.compiled(cl.make_step, plan, out) for out in outs}
        self._lazy = cl.compiled(cl.make_lazy, plan) if lazy else None
        self._sum = cl.compiled(cl.make_sum, plan) if plan.accumulate else None
        self.norm: GradNorm | None = None
        if plan.norm:
            self.norm = GradNorm(plan, layout)
            self._sums = cl.compiled(make_norm, plan, SUMS)
            self._partials = cupy.zeros(self.norm.first[-1], np.float64)
        self._work: dict[tuple[int, int], Any] = {}

    def _named(self, slot: int, arrays: Leaves) -> list[ca.Named]:
        return [(self._title(slot, k), array) for k, array in enumerate(arrays)]

    def check(
        self, used: Mapping[int, Leaves], owned: Sequence[ca.Named] = (), sparse: Sparse = NO_ROWS
    ) -> None:
        """Check all arrays; `owned` are named arrays that the step writes besides."""
        layout, plan = self.layout, self.plan
        only_read = (pl.G, pl.P) if pl.OUT in used else (pl.G,)
        named = {slot: self._named(slot, arrays) for slot, arrays in used.items()}
        for slot, entries in named.items():
            for k, entry in enumerate(entries):
                if slot == pl.G and k in sparse:
                    continue
                of, dtype = self._title(pl.P, k), plan.array_dtype(slot)
                written = slot not in only_read
                ca.check_array(entry, of, layout.shapes[k], dtype, self._device, written)
        read = [entry for slot in only_read for entry in named.pop(slot, [])]
        for k, parts in sparse.items():
            name = self._title(pl.G, k)
            read = [entry for entry in read if entry[0] != name]
            read += zip((f"{name}.indices", f"{name}.values"), parts, strict=True)
        ca.check_overlap([*owned, *itertools.chain(*named.values())], read)

    def gather(self, used: Mapping[int, Leaves], sparse: Sparse = NO_ROWS) -> Flat:
        """Each array flat: its own memory, or a kept work array with a copy of it."""
        flats: Flat = {}
        for slot, arrays in used.items():
            flats[slot] = []
            for k, (array, order) in enumerate(zip(arrays, self.layout.orders, strict=True)):
                if slot == pl.G and k in sparse:
                    flat = ca.in_memory(sparse[k][1]).reshape(-1)
                else:
                    flat = ca.flat_view(array, order)
                flats[slot].append(self._copied(slot, k, array) if flat is None else flat)
        return flats

    def _copied(self, slot: int, k: int, array: Any) -> Any:
        import cupy

        if (slot, k) not in self._work:
            self._work[slot, k] = cupy.empty(array.size, ca.in_memory(array).dtype)
        ca.copy_flat(self._work[slot, k], array, self.layout.orders[k], into_flat=True)
        return self._work[slot, k]

    def scatter(self, used: Mapping[int, Leaves], flats: Flat) -> None:
        """Copy what the step wrote into work arrays back to where it belongs."""
        for slot, arrays in used.items():
            if slot == pl.G or (slot == pl.P and pl.OUT in used):
                continue
            for k, (array, order) in enumerate(zip(arrays, self.layout.orders, strict=True)):
                if flats[slot][k] is self._work.get((slot, k)):
                    ca.copy_flat(flats[slot][k], array, order, into_flat=False)

    def views(self, flats: Flat) -> Flat:
        """Flat arrays as kernels take them, with the engine's own; None for what is empty."""
        seen = {
            slot: [numba_view(ca.as_real(flat)) if flat.size else None for flat in leaves]
            for slot, leaves in flats.items()
        }
        return self.own | seen

    def _arrays(self, views: Flat, slots: Sequence[int], leaf: int) -> tuple[Any, ...]:
        return tuple(views[slot][leaf] for slot in slots)

    def begin(self, views: Flat, scalars: StepScalars, averages: bool) -> None:
        """Bring parameters into their bounds, and start what follows them from there."""
        kernel = cl.compiled(cl.make_begin, self.plan, averages)
        slots = cl.start_slots(self.plan, averages)
        for k, size in enumerate(self.layout.sizes):
            turns = size * self.plan.numbers
            launch(kernel, turns, (self._arrays(views, slots, k), scalars.k(k)))

    def add(self, views: Flat, scalars: StepScalars, first: bool) -> None:
        """Add the gradients to the sum, or make them the sum."""
        slots = cl.sum_slots(self.plan)
        for k, size in enumerate(self.layout.sizes):
            turns = size * self.plan.numbers
            arguments = (self._arrays(views, slots, k), scalars.k(k), int(first))
            launch(self._sum, turns, arguments)

    def _partial_sums(
        self, views: Flat, scalars: StepScalars, scales: Sequence[float]
    ) -> np.ndarray:
        """The partial sums of the norms of all leaves, on the host: this waits for the GPU."""
        import cupy

        assert self.norm is not None
        slots, first = norm_slots(self.plan), self.norm.first
        for k, scale in enumerate(scales):
            own = self._partials[first[k] : first[k + 1]]
            if views[pl.G][k] is None:  # a sparse gradient without rows
                own.fill(0.0)
            else:
                arrays = self._arrays(views, slots, k)
                arguments = (arrays, scalars.k(k), scale, numba_view(own))
                launch_sums(self._sums, own.size, arguments)
        return np.asarray(cupy.asnumpy(self._partials))

    def form_norms(self, views: Flat, scalars: StepScalars, row: Sequence[float]) -> bool:
        """Form norms and clip factors where the plan has them; whether all gradients are finite."""
        if self.norm is None:
            return True
        return self.norm.form(lambda scales: self._partial_sums(views, scalars, scales), row)

    def step(self, views: Flat, scalars: StepScalars, sparse: Sparse = NO_ROWS) -> None:
        """One launch per leaf, on CuPy's current stream."""
        plan, has_out = self.plan, pl.OUT in views
        slots = cl.step_slots(plan, has_out)
        for k, size in enumerate(self.layout.sizes):
            factors = (1.0, 1.0) if self.norm is None else self.norm.factors[k]
            arguments = (self._arrays(views, slots, k), scalars.h(k), scalars.k(k, factors))
            if k in sparse:
                rows, values = sparse[k]
                if values.size:
                    width = values.size // len(rows)
                    launch(self._lazy, values.size, (*arguments, numba_view(rows), width))
            else:
                launch(self._steps[has_out], size * plan.unit, arguments)
