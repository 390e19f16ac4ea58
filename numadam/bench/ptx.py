"""Instructions and registers of a compiled CUDA step, without a GPU."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import numpy as np

import numadam
from numadam._core.parts import parts_of
from numadam._core.plan import Plan
from numadam._cuda.compiler import cubin_of, ptx_of, registers_of
from numadam._cuda.kernel import make_step
from numadam._cuda.kernel_spec import step_slots, tile_iterations

#: A compute capability that stands for the GPUs of today.
CAPABILITY = (9, 0)


@contextmanager
def pretending(capability: tuple[int, int]) -> Iterator[None]:
    """A GPU to compile for: numba-cuda asks the current one, though nothing runs on it."""
    from numba.cuda import dispatcher

    before = dispatcher.get_current_device
    dispatcher.get_current_device = lambda: SimpleNamespace(compute_capability=capability)
    try:
        yield
    finally:
        dispatcher.get_current_device = before


def plan_of(rule: str, options: Mapping[str, Any], dtype: Any = np.float32) -> Plan:
    """The plan of an optimiser of one array: the same for the CPU and for a GPU."""
    optimizer = getattr(numadam, rule)(np.zeros(3, dtype), **options)
    return parts_of(optimizer).settings.plan


def step_code(plan: Plan, capability: tuple[int, int] = CAPABILITY) -> tuple[float, int | None]:
    """PTX instructions of a step over one array, an element, and registers of a thread.

    The kernel has one tile, one element by itself, and what comes before; all are counted.
    """
    with pretending(capability):
        ptx, _, _ = ptx_of(make_step, capability, plan, True, False, False)
    instructions = re.findall(r"^\t(?!//)(?:@%p\d+ )?[a-z][\w.]*\b.*;$", ptx, re.MULTILINE)
    _, log = cubin_of(ptx, capability)
    tile = tile_iterations(plan, step_slots(plan, False))
    return len(instructions) / (tile + 1), registers_of(log)
