"""The factor that clips a norm: the formula, beyond the range of float64, and at the edges."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from numadam._core import norms
from tests.core.norm_blocks import REALS, TINY, UNHURRIED, norm_of, total_of

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
