"""Functional API for NumPy arrays.

Reuses the optimiser's kernel. Each call takes its arguments from a free list, so no two threads
share them.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from numadam._arrays import checks as ar
from numadam._arrays.layout import Layout
from numadam._backend import FunctionalStep, Leaves
from numadam._core import plan as pl
from numadam._core.products import start_products
from numadam._cpu.arguments import KernelArguments
from numadam._cpu.records import META
from numadam._cpu.state import CpuState
from numadam._cpu.step import CpuStep
from numadam._settings.settings import Settings

#: Free steps by what they fit. A call takes one and puts it back, so no two calls share arguments.
#: Those of the latest keys are kept, without large work arrays.
_free: dict[Any, list[CpuStep]] = {}
_KEYS, _WORK_BYTES = 256, 1_000_000


def _new_step(settings: Settings, p: Any) -> CpuStep:
    plan = settings.plan
    CpuState.check_params([p], ["p"])
    layout = Layout([p.shape], [ar.memory_order(p)], plan.dtype)
    meta, products = np.zeros(1, META), start_products(plan, 1)
    control = settings.control.copy()
    arguments = KernelArguments(plan, layout, [type(p)], control, meta, products)
    names = {pl.P: "p", pl.G: "g", **dict(enumerate(plan.rule.state, pl.S0)), pl.OUT: "out"}
    return CpuStep(arguments, lambda slot, leaf: names[slot])


def update(call: FunctionalStep) -> None:
    """Take a step on the caller's arrays."""
    settings, products, p, g, state, t, lr, out = call
    plan = settings.plan
    key = (plan, type(p), p.dtype, p.shape, p.strides)
    try:
        step = _free[key].pop()
    except (KeyError, IndexError):
        step = _new_step(settings, p)
    arguments = step.arguments
    arguments.control[:] = settings.control
    arguments.meta["steps"][0] = t - 1
    if products:
        arguments.products[:, : len(products)] = products
    used: dict[int, Leaves] = {pl.P: [p], pl.G: [g]}
    for slot, name in enumerate(plan.rule.state, pl.S0):
        if name in state:
            used[slot] = [state[name]]
    if out is not None:
        used[pl.OUT] = [out]
    step.run(used, lr)
    if arguments.work_bytes <= _WORK_BYTES:
        _free.setdefault(key, []).append(step)
    for old in list(_free)[: max(0, len(_free) - _KEYS)]:
        _free.pop(old, None)
