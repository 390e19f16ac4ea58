"""Norms of the gradients on the GPU: the same blocks and folds as on the CPU (`norms`).

A block of 256 elements gives one float64. These partial sums are copied to the host and combined
there: a step that asks for a norm or a guard waits for the GPU once. (That the clip factor and
the verdict stay on the GPU is for a later version.)

A block has the bits of the CPU's where the gradients have: their squares are exact in float64, or
multiplied without being fused into the addition.
"""
# mypy: disallow-untyped-defs=False, disallow-untyped-calls=False

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence

import numpy as np
from numba import config, cuda
from numba.np.numpy_support import from_dtype

from numadam import norms
from numadam import options as op
from numadam import plan as pl
from numadam.cuda_loop import Made, array_types, pickers, scalar_types, wrapper
from numadam.pieces import tiny
from numadam.plan import Plan
from numadam.table import Layout
from numadam.turn import make_seen

ROWS = norms.BLOCK // norms.LANES

if config.ENABLE_CUDASIM:

    def _square(x):
        return x * x

else:
    from numba.cuda import libdevice

    def _square(x):
        return libdevice.dmul_rn(x, x)


def _fold(sums, lane, lanes):
    """Add the second half of the lanes to the first, until one is left."""
    half = lanes // 2
    cuda.syncthreads()
    while half > 0:
        if lane < half:
            sums[lane] += sums[lane + half]
        cuda.syncthreads()
        half //= 2


def norm_slots(plan: Plan) -> tuple[int, ...]:
    """The arrays of a norm; parameters and bounds, since at an active bound no gradient counts."""
    slots = [pl.G, pl.SUM] if plan.accumulate else [pl.G]
    if plan.bounds:
        slots.append(pl.MASTER if plan.master else pl.P)
    return *slots, *((pl.LOW, pl.HIGH) if plan.bounds == "array" else ())


def make_norm(plan: Plan, sums: int) -> Made:
    """``norm(arrays, k, scale, partials)``: a partial sum for every block.

    Launched with LANES x `sums` threads a block: each row of threads adds up one block of the
    norm, element by element in the order of `norms.make_block`, and then folds its lanes as
    that does. `scale` is for float64 elements whose squares leave the range. The rows of a sparse
    gradient lie together, and blocks beyond them give 0.
    """
    wrap, used = wrapper(), norm_slots(plan)
    seen, square, fold = make_seen(plan, wrap), wrap(_square), wrap(_fold)
    of_x = pl.MASTER if plan.master else pl.P
    places = pickers(wrap, used, (of_x, pl.SUM, pl.LOW, pl.HIGH))
    (fx, x_), (ft, t_), (fl, l_), (fh, h_) = places
    ranged, rows, lanes, block = plan.real == np.float64, ROWS, norms.LANES, norms.BLOCK

    def norm(arrays, k, scale, partials):
        g, x, total = arrays[0], fx(arrays[x_]), ft(arrays[t_])
        low, high = fl(arrays[l_]), fh(arrays[h_])
        shared = cuda.shared.array((sums, lanes), np.float64)
        lane, mine = cuda.threadIdx.x, cuda.threadIdx.y
        # all threads of a block take the same number of turns, so that they can wait together
        for first in range(cuda.blockIdx.x * sums, partials.size, cuda.gridDim.x * sums):
            b = first + mine
            at, added = b * block + lane, 0.0
            for _ in range(rows):
                if at < g.size:
                    y = np.float64(seen(at, x, g, total, low, high, k))
                    added += square(y * scale) if ranged else y * y
                at += lanes
            shared[mine, lane] = added
            fold(shared[mine], lane, lanes)
            if lane == 0 and b < partials.size:
                partials[b] = shared[mine, 0]

    types = array_types(plan, used), scalar_types(plan)[1], cuda.types.float64
    partials = cuda.types.Array(from_dtype(np.dtype(np.float64)), 1, "C")
    return norm, cuda.types.void(*types, partials)


@functools.cache
def _compile() -> None:
    """Compile what combines partial sums on the host, since no step shall."""
    exponent = norms.exponent_of(norms.combine(np.ones(1), 0, 1))
    norms.power(exponent)
    norms.norm(1.0, exponent)
    norms.clip_factor(1.0, exponent, 1.0, 0.0, 0.0)


class GradNorm:
    """Norms, clip factors and the guard's verdict from the partial sums of the blocks.

    Attributes
    ----------
    norms : numpy.ndarray of float64
        The norm of each leaf, and last that of all of them: NaN before the first step.
    factors : list of (float, float)
        For each leaf its clip factor in two steps.
    """

    def __init__(self, plan: Plan, layout: Layout) -> None:
        counts = [-(-size * plan.numbers // norms.BLOCK) for size in layout.sizes]
        #: where the partial sums of each leaf begin, and the last end
        self.first = [0, *np.cumsum(counts, dtype=np.int64).tolist()]
        self.norms = np.full(len(counts) + 1, math.nan)
        self.factors = [(1.0, 1.0)] * len(counts)
        self._plan, self._exponents = plan, [0] * len(counts)
        _compile()

    def form(self, partials: Callable[[Sequence[float]], np.ndarray], row: Sequence[float]) -> bool:
        """Form the norms, and the factors that the options in `row` ask for.

        ``partials(scales)`` forms the sums of all leaves, whose elements are multiplied by these
        scales first. Returns whether all gradients are finite.
        """
        self._exponents = [0] * len(self.factors)
        while True:
            scales = [norms.power(-exponent) for exponent in self._exponents]
            finite = self._settle(partials(scales), row)
            if finite is not None:
                return finite

    def _settle(self, partials: np.ndarray, row: Sequence[float]) -> bool | None:
        """Whether all is finite; None where the sums left the range and are needed once more."""
        n = len(self.factors)
        if self._plan.norm == "all":
            return self._settle_one(partials, 0, n, row[op.CLIP_NORM], row[op.MARGIN], n)
        verdicts = [
            self._settle_one(partials, j, j + 1, row[op.CLIP_ARRAY], row[op.MARGIN], j)
            for j in range(n)
        ]
        return None if None in verdicts else all(verdicts)

    def _settle_one(
        self, partials: np.ndarray, j: int, after: int, limit: float, margin: float, place: int
    ) -> bool | None:
        """Leaves j to `after`, taken as one array, whose norm goes to `place`."""
        begin, real = self.first[j], self._plan.real
        total = norms.combine(partials, begin, self.first[after] - begin)
        exponent = self._exponents[j]
        if real == np.float64 and exponent == 0:
            exponent = norms.exponent_of(total)
            if exponent != 0:
                self._exponents[j:after] = [exponent] * (after - j)
                return None
        self.norms[place] = norms.norm(total, exponent)
        factor = norms.clip_factor(total, exponent, limit, margin, tiny(real))
        self.factors[j:after] = [factor] * (after - j)
        return math.isfinite(total)
