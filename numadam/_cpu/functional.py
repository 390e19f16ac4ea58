"""Functional API for NumPy arrays.

Reuses the optimiser's kernel. Each call takes its arguments from a free list, so no two threads
share them.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from numadam._arrays import checks as ar
from numadam._arrays.layout import layout_of
from numadam._backend import Again, FunctionalStep
from numadam._core import plan as pl
from numadam._core.products import start_products
from numadam._cpu.arguments import KernelArguments
from numadam._cpu.records import META, TUPLE_ITEMS
from numadam._cpu.state import CpuState
from numadam._cpu.step import CpuStep
from numadam._cpu.validate import OK
from numadam._settings.settings import Settings

#: Free steps by what they fit. A call takes one and puts it back, so no two calls share arguments.
#: Those of the latest keys are kept, without large work arrays.
_free: dict[Any, list[_Free]] = {}
_KEYS, _WORK_BYTES = 256, 1_000_000


class _Free(NamedTuple):
    """A compiled step that no call is using."""

    kernel: Any
    meta_at: int
    steps: memoryview  # the number of steps taken
    compiled: CpuStep
    user: Any  # whose options the arguments hold


def _new_step(call: FunctionalStep) -> _Free:
    plan, p, names = call.settings.plan, call.arrays[pl.P], call.names
    CpuState.check_params([p], [call.name])
    layout = layout_of([p.shape], [ar.memory_order(p)], plan.dtype)
    meta, products = np.zeros(1, META), start_products(plan, 1)
    control = call.settings.control.copy()
    arguments = KernelArguments(plan, layout, [type(p)], control, meta, products)
    # None stands for no array where there is none, and is refused where there has to be one
    meta["absent"] = [0 if slot in call.used else id(None) for slot in range(pl.CHECKED)]
    compiled = CpuStep(arguments, lambda slot, leaf: names[slot])
    kernel = compiled.kernel if call.arrays[pl.OUT] is None else compiled.kernel_with_out
    return _Free(kernel, arguments.meta_at, meta["steps"].data, compiled, None)


class _Steps:
    """Steps with the same options over arrays of the same kind.

    `again` takes one, as `Again` says.
    """

    def __init__(self, settings: Settings, free: list[_Free], t: int, products: Any) -> None:
        self._settings, self._products = settings, settings.plan.products
        #: the number of the latest step and the products before it
        self._before = t, products
        self.again = self._make_again(free)

    def _make_again(self, free: list[_Free]) -> Again:
        # a closure: 0.1 us less than a method
        prepared, carried, pop, append = self.prepared, self._products, free.pop, free.append

        def again(arrays: tuple[Any, ...], t: int, lr: float) -> bool:
            try:
                step = pop()
            except IndexError:  # in use by another thread
                return False
            kernel, meta_at, steps, _, user = step
            if user is not self or carried:
                step, known = prepared(step, t)
                if not known:
                    append(step)
                    return False
            steps[0] = t - 1
            # the kernel reads the ids of the arrays from the tuple itself: 0.2 us less than to
            # pack them; and it refuses what it does not take as it is
            status = kernel(meta_at, id(arrays) + TUPLE_ITEMS, 0, 0, lr)
            append(step)
            return bool(status == OK)

        return again

    def prepared(self, step: _Free, t: int) -> tuple[_Free, bool]:
        """The step with these options in its arguments, and the products before step t.

        False where these are not known.
        """
        arguments = step.compiled.arguments
        if self._products:
            at, before = self._before
            if at != t:  # otherwise other arrays take the same step
                if step.user is not self or step.steps[0] != t - 1:
                    return step, False
                before = arguments.products[:, : len(self._products)].copy()
                self._before = t, before
            arguments.products[:, : len(self._products)] = before
        if step.user is not self:
            arguments.control[:] = self._settings.control
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
    step.steps[0] = t - 1
    step.compiled.run(call.used, lr)
    if step.compiled.arguments.work_bytes <= _WORK_BYTES:
        free.append(step)
    return user.again
