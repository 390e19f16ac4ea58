"""The sum of squares behind norms and finite checks, against math.fsum and exact fractions."""

from __future__ import annotations

import math
import platform
import re
from fractions import Fraction

import numba
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numba import prange

from numadam._core import norms
from numadam._jit import threads
from numadam._jit.pointers import inner

BLOCK, LANES = norms.BLOCK, norms.LANES
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
    """What a block is defined to give: rows of lanes one after another, then halves."""
    squares = np.zeros(BLOCK)
    squares[: x.size] = x.astype(np.float64) ** 2
    lanes = np.zeros(LANES)
    for row in squares.reshape(-1, LANES):
        lanes = lanes + row
    return halves(lanes)


# ------------------------------------------------------------------------------------- accuracy


@pytest.mark.parametrize("real", REALS)
@pytest.mark.parametrize("size", SIZES)
def test_norm_of_random_numbers(size, real):
    g = numbers(real, size, seed=size)
    assert norm_of(g) == 0 if size == 0 else off_by(g) <= 4


ADVERSARIES = {
    "big first": lambda x: np.concatenate([[1e6], 1e-4 * x]),
    "big first, tiny below its last digit": lambda x: np.concatenate([[1.0], 1e-8 + 0 * x]),
    "big last": lambda x: np.concatenate([1e-4 * x, [1e6]]),
    "rising": lambda x: np.sort(np.abs(x)),
    "falling": lambda x: np.sort(np.abs(x))[::-1].copy(),
    "rising over many magnitudes": lambda x: np.sort(np.exp(10 * x)),
    "falling over many magnitudes": lambda x: np.sort(np.exp(10 * x))[::-1].copy(),
    "alternating": lambda x: np.where(np.arange(x.size) % 2, 1e-9, 1e9) * x,
    "alternating by lane": lambda x: np.where(np.arange(x.size) % LANES, 1e-8, 1.0),
    "alternating by block": lambda x: np.where(np.arange(x.size) // BLOCK % 2, 1e-8, 1e8) * x,
    "constant": lambda x: 0.1 + 0 * x,
}


@pytest.mark.parametrize("real", REALS)
@pytest.mark.parametrize("name", ADVERSARIES)
def test_norm_of_adversaries(name, real):
    for size in (BLOCK - 1, 3000, 200_000):
        g = ADVERSARIES[name](numbers(np.float64, size)).astype(real)
        assert off_by(g) <= 4


def test_the_worst_that_rounding_can_do():
    """Every addition on the way of the big element loses exactly half an ulp."""
    g = np.zeros(BLOCK, np.float32)
    g[0] = np.nextafter(np.float32(math.sqrt(2)), np.float32(2))
    g[LANES::LANES] = 2.0**-26
    g[[32, 16, 8, 4, 2, 1]] = 2.0**-26
    assert norms.combine(partials_of(g), 0, 1) == float(g[0]) ** 2
    assert 3 <= off_by(g) <= 4


@UNHURRIED
@given(
    st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), max_size=300),
    st.integers(1, 3),
)
def test_any_finite_float32(values, times):
    g = np.array(values * times, np.float32)
    total, exponent = total_of(g)
    exact = sum(Fraction(float(x)) ** 2 for x in g)
    assert exponent == 0
    assert abs(Fraction(total) - exact) <= BOUND * exact


@UNHURRIED
@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), max_size=300), st.integers(1, 3))
def test_any_finite_float64(values, times):
    g = np.array(values * times, np.float64)
    total, exponent = total_of(g)
    exact = sum(Fraction(float(x)) ** 2 for x in g)
    assert abs(Fraction(total) * Fraction(4) ** exponent - exact) <= BOUND * exact


@pytest.mark.parametrize("low", [-1074, -1060, -600, -540, -460, -400, 480, 505, 520, 1000])
def test_float64_all_of_one_magnitude(low):
    """Around the ends of the range in which a total stands."""
    g = np.ldexp(1 + np.abs(numbers(np.float64, 3000)), low)
    total, exponent = total_of(g)
    exact = sum(Fraction(float(x)) ** 2 for x in g)
    assert abs(Fraction(total) * Fraction(4) ** exponent - exact) <= BOUND * exact


def test_float32_needs_no_second_pass():
    for value in (np.finfo(np.float32).max, np.finfo(np.float32).smallest_subnormal):
        g = np.full(3000, value)
        assert norms.exponent_of(total_of(g)[0]) == 0
        assert off_by(g) <= 4


def test_norm_beyond_float64_is_infinite_but_its_total_is_finite():
    g = np.full(1000, np.finfo(np.float64).max)
    total, exponent = total_of(g)
    assert math.isfinite(total)
    assert norms.norm(total, exponent) == math.inf


