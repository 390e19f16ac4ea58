"""Compiled loops: how they are compiled, cached, and chosen, serial or parallel.

* ``error_model="numpy"``: a division by zero gives inf or NaN, as in NumPy, and no branch.
* No fastmath: it would make NaN undefined and the bits depend on the machine.
* Every loop has a serial and a parallel form. The serial one runs for small arrays, and wherever
  threads would harm the process: after a fork under GNU OpenMP (whose child is killed at its first
  parallel region) and under Numba's workqueue layer (which aborts the process when two threads
  meet in it).
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import Any

import numba
from numba.core import config

from numadam._jit import forks
from numadam._jit.cache import LoopCache

_lock = threading.RLock()  # while something is compiled; cached loops need no lock
_compiled_loops: dict[str, CompiledLoop] = {}


def compile_lock() -> Any:
    """The lock to hold while something is compiled; a forked child has one of its own."""
    return _lock


def _in_child() -> None:
    global _lock
    _lock = threading.RLock()  # another thread may have been compiling when it forked


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)


def refuse_without_jit() -> None:
    if config.DISABLE_JIT:
        raise RuntimeError(
            "NUMBA_DISABLE_JIT is set, but numadam's loops exist only compiled: unset it, or set "
            "it only for the process that you debug."
        )


class CompiledLoop:
    """A compiled loop: serial, and parallel when asked for.

    Both are compiled or loaded when first asked for, which optimisers do when they are made:
    never inside a step. The functional API has no such moment and asks at its first call of a kind.

    Parameters
    ----------
    name : str
        Tells it from all other loops.
    loops : (callable, callable)
        Serial and parallel, not yet compiled.
    signature : numba signature
    package : str
        Package of numadam that the loops are in, e.g. ``"_cpu"``.
    """

    def __init__(
        self,
        name: str,
        loops: tuple[Callable[..., Any], Callable[..., Any]],
        signature: Any,
        package: str,
    ) -> None:
        self._name, self._loops, self._signature = name, loops, signature
        self._package = package
        self._compiled: dict[bool, Any] = {}

    @property
    def serial(self) -> Any:
        """The loop in one thread."""
        return self.choose(parallel=False)

    @property
    def parallel(self) -> Any:
        """The loop that Numba spreads over threads."""
        return self.choose(parallel=True)

    def fork_safe(self, parallel: bool) -> Any:
        """One of the two as a function: the serial one where a fork has lost the threads."""
        serial = self.serial
        if not parallel:
            return serial
        in_threads = self.parallel

        def run(*args: Any) -> Any:
            return forks.safe(serial, in_threads)(*args)

        return run

    def choose(self, parallel: bool) -> Any:
        """One of the two; it refuses other argument types instead of compiling for them."""
        if parallel not in self._compiled:
            with _lock:
                if parallel not in self._compiled:
                    self._compiled[parallel] = self._compile(parallel)
        return self._compiled[parallel]

    def _compile(self, parallel: bool) -> Any:
        refuse_without_jit()
        # not nogil: the step itself lets go of the GIL when all headers are read
        wrap = numba.njit(parallel=parallel, error_model="numpy", no_cfunc_wrapper=True)
        dispatcher = wrap(self._loops[parallel])
        name = f"{self._name}-{'parallel' if parallel else 'serial'}"
        dispatcher._cache = LoopCache(name, self._package)  # noqa: SLF001  # Numba offers no other
        dispatcher.compile(self._signature)
        dispatcher.disable_compile()
        return dispatcher


def compiled_loop(name: str, make: Callable[[], Any], signature: Any) -> CompiledLoop:
    """The compiled loop of that name; `make` is asked for its source where it is new."""
    if name not in _compiled_loops:
        with _lock:
            package = make.__module__.split(".")[1]  # of numadam.package.module
            _compiled_loops.setdefault(name, CompiledLoop(name, make(), signature, package))
    return _compiled_loops[name]
