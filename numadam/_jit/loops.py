"""Compiled loops: Numba's threads, the kernel cache, and modes of floating point."""

from __future__ import annotations

import ctypes
import functools
import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba
from llvmlite import binding, ir
from numba import int64
from numba.core import cgutils, config
from numba.core.ccallback import CFunc

from numadam._jit import process
from numadam._jit.cache import compile_cached
from numadam._jit.pointers import emitted, intrinsic_of
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


def refuse_without_jit() -> None:
    if config.DISABLE_JIT:
        raise RuntimeError(
            "NUMBA_DISABLE_JIT is set, but numadam's loops exist only compiled: unset it, or set "
            "it only for the process that you debug."
        )


def callback_address(
    function: Callable[..., Any], signature: Any, name: str, package: str, **options: bool
) -> int:
    """The address of a function for C; compiled or loaded now, and kept alive."""
    refuse_without_jit()
    with compile_lock():
        how = {"nopython": True, "error_model": "numpy", **options}
        callback: Any = CFunc(function, (signature.args, signature.return_type), {}, how)
        compile_cached(callback, name, package)
        _callbacks.append(callback)
        return int(callback.address)


class CompiledLoop:
    """A compiled loop: serial, and parallel when asked for.

    Both are compiled or loaded when first asked for, which optimisers do when they are made. The
    functional API has no such moment and asks at its first call of a kind; so does a step for what
    few steps need (`out`, strided arrays), before anything is written.

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
        self._name, self._signature, self._package = name, signature, package
        self._loops = dict(zip((SERIAL, PARALLEL), loops, strict=True))
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


# --- the floating-point mode of a thread ---------------------------------------------------------
# The mode (MXCSR on x86-64, FPCR on aarch64) says how results are rounded, and whether subnormal
# numbers count as zero. A library built with ``-ffast-math`` sets flush-to-zero in the thread that
# loads it, ``torch.set_flush_denormal`` on request, and new threads inherit it. So without this,
# bits would depend on what else is loaded, and on the thread. On other processors the mode is left
# alone.
#
# A call costs 0.3 ns where the mode is the default one, as nearly always, and 70 ns where it is
# not.

_POINTER, _INT32, _INT64 = ir.IntType(8).as_pointer(), ir.IntType(32), ir.IntType(64)

#: Stand for the mode to set, and for the one before.
DEFAULT = UNCHANGED = -1


def _call(builder: Any, name: str, result: Any, *args: Any) -> Any:
    kind = ir.FunctionType(result, [arg.type for arg in args])
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, name), args)


class _X86:
    """MXCSR: read and written through memory. Its flags say what has happened; they stay."""

    default, controls = 0x1F80, 0xFFC0  # to nearest, subnormals kept, no traps

    @staticmethod
    def read(builder: Any) -> Any:
        place = cgutils.alloca_once(builder, _INT32)
        _call(builder, "llvm.x86.sse.stmxcsr", ir.VoidType(), builder.bitcast(place, _POINTER))
        return builder.zext(builder.load(place), _INT64)

    @staticmethod
    def write(builder: Any, mode: Any) -> None:
        place = cgutils.alloca_once(builder, _INT32)
        builder.store(builder.trunc(mode, _INT32), place)
        _call(builder, "llvm.x86.sse.ldmxcsr", ir.VoidType(), builder.bitcast(place, _POINTER))


class _Aarch64:
    """FPCR; its flags are in a register of their own."""

    default, controls = 0, 2**32 - 1

    @staticmethod
    def read(builder: Any) -> Any:
        return _call(builder, "llvm.aarch64.get.fpcr", _INT64)

    @staticmethod
    def write(builder: Any, mode: Any) -> None:
        _call(builder, "llvm.aarch64.set.fpcr", ir.VoidType(), mode)


_PROCESSORS: dict[str, Any] = {"x86_64": _X86, "aarch64": _Aarch64, "arm64": _Aarch64}


def _exchange(builder: Any, wanted: Any) -> Any:
    """Set a mode; the one before, or UNCHANGED where it is the same or the processor unknown."""
    triple = builder.module.triple or binding.get_process_triple()
    processor = _PROCESSORS.get(triple.split("-")[0])
    if processor is None:
        return _INT64(UNCHANGED)
    default, controls = _INT64(processor.default), _INT64(processor.controls)
    wanted = builder.select(builder.icmp_signed("==", wanted, _INT64(DEFAULT)), default, wanted)
    old = processor.read(builder)
    other = builder.and_(builder.xor(old, wanted), controls)
    other = builder.icmp_unsigned("!=", other, _INT64(0))
    with cgutils.if_unlikely(builder, other):
        processor.write(builder, wanted)
    return builder.select(other, old, _INT64(UNCHANGED))


@emitted(int64(int64))
def _exchange_mode(context: Any, builder: Any, mode: Any) -> Any:
    return _exchange(builder, mode)


def _set_mode(mode: int) -> Any:
    return _exchange_mode(mode)


@functools.cache
def mode_setter() -> Any:
    """``set_mode(mode)``, from Python: the mode before, or UNCHANGED."""
    return compiled_loop("float-mode", lambda: (_set_mode,) * 2, int64(int64)).direct(False)


@functools.cache
def in_default_mode(body: Any) -> Any:
    """A compiled function that runs `body`, one too, in the default mode and restores the old one.

    The call is never inlined: LLVM knows nothing of modes, and would move arithmetic past the
    change.
    """

    def call(typingctx: Any, *args: Any) -> Any:
        signature = numba.typeof(body).get_call_type(typingctx, args, {})

        def codegen(context: Any, builder: Any, _: Any, values: Any) -> Any:
            compiled = body.get_compile_result(signature)
            context.active_code_library.add_linking_library(compiled.library)
            function = context.declare_function(builder.module, compiled.fndesc)
            before = _exchange(builder, _INT64(DEFAULT))
            status, value = context.call_conv.call_function(
                builder, function, signature.return_type, signature.args, values, ("noinline",)
            )
            changed = builder.icmp_signed("!=", before, _INT64(UNCHANGED))
            with cgutils.if_unlikely(builder, changed):
                _exchange(builder, before)
            with cgutils.if_unlikely(builder, status.is_error):
                context.call_conv.return_status_propagate(builder, status)
            return value

        return signature.return_type(*args), codegen

    return intrinsic_of(call, inspect.signature(getattr(body, "py_func", body)).parameters)
