"""Denormal numbers: what decays by a factor ends among them, where each operation is slow.

A number that decays comes to rest there: 0.9 times the last units rounds to itself. At about one
step in 64 these numbers become 0, in a small loop behind that of the step. Chosen by t alone, so
the bits do not depend on threads, and a run that goes on from a file has the same.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import int64

from numadam._core import options as op
from numadam._core import plan as pl
from numadam._core.plan import Plan
from numadam._core.scalars import is_due, tiny
from numadam._cpu.parts import make_control_of
from numadam._jit.functions import linked
from numadam._jit.pointers import array_at, call_c5

#: address and bytes of some numbers, bytes of one, addresses of their bounds or 0 -> 0
SETTLE_MEMORY = int64(int64, int64, int64, int64, int64)


@linked
def _settle(numbers, low, high, bounded, small):
    zero = small - small
    for i in range(len(numbers)):
        x = numbers[i]
        if abs(x) < small and (not bounded or (low[i] <= zero and zero <= high[i])):
            x = zero
        numbers[i] = x


def settle(at, size, item, low_at, high_at):
    """Set denormal numbers to 0, where their bounds allow it."""
    count, bounded = size // item, low_at != 0
    low_at, high_at = (low_at, high_at) if bounded else (at, at)
    if item == 4:
        numbers = array_at(at, count, np.float32)
        low, high = array_at(low_at, count, np.float32), array_at(high_at, count, np.float32)
        _settle(numbers, low, high, bounded, np.float32(_SMALL_32))
    else:
        wide = array_at(at, count, np.float64)
        lows, highs = array_at(low_at, count, np.float64), array_at(high_at, count, np.float64)
        _settle(wide, lows, highs, bounded, _SMALL_64)
    return 0


_SMALL_32, _SMALL_64 = tiny(np.dtype(np.float32)), tiny(np.dtype(np.float64))


def resting_bytes(plan: Plan, slot: int) -> int:
    """Bytes of one iteration in a slot whose numbers decay by a factor; 0 where they do not."""
    state = plan.rule.state
    if slot == pl.P:
        decays = plan.decay != ""
    elif pl.S0 <= slot < pl.S0 + len(state):
        decays = plan.has(slot) and state[slot - pl.S0] not in plan.rule.lasting
    else:
        decays = slot == pl.AVERAGE and plan.average
    return plan.stride(slot) if decays else 0


def make_settle(plan: Plan, out: bool = False) -> Any:
    """``settle(meta, leaf, i, n, t)``: n iterations from i on are free of denormals after step t.

    At some steps, see `is_due`; with `out` the parameters are not written. State beside an eps so
    small that it shows there stays as it is, and so do all arrays of presets that repeat a library.
    """
    control_of, names = make_control_of(plan), [hyper.name for hyper in plan.rule.hypers]
    eps, root = (
        op.RULE + names.index(name) if name in names else -1 for name in ("eps", "eps_root")
    )
    # the square root of v is added to eps: one below `small` is less than a thousandth of the sum
    size, small = plan.real.itemsize, tiny(plan.real)
    least, least_root = 2.0**10 * small**0.5, 2.0**20 * small
    flush, low, high = op.COLUMN.flush, op.COLUMN.low, op.COLUMN.high
    by_element = plan.bounds == "array"
    strides = tuple(0 if out and s == pl.P else resting_bytes(plan, s) for s in range(pl.SLOTS))

    def settle(meta, leaf, i, n, t):
        if not is_due(t):
            return
        row = control_of(meta)[leaf.group]
        if row[flush] == 0.0:
            return
        hidden = eps < 0 and root < 0
        hidden = hidden or (eps >= 0 and row[eps] >= least)
        hidden = hidden or (root >= 0 and row[root] >= least_root)
        for slot in range(len(strides)):
            stride = strides[slot]
            if stride != 0 and (hidden or slot == pl.P or slot == pl.AVERAGE):
                lows = highs = 0
                if slot == pl.P:
                    if by_element:
                        lows = leaf.address[pl.LOW] + i * stride
                        highs = leaf.address[pl.HIGH] + i * stride
                    elif row[low] > 0.0 or row[high] < 0.0:
                        continue
                at = leaf.address[slot] + i * stride
                call_c5(meta.settle, at, n * stride, size, lows, highs)

    return linked(settle)
