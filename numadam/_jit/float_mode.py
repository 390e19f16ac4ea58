"""The floating-point mode of a thread: the default of IEEE 754 while our compiled code runs in it.

The mode (MXCSR on x86-64, FPCR on aarch64) says how results are rounded, and whether subnormal
numbers count as zero. A library built with ``-ffast-math`` sets flush-to-zero in the thread that
loads it, ``torch.set_flush_denormal`` on request, and new threads inherit it. So without this, bits
would depend on what else is loaded, and on the thread. On other processors the mode is left alone.

A call costs 0.3 ns where the mode is the default one, as nearly always, and 70 ns where it is not.
"""

from __future__ import annotations

import functools
import inspect
from typing import Any

import numba
from llvmlite import binding, ir
from numba import int64
from numba.core import cgutils
from numba.extending import intrinsic

from numadam._jit.loops import compiled_loop

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


def _exchange_now(typingctx: Any, mode: Any) -> Any:
    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return _exchange(builder, args[0])

    return int64(int64), codegen


_exchange_mode = intrinsic(_exchange_now)


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

    # Numba reads the number of arguments from the signature
    first = inspect.Parameter("typingctx", inspect.Parameter.POSITIONAL_OR_KEYWORD)
    given = inspect.signature(getattr(body, "py_func", body)).parameters.values()
    call.__signature__ = inspect.Signature([first, *given])  # type: ignore[attr-defined]
    return intrinsic(call)