def test_zeros_and_nothing():
    for real in REALS:
        for size in (0, 1, 1000):
            assert total_of(np.zeros(size, real))[0] == 0


# ------------------------------------------------------------------------------------- not finite


@pytest.mark.parametrize("real", REALS)
@pytest.mark.parametrize("size", [1, 64, 300, 1000])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_one_bad_element_anywhere(bad, size, real):
    for where in {*range(0, size, 37), size - 1}:
        g = numbers(real, size)
        g[where] = bad
        total = total_of(g)[0]
        assert not math.isfinite(total)
        assert math.isnan(total) == math.isnan(bad)


def test_infinity_and_nan_beside_large_numbers():
    g = np.full(1000, 1e300)
    assert math.isfinite(total_of(g)[0])
    g[500] = np.inf
    assert total_of(g)[0] == math.inf
    g[700] = np.nan
    assert math.isnan(total_of(g)[0])


# ------------------------------------------------------------------------------------- the bits


@pytest.mark.parametrize("real", REALS)
@pytest.mark.parametrize("size", SIZES)
def test_partials_are_as_defined(size, real):
    g = numbers(real, size, seed=3)
    expected = [block_by_numpy(g[j : j + BLOCK]) for j in range(0, size, BLOCK)]
    np.testing.assert_array_equal(partials_of(g), expected)


@pytest.mark.parametrize("real", REALS)
def test_bits_do_not_depend_on_parts_threads_and_place(real):
    threads.layer()
    g = numbers(real, 100_001)
    expected = partials_of(g)
    moved = np.empty(g.size + 8, real)
    before = numba.get_num_threads()
    try:
        for shift, count, size in [(1, 1, 1), (3, 2, 1), (5, 2, 7), (0, 2, 1000), (7, 1, 64)]:
            numba.set_num_threads(min(count, numba.config.NUMBA_NUM_THREADS))
            there = moved[shift : shift + g.size]
            there[:] = g
            partials = np.full(expected.size, np.nan)
            fill_parallel(there, (real(1),), partials, None, size)
            np.testing.assert_array_equal(partials, expected)
    finally:
        numba.set_num_threads(before)


def test_scale_is_exact():
    g = numbers(np.float64, 1000)
    for exponent in (-600, 0, 600):
        scale = norms.power(exponent)
        assert scale == 2.0**exponent
        np.testing.assert_array_equal(
            partials_of(np.ldexp(g, -exponent), scale), partials_of(g, None)
        )


@pytest.mark.parametrize("real", REALS)
def test_a_gradient_of_all_arrays(real):
    p, g, acc, lo, hi = (numbers(real, 700, seed) for seed in range(5))
    k = (real(0.3), real(0))
    x = g * k[0] + acc
    x = np.where(((p <= lo) & (x > 0)) | ((p >= hi) & (x < 0)), real(0), x)
    for first, n in [(0, BLOCK), (256, BLOCK), (512, 188), (300, 5), (700, 0)]:
        got = one_block_of_all(first, n, p, g, acc, lo, hi, k)
        assert got == block_by_numpy(x[first : first + n])


# ------------------------------------------------------------------------------------- combine


@pytest.mark.parametrize("count", [0, 1, 2, 63, 1023, 1024, 1025, 5000, 2_000_003])
def test_combine_is_as_good_as_fsum(count):
    for power in (1, 8):
        partials = np.abs(numbers(np.float64, count)) ** power
        expected = math.fsum(partials)
        assert abs(norms.combine(partials, 0, count) - expected) <= np.spacing(expected)


@pytest.mark.parametrize("order", [1, -1])
def test_combine_one_big_and_millions_of_tiny(order):
    partials = np.full(3_000_000, 2.0**-54)
    partials[0] = 1.0
    expected = math.fsum(partials)
    assert norms.combine(partials[::order].copy(), 0, partials.size) == expected > 1


def test_combine_takes_a_range():
    partials = np.abs(numbers(np.float64, 5000))
    partials[:7] = partials[4000:] = np.nan
    for first, count in [(7, 10), (100, 0), (7, 3993), (1, 0)]:
        expected = math.fsum(partials[first : first + count])
        assert abs(norms.combine(partials, first, count) - expected) <= np.spacing(expected)


@pytest.mark.parametrize("count", [3, 3000])
def test_combine_keeps_infinity_and_nan(count):
    for where in (0, 1, count - 1):
        for bad in (np.inf, np.nan):
            partials = np.ones(count)
            partials[where] = bad
            np.testing.assert_equal(norms.combine(partials, 0, count), bad)
    assert norms.combine(np.full(count, 1e308), 0, count) == math.inf


# ------------------------------------------------------------------------------------- clipping

