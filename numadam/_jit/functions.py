"""What the compiled step on the CPU is put together from: views, scalars, and the GIL."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from types import FunctionType
from typing import Any

import numpy as np
from numba import carray, njit, types
from numba.core import cgutils
from numba.extending import intrinsic
from numba.np.unsafe.ndarray import to_fixed_tuple

from numadam._core import options as op
from numadam._core import plan as pl
from numadam._core.half import memory_dtype
from numadam._core.plan import Plan
from numadam._cpu import validate as dr
from numadam._jit.pointers import INNER, as_pointer, inner

#: Scalars of a row that the loop itself needs (`options.loop_scalars`).
_OWN = 10


@intrinsic
def cast(typingctx: Any, scalars: Any, like: Any) -> Any:
    """A tuple of numbers as a tuple of the type of `like`: one rounding, in one place."""
    result = types.UniTuple(like, len(scalars))

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        items = zip(cgutils.unpack_tuple(builder, args[0]), scalars.types, strict=True)
        rounded = [context.cast(builder, item, kind, like) for item, kind in items]
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


def tiny(dtype: np.dtype[Any]) -> float:
    """Below it a first moment becomes 0: denormal numbers slow many CPUs down."""
    return float(np.finfo(dtype).smallest_normal)


_shared: dict[Any, Any] = {}


def _identity(x: Any) -> Any:
    """What tells x from others in a closure: numbers by type and bits, tuples by their items."""
    if isinstance(x, (bool, int, float, np.generic)):
        return type(x), repr(x)  # 1, 1.0 and True are equal, as 0.0 and -0.0 are
    if isinstance(x, (tuple, list)):
        return type(x), tuple(map(_identity, x))
    return type(x), x


def shared(function: Callable[..., Any], **how: Any) -> Any:
    """Compile a function that only compiled code calls; once for all loops that it is part of.

    Closures of the same code over the same things are one function, whichever rule or option
    made them. A loop has 30 parts and shares half of them with others.

    The symbol has a random word in it. Numba names symbols after the qualified name and a counter
    of the process. Different closures share the first, and loops from the disk cache bring the
    counter of another process: the linker would take the one for the other.
    """
    cells = [cell.cell_contents for cell in function.__closure__ or ()]
    code = (function.__module__, function.__code__, function.__defaults__, tuple(how.items()))
    key = (code, tuple(map(_identity, cells)))
    if key not in _shared:
        twin = FunctionType(
            function.__code__,
            function.__globals__,
            function.__name__,
            function.__defaults__,
            function.__closure__,
        )
        twin.__qualname__ = f"{function.__name__}-{secrets.token_hex(8)}"
        _shared.setdefault(key, njit(**INNER, **how)(twin))
    return _shared[key]


def _absent(address, n):
    return None


_NONE = inner(_absent)


def _view_of(memory: np.dtype[Any]) -> Any:
    def view(address, n):
        return carray(as_pointer(address), n, memory)

    return shared(view)


def make_views(plan: Plan) -> tuple[list[Any], tuple[int, ...], tuple[int, ...]]:
    """For each slot ``view(address, n)``, which is None where the slot is not in use.

    With them, for each slot: bytes from one turn of the loop to the next, and numbers in a turn.
    """
    slots = range(pl.SLOTS)
    memory = [memory_dtype(plan.storage(slot)) for slot in slots]
    there = [slot == pl.OUT or plan.has(slot) for slot in slots]
    views = [_view_of(memory[slot]) if there[slot] else _NONE for slot in slots]
    strides = tuple(plan.stride(slot) for slot in slots)
    return views, strides, tuple(strides[slot] // memory[slot].itemsize for slot in slots)


@inner
def find_leaf(start, count, low):
    """The array that holds turn `low` of the loop: `start` is where each one begins."""
    j, after = 0, count
    while after - j > 1:
        middle = (j + after) // 2
        if start[middle] <= low:
            j = middle
        else:
            after = middle
    return j


def width_of(plan: Plan) -> int:
    """Scalars of one row: the formula's, tiny and zero, and the loop's own."""
    c, q = np.zeros(plan.rule.width), np.full(len(plan.products), 0.5)
    c[: len(plan.rule.hypers)] = 0.5  # any values will do, with all switches off
    return len(plan.scalars(c, q, 1.0, 1.0, single_of(plan.real))) + 2 + _OWN


def single_of(real: np.dtype[Any]) -> float:
    """1.0 where the arithmetic is float32, else 0.0."""
    return 0.0 if real == np.float64 else 1.0


def make_scalars(width: int, real: np.dtype[Any]) -> Any:
    """``scalars(row, factors, j)``: what leaf j needs, from the scalars of its row."""
    own_from, one = width - _OWN, real.type(1)

    def scalars(row, factors, j):
        h = to_fixed_tuple(row, own_from)
        own = to_fixed_tuple(row[own_from:], _OWN)
        pre, factor = factors[0, j], factors[1, j]
        k = (own[0] * pre, own[1], own[2] * pre) + own[3:] + (factor, pre, 0.0)
        return cast(h, one), cast(k, one)

    return shared(scalars)


def make_fill_row(plan: Plan, wrap: Any = shared) -> Any:
    """``fill_row(out, row, q, lr, t, n)``: the scalars of step t from a row of the control block.

    `q` are the running products before the step, and `n` the gradients in the mean.
    """
    scalars, own_scalars, small = wrap(plan.scalars), wrap(op.loop_scalars), tiny(plan.real)
    single, per_element = single_of(plan.real), float(plan.elementwise)

    def fill_row(out, row, q, lr, t, n):
        rate = row[op.RATE] if row[op.RATE] == row[op.RATE] else lr
        h = scalars(row[op.RULE :], q, rate, t, single) + (small * row[op.FLUSH], 0.0)
        k = own_scalars(row, rate, t, n, per_element)
        for i in range(len(h)):
            out[i] = h[i]
        for i in range(_OWN):
            out[len(h) + i] = k[i]

    return shared(fill_row, forceinline=True) if wrap is shared else wrap(fill_row)


def make_fill(plan: Plan, wrap: Any) -> Any:
    """``fill(meta, lr)``: the scalars of every row for this step; returns them."""
    fill_row, wide, count = make_fill_row(plan), op.RULE + plan.rule.width, len(plan.products)
    width = width_of(plan)

    def fill(meta, lr):
        groups, t = meta[dr.GROUPS], float(meta[dr.STEPS] + 1)
        control = carray(as_pointer(meta[dr.CONTROL]), (groups, wide), np.float64)
        rows = carray(as_pointer(meta[dr.SCALARS]), (groups, width), np.float64)
        products = carray(as_pointer(meta[dr.PRODUCTS]), (groups, count), np.float64)
        n = float(meta[dr.CALLS] + 1 - meta[dr.FLUSHING])
        for r in range(groups):
            fill_row(rows[r], control[r], products[r], lr, t, n)
            if meta[dr.FLUSHING] != 0:
                rows[r, width - _OWN] = 1.0
        return rows

    return wrap(fill)


def make_advance_row(plan: Plan, wrap: Any) -> Any:
    """``advance_row(q, row, t)``: the running products after step t."""
    if not plan.products:
        return wrap(_no_products)
    after, count, single = wrap(plan.advance), len(plan.products), single_of(plan.real)

    def advance_row(q, row, t):
        new = after(row[op.RULE :], q, t, single)
        for i in range(count):
            q[i] = new[i]

    return wrap(advance_row)


def make_advance(plan: Plan, wrap: Any) -> Any:
    """``advance(meta)``: the running products of every row after a step."""
    advance_row = make_advance_row(plan, wrap)
    count, wide = len(plan.products), op.RULE + plan.rule.width

    def advance(meta):
        if count > 0:
            groups, t = meta[dr.GROUPS], float(meta[dr.STEPS] + 1)
            control = carray(as_pointer(meta[dr.CONTROL]), (groups, wide), np.float64)
            products = carray(as_pointer(meta[dr.PRODUCTS]), (groups, count), np.float64)
            for r in range(groups):
                advance_row(products[r], control[r], t)

    return wrap(advance)


def _no_products(q, row, t):
    return None
