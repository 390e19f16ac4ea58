"""The CPU back end: NumPy arrays, validated and stepped by one compiled function."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from numadam._arrays.layout import SKEW, Layout
from numadam._backend import Again, Backend, FunctionalStep, Leaves, SnapshotBuffer, titles
from numadam._core import plan as pl
from numadam._cpu.functional import update
from numadam._cpu.records import ABSENT, TUPLE_ITEMS
from numadam._cpu.state import CpuState
from numadam._cpu.step import CpuStep
from numadam._cpu.validate import NOT_FINITE, OK
from numadam._jit.interrupts import Writes, at_once, defer_interrupts
from numadam._settings.settings import Settings


class CpuBackend(Backend):
    """State and compiled step of NumPy parameters.

    Attributes
    ----------
    memory : CpuState
    arguments : KernelArguments
        Of `compiled`; they point into `memory`.
    compiled : CpuStep
    """

    home = "NumPy"
    is_host = True
    check_params = staticmethod(CpuState.check_params)

    def __init__(self, settings: Settings, params: Leaves, names: Sequence[str]) -> None:
        self.memory = memory = CpuState(settings, params, names)
        self.params, self.settings, self.state = memory.params, settings, memory.state
        self.arguments = memory.arguments
        self.compiled = CpuStep(
            self.arguments,
            titles(names),
            self.params,
            bound=memory.named,
            sparse=settings.options["sparse"],
            exchange=settings.exchange,
        )
        self.compiled.check()
        settings.agree(self.home)
        memory.begin()
        self._one = len(params) == 1
        self._meta_at, self._ids_at = self.arguments.meta_at, self.compiled.ids_at

    def step(
        self, grads: Leaves, lr: float, params: Leaves | None = None, out: Leaves | None = None
    ) -> bool:
        """Check everything, then take the whole step; t advances last.

        Returns False where the guard stopped the step.
        """
        if self._one and params is None and out is None:
            return self.step_one(grads[0], lr)
        used = {pl.G: grads}
        if params is not None:
            used[pl.P] = params
        if out is not None:
            used[pl.OUT] = out
        return self.compiled.run(used, lr) == OK

    def step_one(self, grad: Any, lr: float, params: Any = None, out: Any = None) -> bool:
        """As `step`, for the only array.

        The gradient goes by value: 2 us less than an array of ids.
        """
        compiled = self.compiled
        if params is None and out is None:
            status = compiled.kernel(self._meta_at, self._ids_at, id(grad), 0, lr)
        else:
            # by slot; the kernel reads the ids from the tuple: 2 us less than an array of them
            p, to = self.params[0] if params is None else params, ABSENT if out is None else out
            arrays = (p, ABSENT, ABSENT, ABSENT, ABSENT, to)
            kernel = compiled.kernel if out is None else compiled.kernel_with_out
            status = kernel(self._meta_at, id(arrays) + TUPLE_ITEMS, id(grad), 0, lr)
        if status == OK:
            return True
        if status == NOT_FINITE:
            return False
        used: dict[int, Leaves] = {pl.G: [grad]}
        used |= {slot: [one] for slot, one in ((pl.P, params), (pl.OUT, out)) if one is not None}
        return compiled.run(used, lr, status) == OK

    def flush(self, lr: float) -> bool:
        """Take a step with the mean of the gradients that have been added up."""
        meta, layout = self.arguments.meta, self.arguments.layout
        # one block of zeros stands for every gradient: the sum is what counts
        longest = max(layout.sizes) * layout.dtype.itemsize
        zeros = np.zeros(longest + 64, np.uint8)
        with defer_interrupts():
            try:
                self.arguments.bind(pl.G, np.full(len(self.params), zeros.ctypes.data))
                meta["flushing"] = 1
                return self.compiled.run({}, lr) == OK
            finally:
                meta["flushing"] = 0

    def drop(self) -> None:
        """Forget the gradients that have been added up."""
        self.arguments.meta["calls"] = 0

    def reset(self) -> None:
        """Begin anew: state, counters and products as before the first step."""
        self.check()
        self.memory.reset()

    def snapshot_buffer(self) -> SnapshotBuffer:
        """New memory for a snapshot of parameters, state, counters and norms."""

        def copies(writes: Writes) -> Callable[[], None]:
            def copy() -> None:
                self.check()  # an array may have been resized since
                at_once(writes)

            return copy

        return SnapshotBuffer(*map(copies, self.memory.snapshot_writes()))

    def gradients(self) -> list[np.ndarray]:
        """Gradient buffers of the parameters' shapes in one flat buffer."""
        layout = self.arguments.layout
        block, (first,) = Layout.allocate(0, [layout], skew=3 * SKEW)
        return layout.views(block[first:])

    @property
    def t(self) -> int:
        """Steps taken."""
        return self.memory.t

    @property
    def counters(self) -> dict[str, np.ndarray]:
        """By name read-only 0-d int64 arrays that show the counters themselves."""
        return self.memory.counters

    @property
    def skipped(self) -> tuple[int, int]:
        """Steps that the guard skipped, in all and in a row until now."""
        return self.memory.skipped

    @property
    def grad_norm(self) -> Any:
        """Norm of the last gradients before clipping: one number, or one an array."""
        return self.memory.grad_norm

    def load(
        self,
        counters: Mapping[str, Any],
        state: Mapping[str, Leaves],
        params: Leaves | None = None,
        others: Iterable[Callable[[], Any]] = (),
    ) -> None:
        """Load counters, state arrays and parameters, and make other writes, all at once."""
        self.memory.load(counters, state, params, others)

    def check(self) -> None:
        """Check the parameters as they are now: they can be written, and overlap nothing."""
        self.compiled.check()

    def from_host(self, arrays: Sequence[np.ndarray]) -> list[Any]:
        """The arrays themselves."""
        return list(arrays)

    def check_arrays(self, what: str, leaves: Leaves, dtype: np.dtype | None = None) -> list[Any]:
        """Check arrays to be copied into the leaves of `what`."""
        return self.memory.check_arrays(what, leaves, dtype)

    def state_dtype(self, name: str) -> np.dtype:
        """The dtype of a state array."""
        return self.memory.state_dtype(name)

    @classmethod
    def update(cls, call: FunctionalStep) -> Again:
        """Take one step on the caller's own arrays."""
        return update(call)
