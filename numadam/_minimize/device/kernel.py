"""The CUDA loop of many problems: one problem a thread, many iterations a launch.

It shares the element update, the rule's formula and the stop tests with the CPU. Element i of
problem b is at ``i * problems + b``, so that neighbouring threads read neighbouring numbers. A
thread runs its problem to the end of the launch without a barrier: problems stop at different
iterations, and threads of a warp whose problems have stopped wait for the others.
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
from numadam._cuda.kernel_spec import device_jit, step_slots
from numadam._minimize.compiled.forms import RETURNS
from numadam._minimize.compiled.objective import CALL_FORMS
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

    The largest element is found in the dtype of the problem, in which it is exact: most GPUs have
    few units for float64. The 2-norm is formed in float64 as on the CPU, so that problems stop at
    the same iteration there.
    """
    component, euclidean, zero = wrap(element), norm != math.inf, real.type(0)

    def norm_of(b, problems, x, y, low, high, lo, hi):
        largest = zero
        for i in range(b, x.size, problems):
            a = abs(component(i, x, y, low, high, lo, hi))
            largest = a if a > largest or a != a else largest
        top = float(largest)
        if not euclidean or top == 0.0 or not math.isfinite(top):
            return top
        total = 0.0
        for i in range(b, x.size, problems):
            a = float(component(i, x, y, low, high, lo, hi)) / top
            total += a * a
        return top * math.sqrt(total)

    return wrap(norm_of)


def _make_test_problem(plan: Plan, norm: float, wrap: Any) -> Any:
    """``test_problem(...) -> code, steep``: the stop tests at the iterate of problem b.

    `steep` is the norm of the projected gradient, and `first` that at the start.
    """
    check, limit_of = wrap(check_convergence), wrap(gradient_limit)
    steep_of, far, large = (
        _make_norm(one, norm, plan.real, wrap) for one in (projected, moved, itself)
    )
    scalar = plan.bounds == "scalar"

    def test_problem(
        b, problems, x, g, low, high, ends, before, f, f_before, first, later, tolerances
    ):
        gtol, ftol, xtol, gtol_rel = tolerances
        way = size = 0.0
        if scalar:
            steep = steep_of(b, problems, x, g, None, None, ends[0], ends[1])
        else:
            steep = steep_of(b, problems, x, g, low, high, None, None)
        limit = limit_of(gtol, gtol_rel, first if later else steep)
        if xtol > 0.0 and later:
            way = far(b, problems, x, before, None, None, None, None)
            size = large(b, problems, x, before, None, None, None, None)
        return check(f, f_before, steep, way, size, later, (limit, ftol, xtol)), steep

    return wrap(test_problem)


def make_solve(plan: Plan, fun: Any, form: str, norm: float) -> Callable[..., None]:
    """The kernel: some iterations of every problem that still runs, one problem a thread.

    ``solve(arrays, shaped, rows, table, counts, moves, ends, tolerances, numbers, args)``: `rows`
    are the scalars of the coming iterations; `table` has for each problem f, f of the iteration
    before, the best f, the gradient's norm there, at x and at the start; `counts` the status and
    the iterations. `moves` are x before the step, empty where no test asks for it, and the best x
    and its gradient. `numbers` are problems, steps, iterations done, and 1 where only x0 is to be
    tested.
    """
    wrap, used = device_jit(), step_slots(plan, has_out=False)
    update, places = make_element_update(plan, wrap), pickers(wrap, used, range(pl.STEPPED))
    (fp, p_), (fg, g_), (f0, s0_), (f1, s1_), (f2, s2_) = places[:5]
    (fa, a_), (fl, l_), (fh, h_), (fr, r_) = places[7:11]
    call = wrap(_CALL_FORMS[form](wrap(fun.py_func), wrap(_present)))
    test_problem = _make_test_problem(plan, norm, wrap)
    of_rule, of_loop, first_k = plan.rule.scalar_type, LoopScalars, loop_start(plan)
    read_h, read_k = _make_tuple(first_k, wrap), _make_tuple(len(of_loop._fields), wrap)

    def solve(arrays, shaped, rows, table, counts, moves, ends, tolerances, numbers, args):
        problems, steps, done, at_start = numbers
        before, best, best_g = moves
        p, g = fp(arrays[p_]), fg(arrays[g_])
        s0, s1, s2 = f0(arrays[s0_]), f1(arrays[s1_]), f2(arrays[s2_])
        average, low, high, rate = fa(arrays[a_]), fl(arrays[l_]), fh(arrays[h_]), fr(arrays[r_])
        for b in range(cuda.grid(1), problems, cuda.gridsize(1)):
            it = 0
            only_test = at_start != 0  # x0 is tested before the first step
            while counts[0, b] == RUNNING and (only_test or it < steps):
                if not only_test:
                    h = of_rule(*read_h(rows, it, 0))
                    k = of_loop(*read_k(rows, it, first_k))
                    for i in range(b, p.size, problems):
                        if tolerances[2] > 0.0:  # xtol
                            before[i] = p[i]
                        update(
                            i, p, g, s0, s1, s2, None, None, average, low, high, rate, None, h, k
                        )
                    it += 1
                for i in range(b, p.size, problems):
                    g[i] = 0
                f = float(call(shaped[0][..., b], shaped[1][..., b], b, args))
                later = done + it > 0
                code, steep = test_problem(
                    b, problems, p, g, low, high, ends, before, f, table[1, b],
                    table[5, b], later, tolerances,
                )  # fmt: skip
                table[0, b], table[1, b], table[4, b] = f, f, steep
                if not later:
                    table[5, b] = steep
                counts[0, b], counts[1, b] = code, done + it
                if not later or (f < table[2, b] and math.isfinite(f)):
                    table[2, b], table[3, b] = f, steep
                    for i in range(b, p.size, problems):
                        best[i], best_g[i] = p[i], g[i]
                only_test = False

    return solve
