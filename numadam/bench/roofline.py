"""The roofline of a step of Adam: its bytes, and as good as no arithmetic.

All else is that of the step: where the arrays lie, how they are cut into parts, which threads run
the parts, and whether any do beside the caller's. So the quotient of the two times is what the
arithmetic, the validation and the call cost on top of the memory.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
from numba import carray, int64, njit, prange

import numadam
from numadam._core.parts import parts_of
from numadam._jit import pool, threads
from numadam._jit.functions import jit_once
from numadam._jit.loops import PARALLEL, POOLED, SERIAL
from numadam._jit.pointers import as_pointer


def _make_part(dtype: np.dtype[Any]) -> Any:
    item = dtype.itemsize

    def part(q: int, table_at: int) -> None:
        table = carray(as_pointer(table_at), 6, np.int64)
        size = table[4]
        n, first = min(size, table[5] - q * size), q * size * item
        p = carray(as_pointer(table[0] + first), n, dtype)
        g = carray(as_pointer(table[1] + first), n, dtype)
        m = carray(as_pointer(table[2] + first), n, dtype)
        v = carray(as_pointer(table[3] + first), n, dtype)
        for i in range(n):
            x = g[i]
            p[i], m[i], v[i] = p[i] + x, m[i] + x, v[i] + x

    return jit_once(part)


@functools.cache
def _loop(dtype: np.dtype[Any], form: str) -> Callable[..., None]:
    """``loop(parts, table_at, pool_at, count)``: every part, in the threads of a form."""
    part = _make_part(dtype)
    if form == POOLED:
        spread = pool.make_spread(part)

        def pooled(parts: int, table_at: int, pool_at: int, count: int) -> None:
            spread(pool_at, count, parts, table_at)

        return njit(error_model="numpy")(pooled)  # type: ignore[no-any-return]  # untyped
    each = prange if form == PARALLEL else range

    def loop(parts: int, table_at: int, pool_at: int, count: int) -> None:
        for q in each(parts):
            part(int64(q), table_at)

    compiled = njit(parallel=form == PARALLEL, error_model="numpy")(loop)
    return compiled  # type: ignore[no-any-return]  # untyped


class Roofline:
    """The memory traffic of a step of Adam over one array: 4 reads, 3 writes, 3 additions.

    Attributes
    ----------
    arrays : tuple of numpy.ndarray
        p, g, m and v; each of the others has g added to it by a call.
    """

    def __init__(self, p: np.ndarray, g: np.ndarray) -> None:
        optimizer = numadam.Adam(p)
        backend: Any = parts_of(optimizer).backend
        self.arrays: tuple[Any, ...] = p, g, optimizer.state["m"], optimizer.state["v"]
        part = int(backend.arguments.meta["part"][0])
        addresses = [array.ctypes.data for array in self.arrays]
        self._table = np.array([*addresses, part, p.size], np.int64)
        self._parts, self._form = -(-p.size // part), SERIAL
        if backend.compiled.kernel is not backend.compiled.serial:
            self._form = POOLED if threads.layer() == "workqueue" else PARALLEL
        pooled = pool.started(threads.count()) if self._form == POOLED else (0, 1)
        self._arguments = self._parts, self._table.ctypes.data, *pooled
        self._run = _loop(p.dtype, self._form)

    def __call__(self) -> None:
        self._run(*self._arguments)
