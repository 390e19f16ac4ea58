"""The functional API on CuPy arrays: one step on arrays that the caller owns."""

from __future__ import annotations

import functools
import threading
from typing import Any, NamedTuple

import numpy as np

from numadam._arrays import checks as ar
from numadam._arrays.gpu import require_gpu
from numadam._arrays.layout import Layout
from numadam._backend import FunctionalStep
from numadam._core import plan as pl
from numadam._core.plan import Plan
from numadam._cuda.launch import on_gpu, refuse_capture
from numadam._cuda.step import StepParts, make_parts
from numadam._jit.interrupts import defer_interrupts

#: Serialises the calls of several threads, which share the parts of a step.
_lock = threading.Lock()
#: ``cudaStreamPerThread``
_PER_THREAD = 2


class _Signature(NamedTuple):
    """Properties of a call that decide which parts it can share with another call."""

    plan: Plan
    width: int  # of the control block
    device: int
    shape: tuple[int, ...]
    order: tuple[int, ...]
    has_out: bool
    names: tuple[str, ...]  # of the arrays, by slot
    # the stream itself: it lives as long as this does, and no other gets its number meanwhile
    stream: Any
    thread: int  # where streams of several threads have one number, else 0


@functools.lru_cache(maxsize=256)  # more shapes than a model has: else each call would compile
def _parts(signature: _Signature) -> tuple[np.ndarray, StepParts]:
    """A control block of one row, and the parts of steps that read it."""
    plan, width, device, shape, order, has_out, names, *_ = signature
    layout, control = Layout([shape], [order], plan.dtype), np.zeros((1, width))

    def title(slot: int, leaf: int) -> str:
        return names[slot]

    return control, make_parts(plan, layout, control, [0], device, title, outs=[has_out])


def _signature(call: FunctionalStep) -> _Signature:
    import cupy

    settings, p, has_out = call.settings, call.arrays[pl.P], call.arrays[pl.OUT] is not None

    stream = cupy.cuda.get_current_stream()
    # all threads call their own default stream by the same number
    thread = threading.get_ident() if stream.ptr == _PER_THREAD else 0
    width, order = settings.control.shape[1], ar.memory_order(p)
    given = settings.plan, width, int(p.device.id), p.shape, order, has_out, call.names
    return _Signature(*given, stream, thread)


def update(call: FunctionalStep) -> None:
    """Take a step on the caller's arrays; the first call for an option compiles."""
    settings, products, arrays, _, t, lr = call
    require_gpu()
    with on_gpu(int(arrays[pl.P].device.id)), _lock:
        refuse_capture("update", "Use an optimiser made")
        control, parts = _parts(_signature(call))
        scalars, norms, step = parts.scalars, parts.norms, parts.step
        step.bind(parts.validator.validate(call.used))
        parts.validator.forget()  # the caller's arrays are not kept alive
        for copy in step.copies_in:
            copy()
        control[...] = settings.control
        if products:
            scalars.load_products(np.array([products], np.float64))
        with defer_interrupts():
            scalars.prepare(lr, t, 1, 0, 0)
            if norms is not None:
                norms.compute(t, 0)
            for launch in (*step.launches, *step.copies_back):
                launch()
        step.release()
