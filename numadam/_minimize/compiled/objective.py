"""Compiled objectives: how they are called, and what is compiled for each of them.

Nothing else tells call forms apart. The loops know an objective as the address of a function, and
never see the types of its arguments: so a new objective costs no compiling of a loop.
"""

from __future__ import annotations

import dis
import functools
import inspect
import math
import re
from collections.abc import Callable
from types import CodeType
from typing import Any

import numpy as np
from numba import carray, errors, from_dtype, int64, njit, typeof, types
from numba.extending import is_jitted

from numadam._arrays.checks import describe, refuse_uncompilable
from numadam._arrays.interop import is_array, is_cupy
from numadam._jit import build
from numadam._jit.calls import address_of, call1, call3, loader, read_only
from numadam._jit.private import pointer
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
        except (ValueError, errors.NumbaError) as error:
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


# --- call forms ----------------------------------------------------------------------------------


WRITES, INDEXED, RETURNS = "fun(x, g, *args) -> f", "fun(x, g, i, *args) -> f", "fun(x, *args)"
#: A function without its gradient: numadam derives it, and calls the form that writes it.
PLAIN = "fun(x, *args) -> f"

#: Result of an evaluation that has raised, or has returned a gradient of another shape than x.
FAILED = -1
#: By form the lines of a text that evaluate `fun` at x: they set f, and write into g, which is 0.
CALLS = {
    WRITES: ["f = fun(x, g, *args)"],
    PLAIN: ["f = fun(x, g, *args)"],
    INDEXED: ["f = fun(x, g, i, *args)"],
    RETURNS: [
        "f, given = fun(x, *args)",
        "if given.shape != x.shape:",
        f"    return {FAILED}",
        "g[...] = given",
    ],
}


#: Objectives that are cached: each keeps its functions alive.
ADAPTERS = 128

#: Classes of functions, and whether Numba has compiled them: asking takes 2 us.
_kinds: dict[type, bool] = {}


def is_compiled(fun: Any) -> bool:
    """Whether an objective was compiled by Numba for the CPU."""
    kind = type(fun)
    if kind not in _kinds:
        _kinds[kind] = bool(is_jitted(fun))
    return _kinds[kind]


def check_for_compiled(x: Any) -> None:
    """Refuse an x that a compiled objective cannot get."""
    if not is_array(x) or is_cupy(x) or x.ndim == 0:
        raise TypeError(
            "x0: a compiled fun takes one NumPy array of at least one axis. Pass fun.py_func for "
            "the loop in Python, or numpy.atleast_1d(x0)."
        )


def form_of(fun: Any, args: tuple[Any, ...], jac: Any, many: bool, derives: bool = True) -> str:
    """Call form of a compiled objective, from its number of arguments.

    `derives`: a function without its gradient may be one.
    """
    if jac is not None and type(jac) is not bool and not callable(jac):  # such as numpy.True_
        raise ValueError(f"jac: expected True or None for a compiled fun, got {jac!r:.80}.")
    return _form_of(fun, len(args), False if callable(jac) else jac, many, derives)


