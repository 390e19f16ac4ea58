"""What the loop in Python looks at between two steps: the largest numbers, on CPU and GPU."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from array_api_compat import array_namespace
from numba import carray, float64, int64

from numadam import door as dr
from numadam import headers as hd
from numadam import plan as pl
from numadam.compile import twins
from numadam.headers import as_pointer, load64
from numadam.minimizer import look
from numadam.pieces import cast, wrapper

#: addresses of x, object of g, x before, numbers, addresses of bounds, bounds, address of out
SIGNATURE = int64(int64, int64, int64, int64, int64, int64, float64, float64, int64)


def _make_glance(name: str, real: np.dtype[Any], box: str) -> Any:
    """``out[0]``: largest of the projected gradient; ``out[1:3]``: of the last move and of x."""
    wrap, one = wrapper(name), real.type(1)
    steep, far, large = (
        look.make_largest(element, wrap) for element in (look.projected, look.moved, look.itself)
    )

    def glance(x_at, g_object, before_at, n, low_at, high_at, lo, hi, out_at):
        out = carray(as_pointer(out_at), 3, np.float64)
        x = carray(as_pointer(x_at), n, real)
        g = carray(as_pointer(load64(g_object + hd.DATA)), n, real)
        if box == "array":
            low, high = carray(as_pointer(low_at), n, real), carray(as_pointer(high_at), n, real)
            out[0] = steep(n, x, g, low, high, None, None)
        elif box == "scalar":
            ends = cast((lo, hi), one)
            out[0] = steep(n, x, g, None, None, ends[0], ends[1])
        else:
            out[0] = steep(n, x, g, None, None, None, None)
        if before_at != 0:
            before = carray(as_pointer(before_at), n, real)
            out[1] = far(n, x, before, None, None, None, None)
            out[2] = large(n, x, before, None, None, None, None)
        return 0

    glance.__qualname__ = f"{name}.glance"
    return glance


@functools.cache
def _compiled(real: np.dtype[Any], box: str) -> Any:
    name = f"glance-{real.name}-{box}"
    loop = _make_glance(name, real, box)
    return twins(name, lambda: (loop, loop), SIGNATURE, ["minimizer"]).twin(parallel=False)


def _largest(values: Sequence[float]) -> float:
    """The largest, or NaN where one is."""
    return math.nan if any(map(math.isnan, values)) else max(values, default=0.0)


class HostGlance:
    """Looks at NumPy parameters; `moves` says whether x before the step is compared."""

    def __init__(self, engine: Any, moves: bool) -> None:
        plan, settings = engine.settings.plan, engine.settings
        self._x, self._moves = engine.params, moves
        self._before = [np.empty_like(leaf) for leaf in self._x] if moves else []
        self._out = np.zeros(3)
        self._call = _compiled(plan.real, plan.bounds)
        blocks = engine._table.blocks
        self._calls = []
        for j, leaf in enumerate(self._x):
            lo, hi = settings.box(settings.rows[j]) if plan.bounds == "scalar" else (0.0, 0.0)
            low, high = (int(blocks[dr.ADDRESS + slot, j]) for slot in (pl.LOW, pl.HIGH))
            before = self._before[j].ctypes.data if moves else 0
            numbers = leaf.size * plan.numbers
            self._calls.append((leaf.ctypes.data, before, numbers, low, high, float(lo), float(hi)))
        self._out_at = self._out.ctypes.data

    def note(self) -> None:
        """Keep x as it is before a step."""
        if self._moves:
            for before, leaf in zip(self._before, self._x, strict=True):
                before[...] = leaf

    def __call__(self, grads: Sequence[Any], later: bool) -> tuple[float, float, float]:
        """(largest component of the projected gradient, of the last move, of x)."""
        seen = []
        for g, (x_at, before, n, low, high, lo, hi) in zip(grads, self._calls, strict=True):
            self._call(x_at, id(g), before if later else 0, n, low, high, lo, hi, self._out_at)
            seen.append(self._out.tolist())
        if len(seen) != 1:
            seen = [[_largest(column) for column in zip(*seen, strict=True)]]
        ((steep, way, size),) = seen
        return steep, way, size


class DeviceGlance:
    """Looks at CuPy parameters: a few launches, and one copy to the host."""

    def __init__(self, engine: Any, moves: bool) -> None:
        self._x, self._moves, settings = engine.params, moves, engine.settings
        self._before: list[Any] = []
        plan = settings.plan
        self._boxes: list[Any] = [None] * len(self._x)
        if plan.bounds == "scalar":
            self._boxes = [settings.box(row) for row in settings.rows]
        elif plan.bounds == "array":
            low, high = settings.per_element[pl.LOW], settings.per_element[pl.HIGH]
            self._boxes = list(zip(low, high, strict=True))

    def note(self) -> None:
        """Keep x as it is before a step."""
        if self._moves:
            self._before = [leaf.copy() for leaf in self._x]

    def __call__(self, grads: Sequence[Any], later: bool) -> tuple[float, float, float]:
        """(largest component of the projected gradient, of the last move, of x)."""
        columns: list[list[Any]] = [[], [], []]
        for j, (x, g, box) in enumerate(zip(self._x, grads, self._boxes, strict=True)):
            xp = array_namespace(x)
            d = g
            if box is not None:
                low, high = (xp.asarray(end, dtype=x.dtype) for end in box)
                d = xp.where(d > x - low, x - low, d)
                d = xp.where(d < x - high, x - high, d)
            columns[0].append(_top(xp, d))
            if later and self._moves:
                columns[1].append(_top(xp, x - self._before[j]))
                columns[2].append(_top(xp, x))
        a, b, c = (_largest([float(value) for value in column]) for column in columns)
        return a, b, c


def _top(xp: Any, x: Any) -> Any:
    """The largest absolute real or imaginary part; NaN stays."""
    if x.size == 0:
        return 0.0
    if x.dtype.kind == "c":
        return xp.maximum(xp.max(xp.abs(x.real)), xp.max(xp.abs(x.imag)))
    return xp.max(xp.abs(x))
