"""Functional API for NumPy arrays.

Reuses the optimiser's kernel. Each call borrows an argument block from a free list, so no two
threads share one.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from numadam._arrays import checks as ar
from numadam._arrays.layout import Layout
from numadam._backend import FunctionalStep, Leaves
from numadam._core import plan as pl
from numadam._cpu import validate as dr
from numadam._cpu.arguments import KernelArguments
from numadam._cpu.step import CpuStep, check_params
from numadam._settings.settings import Settings

#: Idle passes by what they fit; a call takes one and puts it back, so no two share a table.
#: Kept are those of the latest keys, without large work arrays.
_idle: dict[Any, list[CpuStep]] = {}
_KEYS, _WORK_BYTES = 256, 1_000_000


def _new_step(settings: Settings, p: Any) -> CpuStep:
    plan = settings.plan
    check_params([p], ["p"])
    layout = Layout([p.shape], [ar.memory_order(p)], plan.dtype)
    meta = np.zeros(dr.META + len(plan.products), np.int64)
    table = KernelArguments(plan, layout, [type(p)], settings.control.copy(), meta)
    meta[dr.PRODUCTS] = table.meta_at + dr.META * 8
    names = {pl.P: "p", pl.G: "g", **dict(enumerate(plan.rule.state, pl.S0)), pl.OUT: "out"}
    return CpuStep(table, lambda slot, leaf: names[slot])


def update(call: FunctionalStep) -> None:
    """Take a step on the caller's arrays."""
    settings, products, p, g, state, t, lr, out = call
    plan = settings.plan
    key = (plan, type(p), p.dtype, p.shape, p.strides)
    try:
        run = _idle[key].pop()
    except (KeyError, IndexError):
        run = _new_step(settings, p)
    table = run.table
    table.control[:] = settings.control
    table.meta[dr.STEPS] = t - 1
    if products:
        table.meta[dr.META :] = np.array(products).view(np.int64)
    used: dict[int, Leaves] = {pl.P: [p], pl.G: [g]}
    for slot, name in enumerate(plan.rule.state, pl.S0):
        if name in state:
            used[slot] = [state[name]]
    if out is not None:
        used[pl.OUT] = [out]
    run.run(used, lr)
    if table.work_bytes <= _WORK_BYTES:
        _idle.setdefault(key, []).append(run)
    for old in list(_idle)[: max(0, len(_idle) - _KEYS)]:
        _idle.pop(old, None)