@functools.lru_cache(ADAPTERS)  # 3 us less, of a run of 60
def _form_of(fun: Any, count: int, jac: bool | None, many: bool, derives: bool) -> str:
    least, most, names = counts_of(fun)
    forms = [(2, WRITES, jac in (None, True)), (3, INDEXED, many and jac in (None, True))]
    forms += [(1, RETURNS, jac is True), (1, PLAIN, jac is None and derives)]
    fits = [form for extra, form, ok in forms if ok and least <= count + extra <= most]
    if len(fits) == 1:
        if fits[0] in (WRITES, INDEXED):
            refuse_unread(fun.py_func.__code__, 1, "gradient")
        return fits[0]
    shown = f"fun({', '.join(names)})"
    if fits:
        raise TypeError(
            f"fun: {shown} with {count} args could be called as {' or '.join(fits)}; write it "
            "without defaults and *args."
        )
    indexed = f", {count + 3} ({INDEXED})" if many else ""
    plain = f", {count + 1} ({PLAIN}, whose derivatives are exact)" if derives else ""
    raise TypeError(
        f"fun: a compiled objective with {count} args takes {count + 2} arguments "
        f"({WRITES}, which writes the gradient into g){indexed}{plain} or, with jac=True, "
        f"{count + 1} ({RETURNS} -> (f, g)); got {shown}."
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
    parameters = list(inspect.signature(fun.py_func).parameters.values())
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


# --- exact derivatives ---------------------------------------------------------------------------

#: Unknowns by which exact derivatives are taken at most: above, forward derivatives are slow.
MOST_UNKNOWNS = 32


def derives(shape: tuple[int, ...], dtype: np.dtype[Any]) -> bool:
    """Whether exact derivatives can be taken by such an x."""
    return len(shape) == 1 and shape[0] * (1 + (dtype.kind == "c")) <= MOST_UNKNOWNS


def check_derives(shape: tuple[int, ...], dtype: np.dtype[Any], instead: str) -> None:
    """Refuse an x by which exact derivatives are not taken."""
    if not derives(shape, dtype):
        raise ValueError(
            f"x0: exact derivatives are by at most {MOST_UNKNOWNS} real numbers, or half as many "
            f"complex ones, in one axis, got "
            f"{dtype} of shape {shape}: {instead}."
        )


def derivatives() -> Any:
    """The module that makes them: who brings derivatives does not wait for it."""
    from numadam._derivatives import derive

    return derive


# --- what is compiled for an objective -----------------------------------------------------------


#: live, addresses of x, g, f, problem numbers, shape, arguments -> 0; it may raise
EVALUATION = int64(*[int64] * 7)

#: Message of an exception in compiled code that `call_again` did not raise.
RAISED_ONCE = "fun: raised an exception, but not again when it was called once more."


def guarded(
    fun: Any, goes: str, compile_for: Callable[[Any, Any], Any], explain: Callable[[Any], str]
) -> tuple[Any, bool]:
    """Result of ``compile_for(fun, guard)``, and whether `fun` takes a read-only x.

    `guard` is what x passes through: `read_only`, or, where signatures of the user's do not fit
    that, nothing. `goes` says what goes where instead of into x, ``explain(error)`` all of any
    other error.
    """

    def attempt(function: Any, guard: Any) -> Any:
        return compile_in_thread(fun, lambda: compile_for(function, guard))

    try:
        return attempt(fun, read_only), True
    except (errors.NumbaError, AttributeError) as error:  # the latter for x += 1
        reason = error
    try:
        found = attempt(fun, as_it_is)
    except (errors.NumbaError, AttributeError):
        raise TypeError(explain(reason)) from reason
    try:
        attempt(njit(fun.py_func), read_only)
    except (errors.NumbaError, AttributeError):
        raise TypeError(
            "fun: writes into x, or gives it to a function that takes no read-only array. "
            f"x is read-only: {goes}, and x.copy() may be changed."
        ) from reason
    return found, False


def compile_in_thread(fun: Any, make: Callable[[], Any]) -> Any:
    """Functions that `make` compiles for an objective; reported."""

    def work() -> Any:
        with compile_lock(), reported(f"the objective {fun.__name__}", None, objective_logger):
            return make()

    return build.in_thread(work)


@njit(error_model="numpy")
def as_it_is(x):
    """The same array."""
    return x


def prepared(fun: Any, form: str, n: int) -> Any:
    """The function that is called: a plain one becomes one that writes its gradient."""
    return derivatives().with_gradient(fun, n) if form == PLAIN else fun


def text_of_error(fun: Any, form: str, x_type: Any, args_type: Any, error: Any) -> str:
    """Text on an objective that does not compile."""
    if form == PLAIN and (reason := derivatives().reason(error)):
        advice = f"{about_args(args_type)}Or write the gradient into g, as {WRITES}"
        return f"fun: {reason} {advice}, or pass jac='2-point'."
    compiled = fun.nopython_signatures  # the last one is what was tried
    returned = compiled[-1].return_type if compiled else None
    if form != RETURNS and isinstance(returned, _NO_NUMBER):
        return f"fun: has to return the number f, got {returned}; is there a `return`?"
    advice = f"It is {fun.__name__}{inspect.signature(fun.py_func)}. {about_args(args_type)}"
    if form == RETURNS and not isinstance(returned, types.BaseTuple):
        advice += "With jac=True it has to return (f, gradient). "
    return (
        f"fun: does not compile as {form} for x of {x_type}, args of {args_type} and a number f. "
        f"{advice}Numba: {str(error).strip()[:1500]}"
    )


def guarded_objective(
    fun: Any, form: str, compile_for: Callable[[Any, Any], Any], x_type: Any, args_type: Any
) -> tuple[Any, bool]:
    """`guarded` for an objective of this form, with what its errors say."""
    where = {
        RETURNS: "the gradient is returned",
        PLAIN: "derivatives are by what it is called with",
    }
    explain = functools.partial(text_of_error, fun, form, x_type, args_type)
    return guarded(fun, where.get(form, "the gradient goes into g"), compile_for, explain)


#: Numba's types of results that are no number: a forgotten `return`, or a sum.
_NO_NUMBER = (types.NoneType, types.Array, types.BaseTuple)


def caller(fun: Any, form: str, guard: Any) -> Any:
    """``call(x, g, i, args) -> f``: write the gradient into g, which is 0."""
    lines = "\n    ".join([*CALLS[form], "return np.float64(f)"]).replace(
        f"return {FAILED}", "raise ValueError"
    )
    scope = {"fun": fun, "guard": guard, "np": np}
    text = f"def call(x, g, i, args):\n    x = guard(x)\n    {lines}\n"
    exec(compile(text, f"<the objective {fun.__name__}>", "exec"), scope)
    return scope["call"]


def evaluation(evaluate: Any) -> Any:
    """A function of the signature `EVALUATION`, compiled."""
    dispatcher: Any = njit(error_model="numpy", **build.INNER)(evaluate)
    dispatcher.compile(EVALUATION)
    return dispatcher.overloads[EVALUATION.args]


def call_again(
    fun: Any, form: str, is_guarded: bool, x: np.ndarray, number: int, args: tuple[Any, ...]
) -> tuple[Any, Any]:
    """Evaluate from Python, as the exception of a compiled call is raised: f and gradient."""
    x.flags.writeable = not is_guarded
    if form == RETURNS:
        f, g = fun(x, *args)
        if g.shape != x.shape:
            raise ValueError(
                f"fun: the gradient that it returns has shape {g.shape}, x has {x.shape}."
            )
        return f, g
    numbers, g = (number,) if form == INDEXED else (), np.zeros_like(x)
    if form == PLAIN:
        return fun(x, *args), g
    return fun(x, g, *numbers, *args), g


#: The step to points beside x, relative to x: long enough that f changes.
_STEP = 1e-3


def check_writes(f: Any, g: Any, x: Any, evaluate: Callable[[Any], tuple[Any, Any]]) -> bool:
    """Whether an objective writes into g; False where f is flat around x, and nothing tells.

    Arguments in another order, ``fun(x, data, g)``, compile as well: g stays 0, and x0 would count
    as a minimum. `f` and `g` are those at x. ``evaluate(x)`` returns those of another x; it is
    called only where g is 0, at two points.
    """
    if g.any():
        return True
    step, flat = _STEP * np.where(x == 0, 1.0, abs(x)).astype(x.dtype), True
    for beside in (x + step, x - step):
        f_there, g_there = evaluate(beside)
        if g_there.any():
            return True
        flat = flat and not ((f_there != f) & np.isfinite(f_there) & np.isfinite(f)).any()
    if not flat:
        raise TypeError(
            "fun: f changes with x, but g, its second argument, stays 0: it writes no gradient. "
            "Write it as fun(x, g, *args), with g[0] = ... or g[:] = ..."
        )
    return False


# --- one problem ---------------------------------------------------------------------------------


_DRIVE = """
def drive(iterate, table_at, operands):
    x, g, flat, value, args = load(address_of(operands))  # not counted: `fun` may raise
    x = guard(x)
    code = call1(iterate, table_at)
    while code == 0:
        for k in range(flat.size):
            flat[k] = 0
        {lines}
        value[0] = f
        code = call1(iterate, table_at)
    return code
"""


_ONCE = """
def once(at):
    calls = carray(pointer(at, at), 1)
    calls[0] += 1
    return calls[0] - 1
"""


@functools.cache
def _evaluate_once() -> int:
    """Address of an `iterate` that has one evaluation made; its table is a count from 0 on."""
    scope = {"carray": carray, "pointer": pointer}
    return build.address("evaluate-once", _ONCE, scope, int64(int64), entry="once")


class CompiledObjective:
    """A compiled objective for one type of x and of its arguments.

    Attributes
    ----------
    drive : callable
        ``drive(iterate, table_at, (x, g, flat_g, f, args))``: evaluate until the C function at the
        address `iterate` does not return 0; returns what it returns, or FAILED.
    writes : bool
        Whether it is known to give a gradient: the first call of a run tells.
    """

    def __init__(self, fun: Any, form: str, x_type: Any, args_type: Any, n: int) -> None:
        self._fun, self._form = fun, form
        self.writes = form in (RETURNS, PLAIN)
        source = _DRIVE.format(lines="\n        ".join(CALLS[form]))
        flat = types.Array(x_type.dtype, 1, "C")
        operands = types.Tuple((x_type, x_type, flat, types.float64[::1], args_type))
        signature = int64(int64, int64, operands)

        names = {"call1": call1, "address_of": address_of, "load": loader(operands)}

        def compile_for(function: Any, guard: Any) -> Any:
            function = prepared(function, form, n)
            scope: dict[str, Any] = {"fun": function, "guard": guard, **names}
            exec(compile(source, f"<the objective {fun.__name__}>", "exec"), scope)
            drive: Any = njit(nogil=True, error_model="numpy")(scope["drive"])
            drive.compile(signature)
            return drive.get_overload(signature)

        given = fun, form, compile_for, x_type, args_type
        self.drive, self._is_guarded = guarded_objective(*given)

    def evaluate(self, args: tuple[Any, ...], x: np.ndarray) -> tuple[float, np.ndarray]:
        """F and gradient at a copy of x."""
        x, f, calls = x.copy(), np.zeros(1), np.zeros(1, np.int64)
        g = np.zeros_like(x)
        code = self.drive(_evaluate_once(), calls.ctypes.data, (x, g, g.reshape(-1), f, args))
        if code == FAILED:
            self.call_again(x, 0, args)
        return f.item(), g

    def call_again(self, x: np.ndarray, number: int, args: tuple[Any, ...]) -> tuple[Any, Any]:
        """Evaluate from Python: f and gradient."""
        return call_again(self._fun, self._form, self._is_guarded, x, number, args)


def objective_for(fun: Any, form: str, x: np.ndarray, args: tuple[Any, ...]) -> CompiledObjective:
    """An objective, compiled or cached."""
    n = 0
    if form == PLAIN:
        n = x.size
        check_derives(x.shape, x.dtype, "write the gradient into g, or pass jac='2-point'")
    return _objective(fun, form, x.dtype, x.ndim, type_of_args(args), n)


@functools.lru_cache(ADAPTERS)
def _objective(
    fun: Any, form: str, dtype: np.dtype[Any], ndim: int, args_type: Any, n: int
) -> CompiledObjective:
    return CompiledObjective(fun, form, types.Array(from_dtype(dtype), ndim, "C"), args_type, n)


@functools.lru_cache(ADAPTERS)
def _entry(kind: Any) -> Any:
    def entry(args, kernel, a, b):
        return call3(kernel, a, b, address_of(args))

    dispatcher: Any = njit(nogil=True)(entry)
    signature = int64(kind, int64, int64, int64)

    def work() -> None:
        with compile_lock():
            dispatcher.compile(signature)

    build.in_thread(work)
    return dispatcher.get_overload(signature)


def entry_for(args: tuple[Any, ...]) -> Any:
    """``entry(args, kernel, a, b)``: call a C function with the address of these arguments."""
    return _entry(type_of_args(args))
