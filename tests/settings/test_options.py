"""The options of the one pass: each alone, all together, in which order, under every rule.

Options that are unknown, contradict each other, or fit no dtype; the functional API's.
"""

from __future__ import annotations

import copy
import math
import re

import numpy as np
import pytest

import numadam as na
from numadam import rules
from numadam._optimizer.base import make_optimizer
from tests import extras, references
from tests.runs import (
    SINK,
    assert_follows,
    neutral,
    reference_of,
    train,
    tree_of,
)
from tests.trees import tree_leaves, tree_map

RULES = rules.classes()
#: whose decay is decoupled unless said otherwise
DECOUPLED = ("AdamW", "NAdam", "RAdam", "AdaMax", "AdaBelief", "Lion")


# --- each alone ----------------------------------------------------------------------------------


ALONE = {
    "nothing": {},
    "maximize": {"maximize": True},
    "clip_value": {"clip_value": 0.3},
    "clip_value schedule": {"clip_value": lambda taken: 0.1 * (taken + 1)},
    "lr schedule": {"lr": lambda taken: 0.1 / (taken + 1)},
    "eps schedule": {"eps": lambda taken: 1e-8 * 10**taken},
    "beta schedules": {
        "beta1": lambda taken: 0.9 - 0.1 * taken,
        "beta2": lambda taken: 0.9 + 0.01 * taken,
    },
    "beta2 schedule": {"beta2": lambda taken: 1 - 1 / (taken + 1.5)},
    "l2": {"weight_decay": 0.3},
    "l2 schedule": {"weight_decay": lambda taken: 0.1 * taken},
    "decoupled": {"weight_decay": 0.3, "decoupled": True},
    "decoupled free of lr": {"weight_decay": 0.03, "decoupled": True, "decay_times_lr": False},
    "clip_norm": {"clip_norm": 1.3},
    "clip_norm above": {"clip_norm": 1e3},
    "clip_norm schedule": {"clip_norm": lambda taken: 1.0 + taken},
    "clip_array_norm": {"clip_array_norm": 0.7},
    "bounds": {"bounds": (-0.4, 0.6)},
    "bounds of one side": {"bounds": (None, 0.1)},
    "ema": {"ema": 0.7},
    "ema schedule": {"ema": lambda taken: 0.5 + 0.05 * taken},
}


@pytest.mark.option
@pytest.mark.parametrize("name", ALONE)
def test_each_alone(name):
    options = {"lr": 0.05, **ALONE[name]}
    train(tree_of(0), options, [tree_of(k) for k in range(1, 8)], check=assert_follows)


def test_torch_adds_a_margin_to_the_norm():
    """Its clip_grad_norm_ divides by norm + 1e-6."""
    calls = [tree_map(lambda a: np.asarray(1e-6 * a), tree_of(k)) for k in range(1, 4)]
    options = {"lr": 0.05, "clip_norm": 1e-6}
    params = tree_of(0)
    ref = reference_of(params, **options, margin=1e-6)
    opt = na.Adam(params, **options, like="torch")
    for grads in calls:
        opt.step(grads)
        ref.step(tree_leaves(grads))
    assert_follows(opt, ref)


# --- all together --------------------------------------------------------------------------------


def drawn(rng, decoupled):
    """Values of every option by lot; the compiled combination is always that of SINK."""
    options = {
        **copy.deepcopy(SINK),
        "decoupled": decoupled,
        "weight_decay": float(rng.choice([0.01, 0.5])),
        "clip_value": float(rng.choice([0.4, 2.0])),
        "clip_norm": float(rng.choice([0.2, 3.0, 1e5])),
        "nonfinite": str(rng.choice(["propagate", "raise", "skip"])),
        "ema": float(rng.choice([0.0, 0.6, 0.99])),
        "beta1": float(rng.choice([0.0, 0.5, 0.9])),
        "beta2": float(rng.choice([0.5, 0.999])),
    }
    if decoupled:
        options["decay_times_lr"] = bool(rng.integers(2))
    form = rng.integers(3)
    if form:
        options["ema_warmup" if form == 1 else "ema_debias"] = True
    return options


@pytest.mark.parametrize("decoupled", [False, True], ids=["l2", "decoupled"])
@pytest.mark.parametrize("seed", range(15))
def test_all_together(seed, decoupled):
    options = drawn(np.random.default_rng(seed), decoupled)
    calls = [tree_of(100 * seed + k) for k in range(1, 14)]
    opt, ref = train(tree_of(seed), options, calls)
    assert_follows(opt, ref)
    assert opt.grad_norm == pytest.approx(ref.norm, rel=1e-14)


