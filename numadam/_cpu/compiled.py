"""The compiled functions of the CPU: the validation of arrays, and the steps of a plan."""

from __future__ import annotations

import ctypes
import functools
from typing import Any

import numpy as np

from numadam._core.half import converts_half
from numadam._core.plan import Plan
from numadam._cpu import norm_kernel, overlap, strided
from numadam._cpu.kernel import STEP, make_steps
from numadam._cpu.validate import VALIDATE, validate
from numadam._jit.loops import CompiledLoop, callback_address, compiled_loop


def _address_of(name: str, function: Any, signature: Any) -> int:
    return callback_address(function, signature, name, "_cpu", _nrt=False)


@functools.cache
def validator_address() -> int:
    """The address of the compiled validation; compiled or loaded at the first call."""
    return _address_of("validate", validate, VALIDATE)


@functools.cache
def overlap_address() -> int:
    """The address of the search for overlap among many arrays."""
    return _address_of("overlap", overlap.search, overlap.SEARCH)


@functools.cache
def strided_address() -> int:
    """The address of what checks and copies strided arrays."""
    return _address_of("strided", strided.handle, strided.HANDLE)


@functools.cache
def sum_up_address() -> int:
    """The address of what sums up the norms of this process for the others."""
    return _address_of("sum_up", norm_kernel.sum_up, norm_kernel.SUM_UP)


@functools.cache
def _validator() -> Any:
    # PYFUNCTYPE keeps the GIL: no other thread can change a header meanwhile
    return ctypes.PYFUNCTYPE(ctypes.c_int64, *[ctypes.c_int64] * 4)(validator_address())


def validate_arrays(meta_at: int, ids_at: int, known_disjoint: int) -> int:
    """Validate arrays from Python, without a step."""
    return int(_validator()(meta_at, ids_at, 0, known_disjoint))


def compiled_step(plan: Plan, out: bool = False) -> CompiledLoop:
    """The compiled steps of a plan: options that do not change it share code.

    Those with `out` are compiled separately: few ever use them, and both together take 0.3 s more.
    """
    if plan.dtype == np.float16 and not converts_half():
        raise TypeError(
            "params: float16 needs a processor that converts it (x86 with F16C, of 2012 and later, "
            "or ARM). Use float32, or bfloat16."
        )
    name = f"{plan.name}-out" if out else plan.name
    return compiled_loop(name, lambda: make_steps(plan, out), STEP)
