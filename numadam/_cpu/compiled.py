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
from collections.abc import Callable, Sequence
from typing import Any

import numba
from numba.core import config
from numba.core.ccallback import CFunc

from numadam._core.plan import Plan
from numadam._cpu import kernel as loops
from numadam._cpu import validate as door
from numadam._jit.cache import LoopCache

_lock = threading.RLock()  # while something is compiled; found things need no lock
_twins: dict[str, Twins] = {}
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


class Twins:
    """A compiled loop: serial, and parallel when asked for.

    Both are compiled or loaded when first asked for, which optimisers do when they are made:
    never inside a step. The bare face has no such moment and asks at its first call of a kind.

    Parameters
    ----------
    name : str
        Tells it from all other loops.
    loops : (callable, callable)
        Serial and parallel, not yet compiled.
    signature : numba signature
    folders : sequence of str
        Where else in the package source lies that is compiled into it.
    """

    def __init__(
        self,
        name: str,
        loops: tuple[Callable[..., Any], Callable[..., Any]],
        signature: Any,
        folders: Sequence[str] = (),
    ) -> None:
        self._name, self._loops, self._signature = name, loops, signature
        self._folders = folders
        self._compiled: dict[bool, Any] = {}

    def twin(self, parallel: bool) -> Any:
        """The compiled loop; refuses other argument types instead of compiling for them."""
        if parallel not in self._compiled:
            with _lock:
                if parallel not in self._compiled:
                    self._compiled[parallel] = self._compile(parallel)
        return self._compiled[parallel]

    def _compile(self, parallel: bool) -> Any:
        _refuse_without_jit()
        # not nogil: the step itself lets go of the GIL when all headers are read
        wrap = numba.njit(parallel=parallel, error_model="numpy", no_cfunc_wrapper=True)
        dispatcher = wrap(self._loops[parallel])
        name = f"{self._name}-{'parallel' if parallel else 'serial'}"
        dispatcher._cache = LoopCache(name, self._folders)
        dispatcher.compile(self._signature)
        dispatcher.disable_compile()
        return dispatcher


def twins(name: str, make: Callable[[], Any], signature: Any, folders: Sequence[str] = ()) -> Twins:
    """The compiled twins of that name; `make` is asked for the loops where they are new."""
    if name not in _twins:
        with _lock:
            _twins.setdefault(name, Twins(name, make(), signature, folders))
    return _twins[name]


def cpu_steps(plan: Plan) -> Twins:
    """The compiled steps of a plan: options that do not change it share code."""
    return twins(plan.name, lambda: loops.make_steps(plan), loops.SIGNATURE)
