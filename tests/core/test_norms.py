"""The sum of squares behind norms and finite checks, against math.fsum and exact fractions."""

from __future__ import annotations

import math
import platform
import re
from fractions import Fraction

import numba
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from numadam._core import norms
from numadam._jit import loops
from numadam._jit.pointers import inner
from tests.core.norm_blocks import (
    BLOCK,
    BOUND,
    LANES,
    REALS,
    SIZES,
    UNHURRIED,
    block,
    block_of_all,
    digits_by_fractions,
    fill_parallel,
    norm_of,
    numbers,
    off_by,
    one_block_of_all,
    partials_of,
    total_of,
)
from tests.core.norm_blocks import unit as norm_unit

# ------------------------------------------------------------------------------------- accuracy


@pytest.mark.parametrize("real", REALS)
@pytest.mark.parametrize("size", SIZES)
def test_norm_of_random_numbers(size, real):
    g = numbers(real, size, seed=size)
    assert norm_of(g) == 0 if size == 0 else off_by(g) <= 1


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
        assert off_by(g) <= 1


@UNHURRIED
@given(
    st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), max_size=300),
    st.integers(1, 3),
)
def test_any_finite_float32(values, times):
    g = np.array(values * times, np.float32)
    total, exponent = total_of(g)
    exact = sum(Fraction(float(x)) ** 2 for x in g)
    assert abs(Fraction(total) * Fraction(4) ** exponent - exact) <= BOUND * exact


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


def test_float32_at_the_ends_of_its_range():
    for value in (np.finfo(np.float32).max, np.finfo(np.float32).smallest_subnormal):
        assert off_by(np.full(3000, value)) <= 1


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
def test_bits_do_not_depend_on_parts_threads_and_place(real):
    loops.layer()
    g = numbers(real, 100_001)
    expected = partials_of(g, 8)
    moved = np.empty(g.size + 8, real)
    before = numba.get_num_threads()
    try:
        for shift, count, size in [(1, 1, 1), (3, 2, 1), (5, 2, 7), (0, 2, 1000), (7, 1, 64)]:
            numba.set_num_threads(min(count, numba.config.NUMBA_NUM_THREADS))
            there = moved[shift : shift + g.size]
            there[:] = g
            partials = np.full_like(expected, -7)
            unit = norm_unit(8, real is np.float64)
            fill_parallel[real](there, (real(1),), unit, partials.reshape(-1), size)
            np.testing.assert_array_equal(partials, expected)
    finally:
        numba.set_num_threads(before)


@pytest.mark.parametrize("real", REALS)
def test_a_gradient_of_all_arrays(real):
    p, g, acc, lo, hi = (numbers(real, 700, seed) for seed in range(5))
    k = (real(0.3), real(0))
    x = g * k[0] + acc
    x = np.where(((p <= lo) & (x > 0)) | ((p >= hi) & (x < 0)), real(0), x)
    got, unit = np.full(2, -7), norm_unit(0, real is np.float64)
    for first, n in [(0, 700), (256, 444), (512, 188), (300, 5), (700, 0)]:
        one_block_of_all[real](first, n, p, g, acc, lo, hi, k, unit, got)
        assert tuple(got) == digits_by_fractions(x[first : first + n], 0)


# ------------------------------------------------------------------------------------- clipping


# ------------------------------------------------------------------------------------- machine code


@pytest.mark.skipif(
    platform.machine() not in ("x86_64", "AMD64"), reason="reads x86-64 instructions"
)
@pytest.mark.parametrize("real", [numba.float32, numba.float64], ids=str)
def test_blocks_are_packed_and_round_as_written_without_allocation(real):
    array, none, size = real[::1], numba.none, numba.int64
    k, words = numba.types.UniTuple(real, 2), numba.int64[::1]
    arrays, absent = (array,) * 6, (array, array, none, none, none, none)
    kind = np.float64 if real == numba.float64 else np.float32
    for function, others in [(block[kind], absent), (block_of_all[kind], arrays)]:
        compiled = inner(function.py_func)
        compiled.compile((size, size, *others, k, numba.float64, words, size))
        (text,) = compiled.inspect_asm().values()
        codes = re.findall(r"^\s+([a-z][a-z0-9]+)\s", text, re.MULTILINE)
        fused = [code for code in codes if re.match(r"v?fn?m(add|sub)", code)]
        packed = [code for code in codes if re.fullmatch("v?mulpd", code)]
        packed += [code for code in fused if code.endswith("pd")]
        assert packed, "the loop was not vectorised"
        # the square of a float32 is exact in float64: then FMA is the same bits
        assert not fused or real == numba.float32
        assert "NRT_Allocate" not in text
