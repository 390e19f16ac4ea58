"""One step over CuPy arrays: the kernels of a plan, bound to the arrays of the step."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from numadam._arrays import checks as ar
from numadam._arrays.interop import Layout
from numadam._backend import Again, FunctionalStep, Leaves, Title
from numadam._core import plan as pl
from numadam._core.plan import Plan
from numadam._core.text import Text
from numadam._cuda import arrays as ca
from numadam._cuda import kernel
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
    Called in this order they are the step; `take` calls them after the first. The GPU of the leaves
    is the current one meanwhile.

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
        products: np.ndarray | None = None,
    ) -> None:
        self._plan, self._layout, self._device = plan, layout, device
        self.arguments = KernelArguments(plan, layout, groups)
        self.scalars = Scalars(plan, control, groups, products)
        reduced = plan, self.arguments, control, self.scalars, device, exchange
        self.norms = GradientNorms(*reduced) if plan.norm else None
        self.sparse = CudaSparseGradients(layout, device, sparse, title, counts)
        self.validator = Validator(plan, layout, device, title, self.sparse, fixed)
        self._slots = {out: Text(plan, out).slots for out in (False, True)}
        self._steps = {out: self._ready(kernel.make_step, self.arguments.many, out) for out in outs}
        self._lazy = self._ready(kernel.make_lazy) if sparse == "lazy" else None
        self._counts, self._tables = counts, list[Any]()
        self._rows: policy.Launch | None = None
        if plan.by_row:
            import cupy

            self._rows = policy.Launch(*compiled(kernel.make_rows, device, plan))
            self._control, self._control_there = control, cupy.zeros(control.shape, np.float64)
            self._upload = Upload(self._control_there)
        self._work: dict[tuple[int, int], Any] = {}
        self._bound: Validated | None = None
        self.copies_in: list[Callable[[], None]] = []
        self.launches: list[Callable[[], None]] = []
        self.copies_back: list[Callable[[], None]] = []

    def _ready(self, make: Any, *more: bool) -> policy.Launch:
        """A launch of a kernel of the plan, which is compiled."""
        values = self.scalars.values
        loaded = compiled(make, self._device, self._plan, values is not None, *more)
        return policy.Launch(*loaded, values)

    def bind(self, used: dict[int, Leaves]) -> None:
        """Validate these arrays, and prepare the launches on them where they lie elsewhere."""
        validated = self.validator.validate(used)
        if validated is self._bound:
            return
        slots, rows, known = validated.slots, validated.rows, self._bound
        self._bound = None  # until everything has been noted
        for slot, checked in slots.items():
            if known is None or checked is not known.slots.get(slot):
                self.arguments.note(slot, self._addresses(slot, checked))
        has_out = pl.OUT in slots
        self.arguments.set_sparse({k: rows[k][1].size for k in rows})
        self.arguments.upload()
        if self.norms is not None:
            self.norms.bind()
        self._prepare_copies(validated, has_out)
        self.launches = self._launch(self._steps[has_out], self._slots[has_out])
        if rows:
            self.launches += self._launch_rows(validated, self._slots[has_out])
        self._bound = validated  # which keeps the rows of sparse gradients

    def accept(self, grad: Any) -> bool:
        """Bind the gradient of the only leaf in the place of the last; False where it does not fit.

        Then nothing has changed.
        """
        if self._bound is None or self.arguments.many:
            return False
        address = self.validator.accept(grad)
        if address:
            self._steps[False].words[self._slots[False].index(pl.G)] = address
            if self.norms is not None:
                self.norms.sums.words[self.norms.slots.index(pl.G)] = address
        return address != 0

    def release(self) -> None:
        """Refer to no array any more; of flat ones the addresses alone are known."""
        if self.copies_in:
            self._bound, self.copies_in, self.copies_back = None, [], []

    def take(self) -> None:
        """Launch the kernels, and copy what they wrote."""
        for launch in (*self.launches, *self.copies_back):
            launch()

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

    def _factors(self, leaf: int) -> tuple[int, ...]:
        """Address of a leaf's clip factors, where gradients are clipped by norm."""
        return (self.norms.factors(leaf),) if self.norms and self._plan.clip_norm else ()

    def _launch(self, step: policy.Launch, slots: Sequence[int]) -> list[Callable[[], None]]:
        """The launch over all leaves; none where they have no elements."""
        arguments = self.arguments
        begin, group = arguments.begin("step", slots)
        if not (arguments.blocks and begin[-1]):
            return []
        numbers = *begin, *self._factors(0), *self.scalars.launch_arguments(group)
        return [step.bind(arguments.blocks, numbers)]

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
                arrays = self.arguments.of_leaf(slots, k)
                of_rows = values.size, ca.address_of(rows), values.size // len(rows)
                numbers = *arrays, *of_rows, *self._factors(k), *scalars
                # bound when it is launched: they share the memory of their arguments
                launches.append(partial(_launch_now, lazy, policy.blocks_for(values.size), numbers))
        return launches

    def _prepare_rows(
        self, launches: list[Callable[[], None]], prepare: policy.Launch, leaf: int, rows: Any
    ) -> tuple[int, ...]:
        """Add the launch that counts these rows and computes their scalars; where these lie."""
        import cupy

        plan, n, scalars = self._plan, len(rows), self.scalars
        table = cupy.empty((n, len(Text(plan).scalars)), plan.real)
        self._tables.append(table)
        group = self.arguments.groups[leaf]
        first = ca.address_of(self._control_there[group])
        at = ca.address_of(table), first, *map(ca.address_of, (self._counts[leaf], rows))

        def launch() -> None:
            self._upload(self._control)
            _launch_now(prepare, policy.blocks_for(n), (*at, n, scalars.lr))

        launches.append(launch)
        return at[:1]


