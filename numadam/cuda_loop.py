"""The CUDA loop, once, for every rule: a grid-stride kernel over one array.

It shares `make_turn` and the rule's ``element`` with the CPU loop and holds no arithmetic of
its own.

* No fastmath: square roots and divisions are rounded correctly, NaN and denormals stay.
* ``a*b + c`` becomes one fused multiply-add. That is the compiler's default, numba-cuda has no
  option against it, and it only drops a rounding. So GPU and CPU agree to a bound and not bit
  for bit; on one GPU the bits do not depend on grid, stream or layout.
* Device functions are inlined into the kernel: no call and no local memory is left.
* No line information: it would put paths of the build machine into the compiled kernel.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numba import cuda  # here and not in a function: the simulator swaps the module's global

from numadam.loops import at, limits, make_turn, put
from numadam.rules.base import RuleSpec

_lock = threading.RLock()
_kernels: dict[tuple[Any, ...], Any] = {}


def _keep(a: Any) -> Any:
    return a


def _absent(a: Any) -> None:
    return None


def make_kernel(rule: RuleSpec, options: Mapping[str, Any], has_out: bool) -> Callable[..., None]:
    """The kernel for these options, as a plain function of (p, g, s0, s1, s2, out, h).

    An absent array comes as one of size zero, since a kernel takes no ``None``. The kernel hands
    a literal ``None`` on, so that its reads and writes are pruned when it is compiled.
    """
    inner = cuda.jit(device=True)
    turn = inner(make_turn(inner(rule.element(options)), inner(at), inner(put)))
    keep, absent = inner(_keep), inner(_absent)
    pick0, pick1, pick2 = (keep if used else absent for used in rule.slots(options))
    pick_out = keep if has_out else absent

    def kernel(p: Any, g: Any, s0: Any, s1: Any, s2: Any, out: Any, h: Any) -> None:
        a, b, c, o = pick0(s0), pick1(s1), pick2(s2), pick_out(out)
        # all three are 64 bits wide: an array may hold more than 2**31 elements
        for i in range(cuda.grid(1), p.size, cuda.gridsize(1)):
            turn(i, p, g, a, b, c, o, h)

    return kernel


def scalars(
    rule: RuleSpec, control: Any, lr: float, t: int, dtype: np.dtype[Any]
) -> tuple[Any, ...]:
    """The kernel's `h`: formed in float64 on the host and rounded once to the dtype."""
    wide = (*rule.scalars(control, lr, float(t)), *limits(dtype))
    with np.errstate(over="ignore"):  # a scalar too large becomes inf, as on the CPU
        return tuple(map(dtype.type, wide))


def signature(rule: RuleSpec, options: Mapping[str, Any], dtype: np.dtype[Any]) -> Any:
    """Argument types of the kernel: flat contiguous arrays, and the scalars by value."""
    real = cuda.types.float32 if dtype.itemsize == 4 else cuda.types.float64
    flat = cuda.types.Array(real, 1, "C")
    width = len(scalars(rule, rule.control_values(options), 1.0, 1, dtype))
    return cuda.types.void(*[flat] * 6, cuda.types.UniTuple(real, width))


def compiled_kernel(
    rule: RuleSpec, options: Mapping[str, Any], dtype: np.dtype[Any], has_out: bool
) -> Any:
    """The compiled kernel for the current GPU; options that share slots and variant share it.

    The explicit signature compiles it now, and spares every launch a look at the types.
    """
    variant = tuple(options[key] for key in rule.variant)
    capability = cuda.get_current_device().compute_capability
    key = (rule.name, rule.slots(options), variant, dtype, has_out, capability)
    with _lock:
        if key not in _kernels:
            compile_it = cuda.jit(signature(rule, options, dtype))
            _kernels[key] = compile_it(make_kernel(rule, options, has_out))
        return _kernels[key]
