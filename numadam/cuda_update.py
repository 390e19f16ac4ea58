"""The bare face on CuPy arrays: one step on arrays that the caller owns."""

from __future__ import annotations

import numpy as np

from numadam import arrays as ar
from numadam import plan as pl
from numadam.cuda_launch import on_gpu
from numadam.cuda_pass import CudaPass
from numadam.cuda_scalars import StepScalars
from numadam.cuda_sparse import SparseGradients
from numadam.engine import BareStep, Leaves
from numadam.interrupts import held_back
from numadam.table import Layout


def update(call: BareStep) -> None:
    """Take a step on the caller's arrays; the first call for an option compiles."""
    settings, products, p, g, state, t, lr, out = call
    plan, device = settings.plan, int(p.device.id)
    names = {pl.P: "p", pl.G: "g", **dict(enumerate(plan.rule.state, pl.S0)), pl.OUT: "out"}
    layout = Layout([p.shape], [ar.memory_order(p)], plan.dtype)
    used: dict[int, Leaves] = {pl.P: [p], pl.G: [g]}
    for slot, name in enumerate(plan.rule.state, pl.S0):
        if name in state:
            used[slot] = [state[name]]
    if out is not None:
        used[pl.OUT] = [out]

    def title(slot: int, leaf: int) -> str:
        return names[slot]

    with on_gpu(device), SparseGradients(plan, layout, device, None, title).lent(used):
        run = CudaPass(plan, layout, device, title, [out is not None])
        run.check(used)
        flats = run.gather(used)
        views = run.views(flats)
        before = np.array([products], np.float64).reshape(1, -1)
        scalars = StepScalars(plan, settings.control, before, [0], lr, t)
        run.form_norms(views, scalars, settings.control[0])
        with held_back():
            run.step(views, scalars)
            run.scatter(used, flats)
