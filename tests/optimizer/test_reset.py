"""`opt.reset()`, `opt.t = k` and `opt.current_lr`: where an optimiser stands, and goes on from."""

from __future__ import annotations

import copy

import numpy as np
import pytest

import numadam as na
from tests.bits import assert_same_bits
from tests.runs import SINK, digest, meanwhile, tree_of
from tests.trees import tree_leaves, tree_map


def falling(taken):
    return 0.9 - 0.01 * taken


def run(opt, seeds):
    """Steps of these gradients, and what they lead to."""
    for seed in seeds:
        opt.step(tree_of(seed))
    return digest(opt)


@pytest.mark.parametrize(
    ("rule", "options"),
    [
        (na.Adam, SINK),
        (na.Adam, {"beta1": falling}),
        (na.NAdam, {}),
        (na.Adagrad, {"initial_accumulator": 0.5}),
        (na.Adam, {"ema": 0.9, "ema_debias": True}),
    ],
)
def test_a_reset_optimiser_goes_on_as_a_new_one(rule, options):
    params = tree_of(0)
    opt = rule(params, **copy.deepcopy(options))
    run(opt, (1, 2, 3))
    here = tree_map(np.copy, params)
    opt.reset()
    for one, other in zip(tree_leaves(params), tree_leaves(here), strict=True):
        np.testing.assert_array_equal(one, other)
    new = rule(here, **copy.deepcopy(options))
    assert digest(opt) == digest(new)
    assert run(opt, (1, 2, 3, 4)) == run(new, (1, 2, 3, 4))


def test_reset_forgets_counters_and_norms_and_moves_into_the_bounds():
    x = np.zeros(5)
    opt = na.Adam(x, bounds=(-1.0, 1.0), clip_norm=1.0, ema=0.9, nonfinite="skip")
    opt.step(np.ones(5))
    opt.step(np.full(5, np.nan))
    assert (opt.t, opt.skipped) == (1, 1)
    opt.grads[...] = 3.0
    x[...] = 7.0
    opt.reset()
    assert (opt.t, opt.skipped) == (0, 0)
    assert np.isnan(opt.grad_norm)
    np.testing.assert_array_equal(x, 1.0)  # as in a new optimiser
    np.testing.assert_array_equal(opt.averaged, x)
    np.testing.assert_array_equal(opt.grads, 3.0)


def test_schedules_begin_again_but_one_with_a_state_keeps_it():
    opt = na.SGD(np.zeros(2), lr=na.schedules.Polynomial(1.0, steps=4, power=1.0))
    for _ in range(3):
        opt.step(np.ones(2))
    assert opt.current_lr == 0.25
    opt.reset()
    assert opt.current_lr == 1.0
    opt.lr = plateau = na.schedules.ReduceOnPlateau(1.0, factor=0.5, patience=0)
    plateau.observe(1.0)
    plateau.observe(1.0)
    opt.reset()
    assert opt.current_lr == 0.5


def test_reset_waits_for_a_step_of_another_thread():
    opt = na.Adam(np.zeros(5))
    with meanwhile(lambda: opt.step(np.ones(5))):
        for _ in range(300):
            with opt._lock:
                opt.reset()
                assert opt.t == 0
                assert not opt.state["m"].any()
    # all of a step or nothing: m is a function of t alone
    np.testing.assert_allclose(opt.state["m"], 1.0 - 0.9**opt.t, rtol=1e-12)


@pytest.mark.parametrize(
    ("rule", "options"),
    [
        (na.Adam, {}),
        (na.NAdam, {}),
        (na.Adam, {"beta1": falling, "beta2": 0.99}),
        (na.Adam, {"beta1": falling, "groups": {"w.*": {"beta2": 0.9}}}),
    ],
)
@pytest.mark.parametrize("k", [0, 1, 7])
def test_a_t_that_is_set_is_that_of_a_run(rule, options, k):
    """Powers and running products are those after so many steps; the arrays stay."""
    params, twins = tree_of(0), tree_of(0)
    opt, run_of = rule(params, **options), rule(twins, **options)
    run(opt, (1, 2))
    for _ in range(k):
        run_of.step(tree_map(np.zeros_like, tree_of(0)))
    products = [name for name in opt.state if name.endswith("_product")]
    opt.t = k
    assert opt.t == run_of.t == k
    for name in products:
        np.testing.assert_allclose(opt.state[name], run_of.state[name], rtol=1e-14)
    saved = dict(run_of.state)
    for name in set(saved) - {"t", *products}:
        saved[name] = opt.state[name]
    run_of.state = saved
    for one, other in zip(tree_leaves(twins), tree_leaves(params), strict=True):
        one[...] = other
    run(opt, (1, 2))
    run(run_of, (1, 2))
    for one, other in zip(tree_leaves(params), tree_leaves(twins), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-13)


@pytest.mark.parametrize("wrong", [-1, 1.5, "many", None, 2**53, np.nan])
def test_a_t_that_is_no_number_of_steps_is_refused(wrong):
    opt = na.Adam(np.zeros(2))
    with pytest.raises(ValueError, match=r"t: expected a whole number of steps >= 0 and < 2\*\*53"):
        opt.t = wrong
    with pytest.raises(ValueError, match=r"state\['t'\]: expected a whole number of steps >= 0"):
        opt.state["t"] = wrong
    assert opt.t == 0


def test_current_lr():
    cosine = na.schedules.Cosine(0.1, steps=10)
    opt = na.SGD(np.zeros(2), lr=cosine)
    for taken in range(3):
        assert type(opt.current_lr) is float
        assert opt.current_lr == cosine(taken)
        opt.step(np.ones(2))
    opt.lr = 0.5
    assert opt.current_lr == 0.5
    rates = {"a": 0.1, "b": cosine, "c": np.array([0.1, 0.2])}
    nested = na.Adam(
        {name: np.zeros(2) for name in "abc"}, lr=rates, groups={"a": {"frozen": True}}
    )
    nested.t = 4
    now = nested.current_lr
    assert list(now) == ["a", "b", "c"]
    assert (now["a"], now["b"]) == (0.1, cosine(4))
    np.testing.assert_array_equal(now["c"], rates["c"])
    assert nested.lr["b"] is cosine
    negative = na.SGD(np.zeros(2), lr=lambda taken: -1.0)
    with pytest.raises(ValueError, match="lr: expected a number in"):
        _ = negative.current_lr


def read_only(x):
    x.flags.writeable = False


def resized(x):
    x.resize(3, refcheck=False)


@pytest.mark.parametrize(
    ("change", "says"), [(read_only, "^params: is read-only"), (resized, "^params: .* shape")]
)
def test_reset_of_parameters_that_no_longer_fit_changes_nothing(change, says):
    x = np.zeros(5)
    opt = na.Adam(x, bounds=(-1.0, 1.0), ema=0.9)
    opt.step(np.ones(5))
    saved = opt.state.copy()
    change(x)
    with pytest.raises(ValueError, match=says):
        opt.reset()
    for name, value in saved.items():
        assert_same_bits(opt.state[name], value)
