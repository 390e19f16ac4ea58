"""Functions that the texts of the compiled functions of all rules call.

They are compiled where the user calls them: for the CPU with the user's own ``@njit`` function,
for the GPU with the user's own kernel.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from types import FunctionType, MappingProxyType
from typing import Any, TypeVar

import numpy as np
from numba import config, errors, njit, types
from numba.extending import intrinsic, overload

from numadam._core.scalars import tiny
from numadam._core.synonyms import option_hint
from numadam._jit.build import source_stamp
from numadam._jit.private import uncounted
from numadam._version import __version__

F = TypeVar("F", bound=Callable[..., Any])
#: Arguments of the public functions: arrays, and single numbers.
Array = np.ndarray[Any, Any]
Number = float | np.floating[Any]


#: Changes wherever a formula may have changed.
VERSION = f"{__version__}-{source_stamp()[:12]}"


#: The class of compiled functions; any class under NUMBA_DISABLE_JIT, which compiles none.
_Dispatcher: Any = object if config.DISABLE_JIT else type(njit(lambda: None))


class _Compiled(_Dispatcher):  # type: ignore[misc]  # of a class that is found out
    """A compiled function that Python, too, may call without its defaults.

    Numba types each default that a call leaves out anew: 60 to 200 us, and 1 us where none is.
    """

    #: by the number of arguments given by place: the defaults of all others
    usual: Mapping[int, Mapping[str, Any]] = MappingProxyType({})

    def __call__(self, *args: Any, **given: Any) -> Any:
        rest = self.usual.get(len(args))
        if given and rest is not None:
            count, rest = len(rest), {**rest, **given}
            if len(rest) != count:
                self._refuse_unknown(given)
                rest = None  # an argument that is given twice: Numba says so
        if rest is None:
            return _call(self, *args, **given)
        return _call(self, *args, *rest.values())

    def _refuse_unknown(self, given: Mapping[str, Any]) -> None:
        names = inspect.signature(self.py_func).parameters
        for name in given:
            if name not in names:
                hint = option_hint(name, names) or f"It has {', '.join(names)}."
                raise TypeError(f"{self.__name__}: there is no argument {name!r}. {hint}")


_call = _Dispatcher.__call__  # 0.1 us less than by `super`


def compiled(function: F) -> F:
    """Compile a public function where it is called, under a symbol that no other version has."""
    defaults = {
        name: argument.default for name, argument in inspect.signature(function).parameters.items()
    }
    pretty = function.__qualname__
    function.__qualname__ = f"{VERSION}.{pretty}"
    made = njit(error_model="numpy")(function)
    if not config.DISABLE_JIT:
        made.__class__ = _Compiled
        places = list(defaults)
        by_place = range(
            sum(default is inspect.Parameter.empty for default in defaults.values()), len(places)
        )
        made.usual = {n: {name: defaults[name] for name in places[n:]} for n in by_place}
    made.__qualname__ = pretty
    return made


def own(function: Any, rule: str, **how: Any) -> Any:
    """Compile a function under a symbol of one rule and version.

    Numba names symbols after the function and a counter of the process, and the user's cache brings
    those of another process: the linker would take the one for the other.
    """
    rest = function.__name__, function.__defaults__, function.__closure__
    copy = FunctionType(function.__code__, function.__globals__, *rest)
    copy.__module__, copy.__qualname__ = function.__module__, f"{VERSION}.{rule}.{rest[0]}"
    return njit(error_model="numpy", **how)(copy)


# --- parts that depend on types -------------------------------------------------------------------
# Each has a Python form beside it: all runs as plain Python under ``NUMBA_DISABLE_JIT``, for
# a debugger. They choose by types, since a branch on ``is None`` is pruned only where it is true.

_ABSENT = (types.NoneType, types.Omitted)


def _real(kind: Any) -> Any:
    """float32 or float64 of NumPy: the type of the numbers in `kind`."""
    found = types.unliteral(getattr(kind, "dtype", kind))
    if found not in (types.float32, types.float64):
        hint = "; write 1.0 in place of 1" if isinstance(found, types.Integer) else ""
        raise errors.TypingError(f"p: expected float32 or float64, got {found}{hint}.")
    return np.float32 if found == types.float32 else np.float64


def number_as(x: Any, p: Any) -> Any:
    """A number in the type of the number or the array p; None stays."""
    return None if x is None else np.asarray(p).dtype.type(x)


@overload(number_as)
def _compiled_number_as(x, p):
    if isinstance(x, _ABSENT):
        return lambda x, p: None
    real = _real(p)
    return lambda x, p: real(x)


def tiny_as(p: Any) -> Any:
    """The smallest normal number in the type of p."""
    real = np.asarray(p).dtype
    return real.type(tiny(real))


@overload(tiny_as)
def _compiled_tiny_as(p):
    real = _real(p)
    number = tiny(np.dtype(real))
    return lambda p: real(number)


def item(a: Any, i: Any) -> Any:
    """``a[i]``, or None where the array is absent."""
    return None if a is None else a[i]


@overload(item)
def _compiled_item(a, i):
    return (lambda a, i: None) if isinstance(a, _ABSENT) else (lambda a, i: a[i])


def put(a: Any, i: Any, x: Any) -> None:
    """``a[i] = x``, or nothing where the array is absent."""
    if a is not None:
        a[i] = x


@overload(put)
def _compiled_put(a, i, x):
    def store(a, i, x):
        a[i] = x

    return (lambda a, i, x: None) if isinstance(a, _ABSENT) else store


def present(values: Any, given: Any) -> Any:
    """The values whose place in `given` is not None; the value alone where it is one."""
    left = tuple(x for x, kind in zip(values, given, strict=True) if kind is not None)
    return left if len(left) > 1 else left[0]


@overload(present)
def _compiled_present(values, given):
    places = [k for k, kind in enumerate(given) if not isinstance(kind, _ABSENT)]
    left = ", ".join(f"values[{k}]" for k in places)
    return eval(f"lambda values, given: ({left})")  # Numba needs each place as a number


# --- arrays ---------------------------------------------------------------------------------------


def _check_arrays(kinds: tuple[Any, ...], names: tuple[str, ...]) -> set[str]:
    """The layouts of these arrays, given as Numba's types; refuses what does not fit `p`."""
    if not isinstance(kinds[0], types.Array):
        raise errors.TypingError(
            f"p: expected an array, got {kinds[0]}. For one number there is the function whose "
            "name ends in _element."
        )
    _real(kinds[0])
    real, axes = kinds[0].dtype, kinds[0].ndim
    layouts = set()
    for kind, name in zip(kinds, names, strict=True):
        if isinstance(kind, _ABSENT):
            continue
        expected = f"{name}: expected an array of {real} with ndim={axes}, as p is, got"
        if not isinstance(kind, types.Array):
            raise errors.TypingError(f"{expected} {kind}.")
        if (kind.dtype, kind.ndim) != (real, axes):
            raise errors.TypingError(f"{expected} one of {kind.dtype} with ndim={kind.ndim}.")
        if name != "g" and not kind.mutable:
            raise errors.TypingError(
                f"{name}: is read-only, and a step writes into it. Pass a copy."
            )
        layouts.add(kind.layout)
    return layouts


def make_views(names: tuple[str, ...]) -> Any:
    """``views((p, g, ...))``: flat where all are contiguous in one order, else as they are.

    An intrinsic, for CUDA functions return no new arrays.
    """

    def views(typingctx: Any, arrays: Any) -> Any:
        flat = _check_arrays(arrays.types, names) in ({"C"}, {"F"})
        results = [
            kind.copy(ndim=1, layout="C") if flat and isinstance(kind, types.Array) else kind
            for kind in arrays.types
        ]

        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            made = [
                uncounted(context, builder, kind, result, builder.extract_value(args[0], k))
                for k, (kind, result) in enumerate(zip(arrays.types, results, strict=True))
            ]
            return context.make_tuple(builder, signature.return_type, made)

        return types.Tuple(results)(arrays), codegen

    return tuple if config.DISABLE_JIT else intrinsic(views)
