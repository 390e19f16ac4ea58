"""Objectives that are kept on disk: what they depend on, as a digest, and their machine code."""

from __future__ import annotations

import builtins
import contextlib
import dis
import functools
import hashlib
import itertools
import re
import secrets
import sys
from collections.abc import Iterable
from types import BuiltinFunctionType, CellType, CodeType, FunctionType, ModuleType
from typing import Any

import numpy as np
from llvmlite import binding
from numba import njit, types
from numba.core import config, entrypoints, imputils
from numba.core.codegen import JITCodeLibrary
from numba.core.compiler import Compiler
from numba.core.environment import Environment, lookup_environment
from numba.core.registry import CPUDispatcher, cpu_target
from numba.core.rewrites import rewrite_registry
from numba.core.typing import templates

from numadam._jit.cache import LoopCache, remove_oldest
from numadam._jit.functions import compiler_into
from numadam._jit.pointers import INNER
from numadam._jit.reports import objective_logger

# --- functions whose compiled form comes from elsewhere than Numba -------------------------------
# Another package, or the user's own, may say how Numba types or compiles ``numpy.trace`` or an
# addition. Code with such a function in it depends on source that nobody names, and any function
# may have it in it: those of Numba call each other.
#
# Numba's own functions are told by the module that they live in. The name of their module may be
# anything: a copied one, or none in code that `exec` has run.

#: Packages whose functions and types Numba's own functions may use; "": of an operator, say.
_USED = ("builtins", "cmath", "math", "numpy", "_operator", "operator", "numba", "")


def is_extended() -> bool:
    """Whether others have extended what any function may use, directly or inside Numba's own."""
    typed, lowered = [
        {default, *context._registries}  # noqa: SLF001  # installed ones; Numba has no other
        for default, context in (
            (templates.builtin_registry, cpu_target.typing_context),
            (imputils.builtin_registry, cpu_target.target_context),
        )
    ]
    rewrites = [rewrite for kind in rewrite_registry.rewrites.values() for rewrite in kind]
    lists = [x for registry in typed | lowered for x in vars(registry).values() if type(x) is list]
    found = _are_extended(frozenset(typed), frozenset(lowered), sum(map(len, lists)))
    return found or not all(map(_is_own_class, rewrites))


@functools.lru_cache(1)  # registries only grow
def _are_extended(typed: frozenset[Any], lowered: frozenset[Any], _: int) -> bool:
    known, implemented = [], []
    for registry in typed:
        known += [*registry.functions, *registry.attributes]
        for _, kind in registry.globals:
            known += getattr(kind, "templates", ())
    for registry in lowered:
        implemented += [(impl, (key, *kinds)) for impl, key, kinds in registry.functions]
        implemented += [(impl, kinds) for impl, _, kinds in registry.getattrs + registry.setattrs]
        implemented += registry.casts + registry.constants
    foreign = [kind for kind in known if not all(map(_is_own_class, kind.__mro__))]
    return any(_is_used(kind.key) for kind in foreign) or any(
        not _is_own(function) and all(map(_is_used, of)) for function, of in implemented
    )


def _root(x: Any) -> str:
    return str(getattr(x, "__module__", None) or "").partition(".")[0]


def home_of(function: FunctionType) -> str:
    """The module whose names a function in Python reads; "": none that is imported."""
    home = function.__globals__.get("__name__")
    module = sys.modules.get(home) if isinstance(home, str) else None
    return str(home) if getattr(module, "__dict__", None) is function.__globals__ else ""


def _is_own(function: Any) -> bool:
    """Whether a function is Numba's, and those that it has been made around."""
    if type(function) is not FunctionType:
        return False
    inner = [cell.cell_contents for cell in function.__closure__ or ()]
    around = [x for x in inner if type(x) is FunctionType]
    return all(home_of(x).partition(".")[0] == "numba" for x in (function, *around))


