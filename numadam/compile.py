"""How loops are compiled for the CPU, kept, and chosen: serial or parallel, and why.

* ``error_model="numpy"``: a division by zero gives inf or NaN, as in NumPy, and no branch.
* No fastmath: it would make NaN undefined and the bits depend on the machine.
* Every parallel loop has a serial twin, for small arrays and wherever threads would harm the
  process: after a fork under GNU OpenMP (whose child is killed at its first parallel region) and
  under Numba's workqueue layer (which aborts the process when two threads meet in it).
"""

from __future__ import annotations

import ctypes
import functools
import os
import threading
from collections.abc import Callable
from typing import Any

import numba
from numba.core import config
from numba.core.ccallback import CFunc

from numadam import door, loops
from numadam.cache import LoopCache
from numadam.plan import Plan

_lock = threading.RLock()  # while something is compiled; found things need no lock
_steps: dict[str, CpuSteps] = {}
_callbacks: list[Any] = []  # keeps the code at their addresses alive


def _in_child() -> None:
    global _lock
    _lock = threading.RLock()  # another thread may have been compiling when it forked


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)


def _refuse_without_jit() -> None:
    if config.DISABLE_JIT:
        raise RuntimeError(
            "NUMBA_DISABLE_JIT is set, but numadam's loops exist only compiled: unset it, or set "
            "it only for the process that you debug."
        )


@functools.cache
def door_address() -> int:
    """The address of the compiled door; compiled or loaded at the first call."""
    _refuse_without_jit()
    with _lock:
        options = {"nopython": True, "error_model": "numpy"}
        types = (door.SIGNATURE.args, door.SIGNATURE.return_type)
        callback: Any = CFunc(door.door, types, {}, options)
        callback._cache = LoopCache("door")
        callback.compile()
        _callbacks.append(callback)
        return int(callback.address)


def enter_door(meta_at: int, ids_at: int, apart: int) -> int:
    """Send arrays through the door from Python, without a step."""
    # PYFUNCTYPE keeps the GIL: no other thread can change a header meanwhile
    function = ctypes.PYFUNCTYPE(ctypes.c_int64, *[ctypes.c_int64] * 5)(door_address())
    return int(function(door.ENTER, meta_at, ids_at, 0, apart))


class CpuSteps:
    """The compiled step of one plan: serial, and parallel when asked for.

    Both are compiled or loaded when first asked for, which optimisers do when they are made:
    never inside a step. The bare face has no such moment and asks at its first call of a kind.
    """

    def __init__(self, plan: Plan) -> None:
        self._name = plan.name
        self._make = loops.make_steps(plan)
        self._compiled: dict[bool, Callable[..., int]] = {}

    def twin(self, parallel: bool) -> Callable[..., int]:
        """The compiled step; refuses other argument types instead of compiling for them."""
        if parallel not in self._compiled:
            with _lock:
                if parallel not in self._compiled:
                    self._compiled[parallel] = self._compile(parallel)
        return self._compiled[parallel]

    def _compile(self, parallel: bool) -> Callable[..., int]:
        _refuse_without_jit()
        # not nogil: the step itself lets go of the GIL when all headers are read
        wrap = numba.njit(parallel=parallel, error_model="numpy", no_cfunc_wrapper=True)
        dispatcher = wrap(self._make[parallel])
        dispatcher._cache = LoopCache(f"{self._name}-{'parallel' if parallel else 'serial'}")
        dispatcher.compile(loops.SIGNATURE)
        dispatcher.disable_compile()
        return dispatcher  # type: ignore[no-any-return]  # Numba has no types for it


def cpu_steps(plan: Plan) -> CpuSteps:
    """The compiled steps of a plan: options that do not change it share code."""
    name = plan.name
    if name not in _steps:
        with _lock:
            _steps.setdefault(name, CpuSteps(plan))
    return _steps[name]
