"""The powers of the bias corrections: rounded correctly, whichever way they are computed."""

import math

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
