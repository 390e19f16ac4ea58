"""Objectives that are kept on disk: what they depend on, as a digest, and their machine code."""

from __future__ import annotations

import builtins
import contextlib
import dis
import functools
import hashlib
import inspect
import re
import secrets
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from types import BuiltinFunctionType, CellType, CodeType, FunctionType, ModuleType
from typing import Any

import numpy as np
from llvmlite import binding
from numba import njit, types
from numba.core import compiler, config, entrypoints, imputils
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
    """Whether others have changed how Numba compiles what any function may use.

    Directly, or inside Numba's own functions.
    """
    typed, lowered = [
        {default, *context._registries}  # noqa: SLF001  # installed ones; Numba has no other
        for default, context in (
            (templates.builtin_registry, cpu_target.typing_context),
            (imputils.builtin_registry, cpu_target.target_context),
        )
    ]
    rewrites = [rewrite for kind in rewrite_registry.rewrites.values() for rewrite in kind]
    lists = [x for registry in typed | lowered for x in vars(registry).values() if type(x) is list]
    kinds = compiler.DefaultPassBuilder, compiler.CompilerBase, compiler.Compiler
    bases = {base for kind in kinds for base in kind.__mro__} - {object}
    methods = [getattr(base, name) for base in bases for name in vars(base)]
    return (
        _are_extended(frozenset(typed), frozenset(lowered), sum(map(len, lists)))
        or not all(map(_is_own_class, rewrites))
        or not all(_is_own(method) for method in methods if callable(method))
    )


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


def _is_own(function: Any) -> bool:
    """Whether a function is Numba's, and those that it has been made around."""
    if type(function) is not FunctionType:
        return False
    inner = [cell.cell_contents for cell in function.__closure__ or ()]
    around = [x for x in inner if type(x) is FunctionType]
    return all(_home(x).partition(".")[0] == "numba" for x in (function, *around))


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
# shares no compiled function with the original: the values of those may have been others, and so
# may the error model, which a function takes from the first that calls it.
#
# Where any of it cannot be told (a class, a function of ctypes, a large array), there is no digest,
# and of what the function refers to only compiled functions are copied.

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
#: Settings of Numba that change no code.
_WITHOUT_EFFECT = {"CACHE_DIR", "COLOR_SCHEME", "HTML", "NUMBA_NUM_THREADS", "SHOW_HELP"}
_WITHOUT_EFFECT |= {"NUMBA_DEFAULT_NUM_THREADS", "CACHE_LOCATOR_CLASSES", "FUNCTION_CACHE_SIZE"}
#: Attribute of a compiled function that holds its snapshot.
SNAPSHOT = "_numadam_snapshot"


@dataclass(frozen=True)
class Snapshot:
    """A copy of a compiled function.

    Attributes
    ----------
    original, copy : Dispatcher
        One and the same where the original can compile no more.
    values : str or None
        Digest of what the copy was made of; None: unknown.
    """

    original: Any
    copy: Any
    values: str | None

    def digest(self) -> str | None:
        """Digest of all that the code of the copy depends on, if compiled now; None: unknown."""
        try:
            if self.values is None or is_extended():
                return None
        except Exception:  # classes of others may raise anything
            return None
        settings = [
            f"{name}={value}"
            for name, value in sorted(vars(config).items())
            if name.isupper() and name not in _WITHOUT_EFFECT
        ]
        return hashlib.sha256(_told((self.values, *settings)).encode()).hexdigest()

    def keep(self) -> Snapshot:
        """The snapshot of the function from now on, this or one before: values of a first call."""
        kept: Snapshot = vars(self.original).setdefault(SNAPSHOT, self)
        return kept


def snapshot(function: Any) -> Snapshot:
    """The snapshot that a compiled function keeps, else one of now."""
    entrypoints.init_all()  # extensions are loaded when something is compiled
    kept: Snapshot | None = vars(function).get(SNAPSHOT)
    if kept is not None:
        return kept
    if not _can_be_copied(function):
        return Snapshot(function, function, None)
    for digest in (hashlib.sha256(), None):
        try:
            copy = _Reader(digest).read(function)
        except Exception:  # objects of the user's may raise anything: unknown
            continue
        return Snapshot(function, copy, None if digest is None else digest.hexdigest())
    return Snapshot(function, function, None)


