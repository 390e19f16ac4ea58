"""Back end of NumPy arrays: optimisers, and update functions without one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from numadam._arrays import checks as ar
from numadam._arrays.interop import SKEW, aligned_zeros, assign, layout_of
from numadam._backend import Again, FunctionalStep, Leaves, SnapshotBuffer, titles
from numadam._core import plan as pl
from numadam._cpu.memory import StepMemory
from numadam._cpu.state import CpuState
from numadam._cpu.step import CpuStep
from numadam._jit.process import Writes, at_once
from numadam._settings.settings import Settings

# --- functional API for NumPy arrays -------------------------------------------------------------
# Reuses the optimiser's kernel. Each call takes its arguments from a free list, so no two threads
# share them.

#: Free steps by what they fit. A call takes one and puts it back, so no two calls share arguments.
#: Those of the latest keys are kept, without large work arrays.
_free: dict[Any, list[_Free]] = {}
_KEYS, _WORK_BYTES = 256, 1_000_000


class _Free(NamedTuple):
    """A compiled step that no call is using."""

    compiled: CpuStep
    by_slot: Callable[[tuple[Any, ...], int, float], bool]
    user: Any  # whose options the memory holds


def _new_step(call: FunctionalStep) -> _Free:
    plan, p, names = call.settings.plan, call.arrays[pl.P], call.names
    ar.check_params([p], [call.name])
    layout = layout_of([p.shape], [ar.memory_order(p)], plan.dtype)
    counters, products = np.zeros(3, np.int64), np.ones((1, 2 * len(plan.products)))
    memory = StepMemory(plan, layout, call.settings.control.copy(), counters, products)
    compiled = CpuStep(memory, lambda slot, leaf: names[slot])
    return _Free(compiled, compiled.make_by_slot(call.arrays[pl.OUT] is not None), None)


class _Steps:
    """Steps with the same options over arrays of the same kind.

    `again` takes one, as `Again` says.
    """

    def __init__(self, settings: Settings, free: list[_Free], t: int, products: Any) -> None:
        self._settings, self._products = settings, settings.plan.products
        #: the number of the latest step and the products before it
        self._before = t, products
        self._free = free

    def again(self, arrays: tuple[Any, ...], t: int, lr: float) -> bool:
        """Take a step as one before it; False where the arrays do not fit it as they are."""
        try:
            step = self._free.pop()
        except IndexError:  # in use by another thread
            return False
        known = True
        if step.user is not self or self._products:
            step, known = self.prepared(step, t)
        taken = known and step.by_slot(arrays, t, lr)
        self._free.append(step)
        return taken

    def prepared(self, step: _Free, t: int) -> tuple[_Free, bool]:
        """The step with these options in its memory, and the products before step t.

        False where these are not known.
        """
        memory = step.compiled.memory
        if self._products:
            at, before = self._before
            if at != t:  # otherwise other arrays take the same step
                if step.user is not self or memory.counters[0] != t - 1:
                    return step, False
                before = memory.products[:, : len(self._products)].copy()
                self._before = t, before
            memory.products[:, : len(self._products)] = before
        if step.user is not self:
            memory.control[:] = self._settings.control
            step = step._replace(user=self)
        return step, True


def update(call: FunctionalStep) -> Again:
    """Take a step on the caller's arrays."""
    settings, products, arrays, name, t, lr = call
    p, has_out = arrays[pl.P], arrays[pl.OUT] is not None
    key = (settings.plan, name, has_out, type(p), p.dtype, p.shape, p.strides)
    free = _free.setdefault(key, [])
    for old in list(_free)[: max(0, len(_free) - _KEYS)]:
        _free.pop(old, None)
    try:
        step = free.pop()
    except IndexError:
        step = _new_step(call)
    user = _Steps(settings, free, t, np.array(products))
    step, _ = user.prepared(step, t)
    step.compiled.memory.counters[0] = t - 1
    step.compiled.run(call.used, lr)
    if step.compiled.work_bytes <= _WORK_BYTES:
        free.append(step)
    return user.again


# --- the CPU back end ----------------------------------------------------------------------------


class CpuBackend(CpuState):
    """State and compiled step of NumPy parameters."""

    update = staticmethod(update)

    def __init__(
        self,
        settings: Settings,
        params: Leaves,
        names: Sequence[str],
        like: CpuBackend | None = None,
    ) -> None:
        super().__init__(settings, params, names, like)
        state = self.state  # the step must not refer to the back end: see `titles`

        def named() -> list[tuple[str, Any]]:
            return [(f"state[{key!r}]", view) for key, views in state.items() for view in views]

        self.compiled = CpuStep(
            self.memory,
            titles(names),
            self.params,
            bound=named,
            sparse=settings.options["sparse"],
            exchange=settings.exchange,
            counts=state.get(pl.ROW_COUNTS, ()),
        )
        self.compiled.check()
        self.compiled.compile()
        settings.agree(self.home)
        if like is None:
            self.begin()
        #: ``step_one(grad, lr, params=None, out=None)``: as `step`, for the only array
        self.step_one = self.compiled.make_one()

    def step(
        self, grads: Leaves, lr: float, params: Leaves | None = None, out: Leaves | None = None
    ) -> bool:
        """Take a step; False where the guard stopped it."""
        used: dict[int, Leaves] = {pl.G: grads}
        if params is not None:
            used[pl.P] = params
        if out is not None:
            used[pl.OUT] = out
        return self.compiled.step(used, lr)

    def with_settings(self, settings: Settings) -> tuple[CpuBackend, Writes]:
        """Other options over the same state, and writes that bring parameters into their bounds.

        Before these writes nothing has changed.
        """
        other = CpuBackend(settings, self.params, self.names, self)
        return other, other.projections()

    def reset(self) -> None:
        self.check()
        super().reset()

    def snapshot_buffer(self) -> SnapshotBuffer:
        own = [self._block, *self.params, self.memory.norms]
        block = aligned_zeros(self._places.end, self._places.unit)
        copies = [block, *self.layout.zeros(), self.memory.norms.copy()]

        def copying(to: Leaves, of: Leaves) -> Callable[[], None]:
            writes = [partial(assign, one, ..., other) for one, other in zip(to, of, strict=True)]

            def copy() -> None:
                self.check()  # an array may have been resized since
                at_once(writes)

            return copy

        return copying(copies, own), copying(own, copies)

    def gradients(self) -> list[np.ndarray]:
        return self.layout.zeros(skew=3 * SKEW)

    def check(self) -> None:
        self.compiled.check()

    def from_host(self, arrays: Sequence[np.ndarray]) -> list[Any]:
        return list(arrays)
