"""check_grad: units near the ends of float64, waves and jumps; arrays kept between calls."""

from __future__ import annotations

import math

import numpy as np
import pytest

import numadam as na
from tests.minimize.gradients import changed


@pytest.mark.parametrize("unit", [1e-300, 1e-200, 1e-160, 1e160, 1e200, 1e300])
def test_units_near_the_ends_of_float64(unit):
    """No square of x, of its slopes or of the gradient is formed."""
    x0 = np.array([0.5, -1.0, 1.5])

    def in_x(x):
        return float(np.sum(np.sin(x / unit))), np.cos(x / unit) / unit

    def in_f(x):
        return unit * float(np.sum(np.sin(x))), unit * np.cos(x)

    for fun, x in ((in_x, x0 * unit), (in_f, x0)):
        assert na.check_grad(fun, x, jac=True).ok
        check = na.check_grad(changed(fun, lambda g, x: 2 * g), x, jac=True)
        assert "it is 2.000 times" in check.message


def test_units_of_1e_minus_150_beside_1e150():
    x0 = np.array([1e-150, 1e-8, 1.0, 1e8, 1e150])

    def fun(x):
        return float(np.sum(np.sin(x / x0))), np.cos(x / x0) / x0

    assert na.check_grad(fun, x0, jac=True).ok
    assert na.check_grad(changed(fun, lambda g, x: -g), x0, jac=True).status == "wrong"


def test_an_overflow_of_math_beside_x0_is_infinite():
    """`math` raises where NumPy returns inf; an element of 1e-6 is not moved by 1e-4 first."""

    def fun(x):
        f = math.exp(x[0] / 1e-6) + math.exp(x[1] / 300)
        return f, np.array([math.exp(x[0] / 1e-6) / 1e-6, math.exp(x[1] / 300) / 300])

    x0 = np.array([1e-6, 290.0])
    assert na.check_grad(fun, x0, jac=True).ok
    check = na.check_grad(changed(fun, lambda g, x: 2 * g), x0, jac=True)
    assert "it is 2.000 times" in check.message


@pytest.mark.parametrize("frequency", [1e6, 1e8, 1e10, 1e12])
@pytest.mark.parametrize("size", [1e-9, 1e-6, 1e-3, 1.0])
def test_waves_that_the_steps_jump_over_are_not_called_wrong(size, frequency):
    def fun(x):
        f = float(x @ x + size * np.sum(np.sin(frequency * x)))
        return f, 2 * x + size * frequency * np.cos(frequency * x)

    for seed in range(5):
        x0 = np.random.default_rng(seed).standard_normal(3)
        assert na.check_grad(fun, x0, jac=True).status != "wrong"


def test_short_stairs_are_named():
    def fun(x):  # flat within 1e-6, and 1000 times as steep over more
        return float(x @ x + 1e-3 * np.floor(1e6 * x[0] + 0.5)), 2 * x

    check = na.check_grad(fun, np.array([1.0, 2.0]), jac=True)
    assert check.status == "unclear"
    assert "waves, stairs or noise on a very short scale. Along x0[0] its slope" in check.message
    assert check.unclear == ("x0[0]",)


def test_a_jump_at_x0_is_not_called_right():
    def fun(x):
        return float(x @ x) + 5 * (x[0] >= 1), 2 * x

    check = na.check_grad(fun, np.array([1.0, 2.0]), jac=True)
    assert (check.status, check.unclear) == ("unclear", ("x0[0]",))
    assert "not smooth in x0[0]" in check.message


def test_a_gradient_that_is_added_to_a_kept_array():
    kept = np.zeros(3)

    def fun(x):
        kept[:] += 2 * x
        return float(x @ x), kept

    check = na.check_grad(fun, np.array([1.0, 2.0, 3.0]), jac=True)
    assert check.status == "wrong"
    assert "called again at x0, it is " in check.message
    assert " times the first one. It may be added to an array that is kept" in check.message


def test_a_gradient_of_the_call_before():
    before = [np.array([2.0, 4.0, 6.0])]  # right at the first call

    def fun(x):
        before.append(2 * x)
        return float(x @ x), before[-2]

    check = na.check_grad(fun, np.array([1.0, 2.0, 3.0]), jac=True)
    assert check.status == "wrong"
    assert "called again at x0, it is another one" in check.message
    assert na.check_grad(lambda x: float(x @ x), np.ones(2), jac=lambda x: 2 * x).ok


def test_an_f_that_is_far_larger_than_it_changes():
    def fun(x):
        return 1e8 + float(np.sum(np.sin(x))), np.cos(x)

    assert na.check_grad(fun, np.linspace(0.1, 1, 4), jac=True).ok
    wrong = changed(fun, lambda g, x: 1.01 * g)
    assert na.check_grad(wrong, np.linspace(0.1, 1, 4), jac=True).status == "wrong"


@pytest.mark.parametrize("scale", [1e-6, 1e-9, 1e-12, 1e-15])
def test_x_at_0_that_changes_on_a_short_scale(scale):
    """As a capacitance in farads: nothing but f says how long a step may be."""

    def fun(x):
        return float(np.sum(np.sin(x / scale))), np.cos(x / scale) / scale

    assert na.check_grad(fun, np.zeros(3), jac=True).ok
    check = na.check_grad(changed(fun, lambda g, x: 2 * g), np.zeros(3), jac=True)
    assert "it is 2.000 times" in check.message


def test_a_scale_below_all_steps_is_not_called_wrong():
    def fun(x):
        return float(np.sum(np.sin(1e10 * x))), 1e10 * np.cos(1e10 * x)

    for seed in range(10):
        x0 = np.random.default_rng(seed).standard_normal(5)
        assert na.check_grad(fun, x0, jac=True).status == "unclear"


def test_a_slope_that_is_too_small_to_tell_is_named():
    weights = np.array([1e8, 1.0, 1e-4])

    def fun(x):
        return float(weights @ x**2), 2 * weights * x * [1, 1, 2]

    check = na.check_grad(fun, np.ones(3), jac=True)
    assert check.ok
    assert check.message.startswith("The gradient is right in 2 elements")
    assert "cannot tell for x0[2], where the slope is too small beside f" in check.message
