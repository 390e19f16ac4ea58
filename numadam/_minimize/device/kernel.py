"""The CUDA loop of many problems: one problem a thread, many iterations a launch.

It shares the element update, the rule's formula and the stop tests with the CPU. Element i of
problem b is at ``i * problems + b``, so that neighbouring threads read neighbouring numbers. A
thread runs its problem to the end of the launch without a barrier: problems stop at different
iterations, and threads of a warp whose problems have stopped wait for the others. Loops over the
elements of a problem are `while` loops: a `range` with a step divides to find its length.
"""
# mypy: disallow-untyped-defs=False, disallow-untyped-calls=False

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numba import cuda
from numba.np.numpy_support import from_dtype

from numadam._core import plan as pl
from numadam._core.element import make_element_update
from numadam._core.half import memory_dtype
from numadam._core.plan import Plan
from numadam._core.scalars import LoopScalars, loop_start
from numadam._cuda.kernel import device_jit, step_slots
from numadam._minimize.compiled.objective import CALL_FORMS, RETURNS
from numadam._minimize.stopping import (
    RUNNING,
    check_convergence,
    gradient_limit,
    itself,
    moved,
    projected,
)


def _present(a):
    return a


def _absent(a):
    return None


def pickers(wrap: Any, used: Sequence[int], slots: Sequence[int]) -> list[tuple[Any, int]]:
    """For each slot a function and a place: ``function(arrays[place])``, None where not used."""
    present, absent = wrap(_present), wrap(_absent)
    return [(present, used.index(s)) if s in used else (absent, 0) for s in slots]


def array_types(plan: Plan, slots: Sequence[int]) -> Any:
    """The type of a tuple of flat contiguous arrays."""
    storages = [memory_dtype(plan.storage(slot)) for slot in slots]
    return cuda.types.Tuple([cuda.types.Array(from_dtype(s), 1, "C") for s in storages])


def _returns(fun, guard):
    def call(x, g, b, args):
        f, given = fun(guard(x), *args)
        for i in range(x.size):
            g[i] = given[i]
        return f

    return call


#: As on the CPU, but a gradient that is returned is a tuple: no array can be made here.
_CALL_FORMS = CALL_FORMS | {RETURNS: _returns}


def _make_tuple(count: int, wrap: Any) -> Any:
    """``read(rows, it, j)``: `count` scalars of a row from column j on, as a tuple.

    A tuple of a length that the compiler knows stays in registers.
    """

    def one(rows, it, j):
        return (rows[it, j],)

    def longer(rest):
        def read(rows, it, j):
            return (rows[it, j], *rest(rows, it, j + 1))

        return wrap(read)

    read = wrap(one)
    for _ in range(count - 1):
        read = longer(read)
    return read


def _make_norm(element: Any, norm: float, real: np.dtype[Any], wrap: Any) -> Any:
    """``norm(b, problems, x, y, low, high, lo, hi)`` of problem b, as `stopping.make_norm`.

    The largest element has the dtype of the problem, in which it is exact: most GPUs have few units
    for float64. The 2-norm is a float64 as on the CPU, of squares that are exact where the problem
    is float32. With a shorter sum a problem could stop at another iteration.
    """
    component, zero = wrap(element), real.type(0)

    def largest(b, problems, x, y, low, high, lo, hi):
        top, i = zero, b
        while i < x.size:
            a = abs(component(i, x, y, low, high, lo, hi))
            top = a if a > top or a != a else top
            i += problems
        return top

    def one(b, problems, x, y, low, high, lo, hi):
        return 1.0

    in_range = norm != math.inf and real == np.float32  # its squares are, in float64
    unit = wrap(one if in_range else largest)

    def euclidean(b, problems, x, y, low, high, lo, hi):
        top = unit(b, problems, x, y, low, high, lo, hi)
        if top == 0.0 or not math.isfinite(top):
            return top
        total, i = 0.0, b
        while i < x.size:
            a = np.float64(component(i, x, y, low, high, lo, hi)) / top
            total += a * a
            i += problems
        return top * math.sqrt(total)

    return unit if norm == math.inf else wrap(euclidean)


def _round_down(limit):
    """Largest float32 that is not above it: the same float32 numbers are at most either."""
    return cuda.libdevice.double2float_rd(limit)


