"""One pass over CuPy arrays: checks, work arrays, and the launches of a plan's kernels."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from weakref import ref

from numadam import cuda as policy
from numadam import cuda_arrays as ca
from numadam import cuda_loop as cl
from numadam import cuda_passes as cp
from numadam import plan as pl
from numadam.cuda_arrays import NO_ROWS, Sparse
from numadam.cuda_compile import compiled
from numadam.cuda_numbers import CudaNumbers
from numadam.cuda_table import CudaTable
from numadam.engine import Leaves
from numadam.foreign import views
from numadam.plan import Plan
from numadam.table import Layout

Title = Callable[[int, int], str]
#: Arrays from which on a step trusts an array object that it saw at the last two steps, and no
#: longer looks at it.
_TRUSTED_FROM = 16


class CudaPass:
    """The kernels of a plan over leaves of a layout, and the work arrays of strided leaves.

    Its methods are called while the GPU of the leaves is the current one.

    Parameters
    ----------
    plan : Plan
    layout : Layout
    table : CudaTable
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
        table: CudaTable,
        numbers: CudaNumbers,
        device: int,
        title: Title,
        fixed: Leaves = (),
        outs: Sequence[bool] = (False, True),
        lazy: bool = False,
    ) -> None:
        import cupy

        self._ndarray = cupy.ndarray
        self._fixed, self._fixed_spans = fixed, ca.spans_of(fixed, True)
        self._owned: Sequence[ca.Named] = ()
        self._owned_spans: list[ca.Span] = []
        self._dtypes = {slot: plan.array_dtype(slot) for slot in range(pl.SLOTS)}
        self._slots = {out: cp.step_slots(plan, out) for out in (False, True)}
        self.plan, self.layout, self.numbers = plan, layout, numbers
        self._table, self._device, self._title = table, device, title
        self._steps = {out: self._ready(cl.make_step, table.many, out) for out in outs}
        self._lazy = self._ready(cl.make_lazy) if lazy else None
        firsts = (False, True) if plan.accumulate else ()
        self._sums = [self._ready(cl.make_sum, table.many, first) for first in firsts]
        self._work: dict[tuple[int, int], Any] = {}
        self._seen: dict[int, _Seen] = {}
        self._copies: dict[tuple[int, int], Any] = {}

    def _ready(self, make: Any, *more: bool) -> Any:
        """A kernel of the plan, compiled, and ready for a launch."""
        numbers = self.numbers
        kernel = compiled(make, self._device, self.plan, numbers.by_value, *more)
        return kernel.ready(numbers.rows.values)

    def _named(self, slot: int, arrays: Leaves) -> list[ca.Named]:
        return [(self._title(slot, k), array) for k, array in enumerate(arrays)]

    def own(self, slot: int, arrays: Leaves) -> None:
        """Let every step have arrays of the engine's own."""
        self._table.note(slot, [_address(array) for array in arrays])

    def owns(self, named: Sequence[ca.Named]) -> None:
        """Let no array of a step overlap these, which every step writes."""
        self._owned = named
        self._owned_spans = ca.spans_of([array for _, array in named], True)

    def new(self, used: Mapping[int, Leaves]) -> dict[int, Leaves]:
        """Those arrays of a step that are to be looked at: the others may be trusted (`_Seen`)."""
        seen = self._seen
        return {
            slot: arrays
            for slot, arrays in used.items()
            if slot not in seen or not seen[slot].again(arrays)
        }

    def enter(
        self, used: dict[int, Leaves], new: Mapping[int, Leaves], sparse: Sparse = NO_ROWS
    ) -> None:
        """Check the `new` arrays of a step, and note where they lie; nothing of theirs is written.

        What is copied into work arrays is copied at every step.
        """
        new = used if sparse else new
        for slot, arrays in new.items():
            if not all(isinstance(array, self._ndarray) for array in arrays) and not sparse:
                # a view at each step: who owns such an object may put other memory into it
                used[slot] = views(arrays, "CuPy", pl.is_written(slot, used))
        new = {slot: used[slot] for slot in new}
        if new or used.keys() != self._seen.keys():
            seen, self._seen = self._seen, {}
            self._check(used, new, sparse)
            self._gather(used, new, sparse)
            if not sparse:
                self._seen = {
                    slot: self._see(arrays) if slot in new else seen[slot]
                    for slot, arrays in used.items()
                }
        for (slot, k), array in self._copies.items():
            self._copy(slot, k, array, into=True)

    def _see(self, arrays: Leaves) -> _Seen:
        return _Seen(arrays, arrays is self._fixed, self._ndarray)

    def forget(self) -> None:
        """Hold no array of the last step; the next one looks at all of them."""
        self._seen, self._copies = {}, {}

    def _check(
        self,
        used: Mapping[int, Leaves],
        new: Mapping[int, Leaves],
        sparse: Sparse,
    ) -> None:
        """Check the arrays that are new, and that nothing written overlaps anything else."""
        layout, plan = self.layout, self.plan
        only_read = (pl.G, pl.P) if pl.OUT in used else (pl.G,)
        for slot, arrays in new.items():
            dtype, written = self._dtypes[slot], slot not in only_read
            for k, (array, shape) in enumerate(zip(arrays, layout.shapes, strict=True)):
                lazy = slot == pl.G and k in sparse
                if not lazy and not ca.fits(array, shape, dtype, self._device, written):
                    named, of = (self._title(slot, k), array), self._title(pl.P, k)
                    ca.check_array(named, of, shape, plan.array_dtype(slot), self._device, written)
        if sparse or not ca.lie_apart(self._spans(used, only_read)):
            self._check_overlap(used, only_read, sparse)

    def _spans(self, used: Mapping[int, Leaves], only_read: Sequence[int]) -> list[ca.Span]:
        """Where the arrays of a step lie, those of the engine's own among them."""
        spans = list(self._owned_spans)
        for slot, arrays in used.items():
            written = slot not in only_read
            if arrays is not self._fixed:
                spans += ca.spans_of(arrays, written)
            else:
                spans += [(low, high, written) for low, high, _ in self._fixed_spans]
        return spans

    def _check_overlap(
        self, used: Mapping[int, Leaves], only_read: Sequence[int], sparse: Sparse
    ) -> None:
        """Refuse what overlaps, by name."""
        read = [a for slot in only_read for a in self._named(slot, used.get(slot, ()))]
        write = [a for slot in used if slot not in only_read for a in self._named(slot, used[slot])]
        for k, parts in sparse.items():
            name = self._title(pl.G, k)
            read = [entry for entry in read if entry[0] != name]
            read += zip((f"{name}.indices", f"{name}.values"), parts, strict=True)
        ca.check_overlap([*self._owned, *write], read)

    def _gather(
        self, used: Mapping[int, Leaves], new: Mapping[int, Leaves], sparse: Sparse
    ) -> None:
        """Note where each new array lies, or the work array through which it goes."""
        sums: list[int | None] = [None] * len(self.layout.sizes)
        for slot, arrays in new.items():
            addresses = []
            for k, (array, order) in enumerate(zip(arrays, self.layout.orders, strict=True)):
                self._copies.pop((slot, k), None)
                if slot == pl.G and k in sparse:
                    array = sparse[k][1]
                    sums[k] = array.size
                elif not ca.lies_flat(array, order):
                    self._copies[slot, k] = array
                    array = self._work_array(slot, k, array)
                addresses.append(_address(array))
            self._table.note(slot, addresses)
        for place in [place for place in self._copies if place[0] not in used]:
            del self._copies[place]
        self._table.settle(self._slots[pl.OUT in used], sums)

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
        self._seen = {}
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


