"""Adapter from the compiled minimisation to the user's compiled objective.

The kernel knows an objective as one address: a small function compiled for it, which unpacks the
arguments and evaluates a block of problems. So a new objective costs no compiling of the kernel.
"""

from __future__ import annotations

import functools
import inspect
from typing import Any

import numpy as np
from numba import carray, int64, njit, types
from numba.core.errors import NumbaError
from numba.np.numpy_support import from_dtype
from numba.np.unsafe.ndarray import to_fixed_tuple

from numadam._jit.cache import compile_cached
from numadam._jit.forks import compile_lock
from numadam._jit.objectives import snapshot
from numadam._jit.pointers import as_pointer, inner
from numadam._jit.portable import compile_portable, portable
from numadam._jit.reports import objective_logger, reported
from numadam._minimize.compiled.argument_types import type_of_args
from numadam._minimize.compiled.calls import (
    address_of,
    address_of_tuple,
    call3,
    make_load_tuple,
    read_only,
)
from numadam._minimize.compiled.forms import INDEXED, RETURNS, WRITES

#: live, addresses of x, g, f, problem numbers, shape, arguments -> 0
EVALUATE = int64(int64, int64, int64, int64, int64, int64, int64)

#: Adapters that are cached: each keeps its objective alive.
ADAPTERS = 128
#: Message of an exception in compiled code that `call_again` did not raise.
RAISED_ONCE = "fun: raised an exception, but not again when it was called once more."
_entries: dict[Any, Any] = {}


def _writes(fun: Any, guard: Any) -> Any:
    def call(x, g, i, args):
        return fun(guard(x), g, *args)

    return call


def _indexed(fun: Any, guard: Any) -> Any:
    def call(x, g, i, args):
        return fun(guard(x), g, i, *args)

    return call


def _returns(fun: Any, guard: Any) -> Any:
    def call(x, g, i, args):
        f, given = fun(guard(x), *args)
        if given.shape != x.shape:
            raise ValueError("fun: the gradient that it returns has another shape than x.")
        g[...] = given
        return f

    return call


@inner
def _as_it_is(x):
    return x


CALL_FORMS = {WRITES: _writes, INDEXED: _indexed, RETURNS: _returns}


class ObjectiveAdapter:
    """A compiled objective for one type of x and of its arguments.

    Attributes
    ----------
    address : int
        Of ``evaluate``, which the loop calls.
    entry : callable
        ``entry(args, kernel, meta_at, record_at)``: run a kernel on these arguments.
    """

    def __init__(self, fun: Any, form: str, x_type: Any, args_type: Any, rows: bool = True) -> None:
        # an objective with explicit signatures would not be found for a read-only x
        guard = read_only if fun._can_compile else _as_it_is  # noqa: SLF001  # Numba's
        fun, digest = kept_form(fun, args_type)
        try:
            evaluate = _evaluation(fun, digest, form, guard, x_type, args_type, rows)
        except (NumbaError, AttributeError) as error:  # the latter for x += 1
            if guard is read_only and _compiles(fun, form, x_type, args_type, rows):
                way = "is returned" if form == RETURNS else "goes into g"
                raise TypeError(
                    "fun: writes into x, or gives it to a function that takes no read-only array. "
                    f"x is read-only: the gradient {way}, and x.copy() may be changed."
                ) from error
            if form != RETURNS and isinstance(kind := _last_returned(fun), _NO_NUMBER):
                raise TypeError(
                    f"fun: has to return the number f, got {kind}; is there a `return`?"
                ) from error
            raise TypeError(
                f"fun: does not compile as {form} for x of {x_type}, args of {args_type} and a "
                f"number f. {_advice(fun, form, args_type)}Numba: {str(error).strip()[:1500]}"
            ) from error
        self._evaluate, self._fun, self._form = evaluate, fun, form
        self.address, self.entry = address_of(evaluate, EVALUATE.args), _entry_of(args_type)

    def call_again(self, x: np.ndarray, number: int, args: tuple[Any, ...]) -> None:
        """Evaluate once more from Python, to raise the exception of the compiled call."""
        if self._form == RETURNS:
            _, given = self._fun(x, *args)
            if given.shape != x.shape:
                raise ValueError(
                    f"fun: the gradient that it returns has shape {given.shape}, x has {x.shape}."
                )
        else:
            numbers = (number,) if self._form == INDEXED else ()
            self._fun(x, np.zeros_like(x), *numbers, *args)


def _advice(fun: Any, form: str, args_type: Any) -> str:
    """Sentences on the likely reasons why an objective does not compile."""
    found = f"It is {fun.__name__}{inspect.signature(fun.py_func)}. "
    if any(isinstance(kind, (types.List, types.ListType)) for kind in args_type):
        found += "Pass numpy.array(...) in args in place of a list. "
    if form == RETURNS and not isinstance(_last_returned(fun), types.BaseTuple):
        found += "With jac=True it has to return (f, gradient). "
    return found


def kept_form(fun: Any, args_type: Any) -> tuple[Any, str | None]:
    """A snapshot of an objective and its digest; itself and None where its code is not kept."""
    return (_is_plain(args_type) and snapshot(fun)) or (fun, None)


