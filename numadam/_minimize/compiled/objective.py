"""Adapter from the compiled minimisation to the user's compiled objective.

The kernel knows an objective as one address: a small function compiled for it, which unpacks the
arguments and evaluates a block of problems. So a new objective costs no compiling of the kernel.
Numba's own calling convention is used between them: an exception inside comes back as a status.
"""

from __future__ import annotations

import dis
import functools
import inspect
import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from types import CodeType
from typing import Any

import numpy as np
from llvmlite import ir
from numba import int64, njit, typeof, types
from numba.core import cgutils
from numba.core.dispatcher import Dispatcher
from numba.core.errors import NumbaError
from numba.core.imputils import impl_ret_borrowed
from numba.extending import intrinsic
from numba.np.numpy_support import from_dtype
from numba.np.unsafe.ndarray import to_fixed_tuple

from numadam._arrays.checks import describe, refuse_uncompilable
from numadam._arrays.interop import is_array, is_cupy
from numadam._jit.cache import compile_cached
from numadam._jit.objectives import SNAPSHOT, Snapshot, compile_portable, portable, snapshot
from numadam._jit.pointers import array_at, inner, intrinsic_of
from numadam._jit.process import compile_lock
from numadam._jit.reports import objective_logger, reported

# --- types of arguments --------------------------------------------------------------------------


_types: dict[Any, Any] = {}
_MOST_TYPES = 256


def type_of_args(args: tuple[Any, ...]) -> Any:
    """Numba's type of the arguments: remembered, for asking takes 15 us and more."""
    try:
        key = _key_of(args)
    except TypeError:
        return _asked_type(args)
    if key not in _types:
        if len(_types) >= _MOST_TYPES:
            _types.clear()
        _types[key] = _asked_type(args)
    return _types[key]


def _key_of(arg: Any) -> Any:
    """All that Numba's type of a number, an array of numbers, or a tuple of them depends on."""
    kind = type(arg)
    if kind is tuple:
        return tuple(map(_key_of, arg))
    if kind is np.ndarray and arg.dtype.kind in "biufc":
        flags = arg.flags
        laid = flags.c_contiguous, flags.f_contiguous, flags.writeable, flags.aligned
        return arg.dtype, arg.ndim, *laid
    if (kind is int and -(2**63) <= arg < 2**63) or kind in (float, bool, np.float64, np.int64):
        return kind
    raise TypeError(f"{kind}: Numba has to be asked.")


def _asked_type(args: tuple[Any, ...]) -> Any:
    for k, arg in enumerate(args):
        refuse_uncompilable(arg, f"args[{k}]")
        try:
            typeof(arg)
        except (ValueError, NumbaError) as error:
            if hasattr(type(arg), "__array__"):  # of another library
                raise TypeError(f"args[{k}]: {describe(arg, 'NumPy')}") from error
            raise TypeError(
                f"args[{k}]: Numba has no type for {type(arg).__name__}, so a compiled fun cannot "
                "take it. Pass numbers, arrays or tuples of them."
            ) from error
    return typeof(args)


#: What arithmetic takes in place of an argument of these types, or of an array of them.
_REAL_FORMS: tuple[tuple[Any, str], ...] = (
    ((types.List, types.ListType), "numpy.array(...)"),
    (types.NPDatetime, "(a - a[0]) / numpy.timedelta64(1, 's')"),
    (types.NPTimedelta, "a / numpy.timedelta64(1, 's')"),
    (types.Complex, "a.real and a.imag"),
    ((types.CharSeq, types.UnicodeCharSeq), "a.astype(numpy.float64)"),
    (types.Record, "a field, such as a['name']"),
)


def about_args(args_type: Any) -> str:
    """Sentences on arguments that are no real numbers, for code that does not compile; or ""."""
    found = ""
    for k, kind in enumerate(args_type):
        of = kind.dtype if isinstance(kind, types.Array) else kind
        for kinds, instead in _REAL_FORMS:
            if isinstance(of, kinds):
                what = "a list" if "array" in instead else str(of).partition("(")[0]
                found += f"args[{k}] is {what}: pass {instead} if it takes real numbers. "
    return found


