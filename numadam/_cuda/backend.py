"""The CUDA back end: CuPy arrays, validated in Python, and one launch for all of them.

State lies on the GPU. The host counts t and computes the scalars of a step, except where the GPU
alone knows whether a step was taken: with ``nonfinite="skip"``, and with ``capturable=True``, whose
steps a graph replays. Above 300 lines, for all of it is one class over one state.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from numadam._arrays.interop import require_bfloat16, require_gpu
from numadam._backend import Again, Backend, FunctionalStep, Leaves, SnapshotBuffer, titles
from numadam._core import plan as pl
from numadam._core.half import in_memory
from numadam._cuda import arrays as ca
from numadam._cuda.launch import is_capturing, on_gpu, refuse_capture
from numadam._jit.process import at_once, defer_interrupts

if TYPE_CHECKING:
    from numadam._settings.settings import Settings


class CudaBackend(Backend):
    """State and compiled step of CuPy parameters."""

    home = "CuPy"
    is_host = False

    def __init__(self, settings: Settings, params: Leaves, names: Sequence[str]) -> None:
        from numadam._cuda.state import CudaState
        from numadam._cuda.step import CudaStep

        self.params, self.names, self.settings = list(params), list(names), settings
        self._device, plan, options = int(params[0].device.id), settings.plan, settings.options
        for slot, name in ((pl.P, "params"), (pl.S0, "state_dtype")):
            if plan.storage(slot).name == "bfloat16":
                require_bfloat16(name)
        if options["capturable"] and settings.exchange is not None:
            raise ValueError(
                "capturable: with comm, the host brings the norms of all ranks together, which a "
                "graph does not replay. Leave out capturable, or clip_norm, clip_array_norm and "
                "nonfinite."
            )
        self._t = self._calls = 0
        self._capturable, self._accumulate = options["capturable"], options["accumulate"]
        self._reports_skips = options["max_skips"] is not None
        self._counts_on_device = settings.guard == pl.SKIP or self._capturable
        # the optimiser refuses `out` with these
        without_out = plan.average or plan.master or plan.accumulate or options["sparse"] == "lazy"
        with on_gpu(self._device):
            self._memory = CudaState(settings, params)
            self.state, self.own = self._memory.state, self._memory.own
            self._step = CudaStep(
                plan,
                self._memory.layout,
                settings.control,
                settings.group_of_leaf,
                self._device,
                titles(names),
                outs=(False,) if without_out else (False, True),
                sparse=options["sparse"],
                fixed=self.params,
                counts_on_device=self._counts_on_device,
                rate=settings.rate_array if self._capturable else None,
                exchange=settings.exchange,
                counts=self.state.get(pl.ROW_COUNTS, ()),
            )
            for slot, views in self.own.items():
                self._step.arguments.note(slot, list(map(ca.address_of, views)))
            self._step.validator.validate({pl.P: self.params})
            settings.agree(self.home)
            with defer_interrupts():
                self._memory.start(self.params)
            self._step.validator.protect(self._memory.named(self.names))

    @staticmethod
    def check_params(params: Leaves, names: Sequence[str]) -> None:
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

    # --- counters -----------------------------------------------------------------------------

    @property
    def counters(self) -> dict[str, np.ndarray]:
        """By name read-only 0-d arrays, and running products; what the GPU alone knows is read."""
        plan, found = self.settings.plan, dict[str, Any]()
        counted = self._read_counters() if self._counts_on_device else None
        found["t"] = np.array(self._t if counted is None else counted.t)
        if plan.accumulate:
            found["calls"] = np.array(self._calls)
        if counted is not None and self.settings.guard == pl.SKIP:
            found |= {name: counted[name] for name in ("skipped", "skipped_in_a_row")}
        if plan.products:
            with on_gpu(self._device):
                products = self._step.scalars.read_products()
            found |= {name: products[:, k] for k, name in enumerate(plan.products)}
        arrays = {name: np.asarray(value) for name, value in found.items()}
        for array in arrays.values():
            array.flags.writeable = False
        return arrays

    def _read_counters(self) -> Any:
        with on_gpu(self._device):
            return self._step.control.read_counters()

    @property
    def t(self) -> int:
        return int(self._read_counters().t) if self._counts_on_device else self._t

    @property
    def grad_norm(self) -> Any:
        assert self._step.norms is not None  # the optimiser has asked the plan
        with on_gpu(self._device):
            norms = self._step.norms.read()
        return norms.tolist() if self.settings.plan.norm == "array" else float(norms[0])

    # --- the step -----------------------------------------------------------------------------

    def step_one(self, grad: Any, lr: float, params: Any = None, out: Any = None) -> bool:
        others = [None if one is None else (one,) for one in (params, out)]
        return self.step((grad,), lr, *others)

    def step(
        self, grads: Leaves, lr: float, params: Leaves | None = None, out: Leaves | None = None
    ) -> bool:
        """Check everything, then take the whole step; t advances last.

        Returns False where the guard stopped the step, as far as the host knows.
        """
        import cupy

        used: dict[int, Leaves] = {pl.P: self.params if params is None else list(params)}
        used[pl.G] = grads
        if out is not None:
            used[pl.OUT] = out
        if cupy.cuda.runtime.getDevice() == self._device:  # `on_gpu` would take 0.5 us to say so
            return self._step_on_gpu(used, lr)
        with on_gpu(self._device):
            return self._step_on_gpu(used, lr)

    def _step_on_gpu(self, used: dict[int, Leaves], lr: float) -> bool:
        """The step over these arrays, on the current GPU."""
        self._check_capture()
        try:
            self._bind(used)
            if self._calls + 1 < self._accumulate:
                return self._add(lr)
            return self._take(lr, self._calls + 1)
        finally:
            self._step.sparse.finish()

    def _check_capture(self) -> None:
        """Refuse to be captured in a graph where each replay would be the same step again."""
        import cupy

        if cupy.cuda.get_current_stream().is_capturing():
            if not self._capturable:
                refuse_capture("step", "Make the optimiser")
            self._step.arguments.keep()

    def _bind(self, used: dict[int, Leaves], gradient: Any = None) -> None:
        """Validate the arrays of a step, and bind the launches to them where they are new."""
        step = self._step
        validated = step.validator.validate(used)
        if validated is not step.bound:
            step.bind(validated, gradient)
        for copy in step.copies_in:
            copy()

    def _add(self, lr: float) -> bool:
        """Add the gradients to those that `accumulate` has added up."""
        with defer_interrupts():
            self._step.scalars.prepare(lr, self._t + 1, self._calls + 1, 0, 0)
            self._step.add(first=self._calls == 0)
            self._calls += 1
        return True

    def flush(self, lr: float) -> bool:
        import cupy

        with on_gpu(self._device):
            self._check_capture()
            # the sum counts, and its newest gradient is zero
            layout = self._memory.layout
            zeros = cupy.zeros(max(layout.sizes) * layout.dtype.itemsize, np.uint8)
            self._bind({pl.P: self.params}, zeros)
            return self._take(lr, self._calls, flushing=1)

    def _take(self, lr: float, n: int, flushing: int = 0) -> bool:
        """Take the step itself, with n gradients, over arrays that have been validated."""
        exchange = self.settings.exchange
        if exchange is not None:
            exchange.begin(lr)
        taken = self._take_here(lr, n, flushing)
        if exchange is not None:
            exchange.done()
        return taken

    def _take_here(self, lr: float, n: int, flushing: int) -> bool:
        """As `_take`, of this rank."""
        step, scalars, norms = self._step, self._step.scalars, self._step.norms
        t = 0 if self._counts_on_device else self._t + 1
        # all that changes arrays or counters, and nothing that may be refused
        with defer_interrupts():
            scalars.prepare(lr, t, n, flushing, int(norms is None))
            if norms is not None:
                norms.compute(t, self.settings.guard, (self._t, self._calls, flushing))
                if self.settings.guard == pl.RAISE and not self._step.control.are_finite():
                    return False
            for launch in step.launches:
                launch()
            for copy in step.copies_back:
                copy()
            if scalars.advance is not None:
                scalars.advance()
            self._calls = 0
            self._t += 1
        return not self._reports_skips or self._step.control.are_finite()

    def count(self, steps: int) -> None:
        """Count steps that another kernel has taken."""
        self._t += steps

    def drop(self) -> None:
        self._calls = 0

    def reset(self) -> None:
        with on_gpu(self._device):
            self._check("reset: a graph is being captured; reset before that.")
            with defer_interrupts():
                self._memory.take(0)
                if self.settings.plan.products:
                    self._step.scalars.load_products(1.0)
                self._step.control.write_counters(0)
                self._t = self._calls = 0
                if self._step.norms is not None:
                    self._step.norms.clear()
                self._memory.start(self.params)

    def snapshot_buffer(self) -> SnapshotBuffer:
        parts = [
            self._memory,
            self._step.control,
            self._step.scalars,
            *filter(None, [self._step.norms]),
        ]
        own = [*map(in_memory, self.params), *(array for part in parts for array in part.saved)]
        with on_gpu(self._device):
            copied = [array.copy() for array in own]
        counted = self._t, self._calls

        def copy(sources: Leaves, targets: Leaves) -> None:
            self._check("snapshot: a graph is being captured; do it before that.")
            for source, target in zip(sources, targets, strict=True):
                target[...] = source

        def save() -> None:
            nonlocal counted
            with on_gpu(self._device), defer_interrupts():
                copy(own, copied)
                counted = self._t, self._calls

        def restore() -> None:
            with on_gpu(self._device), defer_interrupts():
                copy(copied, own)
                self._t, self._calls = counted

        return save, restore

    def gradients(self) -> list[Any]:
        with on_gpu(self._device):
            return self._memory.gradients()

    def check(self) -> None:
        with on_gpu(self._device):
            self._check("load: a graph is being captured; load before that.")

    def _check(self, of_capture: str) -> None:
        """Check the parameters, for what a graph cannot repeat: `of_capture` is its error."""
        if is_capturing():
            raise RuntimeError(of_capture)
        self._step.validator.validate({pl.P: self.params})

    def from_host(self, arrays: Sequence[np.ndarray]) -> list[Any]:
        import cupy

        with on_gpu(self._device):
            return [cupy.asarray(in_memory(one)).view(one.dtype) for one in arrays]

    def check_arrays(self, what: str, leaves: Leaves, state: str = "") -> list[Any]:
        layout = self._memory.layouts[state] if state else self._memory.layout
        for leaf, param, shape in zip(leaves, self.names, layout.shapes, strict=True):
            entry = (what + param.removeprefix("params"), leaf)
            ca.check_array(entry, param, shape, layout.dtype, self._device, written=False)
        return list(leaves)

    def load(
        self,
        counters: Mapping[str, Any],
        state: Mapping[str, Leaves],
        params: Leaves | None = None,
        others: Iterable[Callable[[], Any]] = (),
    ) -> None:
        """Load counters, state arrays and parameters, and make other writes; Ctrl-C waits."""
        with on_gpu(self._device):
            products = self._step.scalars.read_products()
            counted = self._step.control.read_counters()
        counted.t = self.t
        calls = int(counters.get("calls", self._calls))
        for name, value in counters.items():
            if name in ("t", "skipped", "skipped_in_a_row"):
                counted[name] = value
            elif name != "calls":
                products[:, self.settings.plan.products.index(name)] = value
        with on_gpu(self._device):
            staged = self._memory.staged(state)
            with defer_interrupts():
                self._memory.take(staged)
                self._step.control.write_counters(counted)
                self._step.scalars.load_products(products)
                self._t, self._calls = int(counted.t), calls
                for param, new in zip(self.params, params or (), strict=params is not None):
                    in_memory(param)[...] = in_memory(new)
                at_once(others)

    @classmethod
    def update(cls, call: FunctionalStep) -> Again | None:
        """Take one step on the caller's own arrays; the first call for an option compiles."""
        from numadam._cuda.step import update

        update(call)
        return None
