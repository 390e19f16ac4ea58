"""Call forms of a compiled objective."""

from __future__ import annotations

import dis
import functools
import inspect
import math
from types import CodeType
from typing import Any

from numba.core.dispatcher import Dispatcher

from numadam._arrays.interop import is_array, is_cupy

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


@functools.lru_cache(128)  # reading the code takes 0.1 ms, a sixth of a short run
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


@functools.lru_cache(128)  # reading the signature takes 40 us
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