class _Seen:
    """The arrays of a slot at the last step, and whether this one may trust them.

    Few arrays are known again by how they look: an array that lies where one did that was found
    right, with its shape, strides and dtype, is right too. To look at each of 1000 takes 0.5 ms,
    to ask whether it is the same object 20 us. An object keeps its memory, so what was right of it
    stays right. But whoever makes new gradients at each step shall not find the old ones held: an
    object is kept only if it was alive through two steps, as its owner evidently keeps it too.
    """

    def __init__(self, arrays: Leaves, fixed: bool, own: type) -> None:
        self._fixed, self._type = arrays if fixed else None, own
        self._looks: list[Any] | None = None
        self._weak: list[Any] = []
        self._kept: list[Any] = []
        if not fixed and len(arrays) < _TRUSTED_FROM:
            self._looks = [_look(array) for array in arrays]
        elif not fixed:
            self._weak = list(map(ref, arrays))

    def again(self, arrays: Leaves) -> bool:
        """Whether these are the arrays of the last step, or look as they did."""
        if self._fixed is not None:
            return arrays is self._fixed
        if self._looks is not None:
            for array, look in zip(arrays, self._looks, strict=True):
                if type(array) is not self._type or _look(array) != look:
                    return False
            return True
        if self._kept:
            return all(map(operator.is_, arrays, self._kept))
        if any(r() is not a for r, a in zip(self._weak, arrays, strict=True)):
            return False
        self._kept = list(arrays)
        return True


def _look(array: Any) -> tuple[Any, ...]:
    data = array.data
    return data.ptr, data.device_id, array.shape, array.strides, array.dtype


def _address(array: Any) -> int:
    return int(array.data.ptr) if array.size else 0