def test_all_together_in_float32():
    calls = [tree_of(k, "float32") for k in range(1, 14)]
    train(
        tree_of(0, "float32"),
        copy.deepcopy(SINK),
        calls,
        check=lambda opt, ref: assert_follows(opt, ref, rtol=2e-5, atol=2e-6),
    )


# --- every rule ----------------------------------------------------------------------------------


#: what the reference of a rule needs to be told
TOLD = {"RAdam": {"eps_form": "hat"}, "SGD": {"momentum": 0.9}}


@pytest.mark.rule
@pytest.mark.option
@pytest.mark.parametrize("name", ["Lion", *map(extras.sweep, RULES.keys() - {"Lion"})])
def test_every_rule_gets_the_gradient_that_the_options_make(name):
    """Turned and clipped outside, it goes into the rule's own reference."""
    rng = np.random.default_rng(4)
    start, *calls = rng.standard_normal((9, 7))
    own = TOLD.get(name, {})
    no_decay = {"weight_decay": 0.0}  # with it the golden runs
    options = {"maximize": True, "clip_value": 1.2, **own, **no_decay}
    opt = RULES[name](start.copy(), 0.03, **options)
    assert opt.decoupled == (name in DECOUPLED)
    for g in calls:
        opt.step(g)
    reference = references.steps(name.lower())
    seen = [np.clip(-g, -1.2, 1.2) for g in calls]
    p, state = reference(start, seen, lr=0.03, **own)
    np.testing.assert_allclose(opt.params, p, rtol=1e-11)
    for key in state:
        np.testing.assert_allclose(np.squeeze(opt.state[key]), state[key], rtol=1e-11, err_msg=key)


# --- the order of a step -------------------------------------------------------------------------


def seen(p, g, **options):
    """The gradient as it reaches the rule, in one step: with beta1 = 0 it is the first moment."""
    p, g = np.array(p, float), np.array(g, float)
    opt = na.Adam(p, beta1=0.0, **neutral(p, **options))
    opt.step(g)
    return opt.state["m"].tolist(), opt


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
    """The issue's 1e20 in float32, and whatever else is finite."""
    g = (np.array([3.0, -4.0, 0.0, 1.0]) * size).astype(dtype)
    params = [np.zeros(4, dtype), np.zeros(3, dtype)]
    norm, expected = clipped_exactly(g, limit)
    opt = na.Adam(params, beta1=0.0, **neutral(params, clip_norm=limit, decoupled=True))
    opt.step([g, np.zeros(3, dtype)])
    assert opt.grad_norm == pytest.approx(norm, rel=1e-15, abs=0)
    np.testing.assert_allclose(opt.state["m"][0], expected, rtol=3 * np.finfo(dtype).eps)
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


def test_each_array_is_measured_anew_when_another_leaves_the_range():
    """The second array asks for another pass over all; the first has a factor of two steps."""
    grads = [np.array([3e149, 4e149]), np.zeros(2)]
    opt = na.Adam([np.zeros(2), np.zeros(2)], beta1=0.0, clip_array_norm=1e-160)
    opt.step(grads)
    assert opt.grad_norm == pytest.approx([5e149, 0.0], rel=1e-15)
    np.testing.assert_allclose(opt.state["m"][0], [6e-161, 8e-161], rtol=1e-15)


def test_nothing_but_empty_arrays_is_a_step():
    params = [np.ones((0, 3)), np.ones(0)]
    opt = na.Adam(params, **neutral(params, nonfinite="raise"))
    opt.step([p.copy() for p in params])
    assert (opt.t, opt.grad_norm) == (1, 0.0)


# --- unknown and refused -------------------------------------------------------------------------


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
        ({"clip_value": 0.0}, "clip_value: expected a number in (0, inf]"),
        ({"clip_norm": math.nan}, "clip_norm: expected a number in (0, inf]"),
        ({"clip_array_norm": "1"}, "clip_array_norm: expected a number"),
        ({"ema": 1.0}, "ema: expected a number in [0, 1)"),
        ({"decoupled": "yes"}, "decoupled: expected True or False"),
        ({"nonfinite": "ignore"}, "nonfinite: expected 'propagate', 'raise' or 'skip'"),
        ({"sparse": True}, "sparse: expected None, 'lazy' or 'dense'"),
        ({"complex_form": "real"}, "complex_form: expected 'parts' or 'modulus'"),
        ({"max_skips": 0, "nonfinite": "skip"}, f"max_skips: {COUNT} 0."),
        ({"like": "jax"}, "like: expected one of"),
        ({"lr": math.nan}, "lr: expected a number in [0, inf)"),
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


# --- the functional API --------------------------------------------------------------------------


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


# --- options that do not fit the dtype -----------------------------------------------------------


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