def frozen(functions: Iterable[Callable[..., Any]]) -> tuple[list[Any], str]:
    """Copies of Python functions that Numba will compile, and a digest of all that they depend on.

    The copies read what the functions refer to now, whatever becomes of it later. Raises TypeError,
    which names what cannot be told.
    """
    digest, copies = hashlib.sha256(), []
    entrypoints.init_all()
    for function in functions:
        reader = _Reader(digest)
        try:
            copies.append(reader.read(njit(function)).py_func)
        except Exception as error:  # objects of the user's may raise anything
            raise TypeError(f"{function.__name__}: {_unreadable(function)}") from error
        reader.rename()
    for copy in copies:
        # `linked` shares functions of one module and equal code, and these may read other values
        copy.__module__ = digest.hexdigest()
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
    """Copies a function over copies of all that it refers to, and tells all of it to a digest.

    Without a digest it copies only functions: nothing has to be known of anything else, and what
    Python runs (`numba.objmode`) gets the user's own arrays and modules.
    """

    def __init__(self, digest: Any) -> None:
        self._digest = digest
        #: Copies of functions, and modules with their copies, by id.
        self._functions: dict[int, Any] = {}
        self._modules: dict[int, tuple[ModuleType, ModuleType]] = {}
        #: All names in the code of the functions.
        self._names: set[str] = set()

    def read(self, function: Any) -> Any:
        """A copy of a function, over copies of all that it and its callees refer to."""
        # as loops call it, also where Python does: its callees inherit this
        copied = self._function(function, error_model="numpy")
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

    def rename(self) -> None:
        """Give the functions names that no other process gives: see `portable`."""
        for function in self._functions.values():
            function.py_func.__qualname__ += f"-{secrets.token_hex(8)}"

    def _tell(self, *words: object) -> None:
        """Add to the digest."""
        if self._digest is not None:
            self._digest.update(_told(words).encode())

    def _unknown(self) -> None:
        if self._digest is not None:
            raise _Unknown

    def _value(self, x: Any) -> Any:
        """A copy of a global, or of what a closure holds."""
        if _can_be_copied(x):
            return self._function(x)
        if issubclass(type(x), ModuleType):
            return self._module(x)
        if type(x) is tuple:
            self._tell("tuple", len(x))
            return tuple(map(self._value, x))
        self._tell(x)
        if type(x) is np.ndarray and self._digest is not None:
            copy = x.copy(order="K")
            copy.flags.writeable = x.flags.writeable
            return copy
        return x

    def _function(self, function: Any, **options: Any) -> Any:
        """A function compiled by Numba, with options that it may replace.

        A second time, the same copy.
        """
        if id(function) in self._functions:
            self._tell("again", list(self._functions).index(id(function)))
            return self._functions[id(function)]
        python, options = function.py_func, {**options, **function.targetoptions}
        pipeline = function._compiler.pipeline_class  # noqa: SLF001  # Numba's
        if pipeline is not Compiler or function.locals or options.get("parallel"):
            self._unknown()
        self._tell("function", python.__name__, *sorted(options.items()))
        values = {"__name__": python.__globals__.get("__name__")}
        cells = tuple(CellType() for _ in python.__closure__ or ())
        defaults = self._value(function.__defaults__)  # of its decoration, as Numba takes them
        copied = FunctionType(python.__code__, values, python.__name__, defaults, cells)
        copied.__qualname__, copied.__module__ = python.__qualname__, python.__module__
        copy = CPUDispatcher(copied, function.locals, options, pipeline)
        self._functions[id(function)] = copy
        self._tell(python.__code__)
        for mine, theirs in zip(cells, python.__closure__ or (), strict=True):
            mine.cell_contents = self._value(theirs.cell_contents)
        self._globals(python, values)
        return copy

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
                self._unknown()

    def _module(self, x: ModuleType) -> ModuleType:
        """A module: itself if it is known, else a copy; `read` fills it."""
        if id(x) not in self._modules:
            self._tell(x)
            copy = x if _is_known_module(x) else ModuleType(x.__name__)
            if self._digest is None and copy is not x:
                vars(copy)["__getattr__"] = functools.partial(getattr, x)  # as the original's
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


def _can_be_copied(x: Any) -> bool:
    """Whether something is a function that Numba compiles for each type of its arguments.

    One of explicit signatures converts them.
    """
    if type(x) is not CPUDispatcher or type(x.py_func) is not FunctionType:
        return False
    return bool(x._can_compile)  # noqa: SLF001  # Numba's


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
#: Begin of the names of the entries.
_PREFIX = "objective"


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
            remove_oldest(_PREFIX)
        else:
            self._report.folder = None


def compile_portable(function: Any, what: str, digest: str, package: str, signature: Any) -> None:
    """Compile a `portable` function, or load it from the disk; reported as `what`."""
    with contextlib.ExitStack() as stack:
        cache = _PortableCache(f"{_PREFIX}-{digest}", package, stack, what)
        function._cache = cache  # noqa: SLF001  # Numba offers no other
        function.compile(signature)
