"""The bare face on NumPy arrays: the same door and step, on a table that calls take turns with."""

from __future__ import annotations

from typing import Any

import numpy as np

from numadam import arrays as ar
from numadam import door as dr
from numadam.cpu_pass import CpuPass, check_params
from numadam.engine import BareStep, Leaves
from numadam.table import Layout, Table

#: Idle passes by what they fit; a call takes one and puts it back, so no two share a table.
#: Kept are those of the latest keys, without large work arrays.
_idle: dict[Any, list[CpuPass]] = {}
_KEYS, _WORK_BYTES = 256, 1_000_000


def _new_pass(call: BareStep) -> CpuPass:
    rule, p = call.rule, call.p
    dtype = check_params([p], ["p"])
    layout = Layout([p.shape], [ar.memory_order(p)], dtype)
    control = np.array(rule.control_values(call.options))
    table = Table(layout, [type(p)], control, np.zeros(dr.META, np.int64))
    names = {dr.P: "p", dr.G: "g", **dict(enumerate(rule.state, dr.S0)), dr.OUT: "out"}
    return CpuPass(rule, call.options, table, lambda slot, leaf: names[slot])


def update(call: BareStep) -> None:
    """Take a step on the caller's arrays."""
    rule, options, p, g, state, t, lr, out = call
    variant = tuple(options[key] for key in rule.variant)
    key = (rule, variant, tuple(state), type(p), p.dtype, p.shape, p.strides)
    try:
        run = _idle[key].pop()
    except (KeyError, IndexError):
        run = _new_pass(call)
    run.table.control[:] = rule.control_values(options)
    run.table.meta[dr.STEPS] = t - 1
    used: dict[int, Leaves] = {dr.P: [p], dr.G: [g]}
    for slot, name in enumerate(rule.state, dr.S0):
        if name in state:
            used[slot] = [state[name]]
    if out is not None:
        used[dr.OUT] = [out]
    run.run(used, lr)
    if run.table.work_bytes <= _WORK_BYTES:
        _idle.setdefault(key, []).append(run)
    for old in list(_idle)[: max(0, len(_idle) - _KEYS)]:
        _idle.pop(old, None)
