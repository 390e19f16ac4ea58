"""Compiled sums of squares: of blocks, of arrays in parts, and what NumPy makes of them."""

from __future__ import annotations

import math
from fractions import Fraction

import numba
import numpy as np
from hypothesis import settings
from numba import prange

from numadam._core import norms
from numadam._core.norms import NORM_LANES
from numadam._jit.pointers import inner

BLOCK, LANES = norms.NORM_BLOCK, NORM_LANES
REALS = [np.float32, np.float64]
TINY = {real: float(np.finfo(real).smallest_normal) for real in REALS}
#: sizes around the ends of rows and blocks
SIZES = [0, 1, 2, 63, 64, 65, 127, 128, 1000, BLOCK - 1, BLOCK, BLOCK + 1, 5 * BLOCK + 209, 40_000]
#: what the sum of squares may be off by: the rounding of a square and of the result, and the rest
BOUND = Fraction(2, 2**53) + Fraction(1, 2**60)

UNHURRIED = settings(deadline=None)  # the first call compiles


def _scaled(i, p, g, acc, lo, hi, own, k):
    return g[i] * k[0]


def _everything(i, p, g, acc, lo, hi, own, k):
    """An effective gradient that reads every array: accumulated, and 0 at an active bound."""
    x, low, high, zero = p[i], lo[i], hi[i], k[1]
    y = g[i] * k[0] + acc[i]
    if x <= low and y > zero:
        y = zero
    if x >= high and y < zero:
        y = zero
    return y


gradient, gradient_of_all = inner(_scaled), inner(_everything)
block = {real: norms.make_block(gradient, inner, real is np.float64) for real in REALS}
block_of_all = {
    real: norms.make_block(gradient_of_all, inner, real is np.float64) for real in REALS
}


def _make_part(block):
    @inner
    def part(low, high, g, k, unit, partials):
        for j in range(low, high):
            first = j * BLOCK
            n = min(BLOCK, g.size - first)
            block(first, n, g, g, None, None, None, None, k, unit, partials, j)

    return part


def _make_fill(real):
    part = _make_part(block[real])

    @numba.njit(error_model="numpy")
    def fill(g, k, unit, partials):
        part(0, norms.blocks(g.size), g, k, unit, partials)

    return fill


def _make_fill_parallel(real):
    part = _make_part(block[real])

    @numba.njit(error_model="numpy", parallel=True)
    def fill_parallel(g, k, unit, partials, size):
        count = norms.blocks(g.size)
        for c in prange((count + size - 1) // size):
            part(c * size, min(count, c * size + size), g, k, unit, partials)

    return fill_parallel


def _make_one_block(block):
    @numba.njit(error_model="numpy")
    def one_block(first, n, p, g, acc, lo, hi, k, unit, partials):
        block(first, n, p, g, acc, lo, hi, None, k, unit, partials, 0)

    return one_block


fill = {real: _make_fill(real) for real in REALS}
fill_parallel = {real: _make_fill_parallel(real) for real in REALS}
one_block_of_all = {real: _make_one_block(block_of_all[real]) for real in REALS}


@numba.njit(error_model="numpy")
def combine(partials, first, count):
    return norms.combine(partials, first, count)


@numba.njit(error_model="numpy")
def unit(exponent, ranged):
    return norms.unit(exponent, ranged)


@numba.njit(error_model="numpy")
def result_of(partials, exponent, ranged):
    """Total, exponent, and that of the next pass."""
    high, low, large = norms.combine(partials, 0, len(partials) // 2)
    after = norms.next_exponent(high, low, large, exponent, ranged)
    return norms.total_of(high, low, large), norms.forget(exponent), after


def ranged(g):
    return g.dtype == np.float64


def partials_of(g, exponent):
    """Digits of the sum of each block, (high, low)."""
    partials = np.full((norms.blocks(g.size), 2), -7)
    real = g.dtype.type
    fill[real](g, (real(1),), unit(exponent, ranged(g)), partials.reshape(-1))
    return partials


def search(parts, exponent=0):
    """(total, exponent, passes) as a step forms them, of one array or of many."""
    for passes in range(1, 9):
        partials = np.concatenate([partials_of(g, exponent) for g in parts])
        total, even, after = result_of(partials.reshape(-1), exponent, ranged(parts[0]))
        if after == exponent:
            return total, even, passes
        exponent = after
    raise AssertionError("the exponent is not found")


def total_of(g):
    return search([g])[:2]


def norm_of(g):
    return norms.norm(*total_of(g))


def off_by(g):
    """Distance of the norm from sqrt(math.fsum(x * x)), in ulp."""
    expected = math.sqrt(math.fsum(g.astype(np.float64) ** 2))
    return abs(norm_of(g) - expected) / np.spacing(expected)


def numbers(real, size, seed=0):
    return np.random.default_rng(seed).standard_normal(size).astype(real)


def digits_by_fractions(g, exponent):
    """The digits of a sum of squares as they are defined: each square rounded to the last one."""
    total = 0
    for x in g:
        scaled = math.ldexp(float(x), -exponent)  # the square rounds as that of any scale does
        total += round(Fraction(scaled * scaled) * 2**82)
    return total >> 46, total & (2**46 - 1)
