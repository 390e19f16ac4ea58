"""The CUDA back end: CuPy arrays, checked in Python, into one launch for all of them.

State lies on the GPU. The host counts t and forms the scalars of a step, except where the GPU
alone knows whether a step was taken: with ``nonfinite="skip"``, and with ``capturable=True``, whose
steps a graph replays.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from numadam._arrays.gpu import require_bfloat16, require_gpu
from numadam._backend import Backend, FunctionalStep, Leaves
from numadam._core import plan as pl
from numadam._core.half import memory_dtype
from numadam._cuda import validate as ca
from numadam._cuda.launch import is_capturing, on_gpu, refuse_capture
from numadam._cuda.validate import NO_ROWS
from numadam._jit.interrupts import defer_interrupts

if TYPE_CHECKING:
    from numadam._cuda.validate import Sparse
    from numadam._settings.settings import Settings

_PROPAGATE, _RAISE, _SKIP = range(3)  # what a guard does


class CudaBackend(Backend):
    """State and compiled step of CuPy parameters."""

    home = "CuPy"
    is_host = False

    def __init__(self, settings: Settings, params: Leaves, names: Sequence[str]) -> None:
        from numadam._cuda.arguments import KernelArguments
        from numadam._cuda.reductions import CudaNumbers
        from numadam._cuda.sparse import SparseGradients
        from numadam._cuda.state import CudaState
        from numadam._cuda.step import CudaStep

        self.params, self.names, self.settings = list(params), list(names), settings
        self._device, plan = int(params[0].device.id), settings.plan
        for slot, name in ((pl.P, "params"), (pl.S0, "state_dtype")):
            if plan.storage(slot).name == "bfloat16":
                require_bfloat16(name)
        self._t = self._calls = 0
        capturable, how = settings.options["capturable"], settings.options["sparse"]
        #: whether the GPU alone knows t
        self._led = settings.guard == _SKIP or capturable
        # the optimiser refuses `out` with the others
        only_here = plan.average or plan.master or plan.accumulate or how == "lazy"
        outs = (False,) if only_here else (False, True)
        with on_gpu(self._device):
            self._store = CudaState(settings, params)
            self.state, self.own = self._store.state, self._store.own
            layout = self._store.layout
            self._table = table = KernelArguments(plan, layout, settings.group_of_leaf)
            rate = settings.rate_array if capturable else None
            self._numbers = CudaNumbers(
                plan, settings.control, table, self._device, led=self._led, rate=rate
            )
            given = (plan, layout, table, self._numbers, self._device, self._title)
            self._pass = CudaStep(*given, self.params, outs, lazy=how == "lazy")
            self._sparse = SparseGradients(plan, layout, self._device, how, self._title)
            for slot, views in self.own.items():
                self._pass.own(slot, views)
            self._start()
            self._pass.checks.owns(self._store.named(self.names))

    @staticmethod
    def check_params(params: Leaves, names: Sequence[str]) -> None:
        """Check type and dtype of all parameters, and that they lie on one GPU."""
        ca.check_params(params, names)
        require_gpu()

    @staticmethod
    def rate_array(lr: Any, params: Leaves) -> Any:
        """A 0-d array on the GPU of the parameters: the one that was passed, or a new one."""
        import cupy

        if callable(lr) or bool(getattr(lr, "ndim", False)):
            raise TypeError("lr: with capturable=True expected a number or a 0-d CuPy array.")
        device = int(params[0].device.id)
        if not isinstance(lr, cupy.ndarray):
            with on_gpu(device):
                return cupy.full((), float(lr), np.float64)
        ca.check_device(lr, "lr", device, "params")
        if lr.dtype not in (np.dtype(np.float32), np.dtype(np.float64)):
            raise TypeError(f"lr: expected a 0-d array of float32 or float64, got {lr.dtype}.")
        return lr

    def _title(self, slot: int, leaf: int) -> str:
        what = {pl.P: "params", pl.G: "grads", pl.OUT: "out"}[slot]
        return what + self.names[leaf].removeprefix("params")

    def _start(self) -> None:
        """Parameters into their bounds, and what is not zero before the first step."""
        settings, plan = self.settings, self.settings.plan
        averages = plan.average and not settings.options["ema_debias"]
        used: dict[int, Leaves] = {pl.P: self.params}
        self._pass.enter(used, used)
        if plan.bounds or plan.master or averages:
            self._numbers.prepare(0.0, 1, 1, alone=False)
            self._pass.begin(averages)
            if plan.bounds:
                self._pass.scatter()
        self._pass.forget()
        self._store.begin()

    @property
    def counters(self) -> dict[str, np.ndarray]:
        """By name read-only 0-d arrays, and running products; what the GPU alone knows is read."""
        from numadam._cuda.scalar_kernels import IN_A_ROW, SKIPPED

        found: dict[str, Any] = {}
        counts = self._read_counts() if self._led else None
        found["t"] = np.array(self._t if counts is None else counts[0])
        if self.settings.plan.accumulate:
            found["calls"] = np.array(self._calls)
        if counts is not None and self.settings.guard == _SKIP:
            found |= {"skipped": counts[SKIPPED], "skipped_in_a_row": counts[IN_A_ROW]}
        if self.settings.plan.products:
            with on_gpu(self._device):
                products = self._numbers.rows.read_products()
            found |= {name: products[:, k] for k, name in enumerate(self.settings.plan.products)}
        arrays = {name: np.asarray(value) for name, value in found.items()}
        for array in arrays.values():
            array.flags.writeable = False
        return arrays

    def _read(self, array: Any) -> np.ndarray:
        import cupy

        with on_gpu(self._device):
            return np.array(cupy.asnumpy(array))

    def _read_counts(self) -> np.ndarray:
        return self._read(self._numbers.counts)

    @property
    def t(self) -> int:
        """Steps taken."""
        return int(self._read_counts()[0]) if self._led else self._t

    @property
    def skipped(self) -> tuple[int, int]:
        """Steps that the guard skipped, in all and in a row until now."""
        from numadam._cuda.scalar_kernels import IN_A_ROW, SKIPPED

        if self.settings.guard != _SKIP:
            return 0, 0
        counts = self._read_counts()
        return int(counts[SKIPPED]), int(counts[IN_A_ROW])

    @property
    def grad_norm(self) -> Any:
        """Norm of the last gradients before clipping: one number, or one an array."""
        norms = self._read(self._numbers.norms)
        return norms.tolist() if self.settings.plan.norm == "array" else float(norms[0])

    def step(
        self, grads: Leaves, lr: float, params: Leaves | None = None, out: Leaves | None = None
    ) -> bool:
        """Check everything, then take the whole step; t advances last.

        Returns False where the guard stopped the step, as far as the host knows.
        """
        used: dict[int, Leaves] = {pl.P: self.params if params is None else list(params)}
        used[pl.G] = grads
        if out is not None:
            used[pl.OUT] = out
        with on_gpu(self._device):
            self._heed_capture()
            new = self._pass.checks.new(used)
            if pl.G not in new or self._pass.checks.are_own(grads):  # and so none is sparse
                return self._enter(used, new, lr, NO_ROWS)
            with self._sparse.lent(used) as sparse:
                return self._enter(used, new | {pl.G: used[pl.G]}, lr, sparse)

    def _heed_capture(self) -> None:
        """Refuse to be recorded for a graph where each replay would be the same step again."""
        if not self.settings.options["capturable"]:
            refuse_capture("step", "Make the optimiser")
        elif is_capturing():
            self._table.keep()

    def _enter(
        self, used: dict[int, Leaves], new: dict[int, Leaves], lr: float, sparse: Sparse
    ) -> bool:
        self._pass.enter(used, new, sparse)
        if self._calls + 1 < self.settings.options["accumulate"]:
            with defer_interrupts():
                self._numbers.prepare(lr, self._t + 1, self._calls + 1, alone=False)
                self._pass.add(first=self._calls == 0)
                self._calls += 1
            return True
        return self._take(lr, self._calls + 1, pl.OUT in used, sparse)

    def flush(self, lr: float) -> bool:
        """Take a step with the mean of the gradients that have been added up."""
        import cupy

        with on_gpu(self._device):
            self._heed_capture()
            used: dict[int, Leaves] = {pl.P: self.params}
            self._pass.enter(used, self._pass.checks.new(used))
            # the sum is what counts, and its newest gradient is zero
            zeros = cupy.zeros(
                max(self._store.layout.sizes), memory_dtype(self.settings.plan.dtype)
            )
            self._pass.zeros_as_gradients(zeros)
            return self._take(lr, self._calls, False, NO_ROWS, flushing=True)

    def _take(
        self, lr: float, n: int, has_out: bool, sparse: Sparse, flushing: bool = False
    ) -> bool:
        """The step itself, over arrays that have been checked."""
        plan, guard, numbers = self.settings.plan, self.settings.guard, self._numbers
        t = 0 if self._led else self._t + 1
        # all that changes arrays or counters, and nothing that may be refused
        with defer_interrupts():
            numbers.prepare(lr, t, n, alone=not plan.norm, flushing=flushing)
            if plan.norm:
                numbers.form_norms(t, guard)
                if guard == _RAISE and not numbers.finite():
                    return False
            self._pass.step(has_out, sparse)
            self._pass.scatter(has_out)
            numbers.rows.advance(t)
            self._calls = 0
            self._t += 1
        counts_skips = self.settings.options["max_skips"] is not None
        return not counts_skips or numbers.finite()

    def drop(self) -> None:
        """Forget the gradients that have been added up."""
        self._calls = 0

    def gradients(self) -> list[Any]:
        """Gradient buffers of the parameters' shapes in one flat buffer."""
        with on_gpu(self._device):
            return self._store.gradients()

    def check_arrays(
        self, what: str, leaves: Leaves, dtype: np.dtype[Any] | None = None
    ) -> list[Any]:
        """Check arrays to be copied into the leaves of `what`."""
        layout = self._store.layout
        wanted = layout.dtype if dtype is None else dtype
        for leaf, param, shape in zip(leaves, self.names, layout.shapes, strict=True):
            entry = (what + param.removeprefix("params"), leaf)
            ca.check_array(entry, param, shape, wanted, self._device, written=False)
        return list(leaves)

    def state_dtype(self, name: str) -> np.dtype[Any]:
        """The dtype of a state array."""
        return self._store.state_dtype(name)

    def load(self, counters: Mapping[str, Any], state: Mapping[str, Leaves]) -> None:
        """Copy counters and state arrays in, whole or not at all: the block is one copy."""
        from numadam._cuda.scalar_kernels import IN_A_ROW, SKIPPED, T

        places = {"t": T, "skipped": SKIPPED, "skipped_in_a_row": IN_A_ROW}
        with on_gpu(self._device):
            products = self._numbers.rows.read_products()
        counts = self._read_counts()
        counts[T] = self.t
        calls = int(counters.get("calls", self._calls))
        for name, value in counters.items():
            if name in places:
                counts[places[name]] = value
            elif name != "calls":
                products[:, self.settings.plan.products.index(name)] = value
        with on_gpu(self._device):
            staged = self._store.staged(state)
            with defer_interrupts():
                self._store.take(staged)
                self._numbers.counts.set(counts)
                self._numbers.rows.load_products(products)
                self._t, self._calls = int(counts[T]), calls

    @classmethod
    def update(cls, call: FunctionalStep) -> None:
        """Take one step on the caller's own arrays; the first call for an option compiles."""
        from numadam._cuda.functional import update

        update(call)
