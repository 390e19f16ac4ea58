"""The CUDA loops, once, for every rule: grid-stride kernels over one array.

They share the element of the pass (`turn`) and the rule's ``element`` with the CPU loop and hold
no arithmetic of their own.

* No fastmath: square roots and divisions are rounded correctly, NaN and denormals stay.
* ``a*b + c`` becomes one fused multiply-add. That is the compiler's default, numba-cuda has no
  option against it, and it only drops a rounding. So GPU and CPU agree to a bound and not bit
  for bit; on one GPU the bits do not depend on grid, stream or layout.
* Device functions are inlined into the kernel: no call and no local memory is left.
* No line information: it would put paths of the build machine into the compiled kernel.

A kernel gets the arrays that it uses as a tuple. For every other one it hands a literal ``None``
on, so that its reads and writes are pruned when it is compiled.
"""
# mypy: disallow-untyped-defs=False, disallow-untyped-calls=False

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable, Sequence
from typing import Any

from numba import cuda  # here and not in a function: the simulator swaps the module's global
from numba.np.numpy_support import from_dtype

from numadam import plan as pl
from numadam.pieces import width_of
from numadam.plan import Plan
from numadam.storage import memory_dtype
from numadam.turn import SEED, ZERO, make_add, make_start, make_turn

#: A kernel as a plain function, and the types of its arguments.
Made = tuple[Callable[..., None], Any]

_lock = threading.RLock()
_kernels: dict[tuple[Any, ...], Any] = {}


def wrapper() -> Any:
    """Compile device functions, each once for a kernel."""
    known: dict[Any, Any] = {}

    def wrap(function: Callable[..., Any]) -> Any:
        if function not in known:
            known[function] = cuda.jit(device=True)(function)
        return known[function]

    return wrap


def _keep(a):
    return a


def _absent(a):
    return None


def _shifted(a, i):
    """The array from element i on: what is element i becomes element 0."""
    if a is None:
        return None
    return a[i:]


def pickers(wrap: Any, used: Sequence[int], slots: Sequence[int]) -> list[tuple[Any, int]]:
    """For each slot a function and a place: ``function(arrays[place])``, None where not used."""
    keep, absent = wrap(_keep), wrap(_absent)
    return [(keep, used.index(s)) if s in used else (absent, 0) for s in slots]


def step_slots(plan: Plan, has_out: bool) -> tuple[int, ...]:
    """The arrays of a step, in the order in which its kernel takes them."""
    return tuple(s for s in range(pl.SLOTS) if (has_out if s == pl.OUT else plan.has(s)))


def sum_slots(plan: Plan) -> tuple[int, ...]:
    """Those of a call that adds its gradient to the sum."""
    return pl.G, pl.SUM


def start_slots(plan: Plan, averages: bool) -> tuple[int, ...]:
    """Those that begin as copies of the parameters, and the bounds that these keep."""
    own = {pl.AVERAGE: averages and plan.average, pl.MASTER: plan.master}
    own[pl.LOW] = own[pl.HIGH] = plan.bounds == "array"
    return pl.P, *(slot for slot in sorted(own) if own[slot])


def array_types(plan: Plan, slots: Sequence[int]) -> Any:
    """The type of a tuple of flat contiguous arrays."""
    storages = [memory_dtype(plan.storage(slot)) for slot in slots]
    return cuda.types.Tuple([cuda.types.Array(from_dtype(s), 1, "C") for s in storages])


def scalar_types(plan: Plan) -> tuple[Any, Any]:
    """The types of ``h``, the rule's scalars, and ``k``, the loop's own: by value."""
    real = from_dtype(plan.real)
    width = width_of(plan) - (SEED + 1)  # it counts those of `options.loop_scalars` too
    return cuda.types.UniTuple(real, width), cuda.types.UniTuple(real, ZERO + 1)


