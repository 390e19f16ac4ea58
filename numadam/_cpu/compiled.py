"""The compiled functions of the CPU: the validation of arrays, and the steps of a plan."""

from __future__ import annotations

import ctypes
import functools
from typing import Any

from numba.core.ccallback import CFunc

from numadam._core.plan import Plan
from numadam._cpu.kernel import STEP, make_steps
from numadam._cpu.validate import BEFORE_STEP, VALIDATE, validate
from numadam._jit.cache import LoopCache
from numadam._jit.loops import CompiledLoop, compile_lock, compiled_loop, refuse_without_jit

_callbacks: list[Any] = []  # keeps the code at their addresses alive


@functools.cache
def validator_address() -> int:
    """The address of the compiled validation; compiled or loaded at the first call."""
    refuse_without_jit()
    with compile_lock():
        options = {"nopython": True, "error_model": "numpy"}
        callback: Any = CFunc(validate, (VALIDATE.args, VALIDATE.return_type), {}, options)
        callback._cache = LoopCache("validate", "_cpu")  # noqa: SLF001  # Numba offers no other
        callback.compile()
        _callbacks.append(callback)
        return int(callback.address)


def validate_arrays(meta_at: int, ids_at: int, known_disjoint: int) -> int:
    """Validate arrays from Python, without a step."""
    # PYFUNCTYPE keeps the GIL: no other thread can change a header meanwhile
    function = ctypes.PYFUNCTYPE(ctypes.c_int64, *[ctypes.c_int64] * 5)(validator_address())
    return int(function(BEFORE_STEP, meta_at, ids_at, 0, known_disjoint))


def compiled_step(plan: Plan) -> CompiledLoop:
    """The compiled steps of a plan: options that do not change it share code."""
    return compiled_loop(plan.name, lambda: make_steps(plan), STEP)
