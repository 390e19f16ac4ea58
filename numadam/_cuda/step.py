"""One pass over CuPy arrays: work arrays, and the launches of a plan's kernels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from numadam._arrays.interop import as_views
from numadam._arrays.layout import Layout
from numadam._backend import Leaves
from numadam._core import plan as pl
from numadam._core.plan import Plan
from numadam._cuda import kernel as cl
from numadam._cuda import kernel_spec as cp
from numadam._cuda import launch as policy
from numadam._cuda import validate as ca
from numadam._cuda.arguments import KernelArguments
from numadam._cuda.compiler import compiled
from numadam._cuda.identity import Checks, Title
from numadam._cuda.reductions import CudaNumbers
from numadam._cuda.validate import NO_ROWS, Sparse


class CudaStep:
    """The kernels of a plan over leaves of a layout, and the work arrays of strided leaves.

    Its methods are called while the GPU of the leaves is the current one.

    Parameters
    ----------
    plan : Plan
    layout : Layout
    table : KernelArguments
    numbers : CudaNumbers
    device : int
        Number of the GPU.
    title : callable
        ``title(slot, leaf)``: what the user calls that array.
    fixed : list of arrays
        Those that are the same objects at every step: known again by the list itself.
    outs : sequence of bool
        Whether there shall be steps without and with `out`.
    lazy : bool
        Whether there shall be steps that visit the rows of a sparse gradient alone.
    """

    def __init__(
        self,
        plan: Plan,
        layout: Layout,
        table: KernelArguments,
        numbers: CudaNumbers,
        device: int,
        title: Title,
        fixed: Leaves = (),
        outs: Sequence[bool] = (False, True),
        lazy: bool = False,
    ) -> None:
        self.checks = Checks(plan, layout, device, title, fixed)
        self._slots = {out: cp.step_slots(plan, out) for out in (False, True)}
        self.plan, self.layout, self.numbers = plan, layout, numbers
        self._table, self._device = table, device
        self._steps = {out: self._ready(cl.make_step, table.many, out) for out in outs}
        self._lazy = self._ready(cl.make_lazy) if lazy else None
        firsts = (False, True) if plan.accumulate else ()
        self._sums = [self._ready(cl.make_sum, table.many, first) for first in firsts]
        self._work: dict[tuple[int, int], Any] = {}
        self._copies: dict[tuple[int, int], Any] = {}

    def _ready(self, make: Any, *more: bool) -> Any:
        """A kernel of the plan, compiled, and ready for a launch."""
        numbers = self.numbers
        kernel = compiled(make, self._device, self.plan, numbers.by_value, *more)
        return kernel.ready(numbers.rows.values)

    def own(self, slot: int, arrays: Leaves) -> None:
        """Let every step have arrays of the back end's own."""
        self._table.note(slot, [_address(array) for array in arrays])

    def enter(
        self, used: dict[int, Leaves], new: Mapping[int, Leaves], sparse: Sparse = NO_ROWS
    ) -> None:
        """Check the `new` arrays of a step, and note where they lie; nothing of theirs is written.

        What is copied into work arrays is copied at every step.
        """
        checks, new = self.checks, used if sparse else new
        if not checks.known(used, new):
            new, before = {slot: self._shown(slot, used, sparse) for slot in new}, checks.forget()
            where = {slot: checks.addresses(slot, arrays) for slot, arrays in new.items()}
            checks.check(used, new, where, sparse)
            self._gather(used, new, where, sparse)
            if not sparse:
                checks.remember(used, new, before)
        for (slot, k), array in self._copies.items():
            self._copy(slot, k, array, into=True)

    def _shown(self, slot: int, used: dict[int, Leaves], sparse: Sparse) -> Leaves:
        """The arrays of a slot, those of other libraries by a view.

        A new one at each step: who owns such an object may put other memory into it.
        """
        if not sparse and not self.checks.are_own(used[slot]):
            used[slot] = as_views(used[slot], "CuPy", pl.is_written(slot, used))
        return used[slot]

    def forget(self) -> None:
        """Hold no array of the last step; the next one looks at all of them."""
        self.checks.forget()
        self._copies = {}

    def _gather(
        self,
        used: Mapping[int, Leaves],
        new: Mapping[int, Leaves],
        where: Mapping[int, list[int] | None],
        sparse: Sparse,
    ) -> None:
        """Note where each new array lies, or the work array through which it goes."""
        sums: list[int | None] = [None] * len(self.layout.sizes)
        for slot, arrays in new.items():
            self._copies = {place: a for place, a in self._copies.items() if place[0] != slot}
            addresses = where[slot]
            if addresses is None:
                addresses = [self._place(slot, k, a, sparse) for k, a in enumerate(arrays)]
            self._table.note(slot, addresses)
        for k, (_, values) in sparse.items():
            sums[k] = values.size
        for place in [place for place in self._copies if place[0] not in used]:
            del self._copies[place]
        self._table.settle(self._slots[pl.OUT in used], sums)

    def _place(self, slot: int, k: int, array: Any, sparse: Sparse) -> int:
        """Where kernels find an array."""
        if slot == pl.G and k in sparse:
            array = sparse[k][1]
        elif not ca.lies_flat(array, self.layout.orders[k]):
            self._copies[slot, k] = array
            array = self._work_array(slot, k, array)
        return _address(array)

    def _work_array(self, slot: int, k: int, array: Any) -> Any:
        import cupy

        if (slot, k) not in self._work:
            self._work[slot, k] = cupy.empty(array.size, ca.in_memory(array).dtype)
        return self._work[slot, k]

    def _copy(self, slot: int, k: int, array: Any, into: bool) -> None:
        """Copy an array into its work array, or back."""
        ca.copy_flat(self._work[slot, k], array, self.layout.orders[k], into_flat=into)

    def scatter(self, has_out: bool = False) -> None:
        """Copy what the step wrote into work arrays back to where it belongs."""
        for (slot, k), array in self._copies.items():
            if slot != pl.G and not (slot == pl.P and has_out):
                self._copy(slot, k, array, into=False)

    def zeros_as_gradients(self, zeros: Any) -> None:
        """One block of zeros stands for every gradient."""
        self.checks.forget()
        self._table.note(pl.G, [_address(zeros)] * len(self.layout.sizes))
        self._table.settle(self._slots[False], [None] * len(self.layout.sizes))

    def begin(self, averages: bool) -> None:
        """Bring parameters into their bounds, and start what follows them from there."""
        slots = cp.start_slots(self.plan, averages)
        self._run(self._ready(cl.make_begin, self._table.many, averages), slots, go=0)

    def add(self, first: bool) -> None:
        """Add the gradients to the sum, or make them the sum."""
        self._run(self._sums[first], (pl.G, pl.SUM), go=0)

    def step(self, has_out: bool, sparse: Sparse = NO_ROWS) -> None:
        """The step over all arrays, in one launch; each sparse gradient has one of its own."""
        slots = self._slots[has_out]
        self._run(self._steps[has_out], slots, go=self.numbers.go)
        for k, (rows, values) in sparse.items():
            if values.size:
                width, row = values.size // len(rows), int(self._table.records[k, cp.ROW])
                numbers, addresses = self.numbers, self._table.addresses(slots, k)
                begin = _address(rows), width, values.size, numbers.factors(k), numbers.go
                assert self._lazy is not None  # the optimiser takes sparse gradients so
                blocks = policy.blocks_for(values.size)
                self._lazy(blocks, policy.BLOCK, (*begin, *numbers.rows.at(row)), addresses)

    def _run(self, kernel: Any, slots: Sequence[int], go: int) -> None:
        table, numbers = self._table, self.numbers
        if table.many:
            if table.blocks:
                end = numbers.factors(0), go, *numbers.rows.at(0)
                kernel(table.blocks, policy.BLOCK, (table.address, table.leaves_at, *end))
        elif table.facts and table.facts[cp.ITEMS]:
            head, tiles, items, row = table.facts
            end = numbers.factors(0), go, *numbers.rows.at(row)
            blocks, addresses = policy.blocks_for(items), table.addresses(slots, 0)
            kernel(blocks, policy.BLOCK, (head, tiles, items, *end), addresses)


def _address(array: Any) -> int:
    return int(array.data.ptr) if array.size else 0
