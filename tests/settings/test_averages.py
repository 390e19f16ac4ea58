"""The running average of the parameters, against a loop in float64 and against Keras."""

from __future__ import annotations

import copy

import numpy as np
import pytest

import numadam as na
from tests import extras
from tests.bits import assert_same_bits
from tests.golden import load
from tests.runs import neutral, tree_of
from tests.trees import assert_same_containers, tree_leaves, tree_map


def test_it_begins_as_the_projected_parameters():
    p = np.array([5.0, 0.5])
    opt = na.Adam(p, **neutral(p, bounds=(np.zeros(2), 1.0)))
    assert opt.averaged.tolist() == [1.0, 0.5]


def test_no_memory_and_no_motion():
    start, g = np.random.default_rng(0).standard_normal((2, 5))
    opt = na.Adam(start.copy(), lr=0.3, ema=0.0)
    opt.step(g)
    np.testing.assert_allclose(opt.averaged, opt.params, rtol=1e-15)
    still = na.Adam(start.copy(), lr=0.0, ema=0.9)
    for _ in range(12):
        still.step(g)
    assert_same_bits(still.averaged, start)  # average + w*(x - average): exactly as it was


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


# --- against a loop in float64, and against Keras -------------------------------------------------


RNG = np.random.default_rng(7)
START = {"w": [RNG.standard_normal((3, 4)), RNG.standard_normal(5)], "b": RNG.standard_normal(2)}
CALLS = [tree_map(lambda a: RNG.standard_normal(a.shape), START) for _ in range(12)]
KINDS = {
    "ema": ({"ema": 0.8}, lambda t: 0.8),
    "warmup": ({"ema": 0.5, "ema_warmup": True}, lambda t: min(0.5, (1 + t) / (10 + t))),
    "warmup only": ({"ema": 0.9999, "ema_warmup": True}, lambda t: (1 + t) / (10 + t)),
    "debias": ({"ema": 0.99, "ema_debias": True}, lambda t: 0.99),
    "schedule": ({"ema": lambda taken: 0.5 + 0.03 * taken}, lambda t: 0.5 + 0.03 * (t - 1)),
    "schedule and warmup": (
        {"ema": lambda taken: 0.9 - 0.05 * taken, "ema_warmup": True},
        lambda t: min(0.9 - 0.05 * (t - 1), (1 + t) / (10 + t)),
    ),
}


def leaves_of(opt):
    return [leaf.copy() for leaf in tree_leaves(opt.params)]


def expected(history, weight, *, debias=False):
    """From the parameters before and after each step; `weight(t)` is what it keeps at step t."""
    average, product = [np.zeros(a.shape) if debias else a for a in history[0]], 1.0
    for t, now in enumerate(history[1:], 1):
        keep = weight(t)
        product *= keep
        average = [keep * a + (1 - keep) * p for a, p in zip(average, now, strict=True)]
    return [a / (1 - product) for a in average] if debias else average


def assert_average(opt, values):
    for one, other in zip(tree_leaves(opt.averaged), values, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("name", KINDS)
def test_average_is_that_of_the_parameters(name):
    options, weight = KINDS[name]
    opt = na.Adam(copy.deepcopy(START), lr=0.3, **options)
    history = [leaves_of(opt)]
    assert_average(opt, history[0])  # nothing was averaged yet
    for grads in CALLS:
        opt.step(grads)
        history.append(leaves_of(opt))
        assert_average(opt, expected(history, weight, debias="ema_debias" in options))
    plain = na.Adam(copy.deepcopy(START), lr=0.3)
    for grads in CALLS:
        plain.step(grads)
    for one, other in zip(leaves_of(plain), history[-1], strict=True):
        assert_same_bits(one, other)


def test_only_steps_move_it():
    """Skipped steps do not."""
    opt = na.Adam(copy.deepcopy(START), lr=0.3, ema=0.8, nonfinite="skip")
    bad = tree_map(lambda a: np.full_like(a, np.inf), START)
    history, moved = [leaves_of(opt)], []
    for k, grads in enumerate([CALLS[0], bad, *CALLS[1:3]]):
        before = opt.averaged
        opt.step(grads)
        if opt.t == len(history):
            moved.append(k)
            history.append(leaves_of(opt))
        else:
            for one, other in zip(*map(tree_leaves, (opt.averaged, before)), strict=True):
                assert_same_bits(one, other)
    assert (moved, opt.skipped) == ([0, 2, 3], 1)
    assert_average(opt, expected(history, lambda t: 0.8))


RECORDED = {(case.name, case.dtype.name): case for case in load() if case.average is not None}


@pytest.mark.parametrize("dtype", [extras.sweep("float32"), "float64"])
@pytest.mark.parametrize(("name", "ema"), [("", 0.99), (" ema_momentum=0.9", 0.9)])
def test_recorded_average_of_keras(name, ema, dtype):
    """It begins as the parameters after the first step; a warm-up that is asked for overrides it.

    Begun before the first step, the average is ema^40 (p0 - p1) away at the end.
    """
    case = RECORDED[f"keras-jax Adam use_ema=True{name}", dtype]
    start = case.params0
    exact = na.Adam(start.copy(), lr=0.01, like="keras", ema=ema)
    always = na.Adam(start.copy(), lr=0.01, like="keras", ema=lambda taken: ema)
    warm = na.Adam(start.copy(), lr=0.01, like="keras", ema=ema, ema_warmup=True)
    usual = na.Adam(start.copy(), lr=0.01, eps=1e-7, eps_form="hat", ema=ema)
    for t, g in enumerate(case.grads):
        for opt in (exact, always, warm, usual):
            opt.step(g)
        if t == 0:
            moved = start.astype(float) - usual.params
            assert np.abs(exact.averaged - exact.params).max() <= np.finfo(dtype).eps
            assert np.all(warm.averaged[moved != 0] != warm.params[moved != 0])
    rounding = 4 * np.finfo(dtype).eps * np.abs(start).max()
    assert np.abs(exact.averaged - case.average).max() < rounding
    assert_same_bits(always.averaged, exact.averaged)
    scalars = 1e-5 * 0.01 * len(case.grads)  # float32 powers, along the whole path
    assert np.abs(usual.averaged - case.average - ema**40 * moved).max() < rounding + scalars