@functools.cache  # a registry keeps each of them
def _is_own_class(kind: type) -> bool:
    """Whether a class is Numba's, and its functions; Python calls those that `type` made "abc"."""
    if kind is object:
        return True
    if kind.__module__ == "abc":
        known = "cases" not in vars(kind)  # with them, there need be no function to tell
    else:
        known = _root(kind) == "numba" and kind.__module__ in sys.modules
    inside = [getattr(kind, name) for name in vars(kind) if name != "key"]
    return known and all(_is_own(x) for x in inside if type(x) is FunctionType)


def _is_used(key: Any) -> bool:
    """Whether code may use a function or type that it does not name."""
    if isinstance(key, np.ufunc):  # SciPy's has no module, either
        return vars(np).get(key.__name__) is key
    return isinstance(key, str) or _root(key) in _USED


# --- snapshots of a user's compiled functions ----------------------------------------------------
# Numba reads what a function refers to (globals, closures, other compiled functions) when it is
# compiled, so its code belongs to the values of that moment. A snapshot is a copy of the function
# over copies of these values, with a digest of all of them: equal digests mean equal code. It
# shares no compiled function with the original, whose values may have been others.
#
# Where any of it cannot be told (a class, a function of ctypes, a large array, an extension of
# Numba that the function may use), there is no snapshot.

#: Packages whose functions are told by their names, since the versions are in every key.
_KNOWN = ("builtins", "cmath", "math", "numba", "numpy")
_IN_CYTHON: Any = np.random.rand
_FUNCTIONS = (
    *(type, BuiltinFunctionType, FunctionType, np.ufunc),
    *(type(np.sum), type(_IN_CYTHON.__func__)),
)
_CONSTANTS = (bool, int, float, complex, str, bytes, type(None), type(...))
#: Bytes of an array that becomes part of the code; of larger ones Numba keeps the address.
_CONSTANT_BYTES = 1_000_000
#: Functions by which code may read names that its bytecode does not have, or that Python runs.
_NOT_READ = frozenset({"getattr", "hasattr", "globals", "locals", "eval", "exec", "print", "input"})
#: Settings of Numba that change no code.
_WITHOUT_EFFECT = {"CACHE_DIR", "COLOR_SCHEME", "HTML", "NUMBA_NUM_THREADS", "SHOW_HELP"}
_WITHOUT_EFFECT |= {"NUMBA_DEFAULT_NUM_THREADS", "CACHE_LOCATOR_CLASSES", "FUNCTION_CACHE_SIZE"}
#: Copies by digest: what is compiled for one adapter serves the next.
_snapshots: dict[str, Any] = {}
_MOST_SNAPSHOTS = 128


class _Unknown(Exception):
    """Something that the code depends on cannot be told."""


def snapshot(function: Any) -> tuple[Any, str] | None:
    """A copy of a compiled function, and the digest of what it is made of; None: unknown."""
    entrypoints.init_all()  # extensions are loaded when something is compiled
    reader = _Reader()
    try:
        copy = None if is_extended() else reader.read(function)
    except Exception:  # objects of the user's may raise anything: not kept
        copy = None
    if copy is None:
        return None
    reader.add("settings", *_settings())
    digest = reader.digest.hexdigest()
    if len(_snapshots) >= _MOST_SNAPSHOTS:
        _snapshots.clear()
    return _snapshots.setdefault(digest, copy), digest


def _settings() -> list[str]:
    names = sorted(name for name in vars(config) if name.isupper())
    return [f"{name}={getattr(config, name)}" for name in names if name not in _WITHOUT_EFFECT]


