"""Functions of a user's rule as they are now, and a digest of all that they depend on.

Numba reads what a function refers to (globals, closures, other compiled functions) when it is
compiled, which for a rule is later, once for each kind of arrays. So a rule keeps copies of its
functions over copies of these values, and a digest, by which a checkpoint knows its formula.
"""

from __future__ import annotations

import builtins
import dis
import hashlib
import inspect
import secrets
import sys
from collections.abc import Callable, Iterable
from types import BuiltinFunctionType, CellType, CodeType, FunctionType, ModuleType
from typing import Any

import numpy as np
from numba import njit, types
from numba.extending import is_jitted

#: Packages whose functions are told by their names, since the versions are in every key.
_KNOWN = ("builtins", "cmath", "math", "numba", "numpy")
_IN_CYTHON: Any = np.random.rand
_FUNCTIONS: tuple[type, ...] = (
    *(type, BuiltinFunctionType, FunctionType, np.ufunc),
    *(type(np.sum), type(_IN_CYTHON.__func__)),
)
_CONSTANTS = (bool, int, float, complex, str, bytes, type(None), type(...))
#: Bytes of an array that becomes part of the code; of larger ones Numba keeps the address.
_CONSTANT_BYTES = 1_000_000
#: Functions by which code may read names that its bytecode does not have, or that Python runs.
_NOT_READ = frozenset({"getattr", "hasattr", "globals", "locals", "eval", "exec", "print", "input"})


def frozen(functions: Iterable[Callable[..., Any]]) -> tuple[list[Any], str]:
    """Copies of Python functions that Numba will compile, and a digest of all that they depend on.

    The copies read what the functions refer to now, whatever becomes of it later. Raises TypeError,
    which names what cannot be told.
    """
    digest, copies = hashlib.sha256(), []
    for function in functions:
        reader = _Reader(digest)
        try:
            copies.append(reader.read(function))
        except Exception as error:  # objects of the user's may raise anything
            raise TypeError(f"{function.__name__}: {_unreadable(function)}") from error
    return copies, digest.hexdigest()


def _unreadable(function: Callable[..., Any]) -> str:
    """Sentence on why a function cannot be told."""
    read = inspect.getclosurevars(function)
    for name, value in {**read.globals, **read.nonlocals}.items():
        try:
            _Reader(hashlib.sha256())._value(value)  # noqa: SLF001  # of this module
        except Exception:  # as in `frozen`
            if isinstance(value, FunctionType):
                return f"{name} is a Python function; decorate it with @numba.njit."
            return (
                f"{name} is of type {type(value).__name__}; use numbers, tuples of numbers, "
                "functions of math and NumPy, and functions compiled by Numba."
            )
    # not `read.unbound`: that has names of attributes, too
    code = dis.get_instructions(function)
    loaded = {one.argval for one in code if one.opname == "LOAD_GLOBAL"}
    missing = loaded - {*vars(builtins), *function.__globals__}
    if missing:
        return f"{min(missing)} is not defined."
    return "expected arithmetic on its arguments; it reads what no digest can tell (getattr, say)."


class _Unknown(Exception):
    """Something that the code depends on cannot be told."""


class _Reader:
    """Copies a function over copies of all that it refers to, and tells all of it to a digest."""

    def __init__(self, digest: Any) -> None:
        self._digest = digest
        #: Copies of compiled functions, and modules with their copies, by id.
        self._functions: dict[int, Any] = {}
        self._modules: dict[int, tuple[ModuleType, ModuleType]] = {}
        #: All names in the code of the functions.
        self._names: set[str] = set()

    def read(self, function: Any) -> Any:
        """A copy of a Python function, over copies of all that it and its callees refer to."""
        copied = self._python(function)
        done: set[tuple[int, str]] = set()
        while waiting := self._attributes() - done:  # they may be functions, which name others
            for number, name in sorted(waiting):
                self._tell("attribute", number, name)
                module, copy = list(self._modules.values())[number]
                value = vars(module)[name]
                if copy is not module:
                    vars(copy)[name] = self._value(value)
                elif issubclass(type(value), ModuleType):
                    self._module(value)
                else:
                    self._tell(value)  # others may have replaced it
            done |= waiting
        return copied

    def _tell(self, *words: object) -> None:
        """Add to the digest."""
        self._digest.update(_told(words).encode())

    def _value(self, x: Any) -> Any:
        """A copy of a global, or of what a closure holds."""
        if is_jitted(x):
            return self._function(x)
        if issubclass(type(x), ModuleType):
            return self._module(x)
        if type(x) is tuple:
            self._tell("tuple", len(x))
            return tuple(map(self._value, x))
        self._tell(x)
        if type(x) is np.ndarray:
            copy = x.copy(order="K")
            copy.flags.writeable = x.flags.writeable
            return copy
        return x

    def _function(self, function: Any) -> Any:
        """A function compiled by Numba; a second time, the same copy."""
        if id(function) in self._functions:
            self._tell("again", list(self._functions).index(id(function)))
            return self._functions[id(function)]
        options = {name: x for name, x in function.targetoptions.items() if name != "nopython"}
        self._tell("function", *sorted(options.items()))
        copied = self._python(function.py_func)
        self._functions[id(function)] = copy = njit(**options)(copied)
        return copy

    def _python(self, python: FunctionType) -> FunctionType:
        """A Python function under a name that no other process gives, as symbols are named."""
        self._tell(python.__name__, python.__code__)
        values = {"__name__": python.__globals__.get("__name__")}
        cells = tuple(CellType() for _ in python.__closure__ or ())
        defaults = self._value(python.__defaults__)
        copied = FunctionType(python.__code__, values, python.__name__, defaults, cells)
        copied.__qualname__ = f"{python.__qualname__}-{secrets.token_hex(8)}"
        for mine, theirs in zip(cells, python.__closure__ or (), strict=True):
            mine.cell_contents = self._value(theirs.cell_contents)
        self._globals(python, values)
        return copied

    def _globals(self, python: FunctionType, values: dict[str, Any]) -> None:
        codes = list(_codes(python.__code__))
        self._names.update(name for code in codes for name in code.co_names)
        read = {
            instruction.argval
            for code in codes
            for instruction in dis.get_instructions(code)
            if instruction.opname in ("LOAD_GLOBAL", "LOAD_NAME")
        }
        for name in sorted(read):
            self._tell("global", name)
            if name in python.__globals__:
                values[name] = self._value(python.__globals__[name])
            elif name in vars(builtins):
                self._tell(vars(builtins)[name])
            else:
                raise _Unknown

    def _module(self, x: ModuleType) -> ModuleType:
        """A module: itself if it is known, else a copy; `read` fills it."""
        if id(x) not in self._modules:
            self._tell(x)
            copy = x if _is_known_module(x) else ModuleType(x.__name__)
            self._modules[id(x)] = x, copy
        self._tell("module", list(self._modules).index(id(x)))
        return self._modules[id(x)][1]

    def _attributes(self) -> set[tuple[int, str]]:
        """Numbers of modules, and names in them that the code may read.

        Modules may be given to other functions, so the names of all functions count.
        """
        return {
            (number, name)
            for number, (module, _) in enumerate(self._modules.values())
            for name in self._names & vars(module).keys()
        }


