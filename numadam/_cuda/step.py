"""One step over CuPy arrays: the kernels of a plan, bound to the arrays of the step."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from numadam._arrays import checks as ar
from numadam._arrays.interop import Layout, require_gpu
from numadam._backend import FunctionalStep, Leaves, Title
from numadam._core import plan as pl
from numadam._core.plan import Plan
from numadam._core.scalars import product_width, width_of
from numadam._cuda import arrays as ca
from numadam._cuda import kernel as spec
from numadam._cuda import launch as policy
from numadam._cuda.arrays import CudaSparseGradients
from numadam._cuda.compiler import compiled
from numadam._cuda.launch import on_gpu, refuse_capture
from numadam._cuda.reductions import GradientNorms
from numadam._cuda.scalars import Scalars, Upload
from numadam._cuda.state import KernelArguments
from numadam._cuda.validate import CheckedArrays, Validated, Validator
from numadam._jit.process import defer_interrupts

if TYPE_CHECKING:
    from numadam._mpi import StepExchange

# --- steps of an optimiser -----------------------------------------------------------------------


class CudaStep:
    """All that takes part in the steps of one optimiser, or of one functional signature.

    `bind` prepares launches whose arguments do not change while the arrays do not: `copies_in` of
    strided arrays into work arrays, `launches` of kernels, and `copies_back` of what they wrote.
    Called in this order they are the step. The GPU of the leaves is the current one meanwhile.

    Each step reads `control` anew. `groups` are the rows of `control` of the leaves. `outs` says
    whether there shall be steps without and with `out`. `fixed` are the optimiser's own parameters,
    recognised by the list itself. `counts` are the steps of each row.
    """

    def __init__(
        self,
        plan: Plan,
        layout: Layout,
        control: np.ndarray,
        groups: Sequence[int],
        device: int,
        title: Title,
        *,
        outs: Sequence[bool],
        sparse: str | None = None,
        fixed: Leaves = (),
        exchange: StepExchange | None = None,
        counts: Leaves = (),
    ) -> None:
        self._plan, self._layout, self._device = plan, layout, device
        self.arguments = KernelArguments(plan, layout, groups)
        self.scalars = Scalars(plan, control, groups)
        reduced = plan, self.arguments, control, self.scalars, device, exchange
        self.norms = GradientNorms(*reduced) if plan.norm else None
        self.sparse = CudaSparseGradients(layout, device, sparse, title, counts)
        self.validator = Validator(plan, layout, device, title, self.sparse, fixed)
        many = self.arguments.many
        self._slots = {out: spec.step_slots(plan, out) for out in (False, True)}
        self._steps = {out: self._ready(spec.make_step, many, out) for out in outs}
        self._lazy = self._ready(spec.make_lazy) if sparse == "lazy" else None
        self._counts, self._tables = counts, list[Any]()
        self._rows: policy.Launch | None = None
        if plan.by_row:
            import cupy

            self._rows = policy.Launch(*compiled(spec.make_prepare_rows, device, plan))
            self._control, self._control_there = control, cupy.zeros(control.shape, np.float64)
            self._upload = Upload(self._control_there)
        self._work: dict[tuple[int, int], Any] = {}
        self._noted: dict[int, CheckedArrays] = {}
        self.bound: Validated | None = None
        self.copies_in: list[Callable[[], None]] = []
        self.launches: list[Callable[[], None]] = []
        self.copies_back: list[Callable[[], None]] = []

    def _ready(self, make: Any, *more: bool) -> policy.Launch:
        """A launch of a kernel of the plan, which is compiled."""
        values = self.scalars.values
        kernel = compiled(make, self._device, self._plan, values is not None, *more)
        return policy.Launch(*kernel, values)

    def bind(self, validated: Validated) -> None:
        """Note where these arrays begin, and prepare the launches on them."""
        noted, slots, rows = self._noted, validated.slots, validated.rows
        self._noted, self.bound = {}, None  # until everything has been noted
        for slot, checked in slots.items():
            if noted.get(slot) is not checked:
                self.arguments.note(slot, self._addresses(slot, checked))
        has_out = pl.OUT in slots
        self.arguments.finish(self._slots[has_out], {k: rows[k][1].size for k in rows})
        self._prepare_copies(validated, has_out)
        self.launches = self._launch(self._steps[has_out], self._slots[has_out])
        if rows:
            self.launches += self._launch_rows(validated, self._slots[has_out])
        self._noted = slots
        self.bound = validated

    def release(self) -> None:
        """Refer to no array any more."""
        self.validator.forget()
        self._noted, self.bound = {}, None
        self.copies_in, self.launches, self.copies_back = [], [], []

    def _addresses(self, slot: int, checked: CheckedArrays) -> list[int]:
        """Addresses at which kernels find the arrays of a slot: strided ones in work arrays."""
        addresses = list(checked.addresses)
        for k, array in checked.strided.items():
            addresses[k] = ca.address_of(self._work_array(slot, k, array))
        return addresses

    def _work_array(self, slot: int, k: int, array: Any) -> Any:
        import cupy

        if (slot, k) not in self._work:
            self._work[slot, k] = cupy.empty(array.size, array.dtype)
        return self._work[slot, k]

    def _prepare_copies(self, validated: Validated, has_out: bool) -> None:
        self.copies_in, self.copies_back = [], []
        for slot, checked in validated.slots.items():
            for k, array in checked.strided.items():
                pair = self._work_array(slot, k, array), array, self._layout.orders[k]
                self.copies_in.append(partial(ca.copy_flat, *pair, into_flat=True))
                if slot != pl.G and not (slot == pl.P and has_out):
                    self.copies_back.append(partial(ca.copy_flat, *pair, into_flat=False))

    def _factors(self, leaf: int) -> int:
        """Address of a leaf's clip factors; 0 where nothing is clipped by norm."""
        return 0 if self.norms is None else self.norms.factors(leaf)

    def _launch(self, kernel: Any, slots: Sequence[int]) -> list[Callable[[], None]]:
        """The launch over all leaves; none where they have no elements."""
        arguments, scalars = self.arguments, self.scalars
        if arguments.many and arguments.blocks:
            end = self._factors(0), *scalars.launch_arguments(0)  # a block finds its leaf's own
            numbers = arguments.table_address, arguments.leaves_address, *end
            return [kernel.bind(arguments.blocks, policy.THREADS, numbers)]
        if arguments.work and arguments.work[2]:
            head, tiles, items, group = arguments.work
            numbers = head, tiles, items, self._factors(0), *scalars.launch_arguments(group)
            addresses = arguments.addresses(slots, 0)
            return [kernel.bind(policy.blocks_for(items), policy.THREADS, numbers, addresses)]
        return []

    def _launch_rows(self, validated: Validated, slots: Sequence[int]) -> list[Callable[[], None]]:
        """A launch for each sparse gradient that has rows."""
        lazy, launches = self._lazy, list[Callable[[], None]]()
        self._tables.clear()
        for k, (rows, values) in validated.rows.items():
            scalars = self.scalars.launch_arguments(self.arguments.groups[k])
            if self._rows is not None and len(rows):
                scalars = self._prepare_rows(launches, self._rows, k, rows)
            if values.size:
                assert lazy is not None  # only then is a sparse gradient left as it is
                width = values.size // len(rows)
                begin = ca.address_of(rows), width, values.size, self._factors(k)
                numbers = *begin, *scalars
                addresses = self.arguments.addresses(slots, k)
                blocks = policy.blocks_for(values.size)
                # not bound: they share the memory of their arguments
                launches.append(partial(lazy, blocks, policy.THREADS, numbers, addresses))
        return launches

    def _prepare_rows(
        self, launches: list[Callable[[], None]], kernel: policy.Launch, leaf: int, rows: Any
    ) -> tuple[int, ...]:
        """Add the launch that counts these rows and computes their scalars; where these lie."""
        import cupy

        plan, n, scalars = self._plan, len(rows), self.scalars
        table = cupy.empty((n, width_of(plan)), plan.real)
        products = cupy.zeros((n, max(product_width(plan), 1)))
        self._tables += table, products
        group = self.arguments.groups[leaf]
        first = ca.address_of(self._control_there) + 8 * group * spec.control_width(plan)
        arrays = products, self._counts[leaf], rows
        at = ca.address_of(table), first, *map(ca.address_of, arrays)

        def launch() -> None:
            self._upload(self._control)
            numbers = *at, n, scalars.lr
            kernel(policy.blocks_for(n), policy.THREADS, numbers)

        launches.append(launch)
        return at[:1]


