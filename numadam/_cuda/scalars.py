"""Who forms the scalars of a step: the host, which passes them by value, or the GPU."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import carray, float64, int64

from numadam._core.element import SEED
from numadam._core.plan import Plan
from numadam._core.scalars import make_advance_row, make_fill_row, width_of
from numadam._cuda import launch as policy
from numadam._cuda.compiler import compiled
from numadam._cuda.scalar_kernels import control_width, make_prepare
from numadam._jit.functions import jit_once
from numadam._jit.loops import compiled_loop
from numadam._jit.pointers import as_pointer

_FILL, _ADVANCE = range(2)


class HostRow:
    """The row of all arrays, formed on the host, where t is known: a kernel's last arguments.

    Parameters
    ----------
    plan : Plan
    control : numpy.ndarray
        The control block, read anew at each step.
    row : int
        Which of its rows.

    Attributes
    ----------
    values : numpy.ndarray
        The scalars, in the dtype of the arithmetic.
    products : numpy.ndarray
        Running products of the rule, for each row of the control block.
    """

    def __init__(self, plan: Plan, control: np.ndarray, row: int) -> None:
        self.values = np.zeros(width_of(plan), plan.real)
        self.products = np.ones((len(control), max(1, len(plan.products))))
        self._call, self._grows = _fill_or_advance(plan), bool(plan.products)
        self._own = len(self.values) - SEED - 1
        #: no kernel advances them
        self.of_products = 0, 0
        self._held = self.values, control, self.products
        self._at = *(int(array.ctypes.data) for array in self._held), len(control), row

    def prepare(self, lr: float, t: int, n: int, *, flushing: bool = False) -> None:
        """Form the scalars of step t, of n gradients."""
        self._call(_FILL, *self._at, lr, t, n)
        if flushing:  # all gradients are in the sum already
            self.values[self._own] = 1.0

    def advance(self, t: int) -> None:
        """Step t is taken."""
        if self._grows:
            self._call(_ADVANCE, *self._at, 0.0, t, 0)

    def at(self, row: int) -> tuple[int, ...]:
        """What a launch is told of a row: nothing, since it has the numbers themselves."""
        return ()

    def read_products(self) -> np.ndarray:
        return self.products.copy()

    def load_products(self, products: np.ndarray) -> None:
        self.products[...] = products


def _fill_or_advance(plan: Plan) -> Any:
    """``call(what, values, control, products, rows, row, lr, t, n)``: as in the CPU loop."""
    name = f"{plan.name}-row"

    def make() -> Any:
        fill_row, advance_row = make_fill_row(plan), make_advance_row(plan, jit_once)
        width, wide, count = width_of(plan), control_width(plan), len(plan.products)
        real = plan.real

        def call(  # type: ignore[no-untyped-def]  # Numba types it
            what, values, control, products, rows, row, lr, t, n
        ):
            all_rows = carray(as_pointer(control), (rows, wide), np.float64)
            q = carray(as_pointer(products), (rows, count), np.float64)
            if what == _FILL:
                out = carray(as_pointer(values), width, real)
                fill_row(out, all_rows[row], q[row], lr, float(t), float(n))
            else:
                for r in range(rows):
                    advance_row(q[r], all_rows[r], float(t))
            return 0

        call.__qualname__ = f"{name}.call"
        return call, call

    i8 = int64
    signature = int64(i8, i8, i8, i8, i8, i8, float64, i8, i8)
    return compiled_loop(name, make, signature).serial


class GpuRows:
    """Any number of rows, formed on the GPU: its step number may be known there alone.

    Its methods are called while the GPU is the current one.

    Parameters
    ----------
    plan : Plan
    control : cupy.ndarray
        The control block on the GPU.
    counts : cupy.ndarray
        The counters of `cuda_scalars`.
    device : int
    rate : array, optional
        A 0-d array on the GPU from which each step reads lr.
    """

    values = None

    def __init__(self, plan: Plan, control: Any, counts: Any, device: int, rate: Any) -> None:
        import cupy

        groups = len(control)
        self.products = cupy.ones((groups, max(1, len(plan.products))), np.float64)
        self._rows = cupy.zeros((groups, width_of(plan)), plan.real)
        self._rate = cupy.zeros((), np.float64) if rate is None else rate
        self._launch = compiled(make_prepare, device, plan, self._rate.dtype).ready()
        held = self._rows, control, self.products, counts
        self._at = [*(int(a.data.ptr) for a in held), groups, int(self._rate.data.ptr)]
        self._threads = min(policy.BLOCK, groups)
        #: where the running products lie, and how many rows have some
        self.of_products = self._at[2], groups
        self._bytes = width_of(plan) * plan.real.itemsize

    def prepare(self, lr: float, t: int, n: int, *, flushing: bool, alone: bool) -> None:
        """Form the scalars of step t; 0: the one after those counted on the GPU.

        lr NaN stands for the array. `alone`: no norm decides, the step is counted now.
        """
        numbers = (*self._at, lr, t, float(n), int(alone), int(flushing))
        self._launch(1, self._threads, numbers)

    def advance(self, t: int) -> None:
        """Nothing: the kernel that counts a step has done it."""

    def at(self, row: int) -> tuple[int, ...]:
        """What a launch is told of a row: where it lies."""
        return (self._at[0] + row * self._bytes,)

    def read_products(self) -> np.ndarray:
        import cupy

        return np.array(cupy.asnumpy(self.products))

    def load_products(self, products: np.ndarray) -> None:
        self.products.set(products)