def make_step(plan: Plan, has_out: bool) -> Made:
    """``step(arrays, h, k)``: the whole step over one array."""
    wrap, used = wrapper(), step_slots(plan, has_out)
    turn, places = make_turn(plan, wrap), pickers(wrap, used, range(pl.SLOTS))
    (fp, p_), (fg, g_), (f0, s0_), (f1, s1_), (f2, s2_), (fo, o_) = places[:6]
    (ft, t_), (fa, a_), (fl, l_), (fh, h_), (fr, r_), (fm, m_) = places[6:]
    numbers = plan.numbers // plan.unit

    def step(arrays, h, k):
        p, g, out = fp(arrays[p_]), fg(arrays[g_]), fo(arrays[o_])
        s0, s1, s2, total = f0(arrays[s0_]), f1(arrays[s1_]), f2(arrays[s2_]), ft(arrays[t_])
        average, low, high = fa(arrays[a_]), fl(arrays[l_]), fh(arrays[h_])
        rate, master = fr(arrays[r_]), fm(arrays[m_])
        # all three are 64 bits wide: an array may hold more than 2**31 elements
        for i in range(cuda.grid(1), p.size // numbers, cuda.gridsize(1)):
            turn(i, p, g, s0, s1, s2, out, total, average, low, high, rate, master, h, k)

    return step, cuda.types.void(array_types(plan, used), *scalar_types(plan))


def make_lazy(plan: Plan) -> Made:
    """``step(arrays, h, k, index, width)``: over the rows of a sparse gradient alone.

    `index` says which rows of the parameter they are, and `width` how long one is. With such
    gradients there are no sums, no averages and no `out`.
    """
    wrap, used = wrapper(), step_slots(plan, has_out=False)
    turn, places = make_turn(plan, wrap), pickers(wrap, used, range(pl.SLOTS))
    (fp, p_), (fg, g_), (f0, s0_), (f1, s1_), (f2, s2_) = places[:5]
    (fl, l_), (fh, h_), (fr, r_), (fm, m_) = places[8:]
    part = wrap(_shifted)

    def step(arrays, h, k, index, width):
        p, g = fp(arrays[p_]), fg(arrays[g_])
        s0, s1, s2 = f0(arrays[s0_]), f1(arrays[s1_]), f2(arrays[s2_])
        low, high, rate, master = fl(arrays[l_]), fh(arrays[h_]), fr(arrays[r_]), fm(arrays[m_])
        for e in range(cuda.grid(1), g.size, cuda.gridsize(1)):
            row = e // width
            i = index[row] * width + (e - row * width)
            x0, x1, x2, lo, hi = part(s0, i), part(s1, i), part(s2, i), part(low, i), part(high, i)
            r, x = part(rate, i), part(master, i)
            turn(0, part(p, i), part(g, e), x0, x1, x2, None, None, None, lo, hi, r, x, h, k)

    rows = cuda.types.Array(cuda.types.int64, 1, "C"), cuda.types.int64
    return step, cuda.types.void(array_types(plan, used), *scalar_types(plan), *rows)


def make_sum(plan: Plan) -> Made:
    """``add_all(arrays, k, first)``: one more gradient on the sum, or the first one."""
    add = make_add(plan, wrapper())

    def add_all(arrays, k, first):
        g, total = arrays[0], arrays[1]
        for i in range(cuda.grid(1), g.size, cuda.gridsize(1)):
            add(i, first != 0, g, total, k)

    types = array_types(plan, sum_slots(plan))
    return add_all, cuda.types.void(types, scalar_types(plan)[1], cuda.types.int64)


def make_begin(plan: Plan, averages: bool) -> Made:
    """``begin(arrays, k)``: parameters into their bounds, and the copies that follow them."""
    wrap, used = wrapper(), start_slots(plan, averages)
    start = make_start(plan, wrap)
    slots = (pl.AVERAGE, pl.LOW, pl.HIGH, pl.MASTER)
    (fa, a_), (fl, l_), (fh, h_), (fm, m_) = pickers(wrap, used, slots)

    def begin(arrays, k):
        p, average, master = arrays[0], fa(arrays[a_]), fm(arrays[m_])
        low, high = fl(arrays[l_]), fh(arrays[h_])
        for i in range(cuda.grid(1), p.size, cuda.gridsize(1)):
            start(i, p, average, low, high, master, k)

    return begin, cuda.types.void(array_types(plan, used), scalar_types(plan)[1])


def compiled(make: Callable[..., Made], plan: Plan, *more: Any) -> Any:
    """The kernel of ``make(plan, *more)``, compiled for the current GPU, once in a process.

    The explicit signature compiles it now, and spares every launch a look at the types.
    """
    # what the host alone looks at changes no kernel
    alike = dataclasses.replace(plan, products=(), like="", norm="")
    key = (make, alike, *more, cuda.get_current_device().compute_capability)
    with _lock:
        if key not in _kernels:
            kernel, types = make(plan, *more)
            _kernels[key] = cuda.jit(types)(kernel)
        return _kernels[key]
