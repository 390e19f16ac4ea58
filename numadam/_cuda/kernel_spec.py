"""Specification of a CUDA kernel: the arrays of each leaf, which it writes, the element update.

Also the record by which kernels over many leaves find the arrays of each.
"""
# mypy: disallow-untyped-defs=False, disallow-untyped-calls=False

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numba import cuda

from numadam._core import plan as pl
from numadam._core.element import make_add, make_element_update, make_start
from numadam._core.plan import Plan
from numadam._cuda.memory import WIDEST, make_load, offset_of

#: A kernel as a plain function, and the types of its arguments.
KernelSource = tuple[Callable[..., None], Any]

#: The record of a leaf in the table that kernels over many leaves read.
LEAF = np.dtype(
    [
        ("head", np.int64),  # iteration at which the first tile begins
        ("tiles", np.int64),  # whole tiles
        ("items", np.int64),  # items of work: the tiles, then each iteration outside of them
        ("group", np.int64),  # its row of the control block, and of the scalars
        ("first_block", np.int64),  # its first block of threads in the step
        ("blocks", np.int64),  # its blocks of threads in the step
        ("first_part", np.int64),  # its first partial sum in the norm
        ("norm_size", np.int64),  # numbers that the norm adds up
        ("norm_tiled", np.int64),  # 1 where the norm reads whole tiles
        ("norm_rounds", np.int64),  # rounds of each partial sum
        ("addresses", np.int64, (pl.SLOTS,)),  # where its arrays begin, by slot
    ]
)
#: Fields that a kernel over one leaf gets as arguments.
WORK_FIELDS = "head", "tiles", "items", "group"

_READ_ONLY = {pl.G, pl.LOW, pl.HIGH, pl.RATE, pl.OWNED}


def make_load_addresses(slots: Sequence[int]) -> Any:
    """``load(record) -> tuple``: the addresses of a leaf's arrays in these slots."""
    first = offset_of(LEAF, "addresses") // 8
    return make_load(np.dtype(np.int64), [first + slot for slot in slots])


def step_slots(plan: Plan, has_out: bool) -> tuple[int, ...]:
    """The arrays of a step, in the order in which its kernel takes them."""
    return tuple(s for s in range(pl.STEPPED) if (has_out if s == pl.OUT else plan.has(s)))


def start_slots(plan: Plan, averages: bool) -> tuple[int, ...]:
    """Slots that begin as copies of the parameters, and the bounds that these keep."""
    own = {pl.AVERAGE: averages and plan.average, pl.MASTER: plan.master}
    own[pl.LOW] = own[pl.HIGH] = plan.bounds == "array"
    return pl.P, *(slot for slot in sorted(own) if own[slot])


def tile_iterations(plan: Plan, slots: Sequence[int]) -> int:
    """Iterations in a tile: as many as 16 bytes of the widest array have."""
    return max(1, WIDEST // max(plan.stride(slot) for slot in slots))


class Pass(NamedTuple):
    """One pass over memory: its arrays, those that it loads and stores, and the element update.

    ``element(i, p, g, s0, s1, s2, out, total, average, low, high, rate, master, h, k)`` works on
    element i of tiles; absent arrays are None there.
    """

    plan: Plan
    slots: tuple[int, ...]
    loaded: tuple[int, ...]
    stored: tuple[int, ...]
    element: Any


def step_pass(plan: Plan, has_out: bool, wrap: Any) -> Pass:
    """The whole step."""
    slots = step_slots(plan, has_out)
    unread = {pl.OUT, *([pl.P] if plan.master else [])}
    kept = _READ_ONLY | {pl.SUM} | ({pl.P} if has_out else set())
    loaded = tuple(s for s in slots if s not in unread)
    stored = tuple(s for s in slots if s not in kept)
    return Pass(plan, slots, loaded, stored, make_element_update(plan, wrap))


def sum_pass(plan: Plan, first: bool, wrap: Any) -> Pass:
    """One more gradient on the sum, or the first one."""
    add, slots = make_add(plan, wrap), (pl.G, pl.SUM)

    def element(i, p, g, s0, s1, s2, out, total, average, low, high, rate, master, h, k):
        for one in range(numbers):
            add(numbers * i + one, first, g, total, k)

    numbers = plan.numbers // plan.unit
    return Pass(plan, slots, slots[:1] if first else slots, slots[1:], wrap(element))


def start_pass(plan: Plan, averages: bool, wrap: Any) -> Pass:
    """Parameters into their bounds, and the copies that follow them."""
    start, slots = make_start(plan, wrap), start_slots(plan, averages)

    def element(i, p, g, s0, s1, s2, out, total, average, low, high, rate, master, h, k):
        for one in range(numbers):
            start(numbers * i + one, p, average, low, high, master, k)

    numbers = plan.numbers // plan.unit
    loaded = (pl.P, *(s for s in slots if s in _READ_ONLY))
    stored = tuple(s for s in slots if s in (pl.AVERAGE, pl.MASTER) or (s == pl.P and plan.bounds))
    return Pass(plan, slots, loaded, stored, wrap(element))


def device_jit() -> Any:
    """A decorator that compiles each device function once for a kernel."""
    known: dict[Any, Any] = {}

    def wrap(function: Callable[..., Any]) -> Any:
        if function not in known:
            known[function] = cuda.jit(device=True)(function)
        return known[function]

    return wrap
