"""The running average of the parameters."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest

import numadam as na
from tests.bits import assert_same_bits
from tests.runs import neutral, tree_of
from tests.trees import assert_same_containers, tree_leaves, tree_map


def path_of(opt, calls):
    """The parameters after every step."""
    path = []
    for g in calls:
        opt.step(g)
        path.append(opt.params.copy())
    return path


CALLS = np.random.default_rng(0).standard_normal((12, 5))


def test_average_begins_as_the_parameters_and_follows_them():
    opt = na.Adam(np.ones(5), lr=0.3, ema=0.75)
    np.testing.assert_array_equal(opt.averaged, 1.0)
    expected = np.ones(5)
    for p in path_of(opt, CALLS):
        expected = 0.75 * expected + 0.25 * p
    np.testing.assert_allclose(opt.averaged, expected, rtol=1e-14)


def test_it_begins_as_the_projected_parameters():
    p = np.array([5.0, 0.5])
    opt = na.Adam(p, **neutral(p, bounds=(np.zeros(2), 1.0)))
    assert opt.averaged.tolist() == [1.0, 0.5]


def test_warmup_weighs_the_first_steps_less():
    """ema is min(ema, (1 + t) / (10 + t)), t at the step (thinc, TensorFlow's num_updates)."""
    opt = na.Adam(np.ones(5), lr=0.3, ema=0.5, ema_warmup=True)
    expected = np.ones(5)
    for t, p in enumerate(path_of(opt, CALLS), 1):
        ema = min(0.5, (1 + t) / (10 + t))
        expected = ema * expected + (1 - ema) * p
    assert (1 + 7) / (10 + 7) < 0.5 < (1 + 9) / (10 + 9)
    np.testing.assert_allclose(opt.averaged, expected, rtol=1e-14)


def test_debiased_is_a_weighted_mean_of_the_steps_alone():
    opt = na.Adam(np.full(5, 1e6), lr=0.3, ema=0.9, ema_debias=True)
    np.testing.assert_array_equal(opt.averaged, 1e6)
    path = path_of(opt, CALLS)
    weights = 0.9 ** np.arange(len(path))[::-1]
    expected = np.tensordot(weights / weights.sum(), np.array(path), 1)
    np.testing.assert_allclose(opt.averaged, expected, rtol=1e-13)


def test_no_memory_and_no_motion():
    opt = na.Adam(np.ones(5), lr=0.3, ema=0.0)
    opt.step(CALLS[0])
    np.testing.assert_allclose(opt.averaged, opt.params, rtol=1e-15)
    still = na.Adam(CALLS[1].copy(), lr=0.0, ema=0.9)
    for g in CALLS:
        still.step(g)
    assert_same_bits(still.averaged, CALLS[1])  # average + w*(x - average): exactly as it was


def test_a_schedule_and_a_new_value():
    opt = na.Adam(np.ones(5), lr=0.3, ema=lambda taken: 0.1 * taken)
    expected = np.ones(5)
    for taken, p in enumerate(path_of(opt, CALLS[:6])):
        expected = 0.1 * taken * expected + (1 - 0.1 * taken) * p
    opt.ema = 0.2
    for p in path_of(opt, CALLS[6:]):
        expected = 0.2 * expected + 0.8 * p
    np.testing.assert_allclose(opt.averaged, expected, rtol=1e-13)
    with pytest.raises(ValueError, match=r"^ema: cannot change from "):
        opt.ema = None


def test_it_moves_only_with_steps():
    p = np.ones(2)
    opt = na.Adam(p, **neutral(p, nonfinite="skip", ema=0.5))
    opt.step(np.ones(2))
    assert opt.averaged.tolist() == [1.0, 1.0]
    opt.step(np.array([1.0, np.nan]))
    assert opt.averaged.tolist() == [1.0, 1.0]
    opt.step(np.ones(2))
    assert opt.flush()
    np.testing.assert_allclose(opt.averaged, (1 + p) / 2, rtol=1e-15)
    assert (opt.averaged != 1).all()


def test_arrays_are_new_and_of_the_shape_and_kind_of_the_parameters():
    params = tree_of(0)
    opt = na.Adam(params, lr=0.1, ema=0.5)
    opt.step(tree_of(1))
    averaged = opt.averaged
    assert_same_containers(averaged, params)
    for a, p, s in zip(*map(tree_leaves, (averaged, params, opt.state["average"])), strict=True):
        assert type(a) is np.ndarray
        assert (a.shape, a.dtype) == (p.shape, p.dtype)
        assert a.flags.owndata or a.base.flags.owndata
        assert not np.shares_memory(a, s)
        assert not np.shares_memory(a, p)
        np.testing.assert_array_equal(a, s)
    assert averaged["w"][1].flags.f_contiguous
    for leaf in tree_leaves(averaged):
        leaf[...] = 77
    assert all((leaf != 77).all() for leaf in tree_leaves(opt.averaged))


def test_frozen_arrays_have_none():
    params = {"a": np.ones(2), "b": np.ones(3)}
    opt = na.Adam(params, ema=0.5, groups={"b": {"frozen": True}})
    opt.step({"a": np.ones(2), "b": None})
    assert opt.averaged["b"] is None
    assert opt.averaged["a"].shape == (2,)


def test_where_there_is_none():
    opt = na.Adam(np.ones(2))
    with pytest.raises(AttributeError, match=r"^averaged: there is no average; .*ema=0.999"):
        opt.averaged  # noqa: B018
    assert opt.ema is None
    assert "average" not in opt.state


def test_of_16_bit_parameters_it_is_float32():
    """Small changes add up that the parameters themselves could not show."""
    p = np.ones(3, np.float16)
    opt = na.Adam(p, lr=1e-3, ema=0.99)
    for _ in range(100):
        opt.step(np.ones(3, np.float16))
    assert opt.averaged.dtype == np.float32
    exact, x = 1.0, np.float16(1.0)
    for _ in range(100):
        x = np.float16(np.float32(x) - np.float32(1e-3))
        exact = 0.99 * exact + 0.01 * float(x)
    np.testing.assert_allclose(opt.averaged, exact, rtol=1e-4)


def test_saved_and_loaded_with_the_state():
    opt = na.Adam(np.ones(5), lr=0.3, ema=0.75)
    twin = na.Adam(np.ones(5), lr=0.3, ema=0.75)
    path_of(opt, CALLS[:6])
    twin.params[...] = opt.params
    twin.state = copy.deepcopy(dict(opt.state))
    path_of(opt, CALLS[6:])
    path_of(twin, CALLS[6:])
    assert_same_bits(opt.averaged, twin.averaged)
    opt.state["average"] = np.full(5, 3.0)
    assert (opt.averaged == 3).all()
    assert not math.isnan(opt.averaged[0])
    with pytest.raises(ValueError, match=r"^state\['average'\]: expected shape"):
        opt.state["average"] = np.ones(4)


def test_average_of_a_state_may_be_written_into():
    opt = na.Adam(tree_of(0), ema=0.5)
    tree_map(lambda a: a.fill(2.0), opt.state["average"])
    assert all((a == 2).all() for a in tree_leaves(opt.averaged))