positive = st.floats(1e-300, 1e300)


@UNHURRIED
@given(st.floats(2.0**-900, 2.0**1000), positive, st.sampled_from([0.0, 1e-6]))
def test_clip_factor_is_the_formula(total, limit, margin):
    expected = min(1.0, limit / (math.sqrt(total) + margin))
    pre, factor = norms.clip_factor(total, 0, limit, margin, TINY[np.float64])
    if expected >= TINY[np.float64]:
        assert (pre, factor) == (1.0, expected)
    else:
        assert pre == TINY[np.float64]


@UNHURRIED
@given(
    st.floats(2.0**-440, 2.0**900),
    st.sampled_from([-600, 0, 600]),
    st.floats(2.0**-1074, 1.7e308),
    st.sampled_from([0.0, 1e-6]),
    st.sampled_from(REALS),
)
def test_clip_factor_beyond_the_range(total, exponent, limit, margin, real):
    pre, factor = norms.clip_factor(total, exponent, limit, margin, TINY[real])
    norm = Fraction(math.sqrt(total)) * Fraction(2) ** exponent + Fraction(margin)
    expected = min(Fraction(1), Fraction(limit) / norm)
    assert pre in (1.0, TINY[real])
    assert 0 <= factor <= 1
    assert (pre == 1.0) == (factor >= TINY[real] and expected >= TINY[real] * (1 - 2.0**-50))
    # the end of the range of float64 is reached only when both have to be subnormal
    assert abs(Fraction(pre) * Fraction(factor) - expected) <= Fraction(2) ** -50 * expected + (
        Fraction(2) ** -1074 * Fraction(pre)
    )


@pytest.mark.parametrize("total", [math.inf, math.nan])
def test_clip_factor_of_a_norm_that_is_not_finite(total):
    pre, factor = norms.clip_factor(total, 0, 1.0, 1e-6, TINY[np.float32])
    assert pre == 1
    assert math.isnan(factor)


@pytest.mark.parametrize(
    ("total", "limit", "expected"),
    [
        (0.0, 1.0, 1.0),
        (0.0, 0.0, 1.0),
        (4.0, 0.0, 0.0),
        (4.0, 2.0, 1.0),
        (4.0, 1.0, 0.5),
        (4.0, 1e300, 1.0),
        (4.0, math.inf, 1.0),
        (math.inf, math.inf, 1.0),
        (4.0, math.nan, math.nan),
    ],
)
def test_clip_factor_at_the_edges(total, limit, expected):
    np.testing.assert_equal(
        norms.clip_factor(total, 0, limit, 0.0, TINY[np.float32]), (1, expected)
    )


@pytest.mark.parametrize(("real", "value"), [(np.float32, 1e38), (np.float64, 1.7e308)])
@pytest.mark.parametrize("limit", [1e-3, 1.0])
def test_clipped_numbers_keep_their_direction(real, value, limit):
    g = (np.array([1, -1, 0.5, 0.25, 1] * 2000) * value).astype(real)
    pre, factor = norms.clip_factor(*total_of(g), limit, 0.0, TINY[real])
    clipped = g * real(pre) * real(factor)
    assert clipped.dtype == real
    np.testing.assert_allclose(norm_of(clipped), limit, rtol=4 * np.finfo(real).eps)
    np.testing.assert_allclose(clipped / clipped[0], g / g[0], rtol=4 * np.finfo(real).eps)


# ------------------------------------------------------------------------------------- machine code


@pytest.mark.skipif(
    platform.machine() not in ("x86_64", "AMD64"), reason="reads x86-64 instructions"
)
@pytest.mark.parametrize("real", [numba.float32, numba.float64], ids=str)
def test_blocks_are_packed_and_round_as_written_without_allocation(real):
    array, none, size = real[::1], numba.none, numba.int64
    k = numba.types.UniTuple(real, 2)
    arrays, absent = (array,) * 5, (array, array, none, none, none)
    for function, others in [
        (block, (*absent, k)),
        (scaled_block, (*absent, numba.types.Tuple((k, numba.float64)))),
        (block_of_all, (*arrays, k)),
    ]:
        compiled = inner(function.py_func)
        compiled.compile((size, size, *others))
        (text,) = compiled.inspect_asm().values()
        codes = re.findall(r"^\s+([a-z][a-z0-9]+)\s", text, re.MULTILINE)
        fused = [code for code in codes if re.match(r"v?fn?m(add|sub)", code)]
        packed = [code for code in codes if re.fullmatch("v?mulpd", code)] + fused
        assert packed, "the loop was not vectorised"
        # the square of a float32 is exact in float64: then FMA is the same bits
        assert not fused or (real == numba.float32 and function is not scaled_block)
        assert "NRT_Allocate" not in text
