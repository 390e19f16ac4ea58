"""Options that are unknown, contradict each other, or fit no dtype; the functional API's."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest

import numadam as na
from numadam import rules
from numadam._optimizer.base import make_optimizer
from tests.bits import assert_same_bits

RULES = rules.classes()


# --- unknown and refused -------------------------------------------------------------------------


@pytest.mark.parametrize("name", RULES)
def test_unknown_options_are_refused_with_a_guess(name):
    """Other guesses: tests/core/test_synonyms.py."""
    says = rf"^{name}: there is no option 'weight_decoy'\. Did you mean 'weight_decay'\?"
    with pytest.raises(TypeError, match=says):
        RULES[name](np.ones(2), weight_decoy=1.0)


@pytest.mark.parametrize("wrong", ["epsilon", "betas", "b2", "beta_1"])
def test_names_of_other_libraries_are_led_to_ours_only_where_the_rule_has_them(wrong):
    """Those that Adam has: tests/core/test_synonyms.py."""
    with pytest.raises(TypeError) as caught:
        na.SGD(np.ones(2), **{wrong: 0.9})
    assert "eps" not in str(caught.value).split(".")[1]
    assert "beta" not in str(caught.value).split(".")[1]


BARE = {
    "adam_update": lambda **options: na.adam_update(*np.ones((4, 2)), 1, **options),
    "sgd_update": lambda **options: na.sgd_update(*np.ones((2, 2)), **options),
    "rmsprop_update": lambda **options: na.rmsprop_update(*np.ones((3, 2)), **options),
}


@pytest.mark.parametrize("name", BARE)
def test_functional_api_refuses_what_needs_an_object(name):
    with pytest.raises(TypeError, match=f"^{name}: there is no option 'weight_decoy'"):
        BARE[name](weight_decoy=1.0)
    for option, value in {
        "ema": 0.9,
        "nonfinite": "raise",
        "groups": {},
        "sparse": "lazy",
        "clip_array_norm": 1.0,
    }.items():
        with pytest.raises(TypeError, match=f"^{name}: {option} needs arrays or counters"):
            BARE[name](**{option: value})
    with pytest.raises(TypeError, match=r"^weight_decay: expected the number of this step"):
        BARE[name](weight_decay=lambda taken: 0.1)


COUNT = "expected a whole number of at least 1 and at most 2147483647, got"


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"weight_decay": -0.1}, "weight_decay: expected a number in [0, inf)"),
        ({"weight_decay": None}, "weight_decay: expected a number"),
        ({"weight_decay": True}, "weight_decay: expected a number"),
        ({"clip_value": 0.0}, "clip_value: expected a number in (0, inf]"),
        ({"clip_norm": -1.0}, "clip_norm: expected a number in (0, inf]"),
        ({"clip_norm": math.nan}, "clip_norm: expected a number in (0, inf]"),
        ({"clip_array_norm": "1"}, "clip_array_norm: expected a number"),
        ({"ema": 1.0}, "ema: expected a number in [0, 1)"),
        ({"maximize": 1}, "maximize: expected True or False"),
        ({"decoupled": "yes"}, "decoupled: expected True or False"),
        ({"nonfinite": "ignore"}, "nonfinite: expected 'propagate', 'raise' or 'skip'"),
        ({"sparse": True}, "sparse: expected None, 'lazy' or 'dense'"),
        ({"complex_form": "real"}, "complex_form: expected 'parts' or 'modulus'"),
        ({"max_skips": 0, "nonfinite": "skip"}, f"max_skips: {COUNT} 0."),
        ({"max_skips": 2**31, "nonfinite": "skip"}, f"max_skips: {COUNT} 2147483648."),
        ({"like": "jax"}, "like: expected one of"),
        ({"lr": math.nan}, "lr: expected a number in [0, inf)"),
        ({"lr": "0.1"}, "lr: expected a number"),
        ({"lr": {"a": 0.1}}, "lr: expected a number or an array for params"),
    ],
    ids=lambda value: "+".join(value) if isinstance(value, dict) else None,
)
def test_what_cannot_be_honoured_is_refused(options, says):
    p = np.array([5.0, -5.0])
    with pytest.raises((TypeError, ValueError)) as caught:
        na.Adam(p, **options)
    assert str(caught.value).startswith(says), caught.value
    assert p.tolist() == [5.0, -5.0]


def test_a_refused_optimiser_has_not_moved_parameters_into_their_bounds():
    p, q = np.array([5.0, -5.0]), np.array([9.0])
    q.setflags(write=False)
    for options, error in [({"lr": -1.0}, "^lr"), ({}, "read-only")]:
        with pytest.raises(ValueError, match=error):
            na.Adam([p, q], bounds=(0.0, 1.0), **options)
        assert p.tolist() == [5.0, -5.0]


@pytest.mark.parametrize("option", ["ema", "sparse"])
def test_out_is_refused_where_it_would_hold_something_else(option):
    value = {"ema": 0.9, "sparse": "lazy"}[option]
    p, d = np.ones(2), np.full(2, 7.0)
    opt = na.Adam(p, **{option: value})
    with pytest.raises(ValueError, match=f"^out: {option}"):
        opt.step(p.copy(), out=d)
    assert opt.t == 0
    if option == "ema":
        with pytest.raises(ValueError, match=f"^params: {option} follows"):
            opt.step(p.copy(), params=p.copy())


# --- the functional API ---------------------------------------------------------------------------


BARE_OPTIONS = {
    "l2": {"weight_decay": 0.3, "maximize": True},
    "decoupled": {"weight_decay": 0.3, "decoupled": True, "decay_times_lr": False},
    "clips": {"clip_norm": 1.0, "clip_value": 0.5},
}


@pytest.mark.parametrize("name", BARE_OPTIONS)
def test_functional_api_has_the_bits_of_the_class(name):
    options = BARE_OPTIONS[name]
    start, *calls = np.random.default_rng(0).standard_normal((7, 9))
    start = np.clip(start, -0.5, 0.5)
    opt = na.Adam(start.copy(), lr=0.1, **options)
    p, m, v = start.copy(), np.zeros(9), np.zeros(9)
    for t, g in enumerate(calls, 1):
        opt.step(g)
        na.adam_update(p, g, m, v, t, lr=0.1, **options)
    for one, other in ((p, opt.params), (m, opt.state["m"]), (v, opt.state["v"])):
        assert_same_bits(one, other)
    out = np.empty(9)
    na.adam_update(p, calls[0], m, v, 7, lr=0.1, out=out, **options)
    kept = p.copy()
    opt.step(calls[0])
    np.testing.assert_allclose(p + out, opt.params, rtol=1e-14)
    assert_same_bits(p, kept)


def test_functional_api_takes_presets_with_a_complex_form():
    """optax takes complex numbers whole; for real ones that says nothing."""
    p, m, v = np.ones(2), np.zeros(2), np.zeros(2)
    na.adam_update(p, np.ones(2), m, v, 1, lr=0.1, like="optax")
    np.testing.assert_allclose(p, 0.9, rtol=1e-7)
    p, m, v = np.ones(2, complex), np.zeros(2, complex), np.zeros(2)
    na.adam_update(p, np.full(2, 3 + 4j), m, v, 1, lr=0.1, like="optax")
    np.testing.assert_allclose(p, 1 - 0.1 * (0.6 + 0.8j), rtol=1e-7)
    np.testing.assert_allclose(v, 0.025, rtol=1e-12)


@pytest.mark.parametrize(
    "make",
    [
        lambda b: na.Adam(np.ones(0), bounds=b),
        lambda b: na.adam_update(*np.ones((4, 2)), 1, bounds=b),
    ],
)
def test_crossed_bounds_without_an_element(make):
    with pytest.raises(ValueError, match=r"^bounds: lo is above hi of p.*: 0\.0 > -1\.0"):
        make((0, -1))


# --- options that do not fit the dtype ------------------------------------------------------------


WHOLE = "complex_form: rmsprop with these options uses the gradient otherwise than by its square"
ROWS = "bounds: with sparse='lazy' the norm would need them row by row; use sparse='dense', or "
LAZY = {"sparse": "lazy", "bounds": (0, 1)}


class Nothing:
    """A back end that takes all options and compiles nothing."""

    home = "NumPy"

    def __init__(self, settings, params, names):
        self.params = params

    @staticmethod
    def check_params(params, names):
        pass


@pytest.mark.parametrize(
    ("rule", "dtype", "options", "says"),
    [
        (na.Adam, "complex64", {"complex_form": "modulus"}, ""),
        (na.RMSprop, "complex64", {"complex_form": "modulus"}, ""),
        (na.RMSprop, "complex64", {"complex_form": "modulus", "centered": True}, WHOLE),
        (na.AdaMax, "complex64", {"complex_form": "modulus"}, "complex_form: adamax with these"),
        (na.AdaBelief, "complex64", {"complex_form": "modulus"}, "complex_form: adabelief with "),
        (na.Lion, "complex64", {"complex_form": "modulus"}, "complex_form: lion with these"),
        (na.SGD, "float64", {**LAZY, "clip_norm": 1.0}, ROWS),
        (na.SGD, "float64", {**LAZY, "nonfinite": "skip"}, ROWS),
        (na.SGD, "float64", {**LAZY, "clip_value": 1.0}, ""),
        (na.SGD, "float64", {"sparse": "lazy", "clip_norm": 1.0}, ""),
        (na.SGD, "float64", {**LAZY, "clip_norm": 1.0, "sparse": "dense"}, ""),
    ],
)
def test_options_that_fit_no_plan(rule, dtype, options, says):
    p = np.full(2, 0.5, dtype)
    if not says:
        make_optimizer(rule, p, 0.1, backend=Nothing, **options)
        return
    with pytest.raises(ValueError, match="^" + re.escape(says)):
        rule(p, **options)
