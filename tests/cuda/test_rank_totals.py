"""Sums of the totals of ranks, which the host forms for arrays on GPUs."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from numadam._cuda.reductions import add_ranks

#: Exponents of a total's scale, and the powers of two between which such totals are: from the
#: least square, to squares of 2**57 numbers on each of 8 ranks (`numadam._cuda.norms`).
RANGES = {-600: (-948, 297), 0: (-960, 1019), 600: (-238, 905)}


def added(totals, exponents):
    rows = np.empty((len(totals), 2, 1), np.int64)
    rows[:, 0, 0], rows[:, 1, 0] = np.array(totals, np.float64).view(np.int64), exponents
    (total,), (exponent,) = add_ranks(rows)
    return float(total.view(np.float64)), int(exponent)


@pytest.mark.parametrize("seed", range(40))
def test_sums_of_totals_are_rounded_once(seed):
    random = np.random.default_rng(seed)
    exponents = random.choice(list(RANGES), random.integers(1, 9)).tolist()
    totals = []
    for low, high in map(RANGES.get, exponents):
        power = random.choice([low, high - 1, random.integers(low, high)])
        totals.append(float(np.ldexp(random.uniform(1, 2), power)))
    total, exponent = added(totals, exponents)
    pairs = zip(totals, exponents, strict=True)
    exact = sum((Fraction(t) * Fraction(2) ** (2 * e) for t, e in pairs), Fraction(0))
    got = Fraction(total) * Fraction(2) ** (2 * exponent)
    assert abs(got - exact) <= exact * Fraction(1, 2**53)


@pytest.mark.parametrize(
    ("totals", "exponents", "wanted"),
    [
        ([0.0, 0.0], [-600, -600], (0.0, -600)),
        ([0.0, 2.0], [-600, 0], (2.0, 0)),
        ([2.0**40, 0.0], [-600, -600], (2.0**40, -600)),
        ([1.0, np.inf, 0.0], [0, 600, -600], (np.inf, 600)),
        ([1.0, np.nan, np.inf], [0, 600, 600], (np.nan, 600)),
    ],
)
def test_totals_that_are_zero_or_not_finite(totals, exponents, wanted):
    np.testing.assert_equal(added(totals, exponents), wanted)
