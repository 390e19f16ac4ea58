"""Functions of a user's rule as they are now, and a digest of all that they depend on.

Numba reads what a function refers to (globals, closures, other compiled functions) when it is
compiled, which for a rule is later, once for each kind of arrays. So a rule keeps copies of its
functions over copies of these values, and a digest, by which a checkpoint knows its formula.
"""

from __future__ import annotations

import builtins
import dis
import hashlib
import secrets
import sys
from collections.abc import Callable, Iterable, Set
from types import BuiltinFunctionType, CellType, CodeType, FunctionType, ModuleType
from typing import Any

import numpy as np
from numba import njit, types
from numba.extending import is_jitted

#: Packages whose functions are told by their names.
_KNOWN = ("builtins", "cmath", "math", "numba", "numpy")
_FUNCTIONS = (type, BuiltinFunctionType, FunctionType, np.ufunc, type(np.sum))
_CONSTANTS = (bool, int, float, complex, str, bytes, type(None), type(...))
#: Bytes of an array that becomes part of the code; of larger ones Numba keeps the address.
_CONSTANT_BYTES = 1_000_000
#: Functions by which code may read names that its bytecode does not have, or that Python runs.
_NOT_READ = frozenset({"getattr", "hasattr", "globals", "locals", "eval", "exec", "print", "input"})
#: What a code computes; its file and its lines do not matter.
_OF_CODE = (
    *("co_code", "co_exceptiontable", "co_flags", "co_argcount", "co_kwonlyargcount"),
    *("co_names", "co_varnames", "co_freevars", "co_cellvars", "co_consts"),
)


def frozen(functions: Iterable[Callable[..., Any]]) -> tuple[list[Any], str]:
    """Copies of Python functions that Numba will compile, and a digest of all that they depend on.

    The copies read what the functions refer to now, whatever becomes of it later. Raises TypeError,
    which names what cannot be told.
    """
    reader, copies, words = _Reader(), [], []
    for function in functions:
        try:
            copy, word = reader.python(function)
        except TypeError as error:
            raise TypeError(f"{getattr(function, '__name__', function)}: {error}") from error
        copies.append(copy)
        words.append(word)
    return copies, _digest(*words)


class _Reader:
    """Copies of functions, over copies of all that they refer to, each with its digest."""

    def __init__(self) -> None:
        #: copies by function, None where it is being read, and by module and names
        self._compiled: dict[int, tuple[Any, str] | None] = {}
        self._modules: dict[tuple[int, Set[str]], ModuleType] = {}

    def python(self, function: Any) -> tuple[FunctionType, str]:
        """A Python function, under a name that no other process gives, as symbols are named."""
        codes = list(_codes(function.__code__))
        read = {name for code in codes for name in code.co_names}
        if not _NOT_READ.isdisjoint(read):
            raise TypeError(
                "expected arithmetic on its arguments; it reads what no digest can tell "
                "(getattr, say)."
            )
        loads = {
            instruction.argval
            for code in codes
            for instruction in dis.get_instructions(code)
            if instruction.opname == "LOAD_GLOBAL"
        }
        if missing := loads - function.__globals__.keys() - vars(builtins).keys():
            raise TypeError(f"{min(missing)} is not defined.")
        names = sorted(loads & function.__globals__.keys())
        closure = function.__closure__ or ()
        free = [cell.cell_contents for cell in closure]
        given = [function.__defaults__, *free, *(function.__globals__[name] for name in names)]
        titles = ["a default", *function.__code__.co_freevars, *names]
        copies, words = self._values(given, titles, read)
        scope = dict(zip(names, copies[1 + len(free) :], strict=True))
        scope["__name__"] = function.__globals__.get("__name__")
        cells = tuple(map(CellType, copies[1 : 1 + len(free)]))
        copy = FunctionType(function.__code__, scope, function.__name__, copies[0], cells)
        copy.__qualname__ = f"{function.__qualname__}-{secrets.token_hex(8)}"
        return copy, _digest(function.__name__, _text_of(function.__code__), *names, *words)

    def _values(
        self, values: Iterable[Any], titles: Iterable[str], read: Set[str]
    ) -> tuple[list[Any], list[str]]:
        """Copies and digests; of a module the attributes in `read`, which the code may ask for."""
        pairs = [self._value(*pair, read) for pair in zip(values, titles, strict=True)]
        return [copy for copy, _ in pairs], [word for _, word in pairs]

    def _value(self, x: Any, title: str, read: Set[str]) -> tuple[Any, str]:
        kind = type(x)
        if is_jitted(x):
            if id(x) not in self._compiled:
                self._compiled[id(x)] = None
                options = {key: x for key, x in x.targetoptions.items() if key != "nopython"}
                copy, word = self.python(x.py_func)
                whole = _digest(word, *map(str, sorted(options.items())))
                self._compiled[id(x)] = njit(**options)(copy), whole
            if not (known := self._compiled[id(x)]):
                raise TypeError(f"{title} calls itself; write a loop.")
            return known
        if kind is tuple:
            copies, words = self._values(x, [title] * len(x), read)
            return tuple(copies), _digest("tuple", *words)
        # other modules may make their attributes when they are asked for
        if kind is ModuleType and not _is_known(x) and "__getattr__" not in vars(x):
            key = id(x), frozenset(read)
            if key in self._modules:  # modules may import each other
                return self._modules[key], f"module {list(self._modules).index(key)}"
            module = self._modules[key] = ModuleType(x.__name__)
            names = sorted(read & vars(x).keys())
            of_module = [vars(x)[name] for name in names]
            copies, words = self._values(of_module, [f"{title}.{name}" for name in names], read)
            vars(module).update(zip(names, copies, strict=True))
            return module, _digest("module", *names, *words)
        if kind is np.ndarray and x.dtype.kind in "biufc" and x.nbytes <= _CONSTANT_BYTES:
            return x.copy(), _digest(x.dtype.str, str(x.shape), x.tobytes().hex())
        if text := _text_of(x):
            return x, text
        if kind is FunctionType:
            raise TypeError(f"{title} is a Python function; decorate it with @numba.njit.")
        raise TypeError(
            f"{title} is of type {kind.__name__}; use numbers, tuples of numbers, "
            "functions of math and NumPy, and functions compiled by Numba."
        )


def _digest(*words: str) -> str:
    return hashlib.sha256(repr(words).encode()).hexdigest()


def _codes(code: CodeType) -> Iterable[CodeType]:
    """A code and those of the functions defined inside it."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _codes(constant)


def _text_of(x: Any) -> str:
    """All that code depends on of a plain value, as a text; "" for anything else."""
    kind = type(x)
    if kind is CodeType:
        text = ", ".join(_text_of(getattr(x, name)) for name in _OF_CODE)
    elif kind in (tuple, frozenset):  # in a code; the order of a set changes
        text = ", ".join(map(_text_of, x) if kind is tuple else sorted(map(_text_of, x)))
    elif kind in _CONSTANTS or issubclass(kind, (np.number, np.bool_, np.dtype, types.Type)):
        text = repr(x)
    elif _is_known(x):
        text = x.__name__
    else:
        return ""
    return f"{kind.__name__}({text})"


def _is_known(x: Any) -> bool:
    """Whether a module, function or type is that which a known package has under its name."""
    if type(x) is ModuleType:
        home, here = x.__name__, sys.modules.get(x.__name__)
    elif type(x) in _FUNCTIONS:
        home = "numpy" if type(x) is np.ufunc else str(x.__module__)
        here = getattr(sys.modules.get(home), x.__name__, None)
    else:
        return False
    return here is x and home.partition(".")[0] in _KNOWN
