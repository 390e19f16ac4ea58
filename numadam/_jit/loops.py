"""Compiled loops: Numba's threads, and the kernel cache."""

from __future__ import annotations

import ctypes
import functools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba
from numba.core import config
from numba.core.ccallback import CFunc

from numadam._jit import private, process
from numadam._jit.build import refuse_without_jit
from numadam._jit.cache import compile_cached
from numadam._jit.process import compile_lock

# --- threads that a step may use -----------------------------------------------------------------
# Numba chooses one layer for the whole process at the first parallel call: tbb, then omp, then
# workqueue. Figures behind the choices are in ``docs/development/benchmarks``.

#: Elements from which the parallel loop pays, by layer. A region costs about 1.5 us under omp and
#: 4 us under tbb: there Adam of float32 on two quiet cores takes 1.16 of one thread's time for 32k
#: elements, 0.84 for 65k, 0.58 for 131k; beside a busy process 1.0 to 1.1 for all of them. Under
#: workqueue, which aborts the process when two threads meet in it, a step never does.
CUTOVER = {"omp": 15_000, "tbb": 60_000, "workqueue": sys.maxsize}


def _load_tbb() -> None:
    """Load the tbb wheel's library, which Numba's own search misses in virtual environments.

    Only where Numba has not chosen yet and no other layer is asked for.
    """
    if config.THREADING_LAYER in ("omp", "workqueue"):
        return
    names = {"win32": "Library/bin/tbb12.dll", "darwin": "lib/libtbb.12.dylib"}
    library = Path(sys.prefix) / names.get(sys.platform, "lib/libtbb.so.12")
    if library.exists():
        try:
            ctypes.CDLL(str(library))
        except OSError:
            return  # a tbb that cannot be loaded: Numba goes on to the next layer by itself


@functools.cache
def layer() -> str:
    """Numba's threading layer, chosen now if it was not yet (no parallel region runs for it)."""
    try:
        return str(numba.threading_layer())
    except ValueError:  # not chosen yet
        _load_tbb()
    numba.get_num_threads()
    return str(numba.threading_layer())


def parallel_from() -> int:
    """The number of elements from which a step runs in parallel."""
    return CUTOVER[layer()]


def count() -> int:
    """The number of threads that Numba gives the calling thread's parallel loops.

    Asked without Numba's own locks, which a fork may find taken: one of them is shared by all
    processes.
    """
    from numba.np.ufunc import parallel  # 20 ms, which a small step does not need

    layer()
    return int(parallel._get_num_threads())  # noqa: SLF001  # Numba offers it with its locks only


def wants_parallel(total: int) -> bool:
    """Whether a step over `total` elements runs in parallel. Small ones never ask Numba."""
    return total >= min(CUTOVER.values()) and total >= parallel_from()


# --- compiled loops ------------------------------------------------------------------------------
# * ``error_model="numpy"``: a division by zero gives inf or NaN, as in NumPy, and no branch.
# * No fastmath: it would make NaN undefined and the bits depend on the machine.
# * Every loop has a serial and a parallel form. The serial one runs for small arrays, and wherever
#   threads would harm the process: after a fork under GNU OpenMP (whose child is killed at its
#   first parallel region).

#: Forms of a loop: in one thread, and spread by Numba.
SERIAL, PARALLEL = "serial", "parallel"

_callbacks: list[Any] = []  # keeps the code at their addresses alive
_compiled_loops: dict[str, CompiledLoop] = {}


def callback_address(function: Callable[..., Any], signature: Any, name: str, package: str) -> int:
    """The address of a function for C; compiled or loaded now, and kept alive."""
    refuse_without_jit()
    with compile_lock():
        how = {"nopython": True, "error_model": "numpy", "_nrt": False}
        callback: Any = CFunc(function, (signature.args, signature.return_type), {}, how)
        compile_cached(callback, name, package)
        _callbacks.append(callback)
        return int(callback.address)


class CompiledLoop:
    """A compiled loop: serial, and parallel when asked for.

    They are compiled or loaded when first asked for, which optimisers do when they are made. The
    functional API has no such moment and asks at its first call of a kind; so does a step for what
    few steps need (`out`, strided arrays), before anything is written.

    Parameters
    ----------
    name : str
        Tells it from all other loops.
    loops : tuple of callables
        Serial and, where there is one, parallel; not yet compiled.
    signature : numba signature
    package : str
        Package of numadam that the loops are in, e.g. ``"_cpu"``.
    """

    def __init__(
        self,
        name: str,
        loops: tuple[Callable[..., Any], ...],
        signature: Any,
        package: str,
    ) -> None:
        self._name, self._signature, self._package = name, signature, package
        self._loops = dict(zip((SERIAL, PARALLEL), loops, strict=False))
        self._compiled: dict[str, Any] = {}
        self._overloads: dict[Any, Any] = {}

    @property
    def serial(self) -> Any:
        """The loop in one thread."""
        return self.choose(parallel=False)

    def fork_safe(self, parallel: bool) -> Any:
        """One of the two as a function: the serial one where a fork has lost the threads.

        For a signature of numbers alone: see `direct`.
        """
        serial = self.direct(parallel=False)
        if not parallel:
            return serial
        in_threads = self.direct(parallel=True)

        def run(*args: Any) -> Any:
            return process.safe(serial, in_threads)(*args)

        return run

    def direct(self, parallel: bool) -> Any:
        """One of the two without Numba's dispatch on types, which takes 0.2 to 0.3 us of a call.

        Numbers are converted to the types of the signature; an array of another type would not be
        refused.
        """
        loop = self.choose(parallel)
        if loop not in self._overloads:  # Numba takes 6 us to find it
            self._overloads[loop] = loop.get_overload(self._signature)
        return self._overloads[loop]

    def address(self, parallel: bool) -> int:
        """The address of one of the two, for calls from compiled code."""
        loop = self.choose(parallel)
        return private.address(loop.overloads[self._signature.args])

    def choose(self, parallel: bool) -> Any:
        """One of the two; it refuses other argument types instead of compiling for them."""
        form = PARALLEL if parallel else SERIAL
        if form not in self._compiled:
            with compile_lock():
                if form not in self._compiled:
                    self._compiled[form] = self._compile(form)
        return self._compiled[form]

    def _compile(self, form: str) -> Any:
        refuse_without_jit()
        # not nogil: the step itself lets go of the GIL when all headers are read
        wrap = numba.njit(parallel=form == PARALLEL, error_model="numpy", no_cfunc_wrapper=True)
        dispatcher = wrap(self._loops[form])
        compile_cached(dispatcher, f"{self._name}-{form}", self._package, self._signature)
        dispatcher.disable_compile()
        return dispatcher


def compiled_loop(name: str, make: Callable[[], Any], signature: Any) -> CompiledLoop:
    """The compiled loop of that name; `make` is asked for its source where it is new."""
    if name not in _compiled_loops:
        with compile_lock():
            package = make.__module__.split(".")[1]  # of numadam.package.module
            _compiled_loops.setdefault(name, CompiledLoop(name, make(), signature, package))
    return _compiled_loops[name]
