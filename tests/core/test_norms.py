"""The norm of a step: accurate to a few last places, whatever finite numbers the gradients hold.

Where a norm is not finite: tests/settings/test_guard.py. What a clip makes of it:
tests/settings/test_options.py. On what it does not depend: tests/cpu/test_bits.py.
"""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import numadam as na

#: elements of a sum that are added side by side, and of a block
LANES, BLOCK = 16, 4096
#: ulp of a norm by which it may be off: each addition rounds by half an ulp of the sum at most,
#: and a root halves that; a number meets those of its lane, the lanes and the blocks
MOST = (BLOCK // LANES + LANES + 200_000 // BLOCK) / 2
REALS = [np.float32, np.float64]
UNHURRIED = settings(deadline=None)  # the first call compiles


def norm_of(g):
    opt = na.SGD(np.zeros_like(g), clip_norm=np.inf)
    opt.step(g)
    return opt.grad_norm


def off_by(g):
    """Distance of the norm from sqrt(math.fsum(x * x)), in ulp."""
    expected = math.sqrt(math.fsum(g.astype(np.float64) ** 2))
    return abs(norm_of(g) - expected) / np.spacing(expected)


def numbers(size):
    return np.random.default_rng(0).standard_normal(size)


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
        assert off_by(ADVERSARIES[name](numbers(size)).astype(real)) <= MOST


def assert_near_exact(g):
    """The norm is between those whose squares enclose the exact sum."""
    norm, exact = norm_of(g), sum(Fraction(float(x)) ** 2 for x in g)
    if norm == math.inf:
        assert exact > Fraction(np.finfo(np.float64).max) ** 2 * (1 - Fraction(1, 2**52))
        return
    slack = Fraction(MOST) * Fraction(math.ulp(norm))
    assert max(Fraction(norm) - slack, 0) ** 2 <= exact <= (Fraction(norm) + slack) ** 2


@pytest.mark.parametrize("real", REALS)
@UNHURRIED
@given(data=st.data(), times=st.integers(1, 3))
def test_any_finite_numbers(real, data, times):
    width = 8 * np.dtype(real).itemsize
    floats = st.floats(width=width, allow_nan=False, allow_infinity=False)
    assert_near_exact(np.array(data.draw(st.lists(floats, max_size=300)) * times, real))


@pytest.mark.parametrize("low", [-1074, -1060, -600, -540, -460, -400, 480, 505, 520, 1000])
def test_float64_all_of_one_magnitude(low):
    """Around the ends of the range in which squares stand."""
    assert_near_exact(np.ldexp(1 + np.abs(numbers(3000)), low))


def test_float32_at_the_ends_of_its_range():
    for value in (np.finfo(np.float32).max, np.finfo(np.float32).smallest_subnormal):
        assert off_by(np.full(3000, value)) <= MOST