def compile_evaluation(evaluate: Any, fun: Any, digest: str | None, *kind: object) -> Any:
    """The compiled function that evaluates an objective: from the disk where it is kept.

    `kind` is what it depends on besides the objective.
    """
    what = f"the objective {fun.__name__}"
    with compile_lock():
        if digest is None:
            function = inner(evaluate)
            with reported(what, None, objective_logger):
                function.compile(EVALUATE)
        else:
            function = portable(evaluate)
            name = f"{digest}-{'-'.join(map(str, kind))}"
            compile_portable(function, what, name, "_minimize", EVALUATE)
    return function


def _evaluation(
    fun: Any, digest: str | None, form: str, guard: Any, x_type: Any, args_type: Any, rows: bool
) -> Any:
    """The compiled function that evaluates a block of problems, or one."""
    if rows or form != WRITES:
        call = njit(CALL_FORMS[form](fun, guard), no_cfunc_wrapper=True)
        evaluate = _make_evaluate(call, x_type, args_type)
    else:
        evaluate = _make_evaluate_one(fun, guard, x_type, args_type)
    kind = form, x_type, args_type, rows
    return compile_evaluation(evaluate, fun, digest, *kind)


def _compiles(fun: Any, form: str, x_type: Any, args_type: Any, rows: bool) -> bool:
    """Whether an objective would compile for an x that may be written to."""
    try:
        _evaluation(fun, None, form, _as_it_is, x_type, args_type, rows)
    except (NumbaError, AttributeError):
        return False
    return True


#: Numba's types of results that are no number: a forgotten `return`, or a sum.
_NO_NUMBER = (types.NoneType, types.Array, types.BaseTuple)


def _last_returned(fun: Any) -> Any:
    """Return type of an objective as Numba compiled it last."""
    compiled = list(fun.overloads.values())
    return compiled[-1].signature.return_type if compiled else None


def _make_evaluate(call: Any, x_type: Any, args_type: Any) -> Any:
    load_tuple, ndim = make_load_tuple(args_type), x_type.ndim
    dtype = np.dtype(str(x_type.dtype))
    item = dtype.itemsize

    def evaluate(live, x_at, g_at, f_at, numbers_at, dims_at, args_at):
        shape = to_fixed_tuple(carray(as_pointer(dims_at), ndim, np.int64), ndim)
        row = item
        for n in shape:
            row *= n
        fs = carray(as_pointer(f_at), live, np.float64)
        numbers = carray(as_pointer(numbers_at), live, np.int64)
        args = load_tuple(args_at)
        for k in range(live):
            x = carray(as_pointer(x_at + k * row), shape, dtype)
            g = carray(as_pointer(g_at + k * row), shape, dtype)
            flat = carray(as_pointer(g_at + k * row), row // item, dtype)
            for i in range(row // item):
                flat[i] = 0  # an objective may add up its gradient
            fs[k] = call(x, g, numbers[k], args)
        return 0

    return evaluate


def _make_evaluate_one(fun: Any, guard: Any, x_type: Any, args_type: Any) -> Any:
    """As `_make_evaluate`, of one problem that writes its gradient: half the compile time."""
    load_tuple, ndim = make_load_tuple(args_type), x_type.ndim
    dtype = np.dtype(str(x_type.dtype))

    def evaluate(live, x_at, g_at, f_at, numbers_at, dims_at, args_at):
        shape = to_fixed_tuple(carray(as_pointer(dims_at), ndim, np.int64), ndim)
        x, g = carray(as_pointer(x_at), shape, dtype), carray(as_pointer(g_at), shape, dtype)
        flat = carray(as_pointer(g_at), g.size, dtype)
        for i in range(g.size):
            flat[i] = 0  # an objective may add up its gradient
        carray(as_pointer(f_at), 1, np.float64)[0] = fun(guard(x), g, *load_tuple(args_at))
        return 0

    return evaluate


def adapter_for(
    fun: Any,
    form: str,
    dtype: np.dtype[Any],
    ndim: int,
    args: tuple[Any, ...],
    rows: bool = True,
) -> ObjectiveAdapter:
    """The adapter to an objective, compiled or cached; for problems in `rows`, or for one."""
    return _adapter(fun, form, dtype, ndim, type_of_args(args), rows)


@functools.lru_cache(ADAPTERS)
def _adapter(
    fun: Any, form: str, dtype: np.dtype[Any], ndim: int, args_type: Any, rows: bool
) -> ObjectiveAdapter:
    x_type = types.Array(from_dtype(dtype), ndim, "C")
    return ObjectiveAdapter(fun, form, x_type, args_type, rows)


def entry_for(args: tuple[Any, ...]) -> Any:
    """``entry(args, kernel, meta_at, record_at)``: run a kernel on arguments of this type."""
    return _entry_of(type_of_args(args))


def _is_plain(kind: Any) -> bool:
    """Whether a type is that of numbers, arrays of them, or tuples: its text says all of it."""
    if type(kind) in (types.Tuple, types.UniTuple):
        return all(map(_is_plain, kind.types))
    number = kind.dtype if type(kind) is types.Array else kind
    return isinstance(number, (types.Number, types.Boolean))


def _entry_of(kind: Any) -> Any:
    if kind not in _entries:

        def entry(args, kernel, meta_at, record_at):
            return call3(kernel, meta_at, record_at, address_of_tuple(args))

        dispatcher: Any = njit(nogil=True, no_cfunc_wrapper=True)(entry)
        signature = int64(kind, int64, int64, int64)
        with compile_lock():
            if _is_plain(kind):
                compile_cached(dispatcher, "entry", "_minimize", signature)
            else:
                dispatcher.compile(signature)
        _entries[kind] = dispatcher
    return _entries[kind]
