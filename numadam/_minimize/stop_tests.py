"""Stop tests of the loops in Python: their state, one compiled call on the CPU, those of CuPy."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from array_api_compat import array_namespace
from numba import boolean, carray, float64, from_dtype, int64, types

from numadam._arrays.interop import address_of
from numadam._core import plan as pl
from numadam._core.plan import Plan
from numadam._core.text import indented
from numadam._jit.build import compiled
from numadam._jit.private import pointer
from numadam._minimize import stop_text as tt
from numadam._minimize import stopping as st
from numadam._minimize.stopping import Tolerances, check_convergence

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
    scope = {**tt.SCOPE, **_AT._asdict(), "carray": carray, "pointer": pointer}
    scope |= {"one": real.type(1), "real": real.type}
    g = types.Array(from_dtype(plan_dtype), 1, "C", readonly=True)
    return compiled(
        f"stop-tests-{plan_dtype.name}-{bounds}-{norm:g}",
        _source(bounds, norm),
        scope,
        int64(int64, g, float64, boolean),
        entry="test_iterate",
    )


class _Tested:
    """One array whose iterates are tested: its compiled tests, and their state."""

    def __init__(self, plan: Plan, tolerances: Tolerances, first: float) -> None:
        self._test = _compiled(plan.dtype, plan.real, plan.bounds, tolerances.norm)
        self.numbers = np.zeros(_HIGH + 1)
        tt.begin(self.numbers, tolerances, first)
        self._tops, self._table = np.zeros(tt.LANES), np.zeros(len(_AT), np.int64)
        self._table_at = address_of(self._table)
        self.bind(NUMBERS=self.numbers, TOPS=self._tops)
        #: norms of the projected gradient, of the move, of x
        self.sizes = self.numbers.data[tt.NUMBER_AT.SIZE : tt.NUMBER_AT.LENGTH + 1]

    def bind(self, count: int = 0, **arrays: np.ndarray) -> None:
        """Note addresses, and where given how many real numbers there are."""
        self._table[_AT.COUNT] = count or self._table[_AT.COUNT]
        for name, array in arrays.items():
            self._table[getattr(_AT, name)] = address_of(array)

    def tests(self) -> Callable[[Any, float, bool], int]:
        """``test(g, f, early)``: the test that holds at the next iterate."""
        test, at = self._test, self._table_at
        return lambda g, f, early: test(at, g if g.ndim == 1 else g.reshape(-1), f, early)

    @property
    def later(self) -> bool:
        """Whether there is an iterate before."""
        return bool(self._table[_AT.LATER])

    @later.setter
    def later(self, later: bool) -> None:
        self._table[_AT.LATER] = later


def joined(norms: Sequence[float], norm: float) -> float:
    """The norm of several arrays from their own; NaN where one is."""
    if any(map(math.isnan, norms)):
        return math.nan
    return max(norms, default=0.0) if norm == math.inf else math.hypot(*norms)


class StopTests:
    """State of the stop tests that is kept in Python: of several arrays, or a GPU's.

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
        self._x, self._settings = backend.params, backend.settings
        self.firsts = [array_namespace(leaf).zeros_like(leaf) for leaf in self._x]
        self.sizes: Any = [0.0, 0.0, 0.0]
        self.before: list[Any] = []
        #: whether the state is kept by the compiled tests of one array
        self._in_record = False
        self._tolerances, self._first = tolerances, first
        self._limits, self._later, self._f_before = tolerances.limits, False, 0.0

    @property
    def state(self) -> tuple[float, float, bool]:
        """(first, f_before, later): first norm of the gradient or NaN; f; whether a test was."""
        return self._first, self._f_before, self._later

    def restore(self, first: float, f_before: float, later: bool, before: Sequence[Any]) -> None:
        """Go on from a file; `before` is x before the last step, where that is still asked for."""
        self._first, self._f_before, self._later = first, f_before, later
        its = self._tolerances
        self._limits = (st.gradient_limit(its.gtol, its.gtol_rel, first), its.ftol, its.xtol)

    @np.errstate(all="ignore")
    def test(self, grads: Sequence[Any], f: float, early: bool) -> int:
        """The test that holds at the next iterate; it is `early` at the first two."""
        its, sizes = self._tolerances, self.measure(grads)
        if not self._later:
            if math.isnan(self._first):
                self._first, early = sizes[0], True
            limit = st.gradient_limit(its.gtol, its.gtol_rel, self._first)
            self._limits = (limit, its.ftol, its.xtol)
        if early and sizes[0] <= self._first:
            for own, part in self._parts(grads):
                own[...] = array_namespace(part).maximum(own, abs(part))
        limits = self._limits
        if its.gtol < sizes[0] <= limits[0] and self._remains(grads):
            limits = its.limits
        code: int = check_convergence(f, self._f_before, *sizes, self._later, limits)
        self.sizes[0], self._later, self._f_before = sizes[0], True, f
        return code

    def _parts(self, grads: Sequence[Any]) -> Iterator[tuple[Any, Any]]:
        """The first and the present gradient, of real and imaginary parts apart."""
        for x, g, box, own in zip(self._x, grads, self._boxes, self.firsts, strict=True):
            d = released(array_namespace(x), x, g, box)
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

    def measure(self, grads: Sequence[Any]) -> list[float]:
        """Norms of the projected gradient, of the last move, and of x."""
        raise NotImplementedError