def _codes(code: CodeType) -> Iterable[CodeType]:
    """A code and those of the functions defined inside it."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _codes(constant)


class _Reader:
    """Reads all that a function refers to: copies it, and adds it to the digest."""

    def __init__(self) -> None:
        self.digest = hashlib.sha256()
        self._copies: dict[int, tuple[int, Any]] = {}
        #: By id: a module, its copy, and those of its names that have been read.
        self._modules: dict[int, tuple[ModuleType, ModuleType, set[str]]] = {}
        self._names: set[str] = set()

    def add(self, *words: object) -> None:
        """Add constants to the digest."""
        self.digest.update(_told(words).encode())

    def read(self, function: Any) -> Any:
        """A copy of a function, over copies of all that it and its callees refer to."""
        copy = self.dispatcher(function)
        while self._attributes():  # they may be functions, which read others
            pass
        return copy

    def dispatcher(self, function: Any) -> Any:
        """A function compiled by Numba; a second time, the same copy."""
        if id(function) in self._copies:
            number, copy = self._copies[id(function)]
            self.add("again", number)
            return copy
        python, pipeline = function.py_func, function._compiler.pipeline_class  # noqa: SLF001
        options = function.targetoptions
        if not self._copies:  # as loops call it, also where Python does: its callees inherit this
            options = {"error_model": "numpy", **options}
        plain = type(function) is CPUDispatcher and type(python) is FunctionType
        fixed = not function._can_compile  # noqa: SLF001  # explicit signatures: it converts
        if not plain or fixed or pipeline is not Compiler:
            raise _Unknown
        if function.locals or options.get("parallel"):
            raise _Unknown
        self.add("function", python.__name__, *sorted(options.items()))
        code, values = python.__code__, {"__name__": python.__globals__.get("__name__")}
        cells = tuple(CellType() for _ in python.__closure__ or ())
        copied = FunctionType(code, values, python.__name__, python.__defaults__, cells)
        copied.__kwdefaults__, copied.__qualname__ = python.__kwdefaults__, python.__qualname__
        copied.__module__ = python.__module__
        copy = CPUDispatcher(copied, {}, options, Compiler)
        self._copies[id(function)] = len(self._copies), copy
        self._body(python, copied, values)
        return copy

    def _body(self, python: FunctionType, copied: FunctionType, values: dict[str, Any]) -> None:
        """Defaults, code, closure and globals of a function; the last two are copied."""
        codes = list(_codes(python.__code__))
        self._names.update(name for code in codes for name in code.co_names)
        if self._names & _NOT_READ:
            raise _Unknown
        self.add(python.__defaults__, *sorted((python.__kwdefaults__ or {}).items()))
        self.add(python.__code__)
        for mine, theirs in zip(copied.__closure__ or (), python.__closure__ or (), strict=True):
            mine.cell_contents = self.value(theirs.cell_contents)
        instructions = itertools.chain.from_iterable(map(dis.get_instructions, codes))
        read = {
            instruction.argval
            for instruction in instructions
            if instruction.opname in ("LOAD_GLOBAL", "LOAD_NAME")
        }
        for name in sorted(read):
            self.add("global", name)
            if name in python.__globals__:
                values[name] = self.value(python.__globals__[name])
            else:
                self._named(vars(builtins)[name])

    def value(self, x: Any) -> Any:
        """A global, or what a closure holds."""
        if isinstance(x, CPUDispatcher):
            return self.dispatcher(x)
        if isinstance(x, ModuleType):
            return self._module(x)
        if type(x) is tuple:
            self.add("tuple", len(x))
            return tuple(map(self.value, x))
        if type(x) is np.ndarray:
            return self._array(x)
        if type(x) in _CONSTANTS or _is_number(x) or isinstance(x, np.dtype):
            self.add(x)
        else:
            self._named(x)
        return x

    def _array(self, x: np.ndarray) -> np.ndarray:
        flags = x.flags
        whole = flags.c_contiguous or flags.f_contiguous
        if x.dtype.kind not in "biufc" or x.nbytes > _CONSTANT_BYTES or not whole:
            raise _Unknown
        copy = x.copy(order="K")
        self.add("array", x.dtype.str, x.shape, flags.c_contiguous, flags.f_contiguous)
        self.add(flags.writeable, flags.aligned, hashlib.sha256(copy.tobytes(order="A")).digest())
        copy.flags.writeable = flags.writeable
        return copy

    def _module(self, x: ModuleType) -> ModuleType:
        """A module: itself if it is known, else a copy; `_attributes` reads it."""
        if id(x) not in self._modules:
            known = _is_known(x.__name__) and sys.modules.get(x.__name__) is x
            if not known and (type(x) is not ModuleType or "__getattr__" in vars(x)):
                raise _Unknown
            self._modules[id(x)] = x, x if known else ModuleType(x.__name__), set()
        self.add("module", x.__name__, list(self._modules).index(id(x)))  # names may be the same
        return self._modules[id(x)][1]

    def _attributes(self) -> bool:
        """Read what the code may read of modules; whether there was more since the last time.

        Modules may be given to other functions, so the names of all functions count.
        """
        more = False
        for number, (module, copy, done) in enumerate(list(self._modules.values())):
            for name in sorted((self._names & vars(module).keys()) - done):
                self.add("attribute", number, name)
                value = vars(module)[name]
                if copy is module:
                    self._attribute(value)
                else:
                    setattr(copy, name, self.value(value))
                done.add(name)
                more = True
        return more

    def _attribute(self, x: Any) -> None:
        """An attribute of a known module, which may have been replaced."""
        if isinstance(x, ModuleType):
            self._module(x)
        elif type(x) is np.ndarray:
            self._array(x)
        elif type(x) is tuple or type(x) in _CONSTANTS or _is_number(x):
            self.add(x)
        elif isinstance(x, types.Type):
            self._named(x)
        else:
            self._known_name(x)

    def _named(self, x: Any) -> None:
        """A function or type of a package that is known; a type of Numba's numbers."""
        if isinstance(x, (types.Number, types.Boolean)):
            self.add("type", str(x))
            return
        home, name = self._known_name(x)
        if vars(sys.modules[home]).get(name) is not x:
            raise _Unknown

    def _known_name(self, x: Any) -> tuple[str, str]:
        """Module and name of a function or type of a package that is known."""
        x = getattr(x, "__func__", x)  # those of `np.random` are methods
        home, name = _home(x), getattr(x, "__name__", None)
        if not isinstance(x, _FUNCTIONS) or not isinstance(name, str) or not _is_known(home):
            raise _Unknown
        if name in _NOT_READ:
            raise _Unknown
        self.add("named", home, name)
        return home, name