def _codes(code: CodeType) -> Iterable[CodeType]:
    """A code and those of the functions defined inside it."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _codes(constant)


def _told(x: Any) -> str:
    """All that code depends on of a value, as a text; of a code not its file and lines."""
    kind = type(x)
    if kind in (float, complex):  # the texts of all NaNs are the same
        text = np.array(x).tobytes().hex()
    elif kind in _CONSTANTS:
        text = repr(x)
    elif kind is tuple:
        text = ",".join(map(_told, x))
    elif kind in (set, frozenset):
        text = ",".join(sorted(map(_told, x)))
    elif kind is CodeType and not _NOT_READ.intersection(x.co_names):
        numbers = x.co_flags, x.co_argcount, x.co_posonlyargcount, x.co_kwonlyargcount
        names = x.co_names, x.co_varnames, x.co_freevars, x.co_cellvars
        text = _told((x.co_code, x.co_exceptiontable, *numbers, *names, x.co_consts))
    elif kind is np.ndarray and x.dtype.kind in "biufc" and x.nbytes <= _CONSTANT_BYTES:
        laid = x.flags.c_contiguous, x.flags.f_contiguous, x.flags.aligned, x.flags.writeable
        if not any(laid[:2]):
            raise _Unknown
        content = hashlib.sha256(x.tobytes(order="A")).digest()
        text = _told((x.dtype.str, x.shape, *laid, content))
    elif isinstance(x, (np.number, np.bool_)) and kind.__module__ == "numpy":
        text = f"{x.dtype.str},{x.tobytes().hex()}"
    elif isinstance(x, np.dtype) and x.kind in "biufc":
        text = x.str
    elif isinstance(x, (types.Number, types.Boolean)):
        text = str(x)
    elif _is_known_module(x) or (kind is ModuleType and "__getattr__" not in vars(x)):
        text = x.__name__  # others may make their attributes when they are asked for
    else:
        text = _told_name(x)
    return f"{kind.__name__}({text})"


def _told_name(x: Any) -> str:
    """Module and name of a function or type of a package that is known."""
    plain = getattr(x, "__func__", x)  # those of `np.random` are methods
    home, name = _home(plain), getattr(plain, "__name__", None)
    known = isinstance(plain, _FUNCTIONS) and _is_known(home) and name not in _NOT_READ
    if not known or vars(sys.modules[home]).get(str(name)) is not x:
        raise _Unknown
    return f"{home}.{name}"


def _is_known(module: str) -> bool:
    return module.partition(".")[0] in _KNOWN


def _is_known_module(x: Any) -> bool:
    name = vars(x).get("__name__") if isinstance(x, ModuleType) else None
    return isinstance(name, str) and _is_known(name) and sys.modules.get(name) is x


def _home(x: Any) -> str:
    """The module of a function or type; "": unknown, or none that is imported."""
    if isinstance(x, FunctionType):  # `functools.wraps` copies the name of a module
        home = x.__globals__.get("__name__")
        module = sys.modules.get(home) if isinstance(home, str) else None
        return str(home) if getattr(module, "__dict__", None) is x.__globals__ else ""
    home = "numpy" if isinstance(x, np.ufunc) else getattr(x, "__module__", None)
    return home if isinstance(home, str) else ""
