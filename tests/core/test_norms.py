"""The exact sum of squares behind norms and finite checks, and the factor that clips."""

from __future__ import annotations

import math
from fractions import Fraction

import numba
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from numadam._core import norms
from numadam._core.norms import NORM_LANES
from numadam._jit.pointers import inner

BLOCK, LANES = norms.NORM_BLOCK, NORM_LANES
REALS = [np.float32, np.float64]
TINY = {real: float(np.finfo(real).smallest_normal) for real in REALS}
#: what the sum of squares may be off by: the rounding of a square and of the result, and the rest
BOUND = Fraction(2, 2**53) + Fraction(1, 2**60)
UNHURRIED = settings(deadline=None)  # the first call compiles


def _scaled(i, p, g, lo, hi, k):
    return g[i] * k[0]


gradient = inner(_scaled)
block = {real: norms.make_block(gradient, inner, real is np.float64) for real in REALS}


def _make_part(block):
    @inner
    def part(low, high, g, k, unit, partials):
        for j in range(low, high):
            first = j * BLOCK
            n = min(BLOCK, g.size - first)
            block(first, n, g, g, None, None, k, unit, partials, j)

    return part


def _make_fill(real):
    part = _make_part(block[real])

    @numba.njit(error_model="numpy")
    def fill(g, k, unit, partials):
        part(0, norms.blocks(g.size), g, k, unit, partials)

    return fill


fill = {real: _make_fill(real) for real in REALS}


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


# --- accuracy -------------------------------------------------------------------------------------


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


@pytest.mark.parametrize("real", REALS)
@UNHURRIED
@given(data=st.data(), times=st.integers(1, 3))
def test_any_finite_numbers(real, data, times):
    width = 8 * np.dtype(real).itemsize
    floats = st.floats(width=width, allow_nan=False, allow_infinity=False)
    g = np.array(data.draw(st.lists(floats, max_size=300)) * times, real)
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


@pytest.mark.parametrize("real", REALS)
def test_zeros_and_nothing(real):
    for size in (0, 1, 1000):
        total, exponent, _ = search([np.zeros(size, real)])
        assert total == 0
        assert search([np.zeros(size, real)], exponent)[2] == 1


# --- not finite -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("real", "large"), [(np.float32, 1e38), (np.float64, 1e300)])
def test_infinity_and_nan_beside_large_numbers(real, large):
    """Where they lie: tests/settings/test_guard.py."""
    g = np.full(1000, large, real)
    assert math.isfinite(total_of(g)[0])
    g[500] = np.inf
    assert total_of(g)[0] == math.inf
    g[700] = np.nan
    assert math.isnan(total_of(g)[0])


# --- order and cuts -------------------------------------------------------------------------------


#: exponents with which a pass may begin, by type
EXPONENTS = {np.float32: range(-112, 160, 8), np.float64: range(-1040, 1041, 8)}


def result(parts, exponent=0):
    total, found, _ = search(parts, exponent)
    return total, found


@pytest.mark.parametrize("real", REALS)
@pytest.mark.parametrize("width", [0, 1, 8, 30])
def test_order_and_cuts_change_no_bit(real, width):
    rng = np.random.default_rng(width)
    g = (rng.standard_normal(30_011) * np.exp2(width * rng.standard_normal(30_011))).astype(real)
    expected = result([g])
    for order in (np.argsort(g), np.argsort(-abs(g)), rng.permutation(g.size)):
        assert result([g[order]]) == expected
        cuts = np.sort(rng.integers(0, g.size, 7))
        assert result(np.split(g[order], cuts)) == expected


@UNHURRIED
@given(st.data())
def test_any_numbers_in_any_order(data):
    width = data.draw(st.sampled_from([32, 64]))
    values = data.draw(
        st.lists(st.floats(width=width, allow_nan=False, allow_infinity=False), max_size=50)
    )
    real = {32: np.float32, 64: np.float64}[width]
    mixed, cut = data.draw(st.permutations(values)), data.draw(st.integers(0, len(values)))
    exponent = data.draw(st.sampled_from(EXPONENTS[real]))
    parts = [np.array(one, real) for one in (mixed[:cut], mixed[cut:])]
    assert result(parts, exponent) == result([np.array(values, real)])


# --- clipping -------------------------------------------------------------------------------------


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
        (math.inf, 1.0, math.nan),
        (math.nan, 1.0, math.nan),
    ],
)
def test_clip_factor_at_the_edges(total, limit, expected):
    np.testing.assert_equal(
        norms.clip_factor(total, 0, limit, 0.0, TINY[np.float32]), (1, expected)
    )
