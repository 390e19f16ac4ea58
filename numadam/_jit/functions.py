"""Building blocks of compiled functions: inner functions compiled once, casts, the GIL."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from types import FunctionType
from typing import Any

import numpy as np
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from numadam._jit.linked import LinkedCompiler
from numadam._jit.pointers import INNER


@intrinsic
def cast(typingctx: Any, scalars: Any, like: Any) -> Any:
    """A tuple of numbers, named or not, in the type of `like`: one rounding, in one place."""
    result = types.UniTuple(like, len(scalars))
    if isinstance(scalars, types.BaseNamedTuple):
        result = types.NamedUniTuple(like, len(scalars), scalars.instance_class)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        items = zip(cgutils.unpack_tuple(builder, args[0]), scalars.types, strict=True)
        rounded = [context.cast(builder, item, kind, like) for item, kind in items]
        return context.make_tuple(builder, result, rounded)

    return result(scalars, like), codegen


@intrinsic
def release_gil(typingctx: Any) -> Any:
    """Let other Python threads run; returns the thread state, which `take_gil` needs."""

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


_compiled_once: dict[Any, Any] = {}


def identity(x: Any) -> Any:
    """Key of an object: numbers by type and bits, tuples by their items."""
    if isinstance(x, (bool, int, float, np.generic)):
        return type(x), repr(x)  # 1, 1.0 and True are equal, as 0.0 and -0.0 are
    if isinstance(x, (tuple, list)):
        return type(x), tuple(map(identity, x))
    return type(x), x


def jit_once(function: Callable[..., Any], **how: Any) -> Any:
    """Compile a function that only compiled code calls; once for all loops that it is part of.

    Closures of the same code over the same things are one function, whichever rule or option
    made them. A loop has 30 such functions and shares half of them with others.

    The symbol has a random word in it. Numba names symbols after the qualified name and a counter
    of the process. Different closures share the first, and loops from the disk cache bring the
    counter of another process: the linker would take the one for the other.
    """
    cells = [cell.cell_contents for cell in function.__closure__ or ()]
    code = (function.__module__, function.__code__, function.__defaults__, tuple(how.items()))
    key = (code, tuple(map(identity, cells)))
    if key not in _compiled_once:
        copy = FunctionType(
            function.__code__,
            function.__globals__,
            function.__name__,
            function.__defaults__,
            function.__closure__,
        )
        copy.__qualname__ = f"{function.__name__}-{secrets.token_hex(8)}"
        _compiled_once.setdefault(key, njit(**INNER, **how)(copy))
    return _compiled_once[key]


def linked(function: Callable[..., Any], **how: Any) -> Any:
    """As `jit_once`, in a quarter of the time; see `numadam._jit.linked` for what it may do."""
    return jit_once(function, pipeline_class=LinkedCompiler, _nrt=False, **how)


def compiles(wrap: Any) -> bool:
    """Whether a wrapper compiles for the CPU."""
    return wrap in (jit_once, linked)