def _make_stop_tests(plan: Plan, norm: float, wrap: Any) -> tuple[Any, Any, Any]:
    """Device functions of the stop tests at the iterate of problem b.

    ``steepness(b, problems, x, g, low, high, ends)`` is the norm of the projected gradient,
    ``limit(first, gtol, gtol_rel)`` the norm at which a problem stops, in the same dtype, and
    ``test(b, problems, x, before, f, f_before, steep, later, limit, ftol, xtol)`` the code.
    """
    check, limit_of = wrap(check_convergence), wrap(gradient_limit)
    steep_of, far, large = (
        _make_norm(element, norm, plan.real, wrap) for element in (projected, moved, itself)
    )
    scalar = plan.bounds == "scalar"
    is_short = norm == math.inf and plan.real == np.float32
    rounded = wrap(_round_down if is_short else _present)

    def steepness(b, problems, x, g, low, high, ends):
        if scalar:
            return steep_of(b, problems, x, g, None, None, ends[0], ends[1])
        return steep_of(b, problems, x, g, low, high, None, None)

    def limit(first, gtol, gtol_rel):
        return rounded(limit_of(gtol, gtol_rel, np.float64(first)))

    def test(b, problems, x, before, f, f_before, steep, later, limit, ftol, xtol):
        way = size = 0.0
        if xtol > 0.0 and later:
            way = far(b, problems, x, before, None, None, None, None)
            size = large(b, problems, x, before, None, None, None, None)
        return check(f, f_before, steep, way, size, later, (limit, ftol, xtol))

    return wrap(steepness), wrap(limit), wrap(test)


def make_solve(plan: Plan, fun: Any, form: str, norm: float) -> Callable[..., None]:
    """The kernel: some iterations of every problem that still runs, one problem a thread.

    ``solve(arrays, shaped, rows, table, counts, moves, ends, tolerances, numbers, args)``: `rows`
    are the scalars of the coming iterations; `table` has for each problem f, the best f, the
    gradient's norm there, at x and at the start; `counts` the status and the iterations. `moves`
    are x before the step, empty where no test asks for it, and the best x and its gradient.
    `numbers` are problems, steps, and the iterations done, -1 where x0 alone is to be tested.

    During a launch the numbers of a problem are in registers. Of a float32 problem f alone is
    compared in float64, which fun may return. More is calculated in float64 where `ftol`, `xtol` or
    ``norm=2`` ask for it. The function has more than 60 lines, as all of it is one kernel.
    """
    wrap, used = device_jit(), step_slots(plan, has_out=False)
    update, places = make_element_update(plan, wrap), pickers(wrap, used, range(pl.STEPPED))
    (fp, p_), (fg, g_), (f0, s0_), (f1, s1_), (f2, s2_) = places[:5]
    (fa, a_), (fl, l_), (fh, h_), (fr, r_) = places[7:11]
    call = wrap(_CALL_FORMS[form](wrap(fun.py_func), wrap(_present)))
    steepness, limit_of, test = _make_stop_tests(plan, norm, wrap)
    as_norm = np.float64 if norm != math.inf else plan.real.type
    of_rule, of_loop, first_k = plan.rule.scalar_type, LoopScalars, loop_start(plan)
    read_h, read_k = _make_tuple(first_k, wrap), _make_tuple(len(of_loop._fields), wrap)

    def solve(arrays, shaped, rows, table, counts, moves, ends, tolerances, numbers, args):
        problems, steps, done = numbers
        gtol, ftol, xtol, gtol_rel = tolerances
        before, best, best_g = moves
        p, g = fp(arrays[p_]), fg(arrays[g_])
        s0, s1, s2 = f0(arrays[s0_]), f1(arrays[s1_]), f2(arrays[s2_])
        average, low, high, rate = fa(arrays[a_]), fl(arrays[l_]), fh(arrays[h_]), fr(arrays[r_])
        later = done >= 0
        for b in range(cuda.grid(1), problems, cuda.gridsize(1)):
            it, code = 0, counts[0, b]
            if code != RUNNING:
                continue
            f, best_f, best_steep = table[0, b], table[1, b], as_norm(table[2, b])
            steep, first = as_norm(table[3, b]), as_norm(table[4, b])
            limit = limit_of(first, gtol, gtol_rel)
            while code == RUNNING and it < steps:
                if later:
                    h = of_rule(*read_h(rows, it, 0))
                    k = of_loop(*read_k(rows, it, first_k))
                    i = b
                    while i < p.size:
                        if xtol > 0.0:
                            before[i] = p[i]
                        update(
                            i, p, g, s0, s1, s2, None, None, average, low, high, rate, None, h, k
                        )
                        i += problems
                it += 1
                i = b
                while i < p.size:
                    g[i] = 0
                    i += problems
                f_before, f = f, float(call(shaped[0][..., b], shaped[1][..., b], b, args))
                steep = steepness(b, problems, p, g, low, high, ends)
                if not later:
                    first, limit = steep, limit_of(steep, gtol, gtol_rel)
                code = test(b, problems, p, before, f, f_before, steep, later, limit, ftol, xtol)
                if not later or (f < best_f and math.isfinite(f)):
                    best_f, best_steep = f, steep
                    i = b
                    while i < p.size:
                        best[i], best_g[i] = p[i], g[i]
                        i += problems
            counts[0, b], counts[1, b] = code, done + it
            table[0, b], table[1, b], table[2, b] = f, best_f, best_steep
            table[3, b], table[4, b] = steep, first

    return solve