class HostStopTests(StopTests):
    """Stop tests of NumPy parameters."""

    def __init__(self, backend: Any, tolerances: Tolerances, first: float) -> None:
        super().__init__(backend, tolerances, first)
        plan = backend.settings.plan
        if tolerances.xtol > 0.0:
            self.before = [np.empty_like(leaf) for leaf in self._x]
        self._tested = []
        for j, leaf in enumerate(self._x):
            its = _Tested(plan, tolerances, first)
            its.bind(leaf.size * plan.numbers, X=leaf, FIRSTS=self.firsts[j])
            if self.before:
                its.bind(BEFORE=self.before[j])
            if plan.bounds == "array":
                low, high = (backend.per_element[slot][j] for slot in (pl.LOW, pl.HIGH))
                its.bind(LOWS=low, HIGHS=high)
            elif plan.bounds == "scalar":
                its.numbers[[_LOW, _HIGH]] = self._boxes[j]
            self._tested.append(its)
        self._tests = [its.tests() for its in self._tested]
        self._in_record = len(self._x) == 1
        if self._in_record:
            (test,), self.sizes = self._tests, self._tested[0].sizes
            # a method would cost 1 us a test
            self.test = lambda grads, f, early: test(grads[0], f, early)  # type: ignore[method-assign]

    @property
    def state(self) -> tuple[float, float, bool]:
        """(first, f_before, later): first norm of the gradient or NaN; f; whether a test was."""
        if not self._in_record:
            return super().state
        numbers = self._tested[0].numbers
        return (
            float(numbers[tt.NUMBER_AT.FIRST]),
            float(numbers[tt.NUMBER_AT.F_BEFORE]),
            self._tested[0].later,
        )

    def restore(self, first: float, f_before: float, later: bool, before: Sequence[Any]) -> None:
        """Go on from a file; `before` is x before the last step, where that is still asked for."""
        super().restore(first, f_before, later, before)
        for its in self._tested:
            its.numbers[tt.NUMBER_AT.FIRST], its.numbers[tt.NUMBER_AT.F_BEFORE] = first, f_before
            its.numbers[tt.NUMBER_AT.LIMIT], its.later = self._limits[0], later
        for own, saved in zip(self.before if before else (), before, strict=True):
            own[...] = saved

    def keep_x(self) -> None:
        """Copy x before a step."""
        for before, leaf in zip(self.before, self._x[: len(self.before)], strict=True):
            before[...] = leaf

    def measure(self, grads: Sequence[Any]) -> list[float]:
        """Norms of the projected gradient, of the last move, and of x."""
        for test, g in zip(self._tests, grads, strict=True):
            test(g, 0.0, False)
        columns = zip(*(its.sizes for its in self._tested), strict=True)
        return [joined(column, self._tolerances.norm) for column in columns] or [0.0, 0.0, 0.0]


# --- CuPy ----------------------------------------------------------------------------------------


class DeviceStopTests(StopTests):
    """Stop tests of CuPy parameters: a few launches, and one wait for the GPU."""

    def __init__(self, backend: Any, tolerances: Tolerances, first: float) -> None:
        super().__init__(backend, tolerances, first)
        self._moves = tolerances.xtol > 0.0
        self._norm = _top if tolerances.norm == math.inf else _euclidean

    def restore(self, first: float, f_before: float, later: bool, before: Sequence[Any]) -> None:
        """Go on from a file; `before` is x before the last step, where that is still asked for."""
        super().restore(first, f_before, later, before)
        self.before = list(before)

    def keep_x(self) -> None:
        """Copy x before a step."""
        if self._moves:
            self.before = [leaf.copy() for leaf in self._x]

    def measure(self, grads: Sequence[Any]) -> list[float]:
        """Norms of the projected gradient, of the last move, and of x."""
        columns: list[list[Any]] = [[], [], []]
        for j, (x, g, box) in enumerate(zip(self._x, grads, self._boxes, strict=True)):
            xp = array_namespace(x)
            columns[0].append(self._norm(xp, projected(xp, x, g, box)))
            if self.before:
                columns[1].append(self._norm(xp, x - self.before[j]))
                columns[2].append(self._norm(xp, x))
        norm = self._tolerances.norm
        return [joined([float(value) for value in column], norm) for column in columns]


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
