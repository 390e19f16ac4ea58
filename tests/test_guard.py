"""Gradients that are not finite, the norm that finds them, and means of several gradients."""

# ruff: noqa: F811  (fixtures are imported, and their names used for other things too)
from __future__ import annotations

import math

import numpy as np
import pytest
from reference_options import Steps, norm
from test_arrays import tree_leaves, tree_map
from test_bits import shorten_parts, twin  # noqa: F401  (a fixture)
from test_options import digest, neutral, tree_of
from test_rules import assert_same_bits

import numadam as na

BAD = [np.nan, np.inf, -np.inf]


def spoiled(g, place, value):
    g = g.copy()
    g.flat[place] = value
    return g


# --- raise ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", BAD)
def test_raise_changes_nothing(value):
    opt = na.Adam(tree_of(0), nonfinite="raise")
    opt.step(tree_of(1))
    before = digest(opt)
    for name in ("w", "0-d", "strided"):
        grads = tree_of(2)
        leaf = grads[name][1] if name == "w" else grads[name]
        leaf[...] = value
        with pytest.raises(FloatingPointError) as caught:
            opt.step(grads)
        assert str(caught.value).startswith(
            "grads: hold NaN or infinite numbers at step 2; nothing"
        )
        assert digest(opt) == before
        assert not math.isfinite(opt.grad_norm)
    assert opt.skipped == 0
    opt.step(tree_of(2))
    twin = na.Adam(tree_of(0), clip_norm=np.inf)
    for k in (1, 2):
        twin.step(tree_of(k))
    assert digest(twin) == digest(opt)


@pytest.mark.parametrize("value", BAD)
@pytest.mark.parametrize("n", [1, 2, 7, 63, 64, 65, 255, 256, 257, 600])
def test_one_bad_element_anywhere_is_found(n, value):
    """Every lane, every tail, both sides of a block of the norm."""
    g = np.random.default_rng(0).standard_normal(n)
    p = np.ones(n)
    opt = na.Adam(p, nonfinite="raise")
    for place in range(n) if n < 300 else [0, 255, 256, 511, 512, 599]:
        with pytest.raises(FloatingPointError):
            opt.step(spoiled(g, place, value))
    assert (p == 1).all()
    assert opt.t == 0


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_any_finite_gradient_passes(dtype):
    """Squares and sums of the largest numbers overflow; they are finite all the same."""
    info = np.finfo(dtype)
    n = 1000
    for value in (info.max, -info.max, info.smallest_subnormal, 0.0, -0.0):
        p = np.ones(n, dtype)
        options = neutral(p, nonfinite="raise", accumulate=2, decoupled=True)
        opt = na.Adam(p, **options)
        opt.step(np.full(n, value, dtype))
        opt.flush()
        assert opt.t == 1
        exact = abs(float(value)) * math.sqrt(n)  # infinite for the largest float64
        assert opt.grad_norm == pytest.approx(exact, rel=1e-15, abs=0)


def test_guard_looks_at_each_array_where_norms_are_of_each():
    params = [np.ones(3), np.ones(2), np.ones(4)]
    opt = na.Adam(params, clip_array_norm=1.0, nonfinite="skip")
    for k in range(3):
        grads = [np.full(p.shape, 0.5) for p in params]
        grads[k][-1] = np.nan
        opt.step(grads)
        found = opt.grad_norm
        assert [math.isnan(x) for x in found] == [j == k for j in range(3)]
    assert (opt.t, opt.skipped) == (0, 3)
    assert all((p == 1).all() for p in params)


def test_twins_and_strided_arrays_are_left_alone(twin):
    """Parameters that go through work arrays are not written back, other gradients may follow."""
    rng = np.random.default_rng(2)
    room = rng.standard_normal((40, 300)).astype("f4")
    params = [room[:, ::3], room[:, 1::3].T, rng.standard_normal(5000).astype("f4")]
    grads = [np.ones_like(p) for p in params]
    opt = na.Adam(params, **neutral(params, nonfinite="skip", decoupled=True))
    shorten_parts(opt, 999)
    for _ in range(3):
        opt.step(grads)
    for place in (0, 1234, 4999):
        opt.flush()
        kept = room.copy()
        opt.step([*grads[:2], spoiled(grads[2], place, np.nan)])
        opt.flush()
        np.testing.assert_array_equal(room, kept)
    assert opt.skipped == 3


# --- skip ----------------------------------------------------------------------------------------


def test_skip_leaves_the_whole_step_out_and_counts():
    opt = na.Adam(tree_of(0), nonfinite="skip")
    twin = na.Adam(tree_of(0), clip_norm=np.inf)
    for k in range(1, 9):
        grads = tree_of(k)
        if k % 3 == 0:
            grads["strided"][2] = np.inf
        else:
            twin.step(tree_of(k))
        assert opt.step(grads) is None
    assert (opt.t, opt.skipped) == (6, 2)
    assert int(opt.state["skipped"]) == 2
    for name in ("m", "v"):
        for one, other in zip(*map(tree_leaves, (opt.state[name], twin.state[name])), strict=True):
            assert_same_bits(one, other)
    for one, other in zip(*map(tree_leaves, (opt.params, twin.params)), strict=True):
        assert_same_bits(np.ascontiguousarray(one), np.ascontiguousarray(other))


