"""Stop tests of the loops in Python: their state, one compiled call on the CPU, those of CuPy."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from array_api_compat import array_namespace
from numba import boolean, float64, from_dtype, int64, types

from numadam._arrays.interop import address_of
from numadam._core import plan as pl
from numadam._core.text import indented
from numadam._jit.build import compiled
from numadam._minimize import stop_text as tt
from numadam._minimize import stopping as st
from numadam._minimize.stopping import Tolerances

# --- state of the tests, and those of NumPy arrays ------------------------------------------------


class _Table(NamedTuple):
    """Places of whole numbers and addresses of one array whose iterates are tested."""

    COUNT: int  # real numbers of x
    LATER: int  # 1 where there is an iterate before
    NUMBERS: int  # float64: the tests' state, and two bounds of all elements
    TOPS: int  # float64: see `stop_text.LANES`
    X: int
    FIRSTS: int  # the first gradient of each number
    BEFORE: int  # x before the last step, 0 where no test asks for it
    LOWS: int  # bounds of each element
    HIGHS: int


_AT = _Table(*range(len(_Table._fields)))
_LOW, _HIGH = len(tt.NUMBER_AT), len(tt.NUMBER_AT) + 1


def _source(bounds: str, norm: float) -> str:
    """The module of the stop tests of one array."""
    views = {"X": "ps", "FIRSTS": "firsts", "BEFORE": "befores"}
    views |= {"LOWS": "lows", "HIGHS": "highs"} if bounds == "array" else {}
    lines = [f"table = carray(pointer(at, at), {len(_AT)})", "count = table[COUNT]"]
    lines += [f"numbers = carray(pointer(table[NUMBERS], f), {_HIGH + 1})"]
    lines += [f"{view} = carray(pointer(table[{at}], one), count)" for at, view in views.items()]
    lines += ["gs = carray(pointer(g.ctypes.data, one), count)"]
    lines += [f"tops = carray(pointer(table[TOPS], f), {tt.LANES})", "later = table[LATER] != 0"]
    if bounds == "scalar":
        lines += [f"low, high = real(numbers[{_LOW}]), real(numbers[{_HIGH}])"]
    lines += [*tt.test_lines(bounds, norm), "table[LATER] = 1", "return code"]
    return "\n".join(["def test_iterate(at, g, f, early):", *indented(lines), ""])


@functools.cache
def _compiled(plan_dtype: np.dtype[Any], real: np.dtype[Any], bounds: str, norm: float) -> Any:
    """``test_iterate(table_at, flat_g, f, early) -> code``."""
    scope = {**tt.SCOPE, **_AT._asdict(), "one": real.type(1), "real": real.type}
    g = types.Array(from_dtype(plan_dtype), 1, "C", readonly=True)
    return compiled(
        f"stop-tests-{plan_dtype.name}-{bounds}-{norm:g}",
        _source(bounds, norm),
        scope,
        int64(int64, g, float64, boolean),
        entry="test_iterate",
    )


class StopTests:
    """Stop tests of any arrays, by their library; of CuPy's a few launches, and one wait.

    Attributes
    ----------
    sizes : list or memoryview
        Norms of the projected gradient, of the move and of x at the last test.
    before : list of arrays
        x before the last step, where a test asks for it.
    firsts : list of arrays
        The first gradient of each component, see `share_of_own`; real and imaginary parts have
        one each.
    """

    def __init__(self, backend: Any, tolerances: Tolerances, first: float) -> None:
        self._x, self._settings, self._tolerances = backend.params, backend.settings, tolerances
        self._xp = xp = array_namespace(*self._x)
        self.firsts = [xp.zeros_like(leaf) for leaf in self._x]
        self.before = [xp.zeros_like(leaf) for leaf in self._x if tolerances.xtol > 0.0]
        self.sizes: Any = [0.0, 0.0, 0.0]
        self._first, self._f_before, self._later = first, 0.0, False

    @property
    def state(self) -> tuple[float, float, bool]:
        """(first, f_before, later): first norm of the gradient or NaN; f; whether a test was."""
        return self._first, self._f_before, self._later

    def restore(self, first: float, f_before: float, later: bool, before: Sequence[Any]) -> None:
        """Go on from a file; `before` is x before the last step, where that is still asked for."""
        self._first, self._f_before, self._later = first, f_before, later
        for own, saved in zip(self.before, before, strict=False):
            own[...] = saved

    def keep_x(self) -> None:
        """Copy x before a step."""
        for before, leaf in zip(self.before, self._x, strict=False):
            before[...] = leaf

    @np.errstate(all="ignore")
    def test(self, grads: Sequence[Any], f: float, early: bool) -> int:
        """The test that holds at the next iterate; it is `early` at the first two."""
        its, sizes = self._tolerances, self._measure(grads)
        if not self._later and math.isnan(self._first):
            self._first, early = sizes[0], True
        if early and sizes[0] <= self._first:
            for own, part in self._parts(grads):
                own[...] = self._xp.maximum(own, abs(part))
        limit = st.gradient_limit(its.gtol, its.gtol_rel, self._first)
        if its.gtol < sizes[0] <= limit and self._remains(grads):
            limit = its.gtol
        limits = limit, its.ftol, its.xtol
        code: int = st.check_convergence(f, self._f_before, *sizes, self._later, limits)
        self.sizes[0], self._later, self._f_before = sizes[0], True, f
        return code

    def _parts(self, grads: Sequence[Any]) -> Iterator[tuple[Any, Any]]:
        """The first and the present gradient, of real and imaginary parts apart."""
        for x, g, box, own in zip(self._x, grads, self._boxes, self.firsts, strict=True):
            d = released(self._xp, x, g, box)
            if d.dtype.kind == "c":
                yield from ((own.real, d.real), (own.imag, d.imag))
            else:
                yield own, d

    @functools.cached_property
    def _boxes(self) -> Any:
        """The bounds of each array, or None."""
        return self._settings.leaf_boxes() or [None] * len(self._x)

    def _remains(self, grads: Sequence[Any]) -> bool:
        """Whether a component is more than its share of its first gradient."""
        share = np.float64(st.share_of_own(self._tolerances.gtol_rel))
        return any(
            bool(((abs(part) > share * own) & (own > 0)).any()) for own, part in self._parts(grads)
        )

    def _measure(self, grads: Sequence[Any]) -> list[float]:
        """Norms of the projected gradient, of the last move, and of x."""
        xp, pairs = self._xp, zip(self._x, grads, self._boxes, strict=True)
        moves = [x - before for x, before in zip(self._x, self.before, strict=False)]
        steep, xs = [projected(xp, x, g, box) for x, g, box in pairs], self._x[: len(moves)]
        return [_joined(xp, arrays, self._tolerances.norm) for arrays in (steep, moves, xs)]


class CompiledStopTests(StopTests):
    """Stop tests of one NumPy array: a compiled call, which keeps their state."""

    def __init__(self, backend: Any, tolerances: Tolerances, first: float) -> None:
        super().__init__(backend, tolerances, first)
        plan, (x,) = backend.settings.plan, self._x
        compiled_test = _compiled(plan.dtype, plan.real, plan.bounds, tolerances.norm)
        self._numbers, self._table = np.zeros(_HIGH + 1), np.zeros(len(_AT), np.int64)
        tt.begin(self._numbers, tolerances, first)
        #: the arrays that the call finds by words of its table
        self._arrays = {
            _AT.NUMBERS: self._numbers,
            _AT.TOPS: np.zeros(tt.LANES),
            _AT.X: x,
            _AT.FIRSTS: self.firsts[0],
        }
        if self.before:
            self._arrays[_AT.BEFORE] = self.before[0]
        if plan.bounds == "array":
            ends = ((_AT.LOWS, pl.LOW), (_AT.HIGHS, pl.HIGH))
            self._arrays |= {place: backend.per_element[slot][0] for place, slot in ends}
        elif plan.bounds == "scalar":
            self._numbers[[_LOW, _HIGH]] = self._boxes[0]
        self._table[_AT.COUNT] = x.size * plan.numbers
        for place, array in self._arrays.items():
            self._table[place] = address_of(array)
        at = address_of(self._table)
        self.sizes = self._numbers.data[tt.NUMBER_AT.SIZE : tt.NUMBER_AT.LENGTH + 1]

        def test(grads: Sequence[Any], f: float, early: bool) -> int:
            (g,) = grads
            code: int = compiled_test(at, g if g.ndim == 1 else g.reshape(-1), f, early)
            return code

        self.test = test  # type: ignore[method-assign]  # a method would cost 1 us a test

    @property
    def state(self) -> tuple[float, float, bool]:
        """(first, f_before, later): first norm of the gradient or NaN; f; whether a test was."""
        first, f_before = self._numbers[[tt.NUMBER_AT.FIRST, tt.NUMBER_AT.F_BEFORE]].tolist()
        return first, f_before, bool(self._table[_AT.LATER])

    def restore(self, first: float, f_before: float, later: bool, before: Sequence[Any]) -> None:
        """Go on from a file; `before` is x before the last step, where that is still asked for."""
        super().restore(first, f_before, later, before)
        its = self._tolerances
        self._table[_AT.LATER] = later
        self._numbers[tt.NUMBER_AT.FIRST], self._numbers[tt.NUMBER_AT.F_BEFORE] = first, f_before
        self._numbers[tt.NUMBER_AT.LIMIT] = st.gradient_limit(its.gtol, its.gtol_rel, first)


def stop_tests(backend: Any, tolerances: Tolerances, first: float) -> StopTests:
    """The stop tests of the parameters of a back end."""
    is_one = backend.is_host and len(backend.params) == 1
    return (CompiledStopTests if is_one else StopTests)(backend, tolerances, first)


# --- arrays of any library -----------------------------------------------------------------------


def projected(xp: Any, x: Any, g: Any, box: Any) -> Any:
    """The projected gradient of an array, as `stop_text.projected`; `box` is None or its bounds."""
    if box is None:
        return g
    low, high = (xp.asarray(end, dtype=x.dtype) for end in box)
    d = xp.where(g > x - low, x - low, g)
    return xp.where(d < x - high, x - high, d)


def released(xp: Any, x: Any, g: Any, box: Any) -> Any:
    """The gradient of an array, 0 where a bound holds it, as `stop_text.released`."""
    if box is None:
        return g
    low, high = (xp.asarray(end, dtype=x.dtype) for end in box)
    return xp.where(((g > 0) & (x <= low)) | ((g < 0) & (x >= high)), xp.zeros_like(g), g)


def _joined(xp: Any, arrays: Sequence[Any], norm: float) -> float:
    """The norm, inf or 2, of several arrays together; NaN where one has one."""
    norms = [float((_top if norm == math.inf else _euclidean)(xp, array)) for array in arrays]
    if any(map(math.isnan, norms)):
        return math.nan
    return max(norms, default=0.0) if norm == math.inf else math.hypot(*norms)


def _top(xp: Any, x: Any) -> Any:
    """The largest absolute real or imaginary part; NaN stays."""
    if x.size == 0:
        return 0.0
    if x.dtype.kind == "c":
        return xp.maximum(xp.max(xp.abs(x.real)), xp.max(xp.abs(x.imag)))
    return xp.max(xp.abs(x))


def _euclidean(xp: Any, x: Any) -> Any:
    """The 2-norm, divided by the largest element as in `stop_text.norm_lines`."""
    top = _top(xp, x)
    if x.size == 0:
        return top
    parts = (x.real, x.imag) if x.dtype.kind == "c" else (x,)
    scale = xp.where(xp.isfinite(top) & (top > 0), top, xp.ones_like(top)).astype(xp.float64)
    total = sum(xp.sum((part.astype(xp.float64) / scale) ** 2) for part in parts)
    return xp.where(xp.isfinite(top), scale * xp.sqrt(total), top)
