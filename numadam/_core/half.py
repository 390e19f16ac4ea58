"""Storage of elements: float64, float32, float16 and bfloat16, read and written by loops.

A loop computes in float32 or float64. It gets a 16-bit array as uint16, since Numba has no
arithmetic for these types: ``read`` converts an element to float32, exactly, and ``write`` rounds
a float32 to the nearest, ties to even. NaN stays NaN, too large becomes inf, subnormals are kept.

The functions here are plain. The loop that takes them compiles them with its own wrapper
(`numadam._jit.pointers.inner`, ``cuda.jit(device=True)``). Two facts shape them:

* Numba makes 64 bits of every integer result. Where a value comes back to 32 bits before it
  meets a choice, the compiler narrows all of it; otherwise the vectors hold half as many.
* Compiled ``.view`` wants its number made on the spot: ``np.float32(x).view``.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import binding, ir
from numba import types
from numba.core.registry import cpu_target

from numadam._arrays.checks import name_dtype
from numadam._jit.pointers import emitted

#: Names of all storages.
STORAGES = ("float64", "float32", "float16", "bfloat16")

_TRY_HALF = """
define void @try_half(ptr %a, ptr %b) {
  %h = load half, ptr %a
  %x = fpext half %h to float
  store float %x, ptr %b
  ret void
}
"""


def _bfloat16(name: str) -> np.dtype[Any]:
    try:
        module = importlib.import_module("ml_dtypes")
    except ImportError as error:
        raise ImportError(
            f"{name}: NumPy has bfloat16 from the ml_dtypes package, which is not installed: "
            "pip install ml_dtypes."
        ) from error
    dtype: np.dtype[Any] = np.dtype(module.bfloat16)
    return dtype


def as_storage(dtype: Any, name: str) -> np.dtype[Any]:
    """The storage for what a user gives: ``"bfloat16"``, ``ml_dtypes.bfloat16``, ``np.float32``.

    `name` is the argument's, for errors. ml_dtypes is imported for the string ``"bfloat16"`` only.
    """
    if isinstance(dtype, str) and dtype == "bfloat16":
        return _bfloat16(name)
    got = repr(dtype)
    if dtype is not None:  # which NumPy takes for float64
        try:
            found: np.dtype[Any] = np.dtype(dtype)
        except (TypeError, ValueError, SyntaxError):  # the last for texts such as "f4,,"
            pass
        else:
            if found.name in STORAGES and found.isnative:
                # the usual spelling, without metadata
                return found if found.name == "bfloat16" else np.dtype(found.name)
            got = name_dtype(found)
    raise TypeError(f"{name}: expected {', '.join(STORAGES[:-1])} or {STORAGES[-1]}, got {got}.")


def share_unmoved(numbers: np.ndarray, rate: float) -> float:
    """The share of numbers that steps of `rate`, up and down, round back to where they were."""
    with np.errstate(all="ignore"):
        up, down = (numbers.astype(np.float32) + step for step in (rate, -rate))
        unmoved = (up.astype(numbers.dtype) == numbers) & (down.astype(numbers.dtype) == numbers)
    return float(unmoved.mean()) if len(numbers) else 0.0


def memory_dtype(storage: np.dtype[Any]) -> np.dtype[Any]:
    """The dtype of the memory in a loop: uint16 for 16-bit storages."""
    return np.dtype(np.uint16) if storage.name in ("float16", "bfloat16") else storage


def in_memory(array: Any) -> Any:
    """The array as kernels and copies take it: 16-bit numbers as uint16, which CuPy has."""
    dtype = memory_dtype(array.dtype)
    return array if dtype == array.dtype else array.view(dtype)


def at(a: Any, i: Any) -> Any:
    """``a[i]``, or None where the array is absent (pruned when compiled)."""
    if a is None:
        return None
    return a[i]


def item(a: Any, i: Any) -> Any:
    """``a[i]`` of an array that is there. For Numba `at` may be None, and ``m or p`` fails."""
    return a[i]


def absent(a: Any, i: Any) -> None:
    return None


def put(a: Any, i: Any, x: Any) -> None:
    """``a[i] = x``, or nothing where the array is absent (pruned when compiled)."""
    if a is not None:
        a[i] = x


def _read_bfloat16(a: Any, i: Any) -> Any:
    """bfloat16 is the upper half of a float32."""
    return np.uint32(np.int64(a[i]) << 16).view(np.float32)


def _write_bfloat16(a: Any, i: Any, x: Any) -> None:
    """Add a little less than half a unit, or half where that makes an odd number even; cut."""
    if a is not None:
        bits = np.int64(np.float32(x).view(np.uint32))
        rounded = np.uint32(bits + 0x7FFF + ((bits >> 16) & 1))
        if x != x:  # the sum may have carried a NaN to 0, the cut may make it inf
            rounded = np.uint32(bits | 0x40_0000)
        a[i] = np.uint16(rounded >> 16)


#: Of MurmurHash3, whose last steps mix the bits of a number thoroughly.
_GOLDEN, _MIX1, _MIX2 = 0x9E3779B1, 0x85EBCA6B, 0xC2B2AE35


def _write_dithered(a: Any, i: Any, x: Any, seed: Any) -> None:
    """Round up or down by chance, as near as x is to each, so that the mean is x.

    The chance is a hash of x and `seed`: the same numbers give the same bits wherever they lie.
    Every product is cut to 32 bits at once: in 64 half as many fit into a register.
    """
    if a is not None:
        bits = np.float32(x).view(np.uint32)
        mix = np.uint32(np.float32(seed).view(np.uint32) * np.uint32(_GOLDEN))
        mix = np.uint32(bits ^ mix)
        mix = np.uint32(np.uint32(mix ^ np.uint32(mix >> np.uint32(16))) * np.uint32(_MIX1))
        mix = np.uint32(np.uint32(mix ^ np.uint32(mix >> np.uint32(13))) * np.uint32(_MIX2))
        rounded = np.uint32(bits + np.uint32(mix >> np.uint32(16)))
        if not abs(x) < np.inf:
            rounded = np.uint32(bits | np.uint32(0x40_0000)) if x != x else bits
        a[i] = np.uint16(rounded >> np.uint32(16))


def _keep_native(a: Any, i: Any, x: Any, seed: Any) -> None:
    if a is not None:
        a[i] = x


# compiled for CPU and CUDA alike: one instruction each
@emitted(types.float32(types.uint16))
def _widen(context: Any, builder: Any, bits: Any) -> Any:
    return builder.fpext(builder.bitcast(bits, ir.HalfType()), ir.FloatType())


@emitted(types.uint16(types.float32))
def _narrow(context: Any, builder: Any, x: Any) -> Any:
    return builder.bitcast(builder.fptrunc(x, ir.HalfType()), ir.IntType(16))


def _read_float16(a: Any, i: Any) -> Any:
    return _widen(a[i])


def _write_float16(a: Any, i: Any, x: Any) -> None:
    if a is not None:
        a[i] = _narrow(np.float32(x))


@functools.cache
def converts_half() -> bool:
    """Whether the CPU that Numba compiles for converts float16 itself: x86 with F16C, ARM.

    For another one LLVM writes a call of a library that nobody has loaded, and then ends the
    process. So LLVM is asked for the assembly of a conversion, which is not linked (once, 10 ms).
    """
    triple, cpu, features = cpu_target.target_context.codegen().magic_tuple()
    machine = binding.Target.from_triple(triple).create_target_machine(cpu=cpu, features=features)
    module = binding.parse_assembly(_TRY_HALF)
    module.triple = triple
    assembly = machine.emit_assembly(module)
    # vcvtph2ps, or vcvtsh2ss where the CPU calculates in float16, too
    return "\tvcvt" in assembly or "\tfcvt\t" in assembly


_PAIRS = {
    "float64": (item, put),
    "float32": (item, put),
    "float16": (_read_float16, _write_float16),
    "bfloat16": (_read_bfloat16, _write_bfloat16),
}


def reader(storage: np.dtype[Any], there: bool = True) -> Callable[[Any, Any], Any]:
    """``read(a, i)``: element i as the number to calculate with; None where no array is `there`.

    `a` has the dtype `memory_dtype`. 16-bit storages give float32, the others themselves.
    """
    return _PAIRS[storage.name][0] if there else absent


def writer(storage: np.dtype[Any]) -> Callable[[Any, Any, Any], None]:
    """``write(a, i, x)``: round x to the storage and store it; nothing where `a` is None.

    `a` has the dtype `memory_dtype`. For 16-bit storages a float64 is rounded to float32 first.
    """
    return _PAIRS[storage.name][1]


def state_writer(storage: np.dtype[Any]) -> Callable[[Any, Any, Any, Any], None]:
    """``write(a, i, x, seed)``: store a moment; nothing where `a` is None.

    To the nearest bfloat16, 0.999*v would be v again: it could never fall, and steps would become
    too long or too short. So bfloat16 is rounded by chance, with another `seed` at each step.
    """
    return _write_dithered if storage.name == "bfloat16" else _keep_native