# --- steps on arrays that the caller owns --------------------------------------------------------


#: Serialises the calls of several threads, which share a step.
_lock = threading.Lock()
#: ``cudaStreamPerThread``
_PER_THREAD = 2


@functools.lru_cache(maxsize=256)  # more shapes than a model has: else each call would compile
def _made(
    plan: Plan,
    width: int,
    device: int,
    shape: tuple[int, ...],
    order: tuple[int, ...],
    has_out: bool,
    names: tuple[str, ...],
    stream: Any,
    thread: int,
) -> tuple[np.ndarray, CudaStep]:
    """A control block of one row of so many numbers, and the step that reads it.

    The step's memory belongs to one stream: the stream itself is a key, for it lives as long as the
    step does, and no other gets its number meanwhile.
    """
    layout, control = Layout([shape], [order], plan.dtype), np.zeros((1, width))
    given = plan, layout, control, [0], device, lambda slot, leaf: names[slot]
    return control, CudaStep(*given, outs=[has_out])


def update(call: FunctionalStep) -> None:
    """Take a step on the caller's arrays; the first call for an option compiles."""
    import cupy

    settings, products, arrays, _, t, lr = call
    p, device = arrays[pl.P], int(arrays[pl.P].device.id)
    require_gpu()
    with on_gpu(device), _lock:
        refuse_capture("update")
        stream = cupy.cuda.get_current_stream()
        # all threads call their own default stream by the same number
        thread = threading.get_ident() if stream.ptr == _PER_THREAD else 0
        like = p.shape, ar.memory_order(p), arrays[pl.OUT] is not None, call.names
        width = settings.control.shape[1]
        control, step = _made(settings.plan, width, device, *like, stream, thread)
        step.bind(step.validator.validate(call.used))
        for copy in step.copies_in:
            copy()
        control[...] = settings.control
        if products:
            step.scalars.load_products(np.array([products], np.float64))
        with defer_interrupts():
            step.scalars.prepare(lr, t)
            if step.norms is not None:
                step.norms.compute(t - 1)
            for launch in (*step.launches, *step.copies_back):
                launch()
        step.release()
