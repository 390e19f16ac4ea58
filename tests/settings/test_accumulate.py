"""Means of several gradients: what is counted, flushed, dropped and guarded."""

from __future__ import annotations

import numpy as np
import pytest

import numadam as na
from tests.reference_options import Steps
from tests.runs import digest, neutral
from tests.trees import tree_map


def test_t_counts_steps_and_calls_are_counted_between():
    p = np.ones(2)
    opt = na.Adam(p, accumulate=3)
    seen = []
    for _ in range(7):
        opt.step(np.ones(2))
        seen.append((opt.t, int(opt.state["calls"]), p[0] == 1))
    assert [s[:2] for s in seen] == [(0, 1), (0, 2), (1, 0), (1, 1), (1, 2), (2, 0), (2, 1)]
    assert [s[2] for s in seen] == [True, True, False, False, False, False, False]


def test_counts_may_be_any_whole_numbers():
    p = np.ones(2)
    options = neutral(p, accumulate=np.int64(2), nonfinite="skip", max_skips=np.uint8(3))
    opt = na.Adam(p, **options)
    assert (type(opt.accumulate), type(opt.max_skips)) == (int, int)


def test_nothing_but_empty_arrays_is_a_step():
    params = [np.ones((0, 3)), np.ones(0)]
    opt = na.Adam(params, **neutral(params, nonfinite="raise"))
    for _ in range(2):
        opt.step([p.copy() for p in params])
    assert (opt.t, opt.grad_norm) == (1, 0.0)


def test_flush_takes_the_mean_of_what_there_is():
    start, *calls = np.random.default_rng(3).standard_normal((6, 4))
    opt = na.Adam(start.copy(), lr=0.1, accumulate=4)
    ref = Steps([start], lr=0.1, accumulate=4)
    assert opt.flush() is False
    assert opt.t == 0
    for g in calls:
        opt.step(g)
        ref.step([g])
    assert opt.flush() is True
    ref.flush()
    assert opt.flush() is False
    assert opt.t == 2
    np.testing.assert_allclose(opt.params, ref.p[0], rtol=1e-13)


def test_flush_and_discard_without_a_sum():
    opt = na.Adam(np.ones(2))
    with pytest.raises(ValueError, match=r"^flush: nothing is added up; .*accumulate"):
        opt.flush()
    opt.discard()
    opt = na.Adam(np.ones(2), accumulate=2)
    opt.step(np.full(2, np.nan))
    opt.discard()
    assert opt.flush() is False
    opt.step(np.ones(2))
    opt.step(np.ones(2))
    np.testing.assert_allclose(opt.params, 1 - 1e-3)


def test_a_bad_gradient_spoils_the_mean_that_it_is_in():
    """It is looked at when the mean is taken; a skip drops the sum, and the next mean is clean."""
    p = np.ones(2)
    opt = na.Adam(p, **neutral(p, nonfinite="skip"))
    one, bad = np.ones(2), np.array([np.inf, 0.0])
    for g in (bad, one):
        opt.step(g)
    assert (opt.t, opt.skipped, int(opt.state["calls"])) == (0, 1, 0)
    for g in (one, one):
        opt.step(g)
    assert (opt.t, opt.skipped) == (1, 1)
    np.testing.assert_allclose(opt.state["m"], 0.1, rtol=1e-12)
    opt.step(bad)
    assert opt.flush() is True
    assert (opt.t, opt.skipped) == (1, 2)


def test_raise_keeps_the_sum_and_discard_drops_it():
    p = np.ones(2)
    opt = na.Adam(p, **neutral(p, nonfinite="raise"))
    opt.step(np.ones(2))
    before = digest(opt)
    for _ in range(2):  # nothing was changed: the first gradient is still there
        with pytest.raises(FloatingPointError):
            opt.step(np.array([np.nan, 1.0]))
        assert digest(opt) == before
    opt.step(np.full(2, 3.0))
    np.testing.assert_allclose(opt.state["m"], 0.2, rtol=1e-12)
    opt.step(np.array([np.nan, 1.0]))
    with pytest.raises(FloatingPointError, match="discard"):
        opt.step(np.ones(2))
    with pytest.raises(FloatingPointError, match="discard"):
        opt.flush()
    opt.discard()
    opt.step(np.ones(2))
    opt.step(np.ones(2))
    assert opt.t == 2


def test_refused_gradients_are_not_added():
    params = {"a": np.ones(3), "b": np.ones((2, 2))}
    opt = na.Adam(params, accumulate=2)
    good = {"a": np.ones(3), "b": np.ones((2, 2))}
    opt.step(good)
    before = digest(opt)
    for bad in (np.ones((2, 3)), np.ones((2, 2), "f4"), "x"):
        with pytest.raises((TypeError, ValueError)):
            opt.step({**good, "b": bad})
    with pytest.raises(ValueError, match="shares memory"):
        opt.step({**good, "a": opt.state["accumulated"]["a"]})
    assert digest(opt) == before
    opt.step(tree_map(np.copy, good))
    assert opt.t == 1


def test_params_of_the_last_call_get_the_step():
    opt = na.Adam(np.zeros(2), lr=0.1, accumulate=2)
    other = np.ones(2)
    opt.step(np.ones(2), params=other)
    assert (other == 1).all()
    opt.step(np.ones(2), params=other)
    np.testing.assert_allclose(other, 0.9)
    assert (opt.params == 0).all()


def test_own_gradient_buffers_may_be_filled_anew_between_the_calls():
    opt = na.Adam(np.zeros(2), lr=0.1, accumulate=2)
    for value in (1.0, 3.0):
        opt.grads[...] = value
        opt.step()
    np.testing.assert_allclose(opt.state["m"], 0.2, rtol=1e-15)
