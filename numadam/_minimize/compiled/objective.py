"""Adapter from the compiled minimisation to the user's compiled objective.

The kernel knows an objective as one address: a small function compiled for it, which unpacks the
arguments and evaluates a block of problems. So a new objective costs no compiling of the kernel.
"""

from __future__ import annotations

import collections
import dis
import functools
import inspect
import math
from types import CodeType
from typing import Any

import numpy as np
from numba import carray, int64, njit, typeof, types
from numba.core.dispatcher import Dispatcher
from numba.core.errors import NumbaError
from numba.np.numpy_support import from_dtype
from numba.np.unsafe.ndarray import to_fixed_tuple

from numadam._jit.pointers import as_pointer, inner
from numadam._minimize.compiled.calls import (
    address_of,
    address_of_tuple,
    call3,
    make_load_tuple,
    read_only,
)

#: live, addresses of x, g, f, problem numbers, shape, arguments -> 0
EVALUATE = int64(int64, int64, int64, int64, int64, int64, int64)
#: addresses of META, BATCH, arguments -> 0
KERNEL = int64(int64, int64, int64)

WRITES, INDEXED, RETURNS = "fun(x, g, *args) -> f", "fun(x, g, i, *args) -> f", "fun(x, *args)"

#: The adapters used last. Each keeps its objective alive, so that not all of them are cached.
_adapters: collections.OrderedDict[Any, ObjectiveAdapter] = collections.OrderedDict()
_CACHED = 128
_entries: dict[Any, Any] = {}


def is_compiled(fun: Any) -> bool:
    """Whether an objective was compiled by Numba for the CPU."""
    return isinstance(fun, Dispatcher)


def form_of(fun: Any, args: tuple[Any, ...], jac: Any, many: bool) -> str:
    """Call form of a compiled objective, from its number of arguments."""
    least, most, names = _counts(fun)
    forms = [(2, WRITES, jac in (None, True)), (3, INDEXED, many and jac in (None, True))]
    forms += [(1, RETURNS, jac is True)]
    fits = [form for extra, form, ok in forms if ok and least <= len(args) + extra <= most]
    if len(fits) == 1:
        if fits[0] != RETURNS:
            _refuse_unread(fun.py_func.__code__)
        return fits[0]
    shown = f"fun({', '.join(names)})"
    if fits:
        raise TypeError(
            f"fun: {shown} with {len(args)} args could be called as {' or '.join(fits)}; write it "
            "without defaults and *args."
        )
    indexed = f", {len(args) + 3} ({INDEXED})" if many else ""
    hint = "" if jac is True or most < len(args) + 1 or many else ", or jac='2-point'"
    raise TypeError(
        f"fun: a compiled objective with {len(args)} args takes {len(args) + 2} arguments "
        f"({WRITES}, which writes the gradient into g){indexed} or, with jac=True, "
        f"{len(args) + 1} ({RETURNS} -> (f, g)){hint}; got {shown}."
    )


@functools.lru_cache(_CACHED)  # reading the code takes 0.1 ms, a sixth of a short run
def _refuse_unread(code: CodeType) -> None:
    """Refuse an objective whose code never reads g: it cannot write into g.

    Its gradient would stay 0, and x0 would count as a minimum.
    """
    if code.co_argcount < 2:
        return  # it takes *args
    name = code.co_varnames[1]
    for one in dis.get_instructions(code):
        # newer Pythons load two names in one instruction
        names = one.argval if isinstance(one.argval, tuple) else (one.argval,)
        if "LOAD" in one.opname and name in names:
            return
    raise TypeError(
        f"fun: never reads {name}, so it writes no gradient. Write {name}[0] = ... or "
        f"{name}[:] = ...; {name} = ... names another array."
    )


def _counts(fun: Any) -> tuple[int, float, list[str]]:
    """Number of arguments that a function needs and takes at most, and their names."""
    parameters = list(inspect.signature(fun.py_func).parameters.values())
    plain = [one for one in parameters if one.kind is not one.VAR_POSITIONAL]
    least = sum(one.default is one.empty for one in plain)
    most = float(len(plain)) if len(plain) == len(parameters) else math.inf
    return least, most, [str(one) for one in parameters]


def check_plain(fun: Any, args: tuple[Any, ...]) -> None:
    """Refuse a compiled function that cannot be called as ``fun(x, *args)``."""
    least, most, names = _counts(fun)
    if not least <= len(args) + 1 <= most:
        raise TypeError(
            f"fun: with a jac of its own it takes {len(args) + 1} argument"
            f"{'s' if args else ''} (x, *args), got fun({', '.join(names)})."
        )


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


_CALL_FORMS = {WRITES: _writes, INDEXED: _indexed, RETURNS: _returns}


class ObjectiveAdapter:
    """A compiled objective for one type of x and of its arguments.

    Attributes
    ----------
    address : int
        Of ``evaluate``, which the loop calls.
    """

    def __init__(self, fun: Any, form: str, x_type: Any, args_type: Any) -> None:
        # an objective with explicit signatures would not be found for a read-only x
        guard = read_only if fun._can_compile else _as_it_is  # noqa: SLF001  # Numba's
        try:
            evaluate = _evaluation(fun, form, guard, x_type, args_type)
        except (NumbaError, AttributeError) as error:  # the latter for x += 1
            if guard is read_only and _compiles(fun, form, x_type, args_type):
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
                f"number f: {str(error).strip()[:1500]}"
            ) from error
        self._evaluate, self._fun, self._form = evaluate, fun, form
        self.address = address_of(evaluate, EVALUATE.args)

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


def _evaluation(fun: Any, form: str, guard: Any, x_type: Any, args_type: Any) -> Any:
    """The compiled function that evaluates a block of problems."""
    call = njit(_CALL_FORMS[form](fun, guard), no_cfunc_wrapper=True)
    evaluate = inner(_make_evaluate(call, x_type, args_type))
    evaluate.compile(EVALUATE)
    return evaluate


def _compiles(fun: Any, form: str, x_type: Any, args_type: Any) -> bool:
    """Whether an objective would compile for an x that may be written to."""
    try:
        _evaluation(fun, form, _as_it_is, x_type, args_type)
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


def adapter_for(
    fun: Any, form: str, dtype: np.dtype[Any], ndim: int, args: tuple[Any, ...]
) -> ObjectiveAdapter:
    """The adapter to an objective, compiled or cached."""
    x_type = types.Array(from_dtype(dtype), ndim, "C")
    args_type = _type_of(args)
    key = (fun, form, x_type, args_type)
    adapter = _adapters.pop(key, None) or ObjectiveAdapter(fun, form, x_type, args_type)
    _adapters[key] = adapter
    for old in list(_adapters)[: max(0, len(_adapters) - _CACHED)]:
        _adapters.pop(old, None)
    return adapter


def entry_for(args: tuple[Any, ...]) -> Any:
    """``entry(args, kernel, meta_at, batch_at)``: run a kernel on arguments of this type."""
    kind = typeof(args)
    if kind not in _entries:

        def entry(args, kernel, meta_at, batch_at):
            return call3(kernel, meta_at, batch_at, address_of_tuple(args))

        dispatcher = njit(nogil=True, no_cfunc_wrapper=True)(entry)
        dispatcher.compile(int64(kind, int64, int64, int64))
        _entries[kind] = dispatcher
    return _entries[kind]