# --- calls through addresses ---------------------------------------------------------------------


#: addresses of META, of the record of the problems, of the arguments -> 0
KERNEL = int64(int64, int64, int64)


def address_of(dispatcher: Any, signature: Any) -> int:
    """The address of a compiled function's machine code; keep the dispatcher alive."""
    compiled = dispatcher.overloads[tuple(signature)]
    name = compiled.fndesc.llvm_func_name
    return int(compiled.library.get_pointer_to_function(name))


@functools.cache
def kernel_address(kernel: Any) -> int:
    """The address of a compiled kernel; cached, for asking takes 0.2 ms."""
    return address_of(kernel, KERNEL.args)


def _make_call(names: str) -> Any:
    count = len(names)

    def call(typingctx: Any, address: Any, *args: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            convention, kinds = context.call_conv, [types.int64] * count
            function = convention.get_function_type(types.int64, kinds).as_pointer()
            callee = builder.inttoptr(values[0], function)
            status, value = convention.call_function(
                builder, callee, types.int64, kinds, values[1:]
            )
            return builder.select(status.is_error, ir.Constant(value.type, -1), value)

        return types.int64(*[types.int64] * (count + 1)), codegen

    return intrinsic_of(call, ("address", *names))


#: ``(address, a, ...)``: call ``int64 f(a, ...)`` at an address; -1 if it raised.
call3, call7 = map(_make_call, ("abc", "abcdefg"))


@intrinsic
def address_of_tuple(typingctx: Any, args: Any) -> Any:
    """The address of a tuple of arguments, valid as long as the calling function runs."""

    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        copy = cgutils.alloca_once_value(builder, values[0])
        return builder.ptrtoint(copy, ir.IntType(64))

    return types.int64(args), codegen


def _uncounted(context: Any, builder: Any, kind: Any, value: Any) -> Any:
    """The same value with arrays whose references are not counted.

    An exception in the caller would lose the count.
    """
    if isinstance(kind, types.Array):
        array = context.make_array(kind)(context, builder, value)
        array.meminfo = ir.Constant(array.meminfo.type, None)
        return array._getvalue()
    if isinstance(kind, types.BaseTuple):
        for k, item in enumerate(kind.types):
            part = _uncounted(context, builder, item, builder.extract_value(value, k))
            value = builder.insert_value(value, part, k)
        return value
    context.nrt.incref(builder, kind, value)
    return value


def _copied_type(kind: Any) -> Any:
    """A type of arguments, with copies of the compiled functions among them.

    They are compiled for the loop, as an objective is; a function takes no memory.
    """
    if isinstance(kind, types.Dispatcher):
        # kept, for a type does not keep what it is of
        return types.Dispatcher(snapshot(kind.dispatcher).keep().copy)
    if type(kind) is types.UniTuple:
        return types.UniTuple(_copied_type(kind.dtype), kind.count)
    return types.Tuple(tuple(map(_copied_type, kind))) if type(kind) is types.Tuple else kind


def copied_value(arg: Any) -> Any:
    """An argument of such a type."""
    if type(arg) is tuple:
        return tuple(map(copied_value, arg))
    return snapshot(arg).copy if is_compiled(arg) else arg


def _discard(kind: Any) -> None:
    """Discard the snapshots of functions in a type of arguments."""
    if isinstance(kind, types.Dispatcher):
        vars(kind.dispatcher).pop(SNAPSHOT, None)
    elif isinstance(kind, types.BaseTuple):
        for part in kind.types:
            _discard(part)


@contextmanager
def _keeps(args_type: Any) -> Iterator[None]:
    """Within this block all is compiled; functions in `args` keep their values if that succeeds."""
    try:
        yield
    except BaseException:
        _discard(args_type)
        raise


def make_load_tuple(kind: Any) -> Any:
    """``load_tuple(address)``: the tuple of this type at an address of `address_of_tuple`."""
    kind = _copied_type(kind)

    @intrinsic
    def load_tuple(typingctx: Any, address: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            stored = context.get_value_type(kind).as_pointer()
            value = builder.load(builder.inttoptr(values[0], stored))
            return _uncounted(context, builder, kind, value)

        return kind(types.int64), codegen

    return load_tuple


@intrinsic
def read_only(typingctx: Any, array: Any) -> Any:
    """The same array, of a type that cannot be written to."""

    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        return impl_ret_borrowed(context, builder, signature.return_type, values[0])

    return array.copy(readonly=True)(array), codegen


# --- call forms ----------------------------------------------------------------------------------


WRITES, INDEXED, RETURNS = "fun(x, g, *args) -> f", "fun(x, g, i, *args) -> f", "fun(x, *args)"


def is_compiled(fun: Any) -> bool:
    """Whether an objective was compiled by Numba for the CPU."""
    return isinstance(fun, Dispatcher)


def check_for_compiled(x: Any) -> None:
    """Refuse an x that a compiled objective cannot get."""
    if not is_array(x) or is_cupy(x) or x.ndim == 0:
        raise TypeError(
            "x0: a compiled fun takes one NumPy array of at least one axis. Pass fun.py_func for "
            "the loop in Python, or numpy.atleast_1d(x0)."
        )


def form_of(fun: Any, args: tuple[Any, ...], jac: Any, many: bool) -> str:
    """Call form of a compiled objective, from its number of arguments."""
    if jac is not None and type(jac) is not bool and not callable(jac):  # such as numpy.True_
        raise ValueError(f"jac: expected True or None for a compiled fun, got {jac!r:.80}.")
    least, most, names = counts_of(fun)
    forms = [(2, WRITES, jac in (None, True)), (3, INDEXED, many and jac in (None, True))]
    forms += [(1, RETURNS, jac is True)]
    fits = [form for extra, form, ok in forms if ok and least <= len(args) + extra <= most]
    if len(fits) == 1:
        if fits[0] != RETURNS:
            refuse_unread(fun.py_func.__code__, 1, "gradient")
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


@functools.lru_cache(128)  # reading the code takes 0.1 ms, a sixth of a short run
def refuse_unread(code: CodeType, place: int, what: str) -> None:
    """Refuse an objective whose code never reads an argument as given: it cannot write into it.

    A gradient would stay 0, and x0 would count as a minimum.
    """
    if code.co_argcount <= place:
        return  # it takes *args
    name = code.co_varnames[place]
    for one in dis.get_instructions(code):
        # newer Pythons load and store two names in one instruction
        names = one.argval if isinstance(one.argval, tuple) else (one.argval,)
        actions = re.findall("LOAD|STORE", one.opname)
        found = [action for action, of in zip(actions, names, strict=False) if of == name]
        if found[:1] == ["LOAD"]:
            return
        if found:
            break  # from here on the name is another array's
    raise TypeError(
        f"fun: never reads {name}, so it writes no {what}. Write {name}[0] = ... or "
        f"{name}[:] = ...; {name} = ... names another array."
    )


@functools.lru_cache(128)  # reading the signature takes 40 us
def counts_of(fun: Any) -> tuple[int, float, list[str]]:
    """Number of arguments that a function needs and takes at most, and their names."""
    # Numba's own signature: defaults may have changed since
    parameters = list(fun._compiler.pysig.parameters.values())  # noqa: SLF001  # Numba's
    plain = [one for one in parameters if one.kind is not one.VAR_POSITIONAL]
    least = sum(one.default is one.empty for one in plain)
    most = float(len(plain)) if len(plain) == len(parameters) else math.inf
    return least, most, [str(one) for one in parameters]


def check_plain(fun: Any, args: tuple[Any, ...]) -> None:
    """Refuse a compiled function that cannot be called as ``fun(x, *args)``."""
    least, most, names = counts_of(fun)
    if not least <= len(args) + 1 <= most:
        raise TypeError(
            f"fun: with a jac of its own it takes {len(args) + 1} argument"
            f"{'s' if args else ''} (x, *args), got fun({', '.join(names)})."
        )


# --- adapters ------------------------------------------------------------------------------------


#: live, addresses of x, g, f, problem numbers, shape, arguments -> 0
EVALUATE = int64(int64, int64, int64, int64, int64, int64, int64)

#: Adapters that are cached: each keeps its objective alive.
ADAPTERS = 128
#: Message of an exception in compiled code that `call_again` did not raise.
RAISED_ONCE = "fun: raised an exception, but not again when it was called once more."
_entries: dict[Any, Any] = {}


def returning(fun: Any) -> Any:
    """``call(x, g, i, args)``: write the gradient that an objective returns."""

    def call(x, g, i, args):
        f, given = fun(x, *args)
        if given.shape != x.shape:
            raise ValueError("fun: the gradient that it returns has another shape than x.")
        g[...] = given
        return f

    return call


def make_rest(form: str) -> Any:
    """``rest(number, args)``: what an objective of that form takes after x and g, as a tuple.

    With a function for each form in between, an evaluation would take 1.4 times as long to compile.
    """

    @intrinsic
    def rest(typingctx: Any, number: Any, args: Any) -> Any:
        shown = {WRITES: args, INDEXED: types.BaseTuple.from_types((number, *args))}
        kind = shown.get(form, types.Tuple((number, args)))

        def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            items = {
                WRITES: lambda: cgutils.unpack_tuple(builder, values[1]),
                INDEXED: lambda: [values[0], *cgutils.unpack_tuple(builder, values[1])],
            }.get(form, lambda: values)()
            result = context.make_tuple(builder, kind, items)
            return impl_ret_borrowed(context, builder, kind, result)

        return kind(number, args), codegen

    return rest


@inner
def _as_it_is(x):
    return x


def guard_of(fun: Any) -> Any:
    """The function that x passes through: a signature may not fit a read-only x."""
    return read_only if fun._can_compile else _as_it_is  # noqa: SLF001  # Numba's


class ObjectiveAdapter:
    """A compiled objective for one type of x and of its arguments.

    Attributes
    ----------
    address : int
        Of ``evaluate``, which the loop calls.
    entry : callable
        ``entry(args, kernel, meta_at, record_at)``: run a kernel on these arguments.
    writes : bool
        Whether it is known to give a gradient: the first call of a run tells.
    """

    writes = False

    def __init__(self, fun: Any, form: str, x_type: Any, args_type: Any) -> None:
        guard = guard_of(fun)
        found = snapshot(fun)
        fun = found.copy
        try:
            evaluate = _make_evaluate(fun, form, guard, x_type, args_type)
            evaluate = compile_evaluation(evaluate, found, args_type, form, x_type)
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
                f"number f. {_advice(fun, form, args_type)}Numba: {str(error).strip()[:1500]}"
            ) from error
        self._evaluate, self._fun, self._form, self._guard = evaluate, fun, form, guard
        self.writes = form == RETURNS
        self.address, self.entry = address_of(evaluate, EVALUATE.args), _entry_of(args_type)

    def call_again(self, x: np.ndarray, number: int, args: tuple[Any, ...]) -> tuple[Any, Any]:
        """Evaluate from Python, as the exception of a compiled call is raised: f and gradient."""
        args = copied_value(args)
        x.flags.writeable = self._guard is not read_only
        if self._form == RETURNS:
            f, g = self._fun(x, *args)
            if g.shape != x.shape:
                raise ValueError(
                    f"fun: the gradient that it returns has shape {g.shape}, x has {x.shape}."
                )
            return f, g
        numbers, g = (number,) if self._form == INDEXED else (), np.zeros_like(x)
        return self._fun(x, g, *numbers, *args), g


def _advice(fun: Any, form: str, args_type: Any) -> str:
    """Sentences on the likely reasons why an objective does not compile."""
    found = f"It is {fun.__name__}{inspect.signature(fun.py_func)}. "
    found += about_args(args_type)
    if form == RETURNS and not isinstance(_last_returned(fun), types.BaseTuple):
        found += "With jac=True it has to return (f, gradient). "
    return found


def compile_evaluation(
    evaluate: Any, found: Snapshot, args_type: Any, *kind: object, package: str = "_minimize"
) -> Any:
    """The compiled function that evaluates an objective: from the disk where it is kept.

    `kind` is what it depends on besides the objective and its arguments, `package` where
    `evaluate` is.
    """
    what = f"the objective {found.copy.__name__}"
    digest = found.digest() if _is_plain(args_type) else None
    with compile_lock(), _keeps(args_type):
        if digest is None:
            function = inner(evaluate)
            with reported(what, None, objective_logger):
                function.compile(EVALUATE)
        else:
            function = portable(evaluate)
            name = "-".join(map(str, (digest, args_type, *kind)))
            compile_portable(function, what, name, package, EVALUATE)
    found.keep()
    return function


def _compiles(fun: Any, form: str, x_type: Any, args_type: Any) -> bool:
    """Whether an objective would compile for an x that may be written to."""
    try:
        evaluate = _make_evaluate(fun, form, _as_it_is, x_type, args_type)
        with compile_lock(), _keeps(args_type):
            inner(evaluate).compile(EVALUATE)
    except (NumbaError, AttributeError):
        return False
    return True


#: Numba's types of results that are no number: a forgotten `return`, or a sum.
_NO_NUMBER = (types.NoneType, types.Array, types.BaseTuple)


def _last_returned(fun: Any) -> Any:
    """Return type of an objective as Numba compiled it last."""
    compiled = list(fun.overloads.values())
    return compiled[-1].signature.return_type if compiled else None


def _make_evaluate(fun: Any, form: str, guard: Any, x_type: Any, args_type: Any) -> Any:
    """The function that evaluates a block of problems."""
    load_tuple, rest, ndim = make_load_tuple(args_type), make_rest(form), x_type.ndim
    dtype = np.dtype(str(x_type.dtype))
    item = dtype.itemsize
    if form == RETURNS:
        fun = njit(returning(fun), no_cfunc_wrapper=True)

    def evaluate(live, x_at, g_at, f_at, numbers_at, dims_at, args_at):
        shape = to_fixed_tuple(array_at(dims_at, ndim, np.int64), ndim)
        fs, numbers = array_at(f_at, live, np.float64), array_at(numbers_at, live, np.int64)
        args = load_tuple(args_at)
        for k in range(live):
            x, g = array_at(x_at, shape, dtype), array_at(g_at, shape, dtype)
            flat = array_at(g_at, g.size, dtype)
            for i in range(g.size):
                flat[i] = 0  # an objective may add up its gradient
            fs[k] = fun(guard(x), g, *rest(numbers[k], args))
            x_at += g.size * item
            g_at += g.size * item
        return 0

    return evaluate


def adapter_for(
    fun: Any, form: str, dtype: np.dtype[Any], ndim: int, args: tuple[Any, ...]
) -> ObjectiveAdapter:
    """The adapter to an objective, compiled or cached."""
    return _adapter(fun, form, dtype, ndim, type_of_args(args))


@functools.lru_cache(ADAPTERS)
def _adapter(
    fun: Any, form: str, dtype: np.dtype[Any], ndim: int, args_type: Any
) -> ObjectiveAdapter:
    x_type = types.Array(from_dtype(dtype), ndim, "C")
    return ObjectiveAdapter(fun, form, x_type, args_type)


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
