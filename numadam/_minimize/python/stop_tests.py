"""Stop tests of the loops in Python: their state, one compiled call on the CPU, those of CuPy."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Sequence
from ctypes import addressof
from typing import Any

import numpy as np
from array_api_compat import array_namespace
from numba import boolean, float64, int64

from numadam._arrays.interop import address_of
from numadam._core import plan as pl
from numadam._cpu.records import NDARRAY, NUMBER, POINTER
from numadam._jit.functions import linked
from numadam._jit.loops import compiled_loop
from numadam._jit.pointers import absent, record_at, struct_of, view_of
from numadam._minimize import stopping as st
from numadam._minimize.stopping import Tolerances, check_convergence

# --- state of the tests, and those of NumPy arrays ------------------------------------------------


#: Address of `TESTED`, object of g, f, whether it is early -> the test that holds. A record instead
#: of twelve numbers spares a call 0.1 us.
_ITERATE = int64(int64, int64, float64, boolean)
#: One array whose iterates are tested.
TESTED = np.dtype(
    [
        ("x", POINTER),
        ("before", POINTER),  # x before the last step, 0 where no test asks for it
        ("firsts", POINTER),  # the first gradient of each number, see `share_of_own`
        ("numbers", NUMBER),  # real numbers of x
        ("low", POINTER),  # bounds of each element
        ("high", POINTER),
        ("lo", np.float64),  # bounds of all elements
        ("hi", np.float64),
        ("gtol", np.float64),
        ("gtol_rel", np.float64),
        ("ftol", np.float64),
        ("xtol", np.float64),
        ("limit", np.float64),  # norm of the gradient at which the run stops
        ("first", np.float64),  # norm of the first projected gradient, NaN before it is known
        ("later", NUMBER),  # 1 where there is an iterate before
        ("f_before", np.float64),
        ("sizes", np.float64, 3),  # norms of the projected gradient, of the move, of x
    ]
)
_Tested = struct_of(TESTED)


def _make_test(name: str, real: np.dtype[Any], box: str, norm: float) -> Any:
    """Run the stop tests on one array; its record gets the numbers that they compare."""
    test, make_box = st.make_test(norm), st.make_ends(box, real)
    view = view_of(real)
    end_view = view if box == "array" else absent

    def test_iterate(tested_at, g_object, f, early):
        its = record_at(tested_at, TESTED)
        n, sizes = its.numbers, its.sizes
        x, before, firsts = view(its.x, n), view(its.before, n), view(its.firsts, n)
        g = view(record_at(g_object, NDARRAY).data, n)
        low, high, ends = end_view(its.low, n), end_view(its.high, n), make_box(its.lo, its.hi)
        found = test(its, n, x, g, low, high, ends, before, firsts, f, its.later != 0, early)
        code, sizes[0], sizes[1], sizes[2] = found
        its.later = 1
        return code

    inner = linked(test_iterate)

    def run(tested_at, g_object, f, early):
        return inner(tested_at, g_object, f, early)

    run.__qualname__ = f"{name}.test_iterate"
    return run


@functools.cache
def _compiled(real: np.dtype[Any], box: str, norm: float) -> Any:
    name = f"stop-tests-{real.name}-{box}-{norm:g}"
    loop = _make_test(name, real, box, norm)
    return compiled_loop(name, lambda: (loop,), _ITERATE).direct(parallel=False)


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
        self._call = _compiled(plan.real, plan.bounds, tolerances.norm)
        self._tested = []
        for j, leaf in enumerate(self._x):
            numbers = leaf.size * plan.numbers
            its = _Tested(x=address_of(leaf), numbers=numbers, first=first)
            its.gtol, its.ftol, its.xtol, its.gtol_rel, _ = tolerances
            its.firsts = address_of(self.firsts[j])
            if self.before:
                its.before = address_of(self.before[j])
            if plan.bounds == "array":
                its.low, its.high = backend.arguments.leaves["address"][j, [pl.LOW, pl.HIGH]]
            elif plan.bounds == "scalar":
                its.lo, its.hi = self._boxes[j]
            self._tested.append(its)
        self._in_record = len(self._x) == 1
        if self._in_record:
            self.sizes = self._tested[0].sizes
            call, tested_at = self._call, addressof(self._tested[0])
            # a method would cost 1 us a test
            self.test = lambda grads, f, early: call(tested_at, id(grads[0]), f, early)  # type: ignore[method-assign]

    @property
    def state(self) -> tuple[float, float, bool]:
        """(first, f_before, later): first norm of the gradient or NaN; f; whether a test was."""
        if not self._in_record:
            return super().state
        its = self._tested[0]
        return its.first, its.f_before, bool(its.later)

    def restore(self, first: float, f_before: float, later: bool, before: Sequence[Any]) -> None:
        """Go on from a file; `before` is x before the last step, where that is still asked for."""
        super().restore(first, f_before, later, before)
        for its in self._tested:
            its.first, its.f_before, its.later = first, f_before, later
            its.limit = self._limits[0]
        for own, saved in zip(self.before if before else (), before, strict=True):
            own[...] = saved

    def keep_x(self) -> None:
        """Copy x before a step."""
        for before, leaf in zip(self.before, self._x[: len(self.before)], strict=True):
            before[...] = leaf

    def measure(self, grads: Sequence[Any]) -> list[float]:
        """Norms of the projected gradient, of the last move, and of x."""
        for its, g in zip(self._tested, grads, strict=True):
            self._call(addressof(its), id(g), 0.0, False)
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
    """The projected gradient of an array, as `stopping.projected`; `box` is None or its bounds."""
    if box is None:
        return g
    low, high = (xp.asarray(end, dtype=x.dtype) for end in box)
    d = xp.where(g > x - low, x - low, g)
    return xp.where(d < x - high, x - high, d)


def released(xp: Any, x: Any, g: Any, box: Any) -> Any:
    """The gradient of an array, 0 where a bound holds it, as `stopping.released`."""
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
    """The 2-norm, divided by the largest element as in `stopping.make_norm`."""
    top = _top(xp, x)
    if x.size == 0:
        return top
    parts = (x.real, x.imag) if x.dtype.kind == "c" else (x,)
    scale = xp.where(xp.isfinite(top) & (top > 0), top, xp.ones_like(top)).astype(xp.float64)
    total = sum(xp.sum((part.astype(xp.float64) / scale) ** 2) for part in parts)
    return xp.where(xp.isfinite(top), scale * xp.sqrt(total), top)
