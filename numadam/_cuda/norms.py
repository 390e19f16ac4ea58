"""Kernels of the norms of gradients, as texts: the rule is that of the CPU.

1. `make_sums`: the sum of squares of each part of an array, one block of threads a part;
2. `make_norms`: these added up to each total, its norm and its clip factor, one block a total.

A part has as many numbers at any launch, and pairs are added in the same order, all in float64: the
bits do not depend on grid, stream, layout or alignment. Squares of float64 may leave its range: a
part whose sum does is added up once more, of numbers times a power of two (`SHIFT`).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from numadam._core.norms import clip_factor, norm
from numadam._core.plan import Plan
from numadam._core.scalars import tiny
from numadam._core.text import Text, indented, scope_of
from numadam._cuda.kernel import THREADS, Frame, Kernel

#: Numbers of a thread, and bytes that it reads before it uses any: with fewer under way the memory
#: waits.
_EACH, _AT_ONCE = 32, 64
#: Numbers of a part.
PART = _EACH * THREADS
#: The exponent of a scale: scaled by it no square of a sum that left the range leaves it again.
SHIFT = 600
#: Sums outside of these are added up once more.
_BELOW, _ABOVE = 2.0**-900, 2.0**1000


def sums_of(plan: Plan) -> int:
    """Partial sums of a part: of a float64 plan that of numbers as they are, divided, multiplied.

    Two of the three are 0.
    """
    return 3 if plan.real == np.float64 else 1


def _folded(count: int) -> list[str]:
    """Add up `count` sums of all threads; those of thread 0 are the totals."""
    places = [f"{k * THREADS} + lane" if k else "lane" for k in range(count)]
    return [
        "cuda.syncthreads()",
        f"half = {THREADS // 2}",
        "while half > 0:",
        "    if lane < half:",
        *(f"        sums[{place}] += sums[{place} + half]" for place in places),
        "    cuda.syncthreads()",
        "    half //= 2",
    ]


def make_sums(plan: Plan, by_value: bool, many: bool) -> Kernel:
    """Partial sums of parts: ``sums(arrays..., n, partials, row)``, or over many leaves."""
    text, wide = Text(plan), sums_of(plan) > 1
    frame = Frame(text, text.norm_arrays, "norm", many, by_value)
    frame.add("partials", "float64*")
    names, loads = text.norm_arrays, text.norm_element()
    masked = loads[len(names) :]
    square = [*masked, f"x = np.float64(g){' * scale' if wide else ''}", "total += x * x"]
    at_once = _AT_ONCE // plan.real.itemsize // len(names)
    together = [
        f"{name}_{j} = {text.views[name]}[i + {j * THREADS}]"
        for j in range(at_once)
        for name in names
    ]
    for j in range(at_once):
        together += [*(f"{name} = {name}_{j}" for name in names), *square]
    add = [
        "total = 0.0",
        f"i = block * {PART} + lane",
        f"if (block + 1) * {PART} <= n:",
        f"    for k in range({_EACH // at_once}):",
        *indented([*together, f"i += {at_once * THREADS}"], 2),
        "else:",
        "    while i < n:",
        *indented([*loads[: len(names)], *square, f"i += {THREADS}"], 2),
        "sums[lane] = total",
        *_folded(1),
    ]
    body = ["lane = np.int64(cuda.threadIdx.x)", f"sums = cuda.shared.array({THREADS}, float64)"]
    body += text.head(frame.row) if plan.bounds else []
    part = "np.int64(cuda.blockIdx.x)"
    if wide:
        add += [
            "found = sums[0]",
            "cuda.syncthreads()  # before it is written again",
            f"if which > 0 or np.isnan(found) or {_BELOW!r} <= found <= {_ABOVE!r}:",
            "    break",
            f"which = 1 if found > {_ABOVE!r} else 2",
            f"scale = {2.0**-SHIFT!r} if which == 1 else {2.0**SHIFT!r}",
        ]
        body += ["scale, which, found = 1.0, 0, 0.0", "while True:", *indented(add)]
        body += ["if lane < 3:"]
        body += [f"    partials[3 * {part} + lane] = found if lane == which else 0.0"]
    else:
        body += [*add, "if lane == 0:", f"    partials[{part}] = sums[0]"]
    return frame.kernel("sums", body, lambda wrap: scope_of(plan, wrap), bool(plan.bounds))


def scaled_total(middle: float, high: float, low: float) -> tuple[float, float]:
    """The total of the three sums of a float64 plan, and the exponent of its scale."""
    if high != 0.0:  # NaN, too
        return high + middle * 2.0 ** (-2 * SHIFT), SHIFT
    if middle != 0.0:
        return middle + low * 2.0 ** (-2 * SHIFT), 0
    return low, -SHIFT


def make_norms(plan: Plan) -> Kernel:
    """``norms(partials, firsts, totals, values, factors, finite, limit, margin, largest)``.

    A block of threads a total; `firsts` says where the partial sums of each begin, and last where
    they end. `totals` get a total and the exponent of its scale, `values` the norm, `factors` the
    clip factor in two steps. `finite` is 1 where the gradients are finite and their norm, clipped,
    is at most `largest`.
    """
    count = sums_of(plan)
    places = ", ".join(f"sums[{k * THREADS}]" for k in range(count))
    total = f"scaled_total({places})" if count > 1 else f"{places}, 0"
    names = [f"s{k}" for k in range(count)]
    lines = [
        "which, lane = np.int64(cuda.blockIdx.x), np.int64(cuda.threadIdx.x)",
        f"sums = cuda.shared.array({count * THREADS}, float64)",
        *(f"{name} = 0.0" for name in names),
        "i = firsts[which] + lane",
        "while i < firsts[which + 1]:",
        *(f"    {name} += partials[{count} * i + {k}]" for k, name in enumerate(names)),
        f"    i += {THREADS}",
        *(f"sums[{k * THREADS} + lane] = {name}" for k, name in enumerate(names)),
        *_folded(count),
        "if lane == 0:",
        f"    total, exponent = {total}",
        "    value = norm(total, exponent)",
        "    totals[2 * which], totals[2 * which + 1] = total, exponent",
        "    values[which] = value",
        "    pre, factor = clip_factor(total, exponent, limit, margin, tiny)",
        "    factors[2 * which], factors[2 * which + 1] = pre, factor",
        "    good = math.isfinite(total) and min(value, limit) <= largest",
        "    finite[which] = 1 if good else 0",
    ]
    names = ["partials", "firsts", "totals", "values", "factors", "finite"]
    head = f"def norms({', '.join(names)}, limit, margin, largest):"
    real = plan.real.name
    kinds = "float64*", "int64*", "float64*", "float64*", f"{real}*", "int64*", *["float64"] * 3

    def scope(wrap: Any) -> dict[str, Any]:
        functions = {"norm": norm, "clip_factor": clip_factor, "scaled_total": scaled_total}
        compiled = {name: wrap(getattr(one, "py_func", one)) for name, one in functions.items()}
        return {"np": np, "math": math, "tiny": tiny(plan.real), **compiled}

    return Kernel("norms", "\n".join([head, *indented(lines)]) + "\n", kinds, scope)
