"""Adapter from the lanes to the user's compiled objective: it evaluates the lanes in one loop.

The compiler vectorises that loop over the lanes, with the objective inside, where all that it can
see is this: one-dimensional views from one base pointer, with strides and a shape that are
constants. Slices of an array or addresses that are added leave it scalar. With the constant shape
the loops of a small objective over its own elements are unrolled first: 4 to 7 times faster.
"""

from __future__ import annotations

import contextlib
import functools
import warnings
from typing import Any, cast

import numpy as np
from numba import carray, errors, from_dtype, njit, types

from numadam._jit import private
from numadam._jit.calls import array_at, loader, read_only
from numadam._jit.private import pointer
from numadam._minimize.batches import laid_out
from numadam._minimize.checkpoint import Task
from numadam._minimize.compiled.objective import (
    ADAPTERS,
    PLAIN,
    RETURNS,
    call_again,
    caller,
    check_derives,
    compile_in_thread,
    evaluation,
    form_of,
    guarded_objective,
    prepared,
    type_of_args,
)
from numadam._minimize.compiled.problem import StateOnly
from numadam._minimize.lanes.loop import numbers_each
from numadam._minimize.observers import refuse_observers
from numadam._optimizer.base import make_optimizer
from numadam._optimizer.optimizer import Optimizer
from numadam._settings.bounds import fits

# --- the adapter ---------------------------------------------------------------------------------


def _one_by_one(call: Any, x_type: Any, args_type: Any) -> Any:
    """The function that evaluates problems that are contiguous."""
    load, load_shape = loader(args_type), loader(types.UniTuple(types.int64, x_type.ndim))
    dtype = np.dtype(str(x_type.dtype))
    item, each = dtype.itemsize, numbers_each(1)

    def evaluate(live, x_at, g_at, f_at, numbers_at, dims_at, args_at):
        shape = load_shape(dims_at)
        fs, numbers = (
            array_at(f_at, (live, each), np.float64),
            array_at(numbers_at, live, np.int64),
        )
        args = load(args_at)
        for k in range(live):
            x, g = array_at(x_at, shape, dtype), array_at(g_at, shape, dtype)
            flat = array_at(g_at, g.size, dtype)
            for i in range(g.size):
                flat[i] = 0  # an objective may add up its gradient
            fs[k, 0] = call(x, g, numbers[k], args)
            x_at += g.size * item
            g_at += g.size * item
        return 0

    return evaluate


def _side_by_side(
    call: Any, x_type: Any, args_type: Any, shape: tuple[int, ...], lanes: int
) -> Any:
    """The function that evaluates packets of problems."""
    load, view = loader(args_type), private.make_lane_view(x_type, shape, lanes)
    n, dtype = int(np.prod(shape)), np.dtype(str(x_type.dtype))
    bytes_each, each = n * dtype.itemsize, numbers_each(lanes)
    gradients, write_gradients = private.make_memory(x_type.dtype, n * lanes)
    values, write_values = private.make_memory(types.float64, lanes)

    def evaluate(live, x_at, g_at, f_at, numbers_at, dims_at, args_at):
        args = load(args_at)
        for first in range(0, live, lanes):
            # on the stack, where no array among the arguments can overlap them: an objective that
            # gathers (scale[i]) vectorises, too. As zeros, for it may add up its gradient.
            xs, g, f = pointer(x_at + first * bytes_each, dtype), gradients(), values()
            fs = carray(f, lanes)
            numbers = array_at(numbers_at + 8 * first, lanes, np.int64)
            count = live - first if live - first < lanes else lanes
            for j in range(np.uint64(count)):
                fs[j] = call(view(xs, j), view(g, j), numbers[j], args)
            write_gradients(g_at + first * bytes_each, g)
            write_values(f_at + 8 * each * first, f)
        return 0

    return evaluate


def _inlined(fun: Any) -> Any:
    """The same objective, which becomes part of its caller, and which Python cannot call.

    Else a large one would be compiled before it sees the constant shape.
    """
    options = {**fun.targetoptions, "forceinline": True, "no_cfunc_wrapper": True}
    del options["nopython"]
    return njit(locals=fun.locals, no_cpython_wrapper=True, **options)(fun.py_func)


class ManyObjective:
    """A compiled objective on many problems, for one type of its arguments.

    Attributes
    ----------
    address : int
        Of ``evaluate``, which the loop calls.
    writes : bool
        Whether it is known to give a gradient: the first call of a run tells.
    """

    def __init__(
        self, fun: Any, form: str, x_type: Any, args_type: Any, shape: tuple[int, ...], lanes: int
    ) -> None:
        self._fun, self._form, self.writes = fun, form, form in (RETURNS, PLAIN)
        n = int(np.prod(shape))
        wrap = njit(error_model="numpy", no_cfunc_wrapper=True, forceinline=lanes > 1)

        def compile_for(function: Any, guard: Any) -> Any:
            call = wrap(caller(prepared(function, form, n), form, guard))
            if lanes == 1:
                return evaluation(_one_by_one(call, x_type, args_type))
            return evaluation(_side_by_side(call, x_type, args_type, shape, lanes))

        if lanes == 1:
            given = fun, form, compile_for, x_type, args_type
            self._evaluate, self._is_guarded = guarded_objective(*given)
        else:
            # np.dot and its like would copy x at each call: contiguous problems are faster
            with warnings.catch_warnings():
                warnings.simplefilter("error", errors.NumbaPerformanceWarning)
                inner = fun if form in (RETURNS, PLAIN) else _inlined(fun)
                self._evaluate = compile_in_thread(fun, lambda: compile_for(inner, read_only))
            self._is_guarded = True
        self.address = private.address(self._evaluate)

    def call_again(self, x: np.ndarray, number: int, args: tuple[Any, ...]) -> tuple[Any, Any]:
        """Evaluate from Python: f and gradient."""
        return call_again(self._fun, self._form, self._is_guarded, x, number, args)


