"""Compiled sums of squares: of blocks, of arrays in parts, and what NumPy makes of them."""

from __future__ import annotations

import math
from fractions import Fraction

import numba
import numpy as np
from hypothesis import settings
from numba import prange

from numadam._core import norms
from numadam._jit.pointers import inner

BLOCK, LANES = norms.NORM_BLOCK, norms.NORM_LANES
REALS = [np.float32, np.float64]
TINY = {real: float(np.finfo(real).smallest_normal) for real in REALS}
#: sizes around the ends of rows and blocks
SIZES = [0, 1, 2, 63, 64, 65, 127, 128, 255, 256, 257, 1000, 5 * BLOCK + 3 * LANES + 17, 40_000]
#: what the sum of squares may be off by: 9 roundings in a block, one of the square, one at the end
BOUND = Fraction(11, 2**53)

UNHURRIED = settings(deadline=None)  # the first call compiles


def _scaled(i, p, g, acc, lo, hi, k):
    return g[i] * k[0]


def _everything(i, p, g, acc, lo, hi, k):
    """An effective gradient that reads every array: accumulated, and 0 at an active bound."""
    x, low, high, zero = p[i], lo[i], hi[i], k[1]
    y = g[i] * k[0] + acc[i]
    if x <= low and y > zero:
        y = zero
    if x >= high and y < zero:
        y = zero
    return y


gradient, gradient_of_all = inner(_scaled), inner(_everything)
block = norms.make_block(gradient, inner)
scaled_block = norms.make_block(gradient, inner, scaled=True)
block_of_all = norms.make_block(gradient_of_all, inner)


@inner
def _part(low, high, g, k, partials, scale):
    for j in range(low, high):
        first = j * BLOCK
        n = min(BLOCK, g.size - first)
        if scale is None:
            partials[j] = block(first, n, g, g, None, None, None, k)
        else:
            partials[j] = scaled_block(first, n, g, g, None, None, None, (k, scale))


@numba.njit(error_model="numpy")
def fill(g, k, partials, scale):
    _part(0, norms.blocks(g.size), g, k, partials, scale)


@numba.njit(error_model="numpy", parallel=True)
def fill_parallel(g, k, partials, scale, size):
    count = norms.blocks(g.size)
    for c in prange((count + size - 1) // size):
        _part(c * size, min(count, c * size + size), g, k, partials, scale)


@numba.njit(error_model="numpy")
def one_block_of_all(first, n, p, g, acc, lo, hi, k):
    return block_of_all(first, n, p, g, acc, lo, hi, k)


def partials_of(g, scale=None):
    partials = np.full(norms.blocks(g.size), np.nan)
    fill(g, (g.dtype.type(1),), partials, scale)
    return partials


def total_of(g):
    """(total, exponent) as a step forms them: a second pass where float64 asks for one."""
    count = norms.blocks(g.size)
    total = norms.combine(partials_of(g), 0, count)
    exponent = norms.exponent_of(total) if g.dtype == np.float64 else 0
    if exponent != 0:
        total = norms.combine(partials_of(g, norms.power(-exponent)), 0, count)
    return total, exponent


def norm_of(g):
    return norms.norm(*total_of(g))


def off_by(g):
    """Distance of the norm from sqrt(math.fsum(x * x)), in ulp."""
    expected = math.sqrt(math.fsum(g.astype(np.float64) ** 2))
    return abs(norm_of(g) - expected) / np.spacing(expected)


def numbers(real, size, seed=0):
    return np.random.default_rng(seed).standard_normal(size).astype(real)


def halves(v):
    while len(v) > 1:
        v = v[: len(v) // 2] + v[len(v) // 2 :]
    return v[0]


def block_by_numpy(x):
    """Sum of a block as it is defined: rows of lanes one after another, then halves."""
    squares = np.zeros(BLOCK)
    squares[: x.size] = x.astype(np.float64) ** 2
    lanes = np.zeros(LANES)
    for row in squares.reshape(-1, LANES):
        lanes = lanes + row
    return halves(lanes)