def test_so_many_skips_in_a_row_and_no_more():
    opt = na.Adam(np.ones(2), nonfinite="skip", max_skips=2)
    good, bad = np.ones(2), np.array([1.0, np.nan])
    for g in (bad, bad, good, bad, bad):
        opt.step(g)
    assert (opt.t, opt.skipped) == (1, 4)
    kept = opt.params.copy()
    for count in (3, 4):
        with pytest.raises(FloatingPointError, match=rf"^grads: .* {count} times in a row"):
            opt.step(bad)
    assert_same_bits(opt.params, kept)
    opt.step(good)
    opt.step(bad)
    assert (opt.t, opt.skipped) == (2, 7)


def test_schedules_and_bias_corrections_do_not_see_a_skipped_step():
    asked = []

    def schedule(taken):
        asked.append(taken)
        return 0.1

    opt = na.Adam(np.ones(2), lr=schedule, nonfinite="skip")
    for g in (1.0, np.nan, 1.0):
        opt.step(np.full(2, g))
    assert asked == [0, 1, 1]


# --- propagate -----------------------------------------------------------------------------------


def test_propagate_hurts_that_element_alone():
    p = np.ones(5)
    opt = na.Adam(p)
    opt.step(np.array([1.0, np.nan, -np.inf, 1.0, np.inf]))
    assert np.isnan(p).tolist() == [False, True, True, False, True]


def test_propagate_under_a_clip_never_sets_a_gradient_to_zero_in_silence():
    """torch would: an infinite norm makes the factor 0."""
    for value in BAD:
        p = np.ones(3)
        opt = na.Adam(p, clip_norm=1.0)
        opt.step(np.array([1.0, value, 2.0]))
        assert np.isnan(p).all()
        assert not math.isfinite(opt.grad_norm)
    params = [np.ones(2), np.ones(2)]
    opt = na.Adam(params, clip_array_norm=1.0)
    opt.step([np.array([1.0, np.inf]), np.array([1.0, 2.0])])
    assert np.isnan(params[0]).all()
    assert np.isfinite(params[1]).all()


# --- frozen arrays, params= and out= -------------------------------------------------------------


def test_a_frozen_array_is_not_looked_at():
    params = {"a": np.ones(2), "b": np.ones(2)}
    opt = na.Adam(params, nonfinite="raise", groups={"b": {"frozen": True}})
    opt.step({"a": np.full(2, 3.0), "b": np.full(2, np.nan)})
    assert opt.grad_norm == pytest.approx(math.sqrt(18))
    assert (params["b"] == 1).all()


@pytest.mark.parametrize("guard", ["raise", "skip"])
@pytest.mark.parametrize("argument", ["params", "out"])
def test_other_arrays_are_not_written_either(argument, guard):
    opt = na.Adam([np.ones((2, 3)), np.ones(4)], nonfinite=guard)
    grads = [np.ones((2, 3)), np.array([0.0, np.nan, 0.0, 0.0])]
    other = [np.asfortranarray(np.full((2, 3), 7.0)), np.full(8, 7.0)[::2]]
    before = digest(opt)
    if guard == "raise":
        with pytest.raises(FloatingPointError):
            opt.step(grads, **{argument: other})
        assert digest(opt) == before
    else:
        opt.step(grads, **{argument: other})
        assert (opt.t, opt.skipped) == (0, 1)
    assert all((a == 7).all() for a in [*other, other[1].base])
    assert all((a == 1).all() for a in opt.params)
    grads[1][1] = 0.0
    opt.step(grads, **{argument: other})
    assert all((a == 1).all() for a in opt.params)
    assert (other[0] != 7).all()
    assert (other[1].base[1::2] == 7).all()


# --- the norm ------------------------------------------------------------------------------------


def test_norm_is_readable_where_it_is_formed():
    opt = na.Adam(np.ones(2))
    with pytest.raises(AttributeError, match=r"^grad_norm: is not formed .* clip_norm=numpy.inf"):
        opt.grad_norm  # noqa: B018
    for options in ({"clip_norm": np.inf}, {"nonfinite": "raise"}):
        opt = na.Adam(tree_of(0), **options)
        assert math.isnan(opt.grad_norm)
        for k in (1, 2):
            opt.step(tree_of(k))
            exact = norm(tree_leaves(tree_of(k)))
            assert abs(opt.grad_norm - exact) <= 4 * math.ulp(exact)
    opt = na.Adam({"b": np.ones(2), "a": np.ones((0, 3))}, clip_array_norm=np.inf)
    opt.step({"a": np.ones((0, 3)), "b": np.array([3.0, 4.0])})
    assert opt.grad_norm == [5.0, 0.0]


def test_norm_is_of_the_unscaled_gradient():
    opt = na.Adam(np.ones(2), clip_norm=1.0, loss_scale=2.0**16)
    opt.step(np.array([3.0, 4.0]) * 2.0**16)
    assert opt.grad_norm == 5.0


def test_overflow_of_a_scaled_loss_is_skipped_in_float16():
    """What mixed precision does: the gradients of a scaled loss overflow, the step is left out."""
    p = np.ones(3, np.float16)
    opt = na.Adam(p, lr=0.1, loss_scale=1024.0, nonfinite="skip")
    with np.errstate(over="ignore"):
        opt.step(np.array([100.0, 1.0, 0.0]).astype("f2") * np.float16(1024))
    assert (opt.skipped, p.tolist()) == (1, [1.0, 1.0, 1.0])
    opt.loss_scale = 256.0
    opt.step(np.array([100.0, 1.0, 0.0], "f2") * np.float16(256))
    assert opt.grad_norm == pytest.approx(math.sqrt(10001), rel=1e-15)
    assert p.tolist() == [np.float16(0.9), np.float16(0.9), 1.0]


# --- means of several gradients ------------------------------------------------------------------


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