def _told(x: Any) -> str:
    """All that a constant is, as a text; of a code not its file and lines."""
    kind = type(x)
    if kind in (float, complex):  # the texts of all NaNs are the same
        text = np.array(x).tobytes().hex()
    elif kind in _CONSTANTS:
        text = repr(x)
    elif kind is tuple:
        text = ",".join(map(_told, x))
    elif kind in (set, frozenset):
        text = ",".join(sorted(map(_told, x)))
    elif kind is CodeType:
        numbers = x.co_flags, x.co_argcount, x.co_posonlyargcount, x.co_kwonlyargcount
        names = x.co_names, x.co_varnames, x.co_freevars, x.co_cellvars
        text = _told((x.co_code, x.co_exceptiontable, *numbers, *names, x.co_consts))
    elif _is_number(x):
        text = f"{x.dtype.str},{x.tobytes().hex()}"
    elif isinstance(x, np.dtype) and x.kind in "biufc":
        text = x.str
    else:
        raise _Unknown
    return f"{kind.__name__}({text})"


def _is_known(module: str) -> bool:
    return module.partition(".")[0] in _KNOWN


def _home(x: Any) -> str:
    """The module of a function or type; "": unknown."""
    if isinstance(x, FunctionType):  # `functools.wraps` copies the name that it gives
        return home_of(x)
    home = "numpy" if isinstance(x, np.ufunc) else getattr(x, "__module__", None)
    return home if isinstance(home, str) else ""


def _is_number(x: Any) -> bool:
    return isinstance(x, (np.number, np.bool_)) and type(x).__module__ == "numpy"


# --- machine code that another process may run ---------------------------------------------------
# Code holds addresses of this process where it calls a function of ctypes or reads a large array.
# They are found in LLVM's intermediate code, and such code is not kept.
#
# All functions but the outermost become internal to the code, and the environments that they raise
# exceptions from get names of their own. Numba's names count the functions of a process, so the
# linker would take one of another process for one of this.

#: Addresses as numbers, globals that hold them, functions that call themselves.
_BOUND = re.compile(r"inttoptr \(?i64 [1-9-]|numba\.dynamic\.globals|\.numba\.unresolved\$")
_ENVIRONMENT = "_ZN08NumbaEnv"
#: Begin of the names of the entries; so many are kept, 20 to 200 kB each: an objective that is
#: defined anew around each set of data makes one each time.
_PREFIX, _MOST_ENTRIES = "objective", 500


