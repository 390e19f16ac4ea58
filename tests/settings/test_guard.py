"""Gradients that are not finite, and the norm that finds them."""

from __future__ import annotations

import math

import numpy as np
import pytest

import numadam as na
from tests import extras
from tests.bits import assert_same_bits
from tests.reference_options import norm
from tests.runs import digest, neutral, shorten_parts, tree_of
from tests.trees import tree_leaves

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


@pytest.mark.parametrize(
    ("dtype", "clip"),
    [
        ("float32", {}),
        ("float64", {}),
        ("float64", {"clip_array_norm": 1.0}),
        extras.sweep("float32", {"clip_norm": 1.0}),
    ],
    ids=str,
)
@pytest.mark.parametrize("value", BAD)
@pytest.mark.parametrize("n", [1, 7, 65, 257, 600])
def test_one_bad_element_anywhere_is_found(n, value, dtype, clip):
    """Every lane, every tail, both sides of a block of the norm; a finite clip hides none."""
    g = np.random.default_rng(0).standard_normal(n).astype(dtype)
    p = np.ones(n, dtype)
    opt = na.Adam(p, nonfinite="raise", **clip)
    for place in range(n) if n < 300 else [0, 255, 256, 511, 512, 599]:
        with pytest.raises(FloatingPointError):
            opt.step(spoiled(g, place, value))
    assert (p == 1).all()
    assert opt.t == 0


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_any_finite_gradient_passes(dtype):
    """Squares and sums of the largest numbers overflow; they are finite all the same.

    With a clip, or by a rule that squares none.
    """
    info = np.finfo(dtype)
    n = 1000
    for value in (info.max, -info.max, info.smallest_subnormal, 0.0, -0.0):
        p = np.ones(n, dtype)
        options = neutral(p, nonfinite="raise", decoupled=True)
        opt = na.Adam(p, **options | {"clip_norm": 1.0})
        opt.step(np.full(n, value, dtype))
        assert opt.t == 1
        exact = abs(float(value)) * math.sqrt(n)  # infinite for the largest float64
        assert opt.grad_norm == pytest.approx(exact, rel=1e-15, abs=0)


#: By dtype a number whose square is infinite, and one whose square is finite.
SQUARES = {"float32": (2e19, 1.8e19), "float64": (1.4e154, 1.3e154)}

#: Whether a rule with these options takes a step with a gradient whose square is infinite.
TAKEN = {
    "float64": (na.Adam, {}, False),
    "adam": (na.Adam, {}, False),
    "adabelief": (na.AdaBelief, {}, False),
    "of infinite norm": (na.Adam, {"clip_norm": np.inf}, False),
    "of each array": (na.Adam, {"clip_array_norm": np.inf}, False),
    "sgd": (na.SGD, {}, True),
    "clipped": (na.Adam, {"clip_value": 1.0}, True),
    "clipped by norm": (na.Adam, {"clip_norm": 1.0}, True),
    "clipped by norms": (na.Adam, {"clip_array_norm": 1.0}, True),
}


@pytest.mark.parametrize(
    "name", [extras.sweep(name) if name == "adabelief" else name for name in TAKEN]
)
def test_a_square_that_is_infinite_is_not_finite(name):
    """The element would never move again: its second moment would be infinite."""
    rule, options, taken = TAKEN[name]
    dtype = "float32" if name == "adam" else "float64"
    large, fits = SQUARES[dtype]
    p = [np.ones(3, dtype), np.ones(2, dtype)]
    opt = rule(p, lr=0.1, nonfinite="skip", **options)
    opt.step([np.array([1, -large, 0], dtype), np.ones(2, dtype)])
    assert (opt.t, opt.skipped) == (int(taken), 1 - taken)
    assert np.all(p[0] == 1) != taken
    opt.step([np.array([1, -fits, 0], dtype), np.ones(2, dtype)])
    assert opt.t == 1 + taken
    assert all(np.isfinite(leaf).all() for leaf in (*p, *opt.state.get("v", [])))


def test_the_message_says_which():
    p = np.ones(2, np.float32)
    opt = na.Adam(p, nonfinite="raise")
    says = r"hold a norm whose square is infinite \(3e\+19; clip_norm .* at step 1; nothing"
    with pytest.raises(FloatingPointError, match=says):
        opt.step(np.array([3e19, 0.0], np.float32))
    assert (p == 1).all()


def test_the_guard_follows_clip_value():
    opt = na.Adam(np.ones(2), nonfinite="skip", clip_value=1.0)
    for clip, skipped in ((1.0, 0), (None, 1), (1e170, 2), (5.0, 2)):
        opt.clip_value = clip
        opt.step(np.array([1e160, 1.0]))
        assert opt.skipped == skipped
    assert np.isfinite(opt.state["v"]).all()


def test_either_form_leaves_strided_arrays_alone(form):
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
        kept = room.copy()
        opt.step([*grads[:2], spoiled(grads[2], place, np.nan)])
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
    with pytest.raises(AttributeError, match=r"^grad_norm: is not formed .*clip_norm = numpy.inf"):
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
