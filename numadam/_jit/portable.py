"""Machine code that another process may run, and its cache: loops with a user's function inside.

Code holds addresses of this process where it calls a function of ctypes or reads a large array.
They are found in LLVM's intermediate code, and such code is not kept.

All functions but the outermost become internal to the code, and the environments that they raise
exceptions from get names of their own. Numba's names count the functions of a process, so the
linker would take one of another process for one of this.
"""

from __future__ import annotations

import builtins
import contextlib
import re
import secrets
from typing import Any

import numpy as np
from llvmlite import binding
from numba import njit
from numba.core.codegen import JITCodeLibrary
from numba.core.environment import Environment, lookup_environment
from numba.core.registry import cpu_target

from numadam._jit.cache import LoopCache, remove_oldest
from numadam._jit.functions import compiler_into
from numadam._jit.pointers import INNER
from numadam._jit.reports import objective_logger

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
    if type(x) in (str, int, float, bool, type(None)):
        return True
    number = isinstance(x, np.dtype) and x.kind in "biufc"
    return number or (isinstance(x, type) and vars(builtins).get(x.__name__) is x)


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
        outer = [one for one in module.global_variables if one.name.startswith(_ENVIRONMENT)]
        inner = [one for one in outer if own not in one.name]
        text = str(module)
        constants = [_constants(one.name, text) for one in inner]
        self.portable = None not in constants and _BOUND.search(text) is None
        if not self.portable:
            return
        for one in module.functions:
            if not one.is_declaration and one.linkage == binding.Linkage.linkonce_odr:
                one.linkage = binding.Linkage.internal
        for k, one in enumerate(inner):
            one.name = f"{_ENVIRONMENT}{k}{own}"
            self._environments.append(_environment(one.name, constants[k]))

    def _finalize_final_module(self) -> None:
        super()._finalize_final_module()
        if self.portable:
            for one in self._environments:
                self.codegen.set_env(one.env_name, one)


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
    outside = {one.name for one in named if one.is_declaration}
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
