"""Runs whose bits are recorded: on every processor, system and Python they are the same.

    python -m tests.faults.platform_bits > tests/data/bits.json

records them anew, after a change that is meant to change bits. The inputs come from integers and
powers of two alone, so that no library of the system has a part in them.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numba
import numpy as np

import numadam as na
from numadam import rules

RECORDED = Path(__file__).parents[1] / "data" / "bits.json"
STEPS, N = 40, 203

#: Each rule with its defaults. NAdam is left out: the momentum of a step is a power of the system's
#: library.
RULES: dict[str, tuple[str, str, dict[str, Any]]] = {
    f"{name} {dtype}": (name, dtype, {})
    for name in rules.CLASSES.values()
    for dtype in ("float32", "float64")
    if name != "NAdam"
}
CASES = RULES | {
    "Adam complex128": ("Adam", "complex128", {}),
    "Adam float32 clip_norm": ("Adam", "float32", {"clip_norm": 1.0}),
    "Adam float64 clip_norm": ("Adam", "float64", {"clip_norm": 1.0}),
}


def integers() -> Iterator[int]:
    """Integers of 64 bits (Knuth's MMIX)."""
    x = 1
    while True:
        x = (x * 6364136223846793005 + 1442695040888963407) % 2**64
        yield x


@functools.cache
def numbers(dtype: str) -> tuple[np.ndarray, ...]:
    """Parameters and gradients of all sizes, some of them subnormal in float32."""
    draw = integers()

    def one(least: int, most: int) -> float:
        mantissa, exponent = (next(draw) >> 11) - 2**52, (next(draw) >> 33) % (most - least) + least
        return float(mantissa) * 2.0 ** (exponent - 52)

    kind = np.dtype(dtype)

    def array(low: int, high: int) -> np.ndarray:
        many = [one(low, high) for _ in range(2 * N)]
        if kind.kind == "c":
            return np.array(many).view(kind)
        return np.array(many[:N], kind)

    return array(-3, 3), *(array(-70, 20) for _ in range(STEPS))


def optimizer(case: str) -> Any:
    """A new optimiser of a case."""
    name, dtype, options = CASES[case]
    return rules.classes()[name](numbers(dtype)[0].copy(), lr=0.01, **options)


def advance(case: str, opt: Any, begin: int, end: int) -> Any:
    """Steps of a case."""
    for g in numbers(CASES[case][1])[1 + begin : 1 + end]:
        opt.step(g)
    return opt


def hash_of(*arrays: Any) -> str:
    words = hashlib.sha256()
    for array in arrays:
        a = np.ascontiguousarray(array)
        words.update(a.astype(a.dtype.newbyteorder("<")).tobytes())
    return words.hexdigest()[:16]


def digest(opt: Any) -> str:
    """Parameters and state of an optimiser."""
    return hash_of(opt.params, *(opt.state[name] for name in sorted(opt.state)))


@numba.njit
def rosenbrock(x, g):
    """Of any number of variables."""
    total = 0.0
    g[:] = 0.0
    for i in range(x.size - 1):
        a, b = 1.0 - x[i], x[i + 1] - x[i] * x[i]
        total += a * a + 100.0 * (b * b)
        g[i] -= 2.0 * a + 400.0 * (x[i] * b)
        g[i + 1] += 200.0 * b
    return total


@numba.njit
def hyperbola(x, r, i, y):
    """Residuals of problem i, at points 0, 1, 2, ..."""
    for k in range(r.size):
        r[k] = x[0] / (1.0 + x[1] * k) + x[2] - y[i, k]


def digest_of(case: str) -> str:
    """The digest of a whole run."""
    starts = numbers("float64")[0][:200].reshape(50, 4)
    if case == "minimize":
        res = na.minimize(rosenbrock, starts[0], lr=0.02, maxiter=500)
    elif case == "minimize_many":
        res = na.minimize_many(rosenbrock, starts, lr=0.02, maxiter=500)
    elif case == "least_squares_many":
        noise = np.arange(20)[:, None] * np.arange(41) * 7 % 11 - 5.0
        y = 1.0 / (1.0 + 0.3 * np.arange(41)) + 0.01 * noise
        box = [None, 0, None], [None, 2, None]
        fits = na.least_squares_many(hyperbola, np.ones((20, 3)), (y,), m=41, bounds=box)
        return hash_of(fits.x, fits.cov, fits.nfev)
    else:
        return digest(advance(case, optimizer(case), 0, STEPS))
    return hash_of(res.x, res.fun, res.grad_norm, res.nit)


#: Whole runs, beside `CASES`.
RUNS = ("minimize", "minimize_many", "least_squares_many")


def digests(cases: Any = (*CASES, *RUNS)) -> dict[str, str]:
    """Digests by case."""
    return {case: digest_of(case) for case in cases}


if __name__ == "__main__":
    print(json.dumps(digests(), indent=1))
