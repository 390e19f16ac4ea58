"""From the compiled loop to the user's compiled objective, and back.

The loop knows an objective as one address: a small function compiled for it, which unpacks the
arguments and evaluates a block of problems. So a new objective costs no compiling of the loop.
"""

from __future__ import annotations

import inspect
import weakref
from typing import Any

import numpy as np
from numba import carray, int64, njit, typeof, types
from numba.core.dispatcher import Dispatcher
from numba.core.errors import NumbaError
from numba.np.numpy_support import from_dtype
from numba.np.unsafe.ndarray import to_fixed_tuple

from numadam.headers import inner
from numadam.minimizer.native import address_of, as_pointer, call3, lend, make_borrow

#: live, addresses of x, g, f, problem numbers, shape, arguments -> 0
EVALUATE = int64(int64, int64, int64, int64, int64, int64, int64)
#: addresses of meta, desk, arguments -> 0
KERNEL = int64(int64, int64, int64)

WRITES, INDEXED, RETURNS = "fun(x, g, *args) -> f", "fun(x, g, i, *args) -> f", "fun(x, *args)"

_bridges: weakref.WeakKeyDictionary[Any, dict[Any, Bridge]] = weakref.WeakKeyDictionary()
_entries: dict[Any, Any] = {}


def is_compiled(fun: Any) -> bool:
    """Whether an objective was compiled by Numba for the CPU."""
    return isinstance(fun, Dispatcher)


def form_of(fun: Any, args: tuple[Any, ...], jac: Any, many: bool) -> str:
    """How a compiled objective is called, told by its number of arguments."""
    names = list(inspect.signature(fun.py_func).parameters)
    extra = len(names) - len(args)
    if extra == 2 and jac in (None, True):
        return WRITES
    if extra == 3 and many and jac in (None, True):
        return INDEXED
    if extra == 1 and jac is True:
        return RETURNS
    shown = f"fun({', '.join(names)})"
    indexed = f", {len(args) + 3} ({INDEXED})" if many else ""
    hint = " with jac=True" if extra == 1 else ""
    raise TypeError(
        f"fun: a compiled objective with {len(args)} args takes {len(args) + 2} arguments "
        f"({WRITES}, which writes the gradient into g){indexed} or, with jac=True, "
        f"{len(args) + 1} ({RETURNS} -> (f, g)); got {shown}{hint and ' without jac=True'}."
    )


def _writes(fun: Any) -> Any:
    def call(x, g, i, args):
        return fun(x, g, *args)

    return call


def _indexed(fun: Any) -> Any:
    def call(x, g, i, args):
        return fun(x, g, i, *args)

    return call


def _returns(fun: Any) -> Any:
    def call(x, g, i, args):
        f, given = fun(x, *args)
        if given.shape != x.shape:
            raise ValueError("fun: the gradient that it returns has another shape than x.")
        g[...] = given
        return f

    return call


_FORMS = {WRITES: _writes, INDEXED: _indexed, RETURNS: _returns}


class Bridge:
    """A compiled objective for one type of x and of its arguments.

    Attributes
    ----------
    address : int
        Of ``evaluate``, which the loop calls.
    call : compiled function
        ``call(x, g, i, args) -> f``: one evaluation from Python.
    """

    def __init__(self, fun: Any, form: str, x_type: Any, args_type: Any) -> None:
        call = njit(_FORMS[form](fun), no_cfunc_wrapper=True)
        evaluate = inner(_make_evaluate(call, x_type, args_type))
        try:
            evaluate.compile(EVALUATE)
        except NumbaError as error:
            raise TypeError(
                f"fun: does not compile as {form} for x of {x_type}, args of {args_type} and a "
                f"number f: {str(error).strip()[:1500]}"
            ) from error
        self._kept, self.call = evaluate, call
        self.address = address_of(evaluate, EVALUATE.args)


def _make_evaluate(call: Any, x_type: Any, args_type: Any) -> Any:
    borrow, ndim = make_borrow(args_type), x_type.ndim
    dtype = np.dtype(str(x_type.dtype))
    item = dtype.itemsize

    def evaluate(live, x_at, g_at, f_at, numbers_at, dims_at, args_at):
        shape = to_fixed_tuple(carray(as_pointer(dims_at), ndim, np.int64), ndim)
        row = item
        for n in shape:
            row *= n
        fs = carray(as_pointer(f_at), live, np.float64)
        numbers = carray(as_pointer(numbers_at), live, np.int64)
        args = borrow(args_at)
        for k in range(live):
            x = carray(as_pointer(x_at + k * row), shape, dtype)
            g = carray(as_pointer(g_at + k * row), shape, dtype)
            g[...] = 0  # an objective may add up its gradient
            fs[k] = call(x, g, numbers[k], args)
        return 0

    return evaluate


def _type_of(args: tuple[Any, ...]) -> Any:
    for k, arg in enumerate(args):
        try:
            typeof(arg)
        except ValueError as error:
            raise TypeError(
                f"args[{k}]: Numba has no type for {type(arg).__name__}, so a compiled fun cannot "
                "take it. Pass numbers, arrays or tuples of them."
            ) from error
    return typeof(args)


def bridge_to(
    fun: Any, form: str, dtype: np.dtype[Any], ndim: int, args: tuple[Any, ...]
) -> Bridge:
    """The compiled bridge to an objective, kept as long as the objective."""
    x_type = types.Array(from_dtype(dtype), ndim, "C")
    known = _bridges.setdefault(fun, {})
    args_type = _type_of(args)
    key = (form, x_type, args_type)
    if key not in known:
        known[key] = Bridge(fun, form, x_type, args_type)
    return known[key]


def entry_for(args: tuple[Any, ...]) -> Any:
    """``entry(args, kernel, meta_at, desk_at)``: run a loop, lending it the arguments."""
    kind = typeof(args)
    if kind not in _entries:

        def entry(args, kernel, meta_at, desk_at):
            return call3(kernel, meta_at, desk_at, lend(args))

        dispatcher = njit(nogil=True, no_cfunc_wrapper=True)(entry)
        dispatcher.compile(int64(kind, int64, int64, int64))
        _entries[kind] = dispatcher
    return _entries[kind]
