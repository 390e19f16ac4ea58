"""Partial sums of squares are added up as well as math.fsum does it."""

from __future__ import annotations

import math

import numpy as np
import pytest

from numadam._core import norms
from tests.core.norm_blocks import numbers


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
