"""The powers of the bias corrections: rounded correctly, whichever way they are computed."""

import math
import random

import numpy as np
import pytest
from numba import njit

import numadam as na
from numadam._core.scalars import KEPT, make_power
from numadam._jit.functions import linked
from numadam.nopython import adam_scalars

COMPILED, PYTHON = make_power(linked), make_power(lambda function: function)
BETAS = [
    0.9, 0.999, 0.9999999, math.nextafter(1.0, 0.0), 0.5, 0.1, 1e-3, 1e-30, 2.0**-128, 1e-300,
    5e-324, 0.0, 1.0,
]  # fmt: skip


@njit
def from_the_beginning(beta, t):
    return COMPILED(beta, t, None, 0)


@njit
def from_the_last(beta, t, kept, place):
    return COMPILED(beta, t, kept, place)


@njit
def scalars_of(beta, t):
    return adam_scalars(t, 1.0, beta)


def exact(beta, t):
    """beta^t from all its digits, rounded once; 0 below 2^-128."""
    numerator, denominator = beta.as_integer_ratio()
    above, below = numerator**t, denominator**t
    return above / below if above * 2**128 >= below else 0.0


def exact_powers(beta, steps):
    """beta^t for t from 1 on, each from 500 digits of the one before."""
    mantissa, exponent = int(math.ldexp(math.frexp(beta)[0], 53)), math.frexp(beta)[1] - 53
    digits, place = 1, 0
    for _ in range(steps):
        digits, place = digits * mantissa, place + exponent
        more = max(0, digits.bit_length() - 500)
        digits, place = digits >> more, place + more
        small = digits == 0 or place + digits.bit_length() <= -128
        yield 0.0 if small else float(digits) if place >= 0 else digits / (1 << -place)


@pytest.mark.parametrize("beta", BETAS)
def test_all_ways_give_the_double_next_to_the_power(beta):
    kept = np.zeros(KEPT)
    for t, wanted in enumerate(exact_powers(beta, 20_000), 1):
        found = {from_the_last(beta, t, kept, 0), from_the_beginning(beta, t)}
        if t < 100 or t % 101 == 0:
            found.add(PYTHON(beta, float(t), None, 0))
        assert found == {wanted}, t


def test_random_powers_are_those_of_exact_arithmetic():
    random.seed(3)
    for _ in range(2_000):
        beta, t = random.random() ** random.choice([0.001, 0.1, 1.0]), random.randrange(1, 300)
        wanted = exact(beta, t)
        assert from_the_beginning(beta, t) == PYTHON(beta, float(t), None, 0) == wanted, (beta, t)


@pytest.mark.parametrize("exponent", [10, 20, 30, 40, 52, 53])
def test_the_largest_steps_are_right_to_the_last_digit(exponent):
    # (1 - d)^t = exp(t log(1 - d)), with the logarithm's series to 300 bits
    beta, t = math.nextafter(1.0, 0.0), 2**exponent - 1
    scale, d = 2**300, 2**247  # d = 2^-53
    logarithm = -sum(d**k // (k * scale ** (k - 1)) for k in range(1, 7))
    x, term, total = t * logarithm, scale, scale
    for k in range(1, 80):
        term = term * x // (k * scale)
        total += term
    found = from_the_beginning(beta, t)
    assert abs(found - total / scale) <= (math.ulp(found) if exponent > 33 else 0.0)
    assert found == PYTHON(beta, float(t), None, 0)


def test_steps_may_be_repeated_left_out_and_taken_again():
    kept = np.zeros(2 * KEPT)
    for beta, steps in [(0.9, (5, 5, 6, 4)), (0.8, (5,)), (0.9, (6, 100, 1))]:
        for t in steps:
            assert from_the_last(beta, t, kept, 3) == exact(beta, t)


def test_power_kept_for_another_group_is_left_alone():
    kept = np.zeros(3 * KEPT)
    for t in range(1, 4):
        from_the_last(0.9, t, kept, KEPT)
    assert not kept[:KEPT].any()
    assert not kept[2 * KEPT :].any()
    assert kept[KEPT] == 0.9


def test_beta_set_by_the_user_counts_from_the_next_step_on():
    x = np.ones(3)
    opt = na.Adam(x, eps=0.0, beta2=0.5)
    for _ in range(4):
        opt.step(np.ones(3))
    opt.beta1 = 0.25
    before, m, v = x.copy(), opt.state["m"].copy(), opt.state["v"].copy()
    opt.step(np.ones(3))
    m, v = 0.25 * m + 0.75, 0.5 * v + 0.5
    wanted = 1e-3 * (m / (1 - 0.25**5)) / np.sqrt(v / (1 - 0.5**5))
    np.testing.assert_allclose(before - x, wanted, rtol=1e-12)


def test_saved_state_has_products_of_betas_that_change_and_no_powers():
    for beta, wanted in [(0.9, set()), (lambda t: 0.9, {"beta1_product", "beta2_product"})]:
        opt = na.Adam(np.ones(3), beta1=beta)
        opt.step(np.ones(3))
        assert set(opt.state) == {"t", "m", "v"} | wanted


@pytest.mark.parametrize("beta", [-0.5, 1.5, math.inf, math.nan])
def test_nopython_takes_any_beta(beta):
    h = scalars_of(beta, 3)
    np.testing.assert_equal(h[7], 1.0 - math.pow(beta, 3.0))
