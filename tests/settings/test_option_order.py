"""The order of a step, and clipping numbers of any size."""

from __future__ import annotations

import math

import numpy as np
import pytest

import numadam as na
from tests.runs import neutral

# --- the order of a step -------------------------------------------------------------------------


def seen(p, g, **options):
    """The gradient as it reaches the rule, in one step: with beta1 = 0 it is the first moment."""
    p, g = np.array(p, float), np.array(g, float)
    opt = na.Adam(p, beta1=0.0, **neutral(p, **options))
    opt.step(g)
    opt.flush()
    return opt.state["m"].tolist(), opt


def test_norm_is_of_the_gradient_before_it_is_clipped_by_value():
    m, opt = seen([0.0, 0.0], [3.0, 4.0], clip_value=3.5, clip_norm=1.0)
    assert opt.grad_norm == 5.0
    assert m == pytest.approx([3 / 5, 3.5 / 5], rel=1e-15)


def test_gradient_is_unscaled_before_it_is_clipped():
    m, opt = seen([0.0, 0.0], [300.0, -400.0], loss_scale=100.0, clip_norm=1.0, maximize=True)
    assert opt.grad_norm == 5.0
    assert m == pytest.approx([-3 / 5, 4 / 5], rel=1e-15)
    assert seen([0.0], [8.0], loss_scale=4.0, clip_value=3.0, clip_norm=9.0)[0] == [2.0]


def test_l2_decay_is_not_clipped():
    m, opt = seen([10.0, 0.0], [30.0, 40.0], clip_norm=1.0, clip_value=100.0, weight_decay=1.0)
    assert opt.grad_norm == 50.0
    assert m == pytest.approx([0.6 + 10.0, 0.8], rel=1e-15)


def test_mask_of_the_bounds_comes_before_norm_and_guard():
    """An outward gradient counts for nothing, an infinite one too: x would not move."""
    box = {"bounds": (np.zeros(3), 2.0)}
    m, opt = seen([0.0, 1.0, 2.0], [7.0, 3.0, -9.0], clip_norm=1.0, **box)
    assert opt.grad_norm == 3.0
    assert m == [0.0, 1.0, 0.0]
    m, opt = seen([0.0, 1.0, 2.0], [np.inf, 3.0, 4.0], nonfinite="raise", **box)
    assert opt.grad_norm == 5.0
    assert m == [0.0, 3.0, 4.0]
    m, _ = seen([0.0, 1.0, 2.0], [5.0, 3.0, 5.0], maximize=True, **box)
    assert m == [-5.0, -3.0, 0.0]


def test_accumulated_gradients_are_masked_clipped_and_guarded_as_their_mean():
    """Alone the second would be masked, the first clipped to another direction."""
    p = np.array([0.0, 1.0])
    options = {"bounds": (np.zeros(2), None), "clip_norm": 1.0, "nonfinite": "raise"}
    opt = na.Adam(p, beta1=0.0, **neutral(p, **options))
    opt.step(np.array([-9e200, 0.0]))
    assert math.isnan(opt.grad_norm)
    opt.step(np.array([3e200, -8e200]))
    assert opt.grad_norm == pytest.approx(5e200, rel=1e-15)
    np.testing.assert_allclose(opt.state["m"], [-0.6, -0.8], rtol=1e-15)


def test_decoupled_decay_then_bounds_then_average():
    """Decay may not carry a parameter out of its box, and the average follows what is inside."""
    p = np.array([1.0, 4.0])
    options = {"weight_decay": 0.5, "decoupled": True, "bounds": (np.ones(2), 4.0)}
    opt = na.Adam(p, decay_times_lr=False, **neutral(p, **options))
    for _ in range(2):
        opt.step(np.zeros(2))
    assert p.tolist() == [1.0, 2.0]
    assert opt.averaged.tolist() == [1.0, 3.0]


# --- clipping numbers of any size ----------------------------------------------------------------


SIZES = [
    ("float32", 1e20, 1.0),
    ("float32", 8e37, 1e-3),
    ("float32", 1e-30, 1e-32),
    ("float32", 1e20, 1e-20),  # the factor is no normal number
    ("float32", 1e-37, 1e10),
    ("float64", 1e200, 1.0),
    ("float64", 4e307, 1e-3),
    ("float64", 1e-200, 1e-203),
    ("float64", 1e300, 1e-10),
    ("float64", 3e-308, 1.0),
]


def clipped_exactly(g, limit):
    """Norm and clipped gradient in long double, where nothing overflows."""
    exact = g.astype(np.longdouble)
    size = np.sqrt(np.sum(exact * exact))
    return float(size), (exact * min(np.longdouble(1), np.longdouble(limit) / size)).astype(g.dtype)


@pytest.mark.parametrize(("dtype", "size", "limit"), SIZES)
def test_clip_keeps_the_direction(dtype, size, limit):
    """The issue's 1e20 in float32, and whatever else is finite; of a mean as well."""
    g = (np.array([3.0, -4.0, 0.0, 1.0]) * size).astype(dtype)
    params = [np.zeros(4, dtype), np.zeros(3, dtype)]
    norm, expected = clipped_exactly(g, limit)
    most = float(np.finfo(dtype).max)
    for count in (1, 2) if size < most / 8 else (1,):  # the sum of two may not overflow
        options = neutral(params, clip_norm=limit, decoupled=True)
        opt = na.Adam(params, beta1=0.0, **options)
        for _ in range(count):
            opt.step([g, np.zeros(3, dtype)])
        opt.flush()
        assert opt.grad_norm == pytest.approx(norm, rel=1e-15, abs=0)
        rtol = 3 * np.finfo(dtype).eps
        np.testing.assert_allclose(opt.state["m"][0], expected, rtol=rtol)
        assert (opt.state["m"][1] == 0).all()


@pytest.mark.parametrize(("dtype", "size", "limit"), SIZES[5:])
def test_clip_of_each_array_keeps_the_direction(dtype, size, limit):
    grads = [np.array([3.0, -4.0, 0.0, 1.0]) * size, np.array([0.5, 0.0])]
    opt = na.Adam([np.zeros(4), np.zeros(2)], beta1=0.0, clip_array_norm=limit)
    opt.step(grads)
    for k, g in enumerate(grads):
        norm, expected = clipped_exactly(g, limit)
        assert opt.grad_norm[k] == pytest.approx(norm, rel=1e-15, abs=0)
        np.testing.assert_allclose(opt.state["m"][k], expected, rtol=1e-15)


@pytest.mark.parametrize("size", [5e-324, 1e-310, 1.2e-308])
def test_norm_of_the_smallest_numbers(size):
    opt = na.Adam(np.zeros(2), clip_norm=math.inf)
    opt.step(np.array([3 * size, 4 * size]))
    assert opt.grad_norm == pytest.approx(5 * size, rel=1e-15, abs=0)


def test_each_array_is_measured_anew_when_another_leaves_the_range():
    """The second array asks for another pass over all; the first has a factor of two steps."""
    grads = [np.array([3e149, 4e149]), np.zeros(2)]
    opt = na.Adam([np.zeros(2), np.zeros(2)], beta1=0.0, clip_array_norm=1e-160)
    opt.step(grads)
    assert opt.grad_norm == pytest.approx([5e149, 0.0], rel=1e-15)
    np.testing.assert_allclose(opt.state["m"][0], [6e-161, 8e-161], rtol=1e-15)
