"""Functions that exist only inside other compiled code.

Numba optimises each function and makes machine code of it, though one that is called from compiled
code alone is linked into its caller, and optimised there again. Here such a function ends as LLVM's
intermediate code, and LLVM works once, on the whole loop: a first step compiles in half the time.

References are not counted: a loop that counts them is not vectorised, and here LLVM would find no
call of its own to remove the counting from. So such a function returns no array (Numba refuses one
that does); arrays by address come from intrinsics (`numadam._jit.pointers`).
"""

from __future__ import annotations

from typing import Any

from numba.core.codegen import JITCodeLibrary

from numadam._jit.compilers import compiler_into


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