def _is_constant(x: Any) -> bool:
    """Whether an object of an environment is the same in every process."""
    if type(x) is tuple:
        return all(map(_is_constant, x))
    if isinstance(x, type):
        return vars(builtins).get(x.__name__) is x
    return type(x) in _CONSTANTS or (isinstance(x, np.dtype) and x.kind in "biufc")


class _PortableLibrary(JITCodeLibrary):  # type: ignore[misc]  # Numba has no types for it
    """Compiled code that is looked through when it is complete.

    The last word of its name is random, and part of the names that it shows.
    """

    portable = False

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.enable_object_caching()
        self._environments: list[Any] = []

    def _optimize_final_module(self) -> None:
        super()._optimize_final_module()
        module = self._final_module
        own = self.name.rpartition("-")[2]
        inner = [
            variable
            for variable in module.global_variables
            if variable.name.startswith(_ENVIRONMENT) and own not in variable.name
        ]
        text = str(module)
        constants = [_constants(variable.name, text) for variable in inner]
        self.portable = None not in constants and _BOUND.search(text) is None
        if not self.portable:
            return
        for function in module.functions:
            if not function.is_declaration and function.linkage == binding.Linkage.linkonce_odr:
                function.linkage = binding.Linkage.internal
        for k, variable in enumerate(inner):
            variable.name = f"{_ENVIRONMENT}{k}{own}"
            self._environments.append(_environment(variable.name, constants[k]))

    def _finalize_final_module(self) -> None:
        super()._finalize_final_module()
        if self.portable:
            for environment in self._environments:
                self.codegen.set_env(environment.env_name, environment)


def _constants(name: str, text: str) -> list[Any] | None:
    """The constants of an environment; None where another process could not have them."""
    found = lookup_environment(name)
    if found is None:  # its function is gone: nobody may read it
        return [] if text.count(f"@{name}") == 1 else None
    return list(found.consts) if _is_constant(tuple(found.consts)) else None


def _environment(name: str, constants: Any) -> Any:
    """An environment that every process can make; only its constants are read."""
    made = Environment({"__name__": __name__})
    made.env_name, made.consts[:] = name, constants
    Environment._memo[name] = made  # noqa: SLF001  # as Numba's own constructor
    return made


#: Numba's compiler for the outermost function.
_PortableCompiler = compiler_into(_PortableLibrary)


def portable(function: Any) -> Any:
    """Decorate an outermost function, which only compiled code calls."""
    function.__qualname__ = f"{function.__name__}-{secrets.token_hex(8)}"
    return njit(**INNER, pipeline_class=_PortableCompiler)(function)


def _complete(code: bytes) -> bool:
    """Whether all that code refers to is in this process; LLVM would end the process otherwise."""
    module = binding.parse_bitcode(code)
    named = [*module.functions, *module.global_variables]
    outside = {symbol.name for symbol in named if symbol.is_declaration}
    return all(
        name.startswith("llvm.") or binding.address_of_symbol(name) is not None for name in outside
    )


class _PortableCache(LoopCache):
    """Cache of a function known by the digest of all that it is made of."""

    _logger = objective_logger

    @staticmethod
    def _usable(parts: Any) -> bool:
        _, _, (_, code) = parts[0]  # of the library: name, kind, machine code and LLVM's
        if _complete(code):
            return True
        cpu_target.target_context.refresh()  # modules of Numba that only compiling loads
        return _complete(code)

    def save_overload(self, signature: Any, data: Any) -> None:
        """Write it to the disk where another process may run it."""
        if data.library.portable and not data.lifted:
            super().save_overload(signature, data)
            remove_oldest(_PREFIX, _MOST_ENTRIES)
        else:
            self._report.folder = None


def compile_portable(function: Any, what: str, digest: str, package: str, signature: Any) -> None:
    """Compile a `portable` function, or load it from the disk; reported as `what`."""
    with contextlib.ExitStack() as stack:
        cache = _PortableCache(f"{_PREFIX}-{digest}", package, stack, what)
        function._cache = cache  # noqa: SLF001  # Numba offers no other
        function.compile(signature)
