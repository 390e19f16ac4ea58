"""The functional API on CuPy arrays: one step on arrays that the caller owns."""

from __future__ import annotations

import functools
import threading
from typing import Any

import numpy as np

from numadam._arrays import checks as ar
from numadam._arrays.gpu import require_gpu
from numadam._arrays.layout import Layout
from numadam._backend import FunctionalStep, Leaves
from numadam._core import plan as pl
from numadam._core.plan import Plan
from numadam._cuda.arguments import KernelArguments
from numadam._cuda.launch import on_gpu, refuse_capture
from numadam._cuda.reductions import CudaNumbers
from numadam._cuda.sparse import SparseGradients
from numadam._cuda.step import CudaStep
from numadam._jit.interrupts import defer_interrupts
from numadam._settings.settings import Settings

#: Calls of several threads take turns where they share the numbers of a step.
_lock = threading.Lock()
#: ``cudaStreamPerThread``
_PER_THREAD = 2


class _Bare:
    """What all steps over arrays of one shape share on one stream of a GPU."""

    def __init__(self, plan: Plan, wide: int, device: int, layout: Layout, has_out: bool) -> None:
        names = {pl.P: "p", pl.G: "g", **dict(enumerate(plan.rule.state, pl.S0)), pl.OUT: "out"}
        self.control = np.zeros((1, wide))
        table = KernelArguments(plan, layout, [0])
        self.numbers = CudaNumbers(plan, self.control, table, device)

        def title(slot: int, leaf: int) -> str:
            return names[slot]

        given = (plan, layout, table, self.numbers, device, title)
        self.run = CudaStep(*given, outs=[has_out])
        self.sparse = SparseGradients(plan, layout, device, None, title)


@functools.lru_cache(maxsize=256)  # more than a model has shapes: they would be made at each call
def _bare(
    plan: Plan, wide: int, device: int, shape: Any, order: Any, has_out: bool, stream: Any, own: int
) -> _Bare:
    # by the stream itself: it lives as long as what is used on it, and its number is no other's
    return _Bare(plan, wide, device, Layout([shape], [order], plan.dtype), has_out)


def _prepared(settings: Settings, p: Any, has_out: bool) -> _Bare:
    import cupy

    wide, stream = settings.control.shape[1], cupy.cuda.get_current_stream()
    # all threads call their own default stream by the same number
    own = threading.get_ident() if stream.ptr == _PER_THREAD else 0
    where = p.shape, ar.memory_order(p), has_out, stream, own
    return _bare(settings.plan, wide, int(p.device.id), *where)


def update(call: FunctionalStep) -> None:
    """Take a step on the caller's arrays; the first call for an option compiles."""
    settings, products, p, g, state, t, lr, out = call
    require_gpu()
    plan = settings.plan
    used: dict[int, Leaves] = {pl.P: [p], pl.G: [g]}
    for slot, name in enumerate(plan.rule.state, pl.S0):
        if name in state:
            used[slot] = [state[name]]
    if out is not None:
        used[pl.OUT] = [out]
    with on_gpu(int(p.device.id)), _lock:
        refuse_capture("update", "Use an optimiser made")
        bare = _prepared(settings, p, out is not None)
        run, numbers = bare.run, bare.numbers
        with bare.sparse.lent(used):
            run.enter(used, used)
            bare.control[...] = settings.control
            if products:
                numbers.rows.load_products(np.array([products], np.float64))
            with defer_interrupts():
                numbers.prepare(lr, t, 1, alone=False)
                if plan.norm:
                    numbers.form_norms(t, 0)
                run.step(out is not None)
                run.scatter(out is not None)
        run.forget()