def _launch_now(launch: policy.Launch, blocks: int, numbers: Sequence[Any]) -> None:
    launch.bind(blocks, numbers)()


# --- steps on arrays that the caller owns --------------------------------------------------------


#: Serialises the calls of several threads, which share a step.
_lock = threading.Lock()
#: ``cudaStreamPerThread``
_PER_THREAD = 2


@functools.lru_cache(maxsize=256)  # more shapes than a model has: else each call would compile
def _made(plan: Plan, width: int, device: int, *like: Any) -> tuple[np.ndarray, CudaStep]:
    """A control block of one row of so many numbers, and the step that reads it.

    The step's memory belongs to one stream: the stream itself is a key, for it lives as long as the
    step does, and no other gets its number meanwhile.
    """
    shape, order, has_out, names, _, _ = like
    layout, control = Layout([shape], [order], plan.dtype), np.zeros((1, width))
    given = plan, layout, control, [0], device, lambda slot, leaf: names[slot]
    return control, CudaStep(*given, outs=[has_out])


def update(call: FunctionalStep) -> Again | None:
    """Take a step on the caller's arrays; the first call for an option compiles."""
    import cupy

    settings, products, arrays, _, t, lr = call
    p, plan, device = arrays[pl.P], settings.plan, int(arrays[pl.P].device.id)
    with on_gpu(device), _lock:
        refuse_capture("update")
        stream = cupy.cuda.get_current_stream()
        # all threads call their own default stream by the same number
        thread = threading.get_ident() if stream.ptr == _PER_THREAD else 0
        like = p.shape, ar.memory_order(p), arrays[pl.OUT] is not None, call.names
        width = settings.control.shape[1]
        control, step = _made(plan, width, device, *like, stream, thread)
        step.bind(call.used)
        for copy in step.copies_in:
            copy()
        control[...] = settings.control
        with defer_interrupts():
            if products:
                step.scalars.load_products(np.array([products], np.float64))
            step.scalars.prepare(lr, t)
            if step.norms is not None:
                step.norms.compute(t - 1)
            step.take()
        step.release()

    like_this = call._replace(arrays=())  # it must not keep the caller's

    def again(arrays: tuple[Any, ...], t: int, lr: float) -> bool:
        p = arrays[pl.P]
        if type(p) is not cupy.ndarray or p.dtype != plan.dtype:
            return False
        update(like_this._replace(arrays=arrays, t=t, lr=lr))
        return True

    return None if products else again
