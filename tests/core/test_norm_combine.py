"""The sum of squares depends on the numbers alone: not on their order, cuts, first exponent."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.core.norm_blocks import (
    BLOCK,
    REALS,
    UNHURRIED,
    combine,
    digits_by_fractions,
    numbers,
    partials_of,
    search,
)

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


@pytest.mark.parametrize("real", REALS)
def test_an_exponent_of_another_step_changes_no_bit(real):
    most = 0
    for low in (-1074, -500, -140, -30, 0, 7, 100, 900):
        if real == np.float32 and not -140 <= low <= 100:
            continue
        g = np.ldexp(1 + abs(numbers(np.float64, 50)), low).astype(real)
        expected = result([g])
        for exponent in EXPONENTS[real]:
            total, found, passes = search([g], exponent)
            assert (total, found) == expected
            most = max(most, passes)
        assert search([g], expected[1])[2] == 1
    assert most <= 6


@pytest.mark.parametrize("real", REALS)
def test_at_the_edge_between_two_exponents(real):
    """Where rounding decides whether a sum is below its limit, every way leads to one result."""
    # their squares add up to 2**15 - 2**-66: the limit at exponent 0, less one unit at exponent 8
    powers = [2.0**7, *np.repeat(2.0 ** np.arange(-33, 7), 3)]
    exponents = set()
    for eighths in range(8, 17):
        for count in range(9):
            g = np.array([*powers, *[eighths / 8 * 2.0**-34] * count], real)
            found = {result([h], e) for h in (g, g[::-1].copy()) for e in (-16, -8, 0, 8, 16)}
            assert len(found) == 1
            exponents |= {exponent for _, exponent in found}
    assert exponents == {0, 8}


@pytest.mark.parametrize("real", REALS)
def test_half_units_are_rounded_alike_in_any_order(real):
    """Squares that are half a unit of the last digit, behind sums that are even and odd."""
    unit = 2.0**-82
    g = np.sqrt(np.array([1.0, *[unit / 2] * 5, *[unit] * 3, *[unit * 1.5] * 5, *[2.0**-36] * 2]))
    g = np.repeat(g, 3).astype(real)
    expected = result([g])
    for seed in range(50):
        assert result([np.random.default_rng(seed).permutation(g)]) == expected


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


@pytest.mark.parametrize("real", REALS)
@pytest.mark.parametrize("size", [0, 1, 63, 64, 65, 700, BLOCK - 1, BLOCK, BLOCK + 3])
def test_digits_are_as_defined(real, size):
    g = numbers(real, size, seed=3) * real(0.01)
    for exponent in (0, 8) if real == np.float32 else (0, 8, 120):
        expected = [digits_by_fractions(g[j : j + BLOCK], exponent) for j in range(0, size, BLOCK)]
        assert list(map(tuple, partials_of(g, exponent).tolist())) == expected


def test_combine_carries_and_takes_a_range():
    rng = np.random.default_rng(0)
    partials = np.stack([rng.integers(0, 2**38, 5000), rng.integers(0, 2**46, 5000)], 1)
    for first, count in [(0, 5000), (7, 10), (100, 0), (7, 3993)]:
        total = sum((int(h) << 46) + int(low) for h, low in partials[first : first + count])
        high, low, large = combine(partials.reshape(-1), first, count)
        assert (high, low, large) == (total >> 46, total % 2**46, 0.0)


def test_combine_says_that_a_sum_is_too_large():
    partials = np.zeros((40, 2), np.int64)
    partials[:, 0] = 2**46  # of them 32 reach the limit
    assert combine(partials.reshape(-1), 0, 31) == (31 * 2**46, 0, 0.0)
    assert combine(partials.reshape(-1), 0, 40)[2] >= 0.5
    partials[:, 0] = 2**58  # the largest of a block: 40 of them would leave int64
    assert combine(partials.reshape(-1), 0, 40)[2] == 40 * 2.0**6


@pytest.mark.parametrize("real", REALS)
def test_zeros_stay_at_one_exponent(real):
    total, exponent, _ = search([np.zeros(70, real)])
    assert total == 0.0
    assert search([np.zeros(70, real)], exponent)[2] == 1
