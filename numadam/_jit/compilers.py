"""Compilers of Numba's that put a function's code into a library of our own kind."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from numba.core import typed_passes
from numba.core.compiler import CompilerBase, DefaultPassBuilder
from numba.core.compiler_machinery import register_pass


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
                (Lowering if one is typed_passes.NativeLowering else one, why)
                for one, why in passes.passes
                if one.__name__ not in without
            ]
            passes.finalize()
            return [passes]

    return Compiler
