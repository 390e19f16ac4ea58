"""The CUDA back end: CuPy arrays, validated in Python, and one launch for all of them.

State lies on the GPU. The host counts t and computes the scalars of a step. With a guard it reads
one number back, once a step: whether the gradients are finite. Above 300 lines, for all of it is
one class over one state.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from numadam._arrays.interop import require_gpu
from numadam._backend import Again, FunctionalStep, Leaves, SnapshotBuffer, titles
from numadam._core import plan as pl
from numadam._cuda import arrays as ca
from numadam._cuda.launch import is_capturing, on_gpu, refuse_capture
from numadam._jit.process import Writes, at_once, defer_interrupts

if TYPE_CHECKING:
    from numadam._cuda.state import CudaState
    from numadam._cuda.step import CudaStep
    from numadam._settings.settings import Settings


class CudaBackend:
    """State and compiled step of CuPy parameters."""

    home = "CuPy"
    is_host = False
    _memory: CudaState
    _step: CudaStep

    def __init__(
        self,
        settings: Settings,
        params: Leaves,
        names: Sequence[str],
        like: CudaBackend | None = None,
    ) -> None:

        from numadam._cuda.state import CudaState
        from numadam._cuda.step import CudaStep

        self.params, self.names, self.settings = list(params), list(names), settings
        self._device, plan, options = int(params[0].device.id), settings.plan, settings.options
        # one dictionary for all options of an optimiser: a snapshot is of all of them
        zeros = dict.fromkeys(("t", "skipped", "skipped_in_a_row"), 0)
        self._counted: dict[str, int] = like._counted if like else zeros  # noqa: SLF001  # of this class
        # the optimiser refuses `out` with these
        without_out = plan.average or options["sparse"] == "lazy"
        with on_gpu(self._device):
            self._memory = CudaState(settings, params, like._memory if like else None)  # noqa: SLF001
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
                exchange=settings.exchange,
                counts=self.state.get(pl.ROW_COUNTS, ()),
                products=like.carried() if like else None,
            )
            for slot, views in self.own.items():
                self._step.arguments.note(slot, list(map(ca.address_of, views)))
            self._step.validator.validate({pl.P: self.params})
            settings.agree(self.home)
            if like is None:
                with defer_interrupts():
                    self._memory.start(self.params)
            self._step.validator.protect(self._memory.named(self.names))

    @staticmethod
    def check_params(params: Leaves, names: Sequence[str]) -> None:
        ca.check_params(params, names)
        require_gpu()

    def carried(self) -> np.ndarray | None:
        """The running products, where there are any."""
        return self._step.scalars.products if self.settings.plan.products else None

    # --- counters -----------------------------------------------------------------------------

    @property
    def counters(self) -> dict[str, np.ndarray]:
        """By name read-only 0-d arrays, and running products."""
        plan, found = self.settings.plan, {"t": np.array(self.t)}
        if self.settings.guard == pl.SKIP:
            found = {name: np.array(value) for name, value in self._counted.items()}
        if plan.products:
            products = self._step.scalars.read_products()
            found |= {name: products[:, k] for k, name in enumerate(plan.products)}
        for array in found.values():
            array.flags.writeable = False
        return found

    @property
    def t(self) -> int:
        return self._counted["t"]

    @property
    def grad_norm(self) -> Any:
        assert self._step.norms is not None  # the optimiser has asked the plan
        with on_gpu(self._device):
            norms = self._step.norms.read()
        return norms.tolist() if self.settings.plan.norm == "array" else float(norms[0])

    # --- the step -----------------------------------------------------------------------------

    def step_one(self, grad: Any, lr: float, params: Any = None, out: Any = None) -> bool:
        if params is None and out is None and self.settings.exchange is None:
            with on_gpu(self._device):
                refuse_capture("step")
                if self._step.accept(grad):
                    return self._take(lr)
        others = [None if one is None else (one,) for one in (params, out)]
        return self.step((grad,), lr, *others)

    def step(
        self, grads: Leaves, lr: float, params: Leaves | None = None, out: Leaves | None = None
    ) -> bool:
        """Check everything, then take the whole step; t advances last.

        Returns False where the guard stopped the step: then nothing is written.
        """
        used: dict[int, Leaves] = {pl.P: self.params if params is None else list(params)}
        used[pl.G] = grads
        if out is not None:
            used[pl.OUT] = out
        with on_gpu(self._device):
            refuse_capture("step")
            try:
                self._step.bind(used)
                for copy in self._step.copies_in:
                    copy()
                exchange = self.settings.exchange
                if exchange is not None:
                    exchange.begin(lr)
                taken = self._take(lr)
                if exchange is not None:
                    exchange.done()
                return taken
            finally:
                self._step.sparse.finish()

    def _take(self, lr: float) -> bool:
        """Take the step itself, over arrays that have been validated."""
        step, guard, counted = self._step, self.settings.guard, self._counted
        # all that changes arrays or counters, and nothing that may be refused
        with defer_interrupts():
            step.scalars.prepare(lr, self.t + 1)
            if step.norms is not None:
                step.norms.compute(self.t)
                if guard != pl.PROPAGATE and not step.norms.are_finite():
                    if guard == pl.SKIP:
                        counted["skipped"] += 1
                        counted["skipped_in_a_row"] += 1
                    return False
            step.take()
            step.scalars.advance()
            counted["skipped_in_a_row"] = 0
            counted["t"] += 1
        return True

    def count(self, steps: int) -> None:
        """Count steps that another kernel has taken."""
        self._counted["t"] += steps

    def with_settings(self, settings: Settings) -> tuple[CudaBackend, Writes]:
        """Other options over the same state, and a write that brings parameters into their bounds.

        Before it nothing has changed.
        """
        with on_gpu(self._device):
            self._check("A graph is being captured; set options before that.")
            other = CudaBackend(settings, self.params, self.names, self)
            moved = other._memory.inside(self.params)

        def move() -> None:
            with on_gpu(self._device):
                for param, inside in zip(self.params, moved, strict=True):
                    param[...] = inside

        return other, [move] if settings.plan.bounds else []

    def reset(self) -> None:
        with on_gpu(self._device):
            self._check("reset: a graph is being captured; reset before that.")
            with defer_interrupts():
                self._memory.take(0)
                self._step.scalars.load_products(1.0)
                self._counted.update(dict.fromkeys(self._counted, 0))
                if self._step.norms is not None:
                    self._step.norms.clear()
                self._memory.start(self.params)

    def snapshot_buffer(self) -> SnapshotBuffer:
        parts: list[Any] = [self._memory, self._step.scalars]
        if self._step.norms is not None:
            parts.append(self._step.norms)
        own = [*self.params, *(array for part in parts for array in part.saved)]
        with on_gpu(self._device):
            copied = [array.copy() for array in own]
        counted = dict(self._counted)

        def copy(sources: Leaves, targets: Leaves) -> None:
            self._check("snapshot: a graph is being captured; do it before that.")
            for source, target in zip(sources, targets, strict=True):
                target[...] = source

        def save() -> None:
            nonlocal counted
            with on_gpu(self._device), defer_interrupts():
                copy(own, copied)
                counted = dict(self._counted)

        def restore() -> None:
            with on_gpu(self._device), defer_interrupts():
                copy(copied, own)
                self._counted.update(counted)

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
            return list(map(cupy.asarray, arrays))

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
        products, counted = self._step.scalars.read_products(), dict(self._counted)
        for name, value in counters.items():
            if name in counted:
                counted[name] = int(value)
            else:
                products[:, self.settings.plan.products.index(name)] = value
        with on_gpu(self._device):
            staged = self._memory.staged(state)
            with defer_interrupts():
                self._memory.take(staged)
                self._step.scalars.load_products(products)
                self._counted.update(counted)
                for param, new in zip(self.params, params or (), strict=params is not None):
                    param[...] = new
                at_once(others)

    @classmethod
    def update(cls, call: FunctionalStep) -> Again | None:
        """Take one step on the caller's own arrays; the first call for an option compiles."""
        from numadam._cuda.step import update

        return update(call)
