"""Functions for compiled loops: compiled alone, linked in, or inlined."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Collection
from types import FunctionType
from typing import Any

import numpy as np
from numba import njit, types
from numba.core import cgutils, typed_passes
from numba.core.codegen import JITCodeLibrary
from numba.core.compiler import CompilerBase, DefaultPassBuilder
from numba.core.compiler_machinery import register_pass
from numba.extending import intrinsic

from numadam._jit.pointers import INNER, emitted

# --- Numba's compiler with a code library of our own ---------------------------------------------


def compiler_into(library: type, without: Collection[str] = ()) -> Any:
    """Numba's compiler into libraries of a class, less some passes: ``pipeline_class`` of njit."""

    @register_pass(mutates_CFG=True, analysis_only=False)
    class Lowering(typed_passes.NativeLowering):  # type: ignore[misc]  # Numba has no types
        _name = f"lowering_into_{library.__name__}"

        def run_pass(self, state: Any) -> bool:
            state.library = library(state.targetctx.codegen(), state.func_id.func_qualname)
            return bool(super().run_pass(state))

    class Compiler(CompilerBase):  # type: ignore[misc]  # untyped, too
        def define_pipelines(self) -> list[Any]:
            passes = DefaultPassBuilder.define_nopython_pipeline(self.state)
            passes.passes = [
                (Lowering if step is typed_passes.NativeLowering else step, why)
                for step, why in passes.passes
                if step.__name__ not in without
            ]
            passes.finalize()
            return [passes]

    return Compiler


# --- functions that exist only inside other compiled code ----------------------------------------
# Numba optimises each function and makes machine code of it, though one that is called from
# compiled code alone is linked into its caller, and optimised there again. Here such a function
# ends as LLVM's intermediate code, and LLVM works once, on the whole loop: a first step compiles
# in half the time.
#
# References are not counted: a loop that counts them is not vectorised, and here LLVM would find
# no call of its own to remove the counting from. So such a function returns no array (Numba
# refuses one that does); arrays by address come from intrinsics (`numadam._jit.pointers`).


class _NoEngine:
    """Stands for the engine that runs machine code: there is none to tell of globals."""

    @staticmethod
    def set_env(name: str, environment: Any) -> None:
        """Nothing: only code that raises exceptions reads its environment."""


class _LinkedLibrary(JITCodeLibrary):  # type: ignore[misc]  # Numba has no types for it
    """Intermediate code of a function and of all that it calls."""

    def _optimize_functions(self, ll_module: Any) -> None:
        """Nothing: the caller is optimised, with this code in it."""

    def finalize(self) -> None:
        """Link the functions that this one calls; no machine code."""
        self._raise_if_finalized()
        for library in dict.fromkeys(self._linking_libraries):
            self._reload_init.update(library._reload_init)  # noqa: SLF001  # as Numba's own
            code = library._get_module_for_linking()  # noqa: SLF001  # Numba has no other
            self._final_module.link_in(code, preserve=True)
        self._finalized = True

    def get_pointer_to_function(self, name: str) -> int:
        """No address: it has none."""
        self._ensure_finalized()
        return 0

    @property
    def codegen(self) -> Any:
        return _NoEngine


#: Passes for what our inner functions have none of: `with` blocks, closures, comprehensions,
#: array expressions, loops over tuples of several types.
_UNUSED = {
    "WithLifting",
    "InlineClosureLikes",
    "MakeFunctionToJitFunction",
    "InlineInlinables",
    "FindLiterallyCalls",
    "LiteralUnroll",
    "LiteralPropagationSubPipelinePass",
    "RewriteDynamicRaises",
    "NopythonRewrites",
    "InlineOverloads",
    "DumpParforDiagnostics",
}

#: Numba's compiler for functions that only compiled code calls: ``pipeline_class`` of njit.
LinkedCompiler = compiler_into(_LinkedLibrary, _UNUSED)


# --- building blocks of compiled functions -------------------------------------------------------


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


@emitted(types.intp())
def release_gil(context: Any, builder: Any) -> Any:
    """Let other Python threads run; returns the thread state, which `take_gil` needs."""
    return builder.ptrtoint(context.get_python_api(builder).save_thread(), cgutils.intp_t)


@emitted(types.void(types.intp))
def take_gil(context: Any, builder: Any, thread: Any) -> None:
    """Wait until this thread may go on as a Python thread."""
    api = context.get_python_api(builder)
    api.restore_thread(builder.inttoptr(thread, cgutils.voidptr_t))


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
    """As `jit_once`, in a quarter of the time; see `numadam._jit.functions` for what it may do."""
    return jit_once(function, pipeline_class=LinkedCompiler, _nrt=False, **how)
