"""The CPU loop, once, for every rule: over a table of arrays, a part of the elements at a time.

Loops hold no arithmetic: that is in the rule's ``element``. Rules hold no loop.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numba import carray, float64, int64, prange, types
from numba.core import cgutils
from numba.extending import intrinsic

from numadam import door as dr
from numadam.headers import as_pointer, inner
from numadam.rules.base import RuleSpec

#: addresses of meta and ids, object address of the only gradient, apart, lr -> status (see
#: `door`). Two addresses instead of two arrays spare a call 0.15 us.
SIGNATURE = int64(int64, int64, int64, int64, float64)


#: Elements from which a step lets other Python threads run (2 us on). Below, waiting for the GIL
#: again would cost more than they could do meanwhile.
_RELEASE_FROM = 5_000


@intrinsic
def cast(typingctx: Any, scalars: Any, like: Any) -> Any:
    """A tuple of float64 as a tuple of the type of `like`: one rounding, in one place."""
    result = types.UniTuple(like, len(scalars))

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        items = cgutils.unpack_tuple(builder, args[0])
        rounded = [context.cast(builder, item, types.float64, like) for item in items]
        return context.make_tuple(builder, result, rounded)

    return result(scalars, like), codegen


@intrinsic
def release_gil(typingctx: Any) -> Any:
    """Let other Python threads run; returns what `take_gil` needs."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        thread = context.get_python_api(builder).save_thread()
        return builder.ptrtoint(thread, cgutils.intp_t)

    return types.intp(), codegen


@intrinsic
def take_gil(typingctx: Any, thread: Any) -> Any:
    """Wait until this thread may go on as a Python thread."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        api = context.get_python_api(builder)
        api.restore_thread(builder.inttoptr(args[0], cgutils.voidptr_t))
        return context.get_dummy_value()

    return types.void(types.intp), codegen


def at(a, i):
    """``a[i]``, or None where the array is absent (pruned when compiled)."""
    if a is None:
        return None
    return a[i]


def put(a, i, x):
    """``a[i] = x``, or nothing where the array is absent (pruned when compiled)."""
    if a is not None:
        a[i] = x


def make_turn(element: Callable[..., Any], at: Callable[..., Any], put: Callable[..., Any]) -> Any:
    """One element of the pass, the same on CPU and CUDA: read, formula, write."""

    def turn(i, p, g, s0, s1, s2, out, h):
        step, a, b, c = element(p[i], g[i], at(s0, i), at(s1, i), at(s2, i), h)
        put(s0, i, a)
        put(s1, i, b)
        put(s2, i, c)
        if out is None:
            p[i] = p[i] - step
        else:
            out[i] = -step

    return turn


def limits(dtype: np.dtype) -> tuple[float, float]:
    """The scalars that every formula gets after its own: tiny and zero."""
    return float(np.finfo(dtype).smallest_normal), 0.0


def _absent(address, n):
    return None


def _own(name: str, function: Callable[..., Any]) -> Any:
    """Compile a closure under a symbol of its own.

    Numba names symbols after the qualified name and a counter of the process. Closures of two
    rules share the first, and loops from the disk cache bring the counter of another process:
    the linker would take the one for the other.
    """
    function.__qualname__ = f"{name}.{function.__name__}"
    return inner(function)


def make_run(rule: RuleSpec, options: Mapping[str, Any], name: str) -> Any:
    """The loop over contiguous elements: serial, and vectorised by the compiler."""
    element = _own(name, rule.element(options))
    turn = _own(name, make_turn(element, inner(at), inner(put)))

    def run(n, p, g, s0, s1, s2, out, h):
        # counts from 0: a loop from `low` to `high` does not vectorise (8x slower)
        for i in range(n):
            turn(i, p, g, s0, s1, s2, out, h)

    return _own(name, run)


def _make_part(rule: RuleSpec, options: Mapping[str, Any], dtype: np.dtype, name: str) -> Any:
    """The serial work on one part of the elements: it may cross from one array into the next."""
    item = dtype.itemsize
    run = make_run(rule, options, name)

    def view_at(address, n):
        return carray(as_pointer(address), n, dtype)

    view = _own(name, view_at)
    absent = inner(_absent)
    view0, view1, view2 = (view if used else absent for used in rule.slots(options))

    def part(k, table, count, size, h):
        start, address = table[dr.START], table[dr.ADDRESS :]
        low, end = k * size, k * size + size
        if end > start[count]:
            end = start[count]
        j, after = 0, count
        while after - j > 1:  # the array that holds element `low`
            middle = (j + after) // 2
            if start[middle] <= low:
                j = middle
            else:
                after = middle
        while low < end:
            n = (end if end < start[j + 1] else start[j + 1]) - low
            skip = (low - start[j]) * item
            p = view(address[dr.P, j] + skip, n)
            g = view(address[dr.G, j] + skip, n)
            s0 = view0(address[dr.S0, j] + skip, n)
            s1 = view1(address[dr.S1, j] + skip, n)
            s2 = view2(address[dr.S2, j] + skip, n)
            if address[dr.OUT, j] == 0:
                run(n, p, g, s0, s1, s2, None, h)
            else:
                run(n, p, g, s0, s1, s2, view(address[dr.OUT, j] + skip, n), h)
            low += n
            j += 1

    return _own(name, part)


def make_steps(
    rule: RuleSpec, options: Mapping[str, Any], dtype: np.dtype, name: str
) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """The whole compiled step, serial and parallel: door, scalars, every part, and t last.

    An element depends on nothing but its own values, so neither the parts nor the threads
    change a bit. The twins share the compiled part. `name` tells these loops from all others.
    """
    part = _make_part(rule, options, dtype, name)
    scalars = inner(rule.scalars)
    width = len(rule.control_values(options))
    one = dtype.type(1)
    constants = limits(dtype)

    def twin(each: Any) -> Callable[..., Any]:
        def step(meta_at, ids_at, g1, apart, lr):
            meta = carray(as_pointer(meta_at), dr.META, np.int64)
            count, size = meta[dr.COUNT], meta[dr.PART]
            status = dr.through_door(meta[dr.DOOR], dr.ENTER, meta_at, ids_at, g1, apart)
            if status != dr.OK:
                return status
            table = carray(as_pointer(meta[dr.TABLE]), (dr.ROWS, count + 1), np.int64)
            control = carray(as_pointer(meta[dr.CONTROL]), width, np.float64)
            h = cast(scalars(control, lr, float(meta[dr.STEPS] + 1)) + constants, one)
            total = table[dr.START, count]
            thread = release_gil() if total >= _RELEASE_FROM else 0
            for k in each((total + size - 1) // size):
                part(k, table, count, size, h)
            if meta[dr.STRIDED] != 0:
                dr.through_door(meta[dr.DOOR], dr.LEAVE, meta_at, ids_at, g1, apart)
            meta[dr.STEPS] += 1
            if total >= _RELEASE_FROM:
                take_gil(thread)
            return status

        step.__qualname__ = f"{name}.{'serial' if each is range else 'parallel'}.step"
        return step

    return twin(range), twin(prange)
