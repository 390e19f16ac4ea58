"""Stop tests of CuPy parameters, and what problems in rows share with them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from array_api_compat import array_namespace

from numadam._minimize.python.stop_tests import StopTests, joined
from numadam._minimize.stopping import Tolerances


class DeviceStopTests(StopTests):
    """Stop tests of CuPy parameters: a few launches, and one wait for the GPU."""

    def __init__(
        self,
        backend: Any,
        tolerances: Tolerances,
        first: float,
        owned: Sequence[Any] | None = None,
    ) -> None:
        """`owned`: masks of the arrays; False where an element does not count."""
        super().__init__(tolerances, first)
        self._x, self._owned = backend.params, owned or [None] * len(backend.params)
        self._moves, self.size = tolerances.xtol > 0.0, 0.0
        self._norm = _top if tolerances.norm == math.inf else _euclidean
        self._before: list[Any] = []
        self._boxes: Any = backend.settings.leaf_boxes() or [None] * len(self._x)

    @property
    def before(self) -> Sequence[Any]:
        """X before the last step, where a test asks for it."""
        return self._before

    def restore(self, first: float, f_before: float, later: bool, before: Sequence[Any]) -> None:
        """Go on from a file; `before` is x before the last step, where that is still asked for."""
        super().restore(first, f_before, later, before)
        self._before = list(before)

    def keep_x(self) -> None:
        """Copy x before a step."""
        if self._moves:
            self._before = [leaf.copy() for leaf in self._x]

    def measure(self, grads: Sequence[Any]) -> list[float]:
        """Norms of the projected gradient, of the last move, and of x."""
        columns: list[list[Any]] = [[], [], []]
        for j, (x, g, box) in enumerate(zip(self._x, grads, self._boxes, strict=True)):
            xp, mask = array_namespace(x), self._owned[j]
            columns[0].append(self._norm(xp, _masked(xp, projected(xp, x, g, box), mask)))
            if self._before:
                columns[1].append(self._norm(xp, _masked(xp, x - self._before[j], mask)))
                columns[2].append(self._norm(xp, _masked(xp, x, mask)))
        norm = self._tolerances.norm
        return [joined([float(value) for value in column], norm) for column in columns]

    def test(self, grads: Sequence[Any], f: float) -> int:
        """Return the test that holds at the next iterate."""
        sizes = self.measure(grads)
        self.size = sizes[0]
        return self._check(f, sizes)


def projected(xp: Any, x: Any, g: Any, box: Any) -> Any:
    """The projected gradient of an array, as `stopping.projected`; `box` is None or its bounds."""
    if box is None:
        return g
    low, high = (xp.asarray(end, dtype=x.dtype) for end in box)
    d = xp.where(g > x - low, x - low, g)
    return xp.where(d < x - high, x - high, d)


def _masked(xp: Any, x: Any, mask: Any) -> Any:
    """The array, 0 where its elements do not count."""
    return x if mask is None else xp.where(mask, x, xp.zeros_like(x))


def _top(xp: Any, x: Any) -> Any:
    """The largest absolute real or imaginary part; NaN stays."""
    if x.size == 0:
        return 0.0
    if x.dtype.kind == "c":
        return xp.maximum(xp.max(xp.abs(x.real)), xp.max(xp.abs(x.imag)))
    return xp.max(xp.abs(x))


def _euclidean(xp: Any, x: Any) -> Any:
    """The 2-norm, divided by the largest element as in `stopping.make_norm`."""
    top = _top(xp, x)
    if x.size == 0:
        return top
    parts = (x.real, x.imag) if x.dtype.kind == "c" else (x,)
    scale = xp.where(xp.isfinite(top) & (top > 0), top, xp.ones_like(top)).astype(xp.float64)
    total = sum(xp.sum((part.astype(xp.float64) / scale) ** 2) for part in parts)
    return xp.where(xp.isfinite(top), scale * xp.sqrt(total), top)
