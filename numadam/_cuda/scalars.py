"""The scalars of a step: computed on the host and passed by value, or computed on the GPU.

By value they cost a thread no register, and no kernel before the step. On the GPU they are
computed where the host cannot know them (the GPU alone counts the steps), and for several groups.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
from numba import carray, float64, int64

from numadam._core.plan import Plan
from numadam._core.products import (
    make_advance_row,
    make_products,
    product_width,
    start_products,
)
from numadam._core.scalars import loop_start, make_fill_row, width_of
from numadam._cuda import launch as policy
from numadam._cuda.compiler import compiled
from numadam._cuda.control import DeviceControl
from numadam._cuda.scalar_kernels import control_width, make_prepare
from numadam._jit.float_mode import in_default_mode
from numadam._jit.functions import jit_once
from numadam._jit.loops import compiled_loop
from numadam._jit.pointers import as_pointer

_FILL, _ADVANCE = range(2)


class HostScalars:
    """The scalars of the only group, computed on the host: a kernel's last arguments.

    Parameters
    ----------
    plan : Plan
    control : numpy.ndarray
        The control block, read anew at each step.
    group : int
        Row of the control block.

    Attributes
    ----------
    values : numpy.ndarray
        The scalars, in the dtype of the arithmetic.
    prepare : callable
        ``prepare(lr, t, n, flushing, counts)``: compute the scalars of step t, of n gradients.
        `flushing` 1: all of them are in the sum already. `counts` is for `DeviceScalars`.
    advances : bool
        Whether `advance` is to be called after a step.
    """

    #: where the GPU has running products, and of how many groups: none
    products_address = products_groups = 0

    def __init__(self, plan: Plan, control: np.ndarray, group: int) -> None:
        self.values = np.zeros(width_of(plan), plan.real)
        self._products = start_products(plan, len(control))
        self._control, self._carried = control, len(plan.products)
        self.advances = self._carried > 0
        arrays = self.values, control, self._products
        addresses = (int(array.ctypes.data) for array in arrays)
        call, given = _fill_or_advance(plan), (*addresses, len(control), group)
        # straight into compiled code: a method around it would take 0.3 us of each step
        self.prepare = partial(call, _FILL, *given)
        self._advance = partial(call, _ADVANCE, *given)

    def advance(self, t: int) -> None:
        """Advance the running products: step t is taken."""
        self._advance(0.0, t, 0, 0, 0)

    def launch_arguments(self, group: int) -> tuple[int, ...]:
        """Arguments of a launch for the scalars of a group, besides `values`: none."""
        return ()

    def read_products(self) -> np.ndarray:
        """Running products of the rule, for each row of the control block."""
        return self._products[:, : self._carried].copy()

    def arrays(self) -> list[Any]:
        """Arrays that a snapshot copies: the running products."""
        return [self._products]

    def load_products(self, products: np.ndarray | float) -> None:
        """Replace the running products."""
        self._products[:, : self._carried] = products


def _fill_or_advance(plan: Plan) -> Any:
    """``call(what, values, control, products, groups, group, lr, t, n, flushing, counts)``."""
    name = f"{plan.name}-row"

    def make() -> Any:
        fill_row, advance_row = make_fill_row(plan), make_advance_row(plan, jit_once)
        find_products, count = make_products(plan), product_width(plan)
        width, wide = width_of(plan), control_width(plan)
        real, scale = plan.real, loop_start(plan)

        def call(  # type: ignore[no-untyped-def]  # Numba types it
            what, values, control, products, groups, group, lr, t, n, flushing, counts
        ):
            rows = carray(as_pointer(control), (groups, wide), np.float64)
            q = carray(as_pointer(products), (groups, count), np.float64)
            if what == _FILL:
                out = carray(as_pointer(values), width, real)
                for r in range(groups):
                    find_products(q[r], rows[r], float(t))
                fill_row(out, rows[group], q[group], lr, float(t), float(n))
                if flushing != 0:
                    out[scale] = 1.0
            else:
                for r in range(groups):
                    advance_row(q[r])
            return 0

        exact = in_default_mode(jit_once(call))

        def exact_call(  # type: ignore[no-untyped-def]  # Numba types it
            what, values, control, products, groups, group, lr, t, n, flushing, counts
        ):
            return exact(what, values, control, products, groups, group, lr, t, n, flushing, counts)

        exact_call.__qualname__ = f"{name}.call"
        return exact_call, exact_call

    i8 = int64
    signature = int64(i8, i8, i8, i8, i8, i8, float64, i8, i8, i8, i8)
    return compiled_loop(name, make, signature).serial


class DeviceScalars:
    """The scalars of any number of groups, computed on the GPU.

    Its methods are called while the GPU is the current one.

    Parameters
    ----------
    plan : Plan
    control : DeviceControl
    device : int
        Number of the GPU.
    rate : array, optional
        A 0-d array on the GPU from which each step reads lr.
    """

    #: none are passed by value
    values = None
    #: the kernel that counts a step advances the running products
    advances = False

    def __init__(self, plan: Plan, control: DeviceControl, device: int, rate: Any) -> None:
        import cupy

        groups = control.groups
        self._control = control
        start = start_products(plan, groups)
        self._products = cupy.asarray(start) if start.size else cupy.zeros((groups, 1))
        self._carried = len(plan.products)
        self._rows = cupy.zeros((groups, width_of(plan)), plan.real)
        self._rate = cupy.zeros((), np.float64) if rate is None else rate
        self._launch = compiled(make_prepare, device, plan, self._rate.dtype).ready()
        rows, products, lr = (
            int(array.data.ptr) for array in (self._rows, self._products, self._rate)
        )
        self._first = rows, control.address, products, control.counters_address, groups, lr
        self._threads, self._rows_address = min(policy.THREADS, groups), rows
        self._row_bytes = width_of(plan) * plan.real.itemsize
        self.products_address, self.products_groups = products, groups

    def prepare(self, lr: float, t: int, n: int, flushing: int, counts: int) -> None:
        """Compute the scalars of step t, of n gradients; t 0: the step after those counted.

        lr NaN stands for the array. `flushing` 1: all gradients are in the sum already. `counts`
        1: no norm may stop the step, and it is counted now.
        """
        self._control.upload()
        self._launch(1, self._threads, (*self._first, lr, t, float(n), counts, flushing))

    def advance(self, t: int) -> None:
        """Do nothing: the kernel that counts a step has advanced the running products."""

    def launch_arguments(self, group: int) -> tuple[int, ...]:
        """Arguments of a launch for the scalars of a group: their address."""
        return (self._rows_address + group * self._row_bytes,)

    def read_products(self) -> np.ndarray:
        """Running products of the rule, for each row of the control block."""
        import cupy

        return np.array(cupy.asnumpy(self._products[:, : self._carried]))

    def arrays(self) -> list[Any]:
        """Arrays that a snapshot copies: the running products."""
        return [self._products]

    def load_products(self, products: np.ndarray | float) -> None:
        """Replace the running products."""
        import cupy

        rows = cupy.asnumpy(self._products)
        rows[:, : self._carried] = products
        self._products.set(rows)


Scalars = HostScalars | DeviceScalars
