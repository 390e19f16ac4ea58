"""The compiled functions of the CPU: the validation of arrays, and the steps of a plan."""

from __future__ import annotations

import ctypes
import functools
from typing import Any

from numba.core.ccallback import CFunc

from numadam._core.plan import Plan
from numadam._cpu import kernel as loops
from numadam._cpu import validate as door
from numadam._jit.cache import LoopCache
from numadam._jit.loops import CompiledLoop, compile_lock, compiled_loop, refuse_without_jit

_callbacks: list[Any] = []  # keeps the code at their addresses alive


@functools.cache
def validator_address() -> int:
    """The address of the compiled door; compiled or loaded at the first call."""
    refuse_without_jit()
    with compile_lock():
        options = {"nopython": True, "error_model": "numpy"}
        types = (door.SIGNATURE.args, door.SIGNATURE.return_type)
        callback: Any = CFunc(door.door, types, {}, options)
        callback._cache = LoopCache("door", "_cpu")
        callback.compile()
        _callbacks.append(callback)
        return int(callback.address)


def validate_arrays(meta_at: int, ids_at: int, apart: int) -> int:
    """Send arrays through the door from Python, without a step."""
    # PYFUNCTYPE keeps the GIL: no other thread can change a header meanwhile
    function = ctypes.PYFUNCTYPE(ctypes.c_int64, *[ctypes.c_int64] * 5)(validator_address())
    return int(function(door.ENTER, meta_at, ids_at, 0, apart))


def compiled_step(plan: Plan) -> CompiledLoop:
    """The compiled steps of a plan: options that do not change it share code."""
    return compiled_loop(plan.name, lambda: loops.make_steps(plan), loops.SIGNATURE)