def objective_on(
    fun: Any, form: str, dtype: np.dtype[Any], shape: tuple[int, ...], args: Any, lanes: int
) -> ManyObjective | None:
    """An objective, compiled or cached; None where it takes no strided x, as lanes need.

    That is: where it does not compile for one, or has signatures of its own.
    """
    if form == PLAIN:
        check_derives(shape, dtype, "write the gradient into g, as fun(x, g, *args) -> f")
    # contiguous problems tell their shape at each call, unless it is compiled in
    shape = shape if lanes > 1 or form == PLAIN else (0,) * len(shape)
    return _objective(fun, form, dtype, shape, type_of_args(args), lanes)


@functools.lru_cache(ADAPTERS)
def _objective(
    fun: Any, form: str, dtype: np.dtype[Any], shape: tuple[int, ...], args_type: Any, lanes: int
) -> ManyObjective | None:
    x_type = types.Array(from_dtype(dtype), len(shape), "A" if lanes > 1 else "C")
    if lanes == 1:
        return ManyObjective(fun, form, x_type, args_type, shape, lanes)
    if not private.can_compile(fun):
        return None
    try:
        return ManyObjective(fun, form, x_type, args_type, shape, lanes)
    except (errors.NumbaError, errors.NumbaPerformanceWarning, AttributeError):  # x += 1, the last
        return None


# --- layout of problems --------------------------------------------------------------------------


#: Real numbers of one element in a packet. With 16 or 32 the compiler unrolls a loop over them
#: instead of vectorising it.
WIDE = 64
#: Problems from which lanes pay, and elements of one problem up to which they do.
_LANES_FROM, _LANES_UP_TO = 24, 16


def to_lanes(rows: np.ndarray, lanes: int) -> np.ndarray:
    """Problems in rows as (packet, ..., lane); the last row again in lanes that are not in use."""
    if lanes == 1 or rows.ndim == 0:
        return rows
    packets = -(-len(rows) // lanes)
    padded = np.concatenate([rows, np.repeat(rows[-1:], packets * lanes - len(rows), axis=0)])
    packed = padded.reshape(packets, lanes, *rows.shape[1:])
    return np.ascontiguousarray(np.moveaxis(packed, 1, -1))


def rows_of(array: np.ndarray, lanes: int) -> np.ndarray:
    """An array of (packet, ..., lane), one problem a row: a copy, unless it is so already."""
    if lanes == 1:
        return array
    return np.moveaxis(array, -1, 1).reshape(-1, *array.shape[1:-1])


def _suits(task: Task) -> bool:
    """Whether a task gains from lanes: many small problems that share their scalars."""
    x, options = task.x, task.options
    clips = any(options.get(name) is not None for name in ("clip_norm", "clip_array_norm"))
    small = len(x) >= _LANES_FROM and 0 < x[0].size <= _LANES_UP_TO
    given = [end for end in (task.lr, *(options["bounds"] or ())) if np.ndim(end) > 0]
    arrays = all(hasattr(end, "shape") and fits(end, x) for end in given)
    return small and arrays and task.rates is None and not clips


def lay_out(task: Task) -> tuple[int, ManyObjective, Optimizer]:
    """The layout that suits the problems of a task.

    Problems of a packet, 1 or as many as make `WIDE` numbers; the objective on them; the optimiser
    on a `StateOnly` back end, over all problems.
    """
    x, args = task.x, task.args
    shape = x.shape[1:]
    form = form_of(task.fun, args, task.jac, many=True)
    if _suits(task):
        lanes = WIDE // (2 if x.dtype.kind == "c" else 1)
        adapter = objective_on(task.fun, form, x.dtype, shape, args, lanes)
        if adapter is not None:
            # what this raises is raised again below, with the shapes that the user knows
            with contextlib.suppress(TypeError, ValueError):
                return lanes, adapter, _make_optimizer(task, lanes)
    alone = objective_on(task.fun, form, x.dtype, shape, args, 1)
    return 1, cast("ManyObjective", alone), _make_optimizer(task, 1)


def _make_optimizer(task: Task, lanes: int) -> Optimizer:
    lr, options = task.lr, task.options
    if lanes > 1:
        lr, options = laid_out(task, lambda rows: to_lanes(rows, lanes))
    if task.rates is not None:
        lr = 1.0
    x = to_lanes(task.x, lanes)
    optimizer: Optimizer = make_optimizer(task.rule, x, lr, backend=StateOnly, **options)
    refuse_observers(optimizer)
    return optimizer
